from __future__ import annotations

import logging
import shutil

import pytest

from ckptd.shell.watching import Hint, Watcher
from waiting import wait_until


@pytest.fixture
def hints():
    """What a watcher has hinted so far."""
    return []


@pytest.fixture
def watcher(hints):
    """A watcher that is stopped whatever the test does."""
    one = Watcher(hints.append)
    yield one
    one.stop()


@pytest.mark.parametrize("way", ["inotify", "polling"])
def test_watch_new_file_in_new_directory_is_hinted(way, watcher, hints, tmp_path):
    """A file that appears in a directory that appeared just before is hinted at, whichever way is used."""
    root = str(tmp_path)
    watcher.watch(root, way, 0.05)

    (tmp_path / "run" / "iter_1").mkdir(parents=True)
    (tmp_path / "run" / "iter_1" / "model.pdparams").write_bytes(b"x")

    wait_until(lambda: Hint(root, "run/iter_1") in hints, "a hint for the new directory")


def test_watch_rename_hints_both_directories(watcher, hints, tmp_path):
    """A file that moves concerns the directory it left and the one it came to."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"x")
    watcher.watch(str(tmp_path), "inotify", 1)

    (tmp_path / "a" / "x").rename(tmp_path / "b" / "x")

    wait_until(lambda: {Hint(str(tmp_path), "a"), Hint(str(tmp_path), "b")} <= set(hints), "two hints")


def test_watch_own_directory_gives_no_hints(watcher, hints, tmp_path):
    """What ckptd itself does in its directory wakes nobody."""
    (tmp_path / ".ckptd").mkdir()
    watcher.watch(str(tmp_path), "inotify", 1)

    (tmp_path / ".ckptd" / "trash").mkdir()
    (tmp_path / "other").mkdir()

    wait_until(lambda: Hint(str(tmp_path), "other") in hints, "a hint for the other directory")
    assert not [hint for hint in hints if hint.directory and ".ckptd" in hint.directory]


def test_watch_missing_root_raises(watcher, tmp_path):
    """A root that is not there cannot be watched, and says so."""
    with pytest.raises(OSError, match="No such file"):
        watcher.watch(str(tmp_path / "missing"), "inotify", 1)


def test_dead_root_is_named_and_can_be_watched_again(watcher, hints, tmp_path):
    """A root that was removed is known as dead; once it is back, it can be watched as before."""
    root = tmp_path / "root"
    root.mkdir()
    watcher.watch(str(root), "inotify", 1)
    assert watcher.dead() == ()

    shutil.rmtree(root)
    wait_until(lambda: watcher.dead() == (str(root),), "the root to be known as dead")
    root.mkdir()
    watcher.watch(str(root), "inotify", 1)
    (root / "run").mkdir()

    wait_until(lambda: Hint(str(root), "run") in hints, "a hint after the root came back")


def test_overflow_of_the_kernel_queue_hints_every_root(watcher, hints, tmp_path):
    """When the library logs that events were lost, every root is to be looked at as a whole."""
    watcher.watch(str(tmp_path), "inotify", 1)

    logging.getLogger("watchdog.observers.inotify_c").warning(
        "Inotify queue overflowed; filesystem events were lost"
    )

    assert Hint(str(tmp_path), None) in hints


def test_unwatch_ends_the_hints(watcher, hints, tmp_path):
    """A root that is no longer watched gives no hints, while the others still do."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        watcher.watch(str(tmp_path / name), "inotify", 1)
    watcher.unwatch(str(tmp_path / "old"))

    (tmp_path / "old" / "run").mkdir()
    (tmp_path / "new" / "run").mkdir()

    wait_until(lambda: Hint(str(tmp_path / "new"), "run") in hints, "a hint from the other root")
    assert not [hint for hint in hints if hint.root == str(tmp_path / "old")]
