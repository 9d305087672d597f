from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.core.model import CheckpointSet, EntryKind, Member, Role, SetKey, SetShape
from ckptd.core.trash_entries import NotPurged, Purged, Refused, Removed, Restored
from ckptd.shell import durable, inventory, reaper, trash
from ckptd.shell.own_directory import making
from ckptd.shell.pins import Pins, pin, pins, unpin
from forking import mount_tmpfs, run_in_own_mounts
from removing import (
    ID,
    NOW,
    TRASH_FOR,
    find_set,
    make_directory_set,
    make_stem_set,
    remove,
    removed,
    snapshot,
    trash_names,
    write,
)

DUE = NOW + TRASH_FOR
OTHER_ID = "20261124T105500Z-00000b"
MAKERS = {"stem": make_stem_set, "directory": make_directory_set}
NAMES = (
    st.binary(min_size=1, max_size=30)
    .map(lambda raw: raw.replace(b"/", b" ").replace(b"\0", b"\n"))
    .filter(lambda raw: raw not in {b".", b"..", b".ckptd"})
    .map(os.fsdecode)
)
CONTENTS = st.binary(max_size=200)
TREES = st.dictionaries(
    NAMES, CONTENTS | st.dictionaries(NAMES, CONTENTS, max_size=2), min_size=1, max_size=4
)


def write_tree(path, tree):
    """Write files and directories of any names."""
    os.mkdir(path)
    for name, content in tree.items():
        inner = os.path.join(path, name)
        if isinstance(content, dict):
            write_tree(inner, content)
        else:
            write(Path(inner), content)


@pytest.fixture(params=MAKERS)
def doomed(request, tmp_path):
    """A set of either shape in a root."""
    return MAKERS[request.param](tmp_path)


@settings(max_examples=40, deadline=None)
@given(run=NAMES, tree=TREES, stem=NAMES)
def test_removed_sets_of_any_names_come_back_byte_for_byte(run, tree, stem):
    """Whatever bytes are in names and files, a removal and a restore leave all as it was, dates included."""
    with tempfile.TemporaryDirectory() as root:
        write_tree(
            os.path.join(root, run), {"set": tree} | {f"{stem}{end}": b"x" for end in (".pdparams", ".é")}
        )
        before = snapshot(root)
        listing = inventory.walk(root)
        files = tuple(Member(Role.META, one) for one in listing[run] if one.kind is EntryKind.FILE)
        inside = tuple(
            Member(Role.EXTRA, one)
            for place, entries in listing.items()
            if place == f"{run}/set" or place.startswith(f"{run}/set/")
            for one in entries
        )
        directory = f"{run}/set"
        removed(Path(root), CheckpointSet(run, stem, "plain", SetShape.STEM, files, frozenset()), "000001")
        doomed = CheckpointSet(
            run, "set", "plain", SetShape.DIRECTORY, inside, frozenset(), directory=directory
        )
        removed(Path(root), doomed, "000002")
        assert [os.fsencode(run)] == list(snapshot(root))
        for entry in trash.list_trash(root):
            assert isinstance(trash.restore(root, entry.entry_id, NOW), Restored)
        assert before == snapshot(root)
        assert Pins(frozenset({SetKey(run, stem), SetKey(run, "set")})) == pins(root)
        assert [] == trash_names(Path(root))


def test_list_of_a_root_without_trash_is_empty_and_makes_none(tmp_path):
    """Looking at the trash makes no directory."""
    assert ([], []) == (trash.list_trash(str(tmp_path)), trash.list_damaged(str(tmp_path)))
    assert [] == trash.purge(str(tmp_path), NOW)
    assert [] == os.listdir(tmp_path)


def test_list_is_in_the_order_of_removal(tmp_path):
    """The oldest removal comes first; what is damaged is listed apart."""
    removed(tmp_path, make_stem_set(tmp_path), "00000b")
    removed(tmp_path, make_directory_set(tmp_path), "00000a")
    write(tmp_path / ".ckptd" / "trash" / "README")
    removed(tmp_path, make_stem_set(tmp_path, stem="epoch_2"), "00000c")
    shutil.rmtree(tmp_path / ".ckptd" / "trash" / "20261124T105500Z-00000c" / "content")
    assert [ID, OTHER_ID] == [entry.entry_id for entry in trash.list_trash(str(tmp_path))]
    damaged = trash.list_damaged(str(tmp_path))
    assert ["20261124T105500Z-00000c", "README"] == [entry.entry_id for entry in damaged]
    assert "it holds only part of run/epoch_2" == damaged[0].reason


