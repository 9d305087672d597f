from __future__ import annotations

import errno
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.shell import durable
from ckptd.shell.durable import LeavesRoot, held
from forking import mount_bind, mount_tmpfs, run_in_own_mounts
from removing import snapshot


@pytest.fixture
def root_fd(tmp_path):
    """The test's directory, open."""
    with held(durable.open_directory(str(tmp_path))) as fd:
        yield fd


def open_descriptors():
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


def failing(code):
    """A call that always fails in the same way."""

    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_open_beneath_a_root_follows_plain_components(tmp_path, root_fd):
    """A path of plain directories leads to the directory, and `.` to the root."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    with held(durable.open_beneath(root_fd, "a/b")) as fd, held(durable.open_beneath(root_fd, ".")) as dot_fd:
        assert os.stat(tmp_path / "a" / "b").st_ino == os.fstat(fd).st_ino
        assert os.stat(tmp_path).st_ino == os.fstat(dot_fd).st_ino


@pytest.mark.parametrize("path", ["", "..", "a/..", "a/../a", "/a", "/", "a//b", "a/", "./a", "a\0"])
def test_open_beneath_by_a_path_that_is_not_plain_is_refused(tmp_path, root_fd, path):
    """No `..`, empty or absolute path is ever followed, wherever it would lead."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(LeavesRoot, match="not a plain path") as caught:
        durable.open_beneath(root_fd, path)
    assert errno.EINVAL == caught.value.errno


@pytest.mark.parametrize("path", ["link", "link/b", "a/link", "a/link/x", "loop"])
def test_open_beneath_through_a_link_is_refused(tmp_path, root_fd, path):
    """A symbolic link is not followed, first, last or in between, and no descriptor is left open."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    before = open_descriptors()
    with pytest.raises(LeavesRoot, match="never followed"):
        durable.open_beneath(root_fd, path)
    assert before == open_descriptors()


@pytest.mark.parametrize(("path", "error"), [("gone", FileNotFoundError), ("file", NotADirectoryError)])
def test_open_beneath_something_else_says_what_it_is(tmp_path, root_fd, path, error):
    """What is missing or no directory raises the system's own error."""
    (tmp_path / "file").touch()
    with pytest.raises(error):
        durable.open_beneath(root_fd, path)


def test_open_beneath_across_a_mount_is_refused(tmp_path):
    """Neither another filesystem nor the same one, bound to a second place, is entered."""

    def check():
        for name in ("source", "other", "bound"):
            (tmp_path / name).mkdir()
        (tmp_path / "file").touch()
        (tmp_path / "bound_file").touch()
        mount_tmpfs(tmp_path / "other")
        mount_bind(tmp_path / "source", tmp_path / "bound")
        mount_bind(tmp_path / "file", tmp_path / "bound_file")
        with held(durable.open_directory(str(tmp_path))) as fd:
            for name in ("other", "bound"):
                with pytest.raises(LeavesRoot, match="never crossed"):
                    durable.open_beneath(fd, name)
                with pytest.raises(LeavesRoot, match="never crossed"):
                    durable.remove_tree(fd, name)
            assert durable.is_mount_point(fd, "bound_file")
            assert not durable.is_mount_point(fd, "file")

    run_in_own_mounts(check)


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=3000), old=st.none() | st.binary(max_size=50))
def test_write_file_leaves_the_new_content_alone(tmp_path_factory, data, old):
    """A written file holds the new bytes, whatever was there, and nothing lies beside it."""
    path = tmp_path_factory.mktemp("root")
    if old is not None:
        (path / "name").write_bytes(old)
    with held(durable.open_directory(str(path))) as fd:
        durable.write_file(fd, "name", data)
    assert [b"name"] == list(snapshot(path))
    assert data == (path / "name").read_bytes()


def test_write_file_over_what_a_crash_left_succeeds(tmp_path, root_fd):
    """The hidden file of a write that was cut off is in nobody's way, be it a link."""
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / ".name.tmp").symlink_to("outside")
    durable.write_file(root_fd, "name", b"new", 0o600)
    assert b"outside" == (tmp_path / "outside").read_bytes()
    assert [b"name", b"outside"] == sorted(snapshot(tmp_path))
    assert 0o600 == stat.S_IMODE((tmp_path / "name").stat().st_mode)


