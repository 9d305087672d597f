from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from dataclasses import replace

import pytest

from ckptd.core.model import Member, Role
from ckptd.core.trash_entries import RecoveryOutcome, Removed, Skipped
from ckptd.shell import durable, reaper, trash
from ckptd.shell.own_directory import making
from ckptd.shell.pins import pin
from forking import make_read_only, mount_bind, mount_tmpfs, run_in_own_mounts
from making import entry
from removing import (
    ID,
    NOW,
    TRASH_FOR,
    decided,
    find_set,
    make_directory_set,
    make_stem_set,
    remove,
    removed,
    snapshot,
    trash_names,
    write,
)

MAKERS = {"stem": make_stem_set, "directory": make_directory_set}


@pytest.fixture
def root(tmp_path):
    """A root, with something beside it that nothing may touch."""
    make_stem_set(tmp_path / "outside")
    make_directory_set(tmp_path / "outside")
    path = tmp_path / "root"
    path.mkdir()
    return path


def assert_skipped(root, doomed, *words):
    """The removal is called off for that reason; nothing has changed, in the root or beside it."""
    before = snapshot(root), snapshot(root.parent / "outside")
    outcome = remove(root, doomed)
    assert isinstance(outcome, Skipped), outcome
    for word in words:
        assert word in outcome.reason
    assert before == (snapshot(root), snapshot(root.parent / "outside"))
    assert trash_names(root) == []


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("run", [".", "run", "deep/er/run"])
def test_removal_takes_the_set_and_nothing_else(root, make, run):
    """The set's files are in the trash, described; its neighbours are where they were."""
    make_stem_set(root, run, "epoch_2")
    write(root / run / "train.log")
    before = snapshot(root)
    doomed = make(root, run)
    assert Removed(ID, doomed.bytes) == remove(root, doomed)
    assert {path: facts for path, facts in snapshot(root).items() if facts[1]} == {
        path: facts for path, facts in before.items() if facts[1]
    }
    (found,) = trash.list_trash(str(root))
    assert (doomed.key, NOW, NOW + TRASH_FOR) == (found.key, found.removed_at, found.purge_after)
    assert decided(doomed).reasons == found.reasons
    assert 0o750 == stat.S_IMODE((root / ".ckptd").stat().st_mode)


def swap_for_link(path):
    """Put a link to a twin outside in the place of a path."""
    shutil.move(path, path.with_name("moved"))
    path.symlink_to(path.parents[2] / "outside" / "run" / path.name)


def rewrite_alike(path):
    """Write a file anew, with the same size and date."""
    content, facts = path.read_bytes(), path.stat()
    path.rename(path.with_name("old"))
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def swap_for_fifo(path):
    """Put a FIFO in the place of a file."""
    path.unlink()
    os.mkfifo(path)


def swap_for_directory(path):
    """Put a directory in the place of a file."""
    path.unlink()
    path.mkdir()


def swap_for_copy(path):
    """Put a copy in the place of a directory."""
    shutil.move(path, path.with_name("moved"))
    shutil.copytree(path.with_name("moved"), path)


def never_called(*args):
    """Stands for a move that must not happen."""
    pytest.fail(f"moved: {args}")


STEM_ATTACKS = {
    "member is a link": lambda run: swap_for_link(run / "epoch_1.pdopt"),
    "member is a FIFO": lambda run: swap_for_fifo(run / "epoch_1.pdopt"),
    "member is a directory": lambda run: swap_for_directory(run / "epoch_1.pdopt"),
    "member is gone": lambda run: (run / "epoch_1.pdopt").unlink(),
    "member has grown": lambda run: (run / "epoch_1.pdopt").write_bytes(b"a longer optimizer state"),
    "member has another date": lambda run: os.utime(run / "epoch_1.pdopt", ns=(1, 1)),
    "member was written anew": lambda run: rewrite_alike(run / "epoch_1.pdopt"),
    "run is a link": swap_for_link,
    "run is a copy": swap_for_copy,
    "run is gone": shutil.rmtree,
}
DIRECTORY_ATTACKS = {
    "set is a link": lambda run: swap_for_link(run / "checkpoint-5"),
    "set is a copy": lambda run: swap_for_copy(run / "checkpoint-5"),
    "set is a file": lambda run: (shutil.rmtree(run / "checkpoint-5"), write(run / "checkpoint-5")),
    "set is gone": lambda run: shutil.rmtree(run / "checkpoint-5"),
    "member is a link": lambda run: swap_for_link(run / "checkpoint-5" / "optimizer.pdopt"),
    "inner directory is a link": lambda run: swap_for_link(run / "checkpoint-5" / "tokenizer"),
    "new file": lambda run: write(run / "checkpoint-5" / "new"),
    "new file further down": lambda run: write(run / "checkpoint-5" / "tokenizer" / "new"),
    "new empty directory": lambda run: (run / "checkpoint-5" / "new").mkdir(),
    "file is gone": lambda run: (run / "checkpoint-5" / "optimizer.pdopt").unlink(),
    "file was written anew": lambda run: rewrite_alike(run / "checkpoint-5" / "tokenizer" / "vocabulary.txt"),
}


