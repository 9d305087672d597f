from __future__ import annotations

import itertools

import pytest

from ckptd.core.trash_entries import RecoveryOutcome, Restored
from ckptd.shell import reaper, trash
from ckptd.shell.pins import pins
from forking import run_until_crash
from removing import (
    ID,
    NOW,
    TRASH_FOR,
    make_directory_set,
    make_stem_set,
    remove,
    removed,
    snapshot,
    trash_names,
)

MAKERS = [make_stem_set, make_directory_set]
LATER = NOW + TRASH_FOR


def roots_until_done(tmp_path, prepare, work):
    """Let the work die at each of its changes in turn, each time on a new root; yields the roots.

    Args:
        tmp_path: where the roots are made.
        prepare: makes the content of a root, and returns what the work needs.
        work: takes the root and what was prepared.
    """
    for number in itertools.count():
        root = tmp_path / str(number)
        root.mkdir()
        prepared = prepare(root)
        if not run_until_crash(lambda: work(root, prepared), number):  # noqa: B023 - called before the next turn
            assert number > 10, "it changes the disk more often than that"
            return
        yield root


def settle(root):
    """Recover, and show that this leaves nothing for a second recovery."""
    done = reaper.recover(str(root))
    assert reaper.recover(str(root)) == []
    assert trash.list_damaged(str(root)) == []
    assert all(one.outcome is not RecoveryOutcome.LEFT for one in done)


def assert_whole(root, before):
    """The set is whole in its place and nowhere else, or whole in the trash and comes back as it was."""
    entries = trash.list_trash(str(root))
    assert [entry.entry_id for entry in entries] == trash_names(root)
    if entries:
        (entry,) = entries
        assert not any(path.endswith((b".pdparams", b".pdopt", b".pdstates")) for path in snapshot(root))
        assert isinstance(trash.restore(str(root), entry.entry_id, NOW), Restored)
    assert snapshot(root) == before


@pytest.mark.parametrize("make", MAKERS)
def test_removal_cut_off_anywhere_leaves_the_set_whole_in_one_place(tmp_path, make):
    """After a crash at any change and a recovery, the set is whole, in the run or in the trash."""
    make(tmp_path / "model")
    before = snapshot(tmp_path / "model")
    for root in roots_until_done(tmp_path, make, remove):
        settle(root)
        assert_whole(root, before)


@pytest.mark.parametrize("make", MAKERS)
def test_restore_cut_off_anywhere_leaves_the_set_whole_in_one_place(tmp_path, make):
    """A crash during a restore leaves the set whole in the trash, or back in the run and pinned."""
    make(tmp_path / "model")
    before = snapshot(tmp_path / "model")

    def prepare(root):
        doomed = make(root)
        removed(root, doomed)
        return doomed.key

    for root in roots_until_done(tmp_path, prepare, lambda root, _: trash.restore(str(root), ID, NOW)):
        settle(root)
        if not trash_names(root):
            assert len(pins(str(root)).keys) == 1
        assert_whole(root, before)
        assert pins(str(root)).problems == ()


@pytest.mark.parametrize("make", MAKERS)
def test_purge_cut_off_anywhere_leaves_the_set_whole_or_gone(tmp_path, make):
    """A crash during a purge leaves the set whole in the trash, or gone without a trace."""
    make(tmp_path / "model")
    before = snapshot(tmp_path / "model")
    for root in roots_until_done(
        tmp_path, lambda root: removed(root, make(root)), lambda root, _: trash.purge(str(root), LATER)
    ):
        settle(root)
        if trash_names(root):
            assert_whole(root, before)
        else:
            assert not list((root / ".ckptd" / "purging").iterdir())
            assert not any(path.endswith(b".pdparams") for path in snapshot(root))


def test_recovery_cut_off_anywhere_is_finished_by_the_next_one(tmp_path):
    """A crash while a half-moved set goes back leaves it to the next recovery, which ends the same way."""
    make_stem_set(tmp_path / "model")
    before = snapshot(tmp_path / "model")

    def half_moved(root):
        doomed = make_stem_set(root)
        moved = itertools.takewhile(
            lambda number: run_until_crash(lambda: remove(root, doomed), number), itertools.count(35)
        )
        for _ in moved:
            content = root / ".ckptd" / "trash" / ID / "content"
            if content.is_dir() and 0 < len(list(content.iterdir())) < 3:
                return
            reaper.recover(str(root))
        pytest.fail("no crash left the set half moved")

    for root in roots_until_done(tmp_path, half_moved, lambda root, _: reaper.recover(str(root))):
        settle(root)
        assert trash_names(root) == []
        assert snapshot(root) == before