def test_write_file_on_a_full_disk_leaves_the_old_one(tmp_path):
    """When the disk is full, the old content stays and nothing lies beside it."""

    def check():
        mount_tmpfs(tmp_path, "size=64k")
        (tmp_path / "name").write_bytes(b"old")
        with (
            held(durable.open_directory(str(tmp_path))) as fd,
            pytest.raises(OSError, match="No space") as caught,
        ):
            durable.write_file(fd, "name", b"x" * 100_000)
        assert errno.ENOSPC == caught.value.errno
        assert ["name"] == os.listdir(tmp_path)
        assert b"old" == (tmp_path / "name").read_bytes()

    run_in_own_mounts(check)


@pytest.fixture(params=["renameat2", "no such call", "no such flag"])
def kernel(request, monkeypatch):
    """The kernel as it is, one without `renameat2`, and a filesystem that does not know its flag."""
    codes = {"no such call": errno.ENOSYS, "no such flag": errno.EINVAL}
    if request.param in codes:
        monkeypatch.setattr(durable, "_renameat2", lambda *_: codes[request.param])


def test_move_to_a_free_name_keeps_content_and_date(tmp_path, root_fd, kernel):
    """A moved file is the same file elsewhere."""
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "to").mkdir()
    before = (tmp_path / "a").stat()
    with held(durable.open_inside(root_fd, "to")) as to_fd:
        durable.move(root_fd, "a", to_fd, "b")
    after = (tmp_path / "to" / "b").stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (
        after.st_ino,
        after.st_mtime_ns,
        after.st_size,
    )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("taken", ["file", "directory", "dangling link"])
def test_move_to_a_taken_name_changes_nothing(tmp_path, root_fd, kernel, taken):
    """Nothing is ever replaced by a move, not even an empty directory or a link to nowhere."""
    (tmp_path / "a").mkdir()
    target = tmp_path / "b"
    {"file": target.touch, "directory": target.mkdir, "dangling link": lambda: target.symlink_to("nowhere")}[
        taken
    ]()
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError):
        durable.move(root_fd, "a", root_fd, "b")
    assert before == snapshot(tmp_path)


def test_move_of_what_is_gone_names_it(root_fd, kernel):
    """A missing source is told by its name."""
    with pytest.raises(FileNotFoundError, match="gone"):
        durable.move(root_fd, "gone", root_fd, "b")


def test_move_that_cannot_be_flushed_is_undone(tmp_path, root_fd, monkeypatch):
    """When the directory cannot be flushed, the file is where it was."""
    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        durable.move(root_fd, "a", root_fd, "b")
    assert ["a"] == os.listdir(tmp_path)


def test_changes_where_directories_cannot_be_flushed_go_on(tmp_path, root_fd, monkeypatch):
    """A filesystem that has no fsync for directories is put up with; another error is not."""
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    assert durable.make_directory(root_fd, "a")
    durable.move(root_fd, "a", root_fd, "b")
    durable.remove_empty_directory(root_fd, "b")
    assert [] == os.listdir(tmp_path)


def test_make_directory_twice_makes_it_once(tmp_path, root_fd):
    """An existing directory is fine and keeps its mode; the second call says that it is not new."""
    assert durable.make_directory(root_fd, "a", 0o700)
    assert not durable.make_directory(root_fd, "a", 0o750)
    assert 0o700 == stat.S_IMODE((tmp_path / "a").stat().st_mode)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_make_directory_where_something_else_is_fails(tmp_path, root_fd, kind):
    """A file, or a link to a directory, does not pass for the directory."""
    (tmp_path / "a").touch() if kind == "file" else (tmp_path / "a").symlink_to(tmp_path)
    with pytest.raises(NotADirectoryError):
        durable.make_directory(root_fd, "a")