def test_restore_pins_the_set(tmp_path, doomed):
    """The set is back as it was recognised, and pinned, so that the next pass keeps it."""
    removed(tmp_path, doomed)
    assert Restored(ID, doomed.key, doomed.bytes) == trash.restore(str(tmp_path), ID, NOW)
    assert doomed.fingerprints == find_set(tmp_path, *doomed.key).fingerprints or doomed.directory
    assert frozenset({doomed.key}) == pins(str(tmp_path)).keys
    assert "pinned" in remove(tmp_path, find_set(tmp_path, *doomed.key)).reason


def test_restore_to_a_run_that_is_gone_makes_it_anew(tmp_path):
    """A run that was deleted meanwhile is made again, as open as the directory that holds it."""
    doomed = make_stem_set(tmp_path, "deep/er/run")
    before = snapshot(tmp_path)
    removed(tmp_path, doomed)
    shutil.rmtree(tmp_path / "deep" / "er")
    (tmp_path / "deep").chmod(0o700)
    assert isinstance(trash.restore(str(tmp_path), ID, NOW), Restored)
    assert before == snapshot(tmp_path)
    assert 0o700 == stat.S_IMODE((tmp_path / "deep" / "er" / "run").stat().st_mode)


def assert_not_restored(root, entry_id, *words):
    """The restore is refused for that reason; nothing has changed, and nothing is pinned."""
    before = snapshot(root), snapshot(root / ".ckptd" / "trash") if trash_names(root) else {}
    outcome = trash.restore(str(root), entry_id, NOW)
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith("refusing to restore ")
    for word in words:
        assert word in outcome.reason
    assert before == (snapshot(root), snapshot(root / ".ckptd" / "trash") if trash_names(root) else {})
    assert Pins() == pins(str(root))


@pytest.mark.parametrize("entry_id", [OTHER_ID, "", "..", f"../trash/{ID}", "a\nb"])
def test_restore_of_what_is_not_there_is_refused(tmp_path, entry_id):
    """Only the name of an entry leads anywhere, with trash or without."""
    assert_not_restored(tmp_path, entry_id, "no such entry")
    removed(tmp_path, make_stem_set(tmp_path))
    assert_not_restored(tmp_path, entry_id, "no such entry", "ckptd trash list")
    assert isinstance(trash.purge_one(str(tmp_path), entry_id), Refused)
    assert [ID] == trash_names(tmp_path)


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_restore_where_something_else_is_now_is_refused(tmp_path, doomed, kind):
    """Nothing is ever replaced by a restore; not even part of the set goes back then."""
    removed(tmp_path, doomed)
    taken = tmp_path / (doomed.directory or "run/epoch_1.pdopt")
    {"file": taken.touch, "directory": taken.mkdir, "dangling link": lambda: taken.symlink_to("x")}[kind]()
    assert_not_restored(tmp_path, ID, str(taken.relative_to(tmp_path)), "move it away, then restore again")


def test_restore_of_part_of_a_set_is_refused(tmp_path, doomed):
    """When a file is missing from the trash, the rest is pointed at."""
    removed(tmp_path, doomed)
    content = tmp_path / ".ckptd" / "trash" / ID / "content"
    for name in sorted(os.listdir(content))[:1]:
        (content / name).rename(tmp_path / name)
    assert_not_restored(tmp_path, ID, "only part", f"move what you need out of {content.parent}")


def test_restore_of_a_damaged_entry_is_refused(tmp_path, doomed):
    """An entry that does not say where it belongs is pointed at."""
    removed(tmp_path, doomed)
    (tmp_path / ".ckptd" / "trash" / ID / "entry.json").write_bytes(b"{")
    assert_not_restored(tmp_path, ID, "entry.json", str(tmp_path))