@pytest.mark.parametrize("attack", STEM_ATTACKS.values(), ids=STEM_ATTACKS)
def test_removal_of_files_that_changed_since_they_were_judged_is_called_off(root, monkeypatch, attack):
    """A set of files of which anything differs from the judged ones stays; not one of them is moved."""
    doomed = make_stem_set(root)
    monkeypatch.setattr(durable, "move", never_called)
    attack(root / "run")
    assert_skipped(root, doomed)


@pytest.mark.parametrize("attack", DIRECTORY_ATTACKS.values(), ids=DIRECTORY_ATTACKS)
def test_removal_of_a_directory_that_changed_since_it_was_judged_is_called_off(root, monkeypatch, attack):
    """A directory in which anything differs from the judged content stays; it is not moved for a moment."""
    doomed = make_directory_set(root)
    monkeypatch.setattr(durable, "move", never_called)
    attack(root / "run")
    assert_skipped(root, doomed)


def test_removal_of_members_elsewhere_is_called_off(root):
    """Members outside the run, even such as exist, are never moved."""
    doomed = make_stem_set(root)
    for path in (
        "../outside/run/epoch_1.pdparams",
        str(root.parent / "outside" / "run" / "epoch_1.pdparams"),
    ):
        assert_skipped(root, replace(doomed, members=(Member(Role.PARAMS, entry(path)),)))
        run = path.rpartition("/")[0]
        assert_skipped(root, replace(doomed, run=run, members=(Member(Role.PARAMS, entry(path)),)))


def test_removal_within_the_own_directory_is_called_off(root):
    """What lies in the trash or among the pins is no set to be removed."""
    assert_skipped(root, make_stem_set(root, ".ckptd"), "own directory")


def test_removal_of_a_set_with_a_link_is_called_off(root):
    """A set that was recognised with a link in it stays."""
    make_directory_set(root)
    (root / "run" / "checkpoint-5" / "link").symlink_to("optimizer.pdopt")
    assert_skipped(root, find_set(root, "run", "checkpoint-5"), "link is no regular file")


def test_removal_of_a_pinned_set_is_called_off(root):
    """A pin made after the plan, even one damaged since, keeps the set."""
    doomed = make_stem_set(root)
    pin(str(root), doomed.key, "why", NOW)
    next((root / ".ckptd" / "pins").iterdir()).write_bytes(b"damaged")
    assert_skipped(root, doomed, "pinned")


def test_removal_under_a_name_that_is_taken_is_called_off(root):
    """An entry that is in the trash is not touched by another one of the same name."""
    first, second = make_stem_set(root), make_directory_set(root)
    removed(root, first)
    before = snapshot(root / ".ckptd")
    outcome = remove(root, second)
    assert isinstance(outcome, Skipped)
    assert ID in outcome.reason
    assert before == snapshot(root / ".ckptd")


def test_removal_while_another_process_is_at_work_is_called_off(root):
    """The daemon does not wait for a command that works in the trash."""
    doomed = make_stem_set(root)
    with making(str(root)):
        assert_skipped(root, doomed, "EAGAIN", "try again")


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_removal_where_the_own_directory_is_none_is_called_off(root, kind):
    """A file or link called `.ckptd` is never used for trash."""
    doomed = make_stem_set(root)
    own = root / ".ckptd"
    (root.parent / "elsewhere").mkdir()
    own.touch() if kind == "file" else own.symlink_to("../elsewhere" if kind == "link" else "../nowhere")
    outcome = remove(root, doomed)
    assert isinstance(outcome, Skipped)
    assert ".ckptd" in outcome.reason
    assert [] == os.listdir(root.parent / "elsewhere")
    assert doomed == find_set(root, "run", "epoch_1")


def test_removal_of_a_hard_link_leaves_the_other_name(root):
    """The other name of a removed file keeps its content, also when the trash is purged."""
    doomed = make_stem_set(root)
    other = root.parent / "outside" / "other"
    other.hardlink_to(root / "run" / "epoch_1.pdparams")
    removed(root, doomed)
    trash.purge(str(root), NOW + TRASH_FOR)
    assert [] == trash_names(root)
    assert b"the weights" == other.read_bytes()


