from __future__ import annotations

import os
import socket

import pytest

from ckptd.core.model import EntryKind
from ckptd.shell import inventory, mounts


def write(path):
    """Make a file with all the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0123456789")


def test_walk_lists_every_kind_without_following_links(tmp_path):
    """A listing says what each entry is, and a loop of links does not catch it."""
    write(tmp_path / "run" / "a.pdparams")
    os.mkfifo(tmp_path / "run" / "b.pdparams")
    (tmp_path / "run" / "loop").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "run" / "c.pdparams"))

    tree = inventory.walk(str(tmp_path))

    assert {".", "run"} == set(tree)
    assert [EntryKind.FILE, EntryKind.OTHER, EntryKind.OTHER, EntryKind.SYMLINK] == [
        entry.kind for entry in tree["run"]
    ]
    assert ("run/a.pdparams", 10) == (tree["run"][0].path, tree["run"][0].bytes)


def test_walk_leaves_out_its_own_directory(tmp_path):
    """Trash and pins are never taken for checkpoints."""
    write(tmp_path / ".ckptd" / "trash" / "epoch_1.pdparams")

    assert {".": ()} == inventory.walk(str(tmp_path))


def test_walk_missing_root_raises(tmp_path):
    """A root that is gone is an error, not an empty tree: nothing may follow from its absence."""
    with pytest.raises(FileNotFoundError):
        inventory.walk(str(tmp_path / "missing"))


def test_look_lists_a_run_and_its_set_directories_only(tmp_path):
    """One run is looked at without walking its neighbours or its logs."""
    write(tmp_path / "run" / "iter_5" / "inference" / "model.json")
    write(tmp_path / "run" / "logs" / "x")
    write(tmp_path / "other" / "epoch_1.pdparams")

    assert {"run", "run/iter_5", "run/iter_5/inference"} == set(inventory.look(str(tmp_path), "run"))


def test_look_at_a_run_that_is_gone_is_empty(tmp_path):
    """A run that vanished has no listing, and that is no error."""
    assert {} == inventory.look(str(tmp_path), "run")


def test_names_of_any_bytes_are_listed(tmp_path):
    """Spaces, newlines and bytes that are no UTF-8 come through unharmed."""
    for name in (b"a b.pdparams", b"a\nb.pdparams", b"\xff.pdparams"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"")

    names = {os.fsencode(entry.path) for entry in inventory.look(str(tmp_path), ".")["."]}
    assert {b"a b.pdparams", b"a\nb.pdparams", b"\xff.pdparams"} == names


def test_filesystem_type_of_proc_is_proc():
    """The mount that holds a path is found, not the root's."""
    assert "proc" == mounts.filesystem_type("/proc/self")
    assert not mounts.is_remote("/proc/self")