@pytest.mark.parametrize("place", ["run", "run/deeper"])
def test_restore_through_a_link_changes_nothing(tmp_path, place):
    """A run that is a link now is not followed, nor is anything made behind it."""
    root = tmp_path / "root"
    removed(root, make_stem_set(root, "run/deeper"))
    shutil.rmtree(root / "run")
    (tmp_path / "outside").mkdir()
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to(tmp_path / "outside")
    before = snapshot(tmp_path)
    with pytest.raises(OSError, match="never followed"):
        trash.restore(str(root), ID, NOW)
    assert before == snapshot(tmp_path)


def test_restore_by_a_forged_entry_changes_nothing(tmp_path):
    """An entry that names ckptd's own part as the place to go makes nothing there."""
    removed(tmp_path, make_stem_set(tmp_path))
    file = tmp_path / ".ckptd" / "trash" / ID / "entry.json"
    found = json.loads(file.read_bytes())
    found["run"] = ".ckptd/new"
    for member in found["members"]:
        member["path"] = member["path"].replace("run/", ".ckptd/new/")
    file.write_text(json.dumps(found))
    with pytest.raises(durable.LeavesRoot, match="own directory"):
        trash.restore(str(tmp_path), ID, NOW)
    assert not (tmp_path / ".ckptd" / "new").exists()