def test_make_directory_that_cannot_be_flushed_is_undone(tmp_path, root_fd, monkeypatch):
    """When the parent cannot be flushed, there is no new directory."""
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        durable.make_directory(root_fd, "a")
    assert [] == os.listdir(tmp_path)


def test_swap_symlink_points_elsewhere(tmp_path, root_fd):
    """A link is made where there is none, and replaced where there is one, past a crash's remains."""
    durable.swap_symlink(root_fd, "current", "one")
    (tmp_path / ".current.tmp").symlink_to("half")
    durable.swap_symlink(root_fd, "current", "two")
    assert "two" == os.readlink(tmp_path / "current")
    assert ["current"] == os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_swap_symlink_over_something_else_is_refused(tmp_path, root_fd, kind):
    """Only a link is ever replaced by a link."""
    (tmp_path / "current").touch() if kind == "file" else (tmp_path / "current").mkdir()
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match="not a symbolic link"):
        durable.swap_symlink(root_fd, "current", "two")
    assert before == snapshot(tmp_path)


def test_swap_symlink_that_fails_leaves_the_old_target(tmp_path, root_fd, monkeypatch):
    """A failed rename leaves the link as it was, and nothing beside it."""
    durable.swap_symlink(root_fd, "current", "one")
    monkeypatch.setattr(os, "rename", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        durable.swap_symlink(root_fd, "current", "two")
    assert {b"current": (stat.S_IFLNK, b"one")} == snapshot(tmp_path)


def test_sync_tree_flushes_each_file_before_its_directory(tmp_path, root_fd, monkeypatch):
    """Every file and directory is flushed, the inner ones first; a link's target is not."""
    outside = tmp_path / "outside"
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    for path in (outside, tree / "file", tree / "inner" / "file"):
        path.touch()
    (tree / "link").symlink_to(outside)
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(os.fstat(fd).st_ino))
    with held(durable.open_inside(root_fd, "tree")) as fd:
        durable.sync_tree(fd)
    inodes = {path.stat().st_ino for path in (tree, tree / "file", tree / "inner", tree / "inner" / "file")}
    assert inodes == set(flushed)
    assert tree.stat().st_ino == flushed[-1]
    assert flushed.index((tree / "inner" / "file").stat().st_ino) < flushed.index(
        (tree / "inner").stat().st_ino
    )


def test_remove_tree_takes_links_and_leaves_their_targets(tmp_path, root_fd):
    """A tree goes with its links, hard and symbolic; what they lead to stays."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "file").write_bytes(b"outside")
    before = snapshot(outside)
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "inner" / "link").symlink_to(outside / "file")
    (tree / "inner" / "hard").hardlink_to(outside / "file")
    os.mkfifo(tree / "fifo")
    durable.remove_tree(root_fd, "tree")
    assert not tree.exists()
    assert before == snapshot(outside)


def test_remove_tree_of_a_link_removes_the_link(tmp_path, root_fd):
    """A name that is a link to a directory is removed as a link."""
    (tmp_path / "outside" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("outside")
    durable.remove_tree(root_fd, "link")
    assert ["outside"] == os.listdir(tmp_path)
    assert (tmp_path / "outside" / "inner").is_dir()


def test_remove_what_is_not_there_is_fine(root_fd):
    """Removing is finished when the name is gone, by whomever."""
    durable.remove_tree(root_fd, "gone")
    durable.remove_empty_directory(root_fd, "gone")
    assert not durable.remove_file(root_fd, "gone")


def test_remove_empty_directory_that_is_not_empty_fails(tmp_path, root_fd):
    """A directory that holds something stays."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        durable.remove_empty_directory(root_fd, "a")
    assert (tmp_path / "a" / "b").is_dir()


def test_remove_tree_nested_without_end_gives_up(tmp_path, root_fd):
    """A tree deeper than any checkpoint is an error, not the end of the process."""
    directory_fd = os.dup(root_fd)
    for _ in range(250):
        os.mkdir("d", dir_fd=directory_fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=directory_fd)
        os.close(directory_fd)
        directory_fd = inner
    os.close(directory_fd)
    with pytest.raises(OSError, match="too deeply"):
        durable.remove_tree(root_fd, "d")