def test_removal_across_mounts_or_on_a_read_only_root_is_called_off(root):
    """A mount in a set, on a member, on the run or on the trash keeps the set; so does a read-only root."""

    def check():
        for name, path, place in (
            ("inside", "run", "run/checkpoint-5/tokenizer"),
            ("run", "run", "run"),
            ("trash", "run", ".ckptd"),
        ):
            here = root / name
            doomed = make_directory_set(here, path)
            (here / place).mkdir(exist_ok=True)
            mount_tmpfs(here / place)
            if place != ".ckptd":
                write(here / place / "new")
            assert isinstance(remove(here, doomed), Skipped), name
        assert doomed == find_set(root / "trash", "run", "checkpoint-5")

        here = root / "bound"
        make_directory_set(here)
        member = here / "run" / "checkpoint-5" / "optimizer.pdopt"
        mount_bind(root.parent / "outside" / "run" / "epoch_1.pdopt", member)
        doomed = find_set(here, "run", "checkpoint-5")
        assert_skipped(here, doomed, "EXDEV", "mount point")

        here = root / "bound_directory"
        make_directory_set(here)
        mount_bind(root.parent / "outside" / "run", here / "run" / "checkpoint-5" / "tokenizer")
        assert_skipped(here, find_set(here, "run", "checkpoint-5"), "EXDEV", "mount point")

        for first in (True, False):
            here = root / f"read_only_{first}"
            here.mkdir()
            mount_tmpfs(here)
            doomed = make_stem_set(here)
            if not first:
                removed(here, make_directory_set(here))
            make_read_only(here)
            outcome = remove(here, doomed)
            assert isinstance(outcome, Skipped)
            assert "EROFS" in outcome.reason
            assert doomed == find_set(here, "run", "epoch_1")

    run_in_own_mounts(check)


def test_removal_on_a_full_disk_is_called_off(root):
    """When there is no room for the description, the set is untouched, and the trash is as it was."""

    def check():
        mount_tmpfs(root, "size=128k")
        removed(root, make_stem_set(root, "run", "epoch_2"), "000001")
        doomed = make_stem_set(root)
        with pytest.raises(OSError, match="No space"):
            (root / "ballast").write_bytes(b"x" * 200_000)
        before = snapshot(root)
        outcome = remove(root, doomed)
        assert isinstance(outcome, Skipped)
        assert "ENOSPC" in outcome.reason
        assert before == snapshot(root)
        assert ["20261124T105500Z-000001"] == trash_names(root)
        (purged,) = trash.purge(str(root), NOW + TRASH_FOR)
        assert "20261124T105500Z-000001" == purged.entry_id
        (root / "ballast").unlink()
        assert isinstance(remove(root, doomed), Removed)

    run_in_own_mounts(check)


def meddle(monkeypatch, number, action):
    """Do something right before the move of that number, which may fail."""
    move, calls = durable.move, []

    def meddled(*args):
        calls.append(args)
        if len(calls) == number:
            action()
        move(*args)

    monkeypatch.setattr(durable, "move", meddled)


def fail(code):
    """An action that fails."""

    def failing():
        raise OSError(code, os.strerror(code), "epoch_1.pdopt")

    return failing


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("code", [errno.EBUSY, errno.ESTALE, errno.EACCES, errno.EXDEV])
def test_removal_that_fails_on_the_way_puts_everything_back(root, monkeypatch, number, code):
    """When a file cannot be moved, those before it go back, and the reason names error and file."""
    doomed = make_stem_set(root)
    meddle(monkeypatch, number, fail(code))
    assert_skipped(root, doomed, errno.errorcode[code], "epoch_1.pdopt")
    assert doomed == find_set(root, "run", "epoch_1")


def test_removal_of_files_written_during_the_move_puts_them_back(root, monkeypatch):
    """A file that grows between the look and its move goes back with its set."""
    doomed = make_stem_set(root)

    def append():
        with (root / "run" / "epoch_1.pdopt").open("ab") as file:
            file.write(b"more")

    meddle(monkeypatch, 2, append)
    outcome = remove(root, doomed)
    assert Skipped("run/epoch_1.pdopt has changed since it was judged") == outcome
    assert b"the optimizer statemore" == (root / "run" / "epoch_1.pdopt").read_bytes()
    assert [] == trash_names(root)


def test_removal_of_a_directory_written_during_the_move_puts_it_back(root, monkeypatch):
    """A file that appears between the look and the move brings its directory back."""
    doomed = make_directory_set(root)
    meddle(monkeypatch, 1, lambda: write(root / "run" / "checkpoint-5" / "new"))
    assert Skipped("run/checkpoint-5/new is new") == remove(root, doomed)
    assert (root / "run" / "checkpoint-5" / "new").is_file()
    assert [] == trash_names(root)