@pytest.mark.parametrize("was_pinned", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_restore_that_fails_on_the_way_changes_nothing(tmp_path, monkeypatch, number, was_pinned):
    """When a file cannot be moved, those before it go back into the trash, and the pins are as before."""
    doomed = make_stem_set(tmp_path)
    removed(tmp_path, doomed)
    if was_pinned:
        pin(str(tmp_path), doomed.key, "why", NOW)
    before = snapshot(tmp_path), snapshot(tmp_path / ".ckptd")
    move, calls = durable.move, []

    def failing(*args):
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        move(*args)

    monkeypatch.setattr(durable, "move", failing)
    with pytest.raises(OSError, match="Input/output"):
        trash.restore(str(tmp_path), ID, NOW)
    assert before == (snapshot(tmp_path), snapshot(tmp_path / ".ckptd"))
    monkeypatch.undo()
    assert isinstance(trash.restore(str(tmp_path), ID, NOW), Restored)


def test_restored_set_can_be_removed_again(tmp_path, doomed):
    """Unpinned, a restored set goes and comes like any other."""
    for token in ("00000a", "00000b"):
        removed(tmp_path, find_set(tmp_path, *doomed.key), token)
        trash.restore(str(tmp_path), f"{ID[:-6]}{token}", NOW)
        assert unpin(str(tmp_path), doomed.key)


@pytest.mark.parametrize(("now", "is_due"), [(DUE - timedelta(seconds=1), False), (DUE, True)])
def test_purge_deletes_what_is_due_and_no_more(tmp_path, doomed, now, is_due):
    """An entry stays until its deadline and is gone from then on; the run is not touched."""
    removed(tmp_path, doomed)
    make_stem_set(tmp_path, stem="epoch_2")
    before = snapshot(tmp_path)
    expected = [Purged(ID, doomed.key, doomed.bytes)] if is_due else []
    assert expected == trash.purge(str(tmp_path), now)
    assert ([] if is_due else [ID]) == trash_names(tmp_path)
    assert [] == os.listdir(tmp_path / ".ckptd" / "purging")
    assert before == snapshot(tmp_path)


def test_purge_of_files_that_changed_in_the_trash_is_refused(tmp_path, doomed):
    """What a trainer still wrote after the removal was never judged: it stays until someone decides."""
    removed(tmp_path, doomed)
    content = tmp_path / ".ckptd" / "trash" / ID / "content"
    for file in content.rglob("*.pdopt"):
        file.write_bytes(b"written by a trainer that had it open")
    (refused,) = trash.purge(str(tmp_path), DUE)
    assert isinstance(refused, NotPurged)
    assert refused.reason.startswith("refusing to purge it: run/")
    assert f"`ckptd trash purge {ID}`" in refused.reason
    assert [ID] == trash_names(tmp_path)
    assert Purged(ID, doomed.key, doomed.bytes) == trash.purge_one(str(tmp_path), ID)
    assert [] == trash_names(tmp_path)


def test_purge_of_new_files_in_a_directory_in_the_trash_is_refused(tmp_path):
    """A file that a trainer added after the removal keeps the whole entry."""
    removed(tmp_path, make_directory_set(tmp_path))
    write(tmp_path / ".ckptd" / "trash" / ID / "content" / "checkpoint-5" / "new")
    (refused,) = trash.purge(str(tmp_path), DUE)
    assert "run/checkpoint-5/new is new" in refused.reason
    assert [ID] == trash_names(tmp_path)


def test_purge_of_a_copied_root_goes_on(tmp_path, doomed):
    """A root copied to another disk has other inodes; what is due there goes all the same."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.move(tmp_path / "run", root / "run")
    removed(root, find_set(root, *doomed.key))
    shutil.copytree(root, tmp_path / "copy")
    assert [Purged(ID, doomed.key, doomed.bytes)] == trash.purge(str(tmp_path / "copy"), DUE)


def test_purge_leaves_what_it_does_not_understand(tmp_path, doomed):
    """Damaged entries and foreign names stay, however old."""
    removed(tmp_path, doomed)
    (tmp_path / ".ckptd" / "trash" / ID / "entry.json").write_bytes(b"{")
    write(tmp_path / ".ckptd" / "trash" / "by hand" / "file")
    before = snapshot(tmp_path / ".ckptd")
    assert [] == trash.purge(str(tmp_path), DUE)
    assert before == snapshot(tmp_path / ".ckptd")


@pytest.mark.parametrize("finish", ["purge", "recover"])
def test_purge_that_was_cut_off_is_finished(tmp_path, doomed, finish):
    """What an interrupted purge has left is deleted, with its description or without."""
    removed(tmp_path, doomed)
    removed(tmp_path, MAKERS["stem" if doomed.directory is None else "directory"](tmp_path), "00000b")
    purging = tmp_path / ".ckptd" / "purging"
    for entry_id in (ID, OTHER_ID):
        (tmp_path / ".ckptd" / "trash" / entry_id).rename(purging / entry_id)
    (purging / OTHER_ID / "entry.json").unlink()
    found = trash.purge(str(tmp_path), NOW) if finish == "purge" else reaper.recover(str(tmp_path))
    assert [(ID, doomed.key), (OTHER_ID, None)] == [(one.entry_id, one.key) for one in found]
    assert [] == os.listdir(purging)


def test_purge_with_a_mount_in_the_trash_stops_there(tmp_path):
    """A mount that somebody made in the trash is neither entered nor emptied."""

    def check():
        removed(tmp_path, make_directory_set(tmp_path))
        place = tmp_path / ".ckptd" / "trash" / ID / "content" / "checkpoint-5" / "tokenizer"
        mount_tmpfs(place)
        write(place / "precious")
        (refused,) = trash.purge(str(tmp_path), DUE)
        assert "mount point" in refused.reason
        outcome = trash.purge_one(str(tmp_path), ID)
        assert isinstance(outcome, NotPurged)
        assert [] == list(tmp_path.rglob("vocabulary.txt"))
        (precious,) = tmp_path.rglob("precious")
        assert precious.is_file()
        for found in (trash.purge(str(tmp_path), DUE), reaper.recover(str(tmp_path))):
            assert ID == found[0].entry_id
            assert "mount point" in found[0].reason

    run_in_own_mounts(check)


def test_purge_while_another_process_is_at_work_says_so(tmp_path, doomed):
    """A purge waits for nobody; the next one makes up for it."""
    removed(tmp_path, doomed)
    with making(str(tmp_path)):
        (refused,) = trash.purge(str(tmp_path), DUE)
        assert isinstance(trash.purge_one(str(tmp_path), ID), NotPurged)
        with pytest.raises(BlockingIOError):
            trash.restore(str(tmp_path), ID, NOW)
    assert "try again" in refused.reason
    assert isinstance(trash.purge_one(str(tmp_path), ID), Purged)


def test_removal_after_a_purge_of_the_same_set_works(tmp_path, doomed):
    """A set of the same name, written anew, can be removed again."""
    removed(tmp_path, doomed)
    trash.purge(str(tmp_path), DUE)
    again = MAKERS["stem" if doomed.directory is None else "directory"](tmp_path)
    assert Removed(ID, doomed.bytes) == remove(tmp_path, again)