def test_removal_that_cannot_be_undone_leaves_the_rest_in_the_trash_and_says_so(root, monkeypatch):
    """When the trainer writes a moved file anew, neither its file nor ours is lost; later starts say so."""
    doomed = make_stem_set(root)

    def rewrite_and_fail():
        write(root / "run" / "epoch_1.pdparams", b"newer weights")
        fail(errno.EBUSY)()

    meddle(monkeypatch, 2, rewrite_and_fail)
    outcome = remove(root, doomed)
    assert isinstance(outcome, Skipped)
    assert "EBUSY" in outcome.reason
    assert "run/epoch_1.pdparams was written anew" in outcome.reason
    assert ID in outcome.reason
    content = root / ".ckptd" / "trash" / ID / "content"
    assert b"newer weights" == (root / "run" / "epoch_1.pdparams").read_bytes()
    assert b"the weights" == (content / "epoch_1.pdparams").read_bytes()
    for _ in range(2):
        (left,) = reaper.recover(str(root))
        assert (doomed.key, RecoveryOutcome.LEFT) == (left.key, left.outcome)
        assert "run/epoch_1.pdparams" in left.reason
    assert ["epoch_1.pdparams"] == os.listdir(content)
    (root / "run" / "epoch_1.pdparams").unlink()
    (back,) = reaper.recover(str(root))
    assert RecoveryOutcome.PUT_BACK == back.outcome
    assert doomed == find_set(root, "run", "epoch_1")


def test_recovery_where_nothing_was_ever_removed_makes_nothing(root):
    """A root without trash is left as it is."""
    make_stem_set(root)
    before = snapshot(root)
    assert [] == reaper.recover(str(root))
    assert before == snapshot(root)
    assert ["run"] == os.listdir(root)


def test_recovery_leaves_whole_entries_alone(root):
    """A set that is whole in the trash stays there and is not mentioned."""
    removed(root, make_stem_set(root))
    assert [] == reaper.recover(str(root))
    assert [ID] == trash_names(root)


def test_recovery_of_what_it_does_not_understand_leaves_it_and_says_so(root):
    """Damaged entries with files in them, and foreign names, are reported and left, each time."""
    removed(root, make_stem_set(root))
    own = root / ".ckptd" / "trash"
    (own / ID / "entry.json").write_bytes(b"{")
    write(own / "by hand" / "file")
    write(own / "README")
    write(own / "20261124T105500Z-00000b" / "content" / "file")
    write(own / "20261124T105500Z-00000c" / "note")
    (own / "20261124T105500Z-00000d").symlink_to(root.parent / "outside")
    before = snapshot(root.parent), snapshot(own)
    found = reaper.recover(str(root))
    assert sorted(os.listdir(own)) == [one.entry_id for one in found]
    assert {RecoveryOutcome.LEFT} == {one.outcome for one in found}
    assert before == (snapshot(root.parent), snapshot(own))
    assert len(found) == len(trash.list_damaged(str(root)))


def test_recovery_of_an_entry_that_leads_elsewhere_leaves_it(root):
    """An entry forged to put files back outside the root, or into ckptd's own part, moves nothing."""
    removed(root, make_stem_set(root))
    file = root / ".ckptd" / "trash" / ID / "entry.json"
    found = json.loads(file.read_bytes())
    (file.parent / "content" / "epoch_1.pdstates").unlink()
    for run in ("../outside/new", "/tmp", ".ckptd/pins"):
        found["run"] = run
        for member in found["members"]:
            member["path"] = f"{run}/{member['path'].rpartition('/')[2]}"
        file.write_text(json.dumps(found))
        before = snapshot(root.parent)
        (left,) = reaper.recover(str(root))
        assert RecoveryOutcome.LEFT == left.outcome
        assert before == snapshot(root.parent)


def test_recovery_of_a_part_whose_run_is_gone_leaves_it(root):
    """When the run was deleted by hand, what the trash has of the set stays there."""
    removed(root, make_stem_set(root))
    content = root / ".ckptd" / "trash" / ID / "content"
    (content / "epoch_1.pdstates").unlink()
    shutil.rmtree(root / "run")
    (left,) = reaper.recover(str(root))
    assert (RecoveryOutcome.LEFT, True) == (left.outcome, "ENOENT" in left.reason)
    assert 2 == len(os.listdir(content))


@pytest.mark.parametrize("kind", ["gone", "no directory", "locked"])
def test_recovery_that_cannot_look_says_so(root, kind):
    """A root that cannot be looked at is one finding, not an exception."""
    removed(root, make_stem_set(root))
    if kind == "locked":
        with making(str(root)):
            (left,) = reaper.recover(str(root))
    else:
        shutil.rmtree(root)
        if kind == "no directory":
            root.touch()
        (left,) = reaper.recover(str(root))
    assert RecoveryOutcome.LEFT == left.outcome
    assert any(name in left.reason for name in ("ENOENT", "ENOTDIR", "EAGAIN"))
