"""Changes to directories that survive a power cut; every fsync, rename, link swap and unlink is here.

Everything goes by directory descriptor and single names, so that a path swapped for a link leads nowhere.
When a function returns, its effect is on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1  # linux/fs.h
_MAX_DEPTH = 200  # each level holds a descriptor, and the usual limit is 1024

_libc = ctypes.CDLL(None, use_errno=True)


class LeavesRoot(OSError):  # noqa: N818 - says what the path does
    """A path leads out of the directory it was to stay in: by a link, a mount point or a `..`."""


class _Mount(NamedTuple):
    """Where a descriptor lies; a bind mount shares the device and differs in the mount."""

    device: int
    mount: str


@contextlib.contextmanager
def held(fd: int) -> Iterator[int]:
    """Close a descriptor in the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(path: str) -> int:
    """Open a root itself; links in its own path are the administrator's choice and are followed.

    Raises:
        OSError: it cannot be opened, or is no directory.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_beneath(root_fd: int, relative: str) -> int:
    """Open a directory below a root, one component at a time; `.` is the root itself.

    Raises:
        LeavesRoot: a component is a link, a mount point, empty or `..`.
        OSError: it cannot be opened, or is no directory.
    """
    if relative == ".":
        return os.open(".", _DIRECTORY, dir_fd=root_fd)
    names = relative.split("/")
    if any(name in {"", ".", ".."} or "\0" in name for name in names):
        raise LeavesRoot(errno.EINVAL, "not a plain path below the root", relative)
    with contextlib.ExitStack() as passed:
        fd = root_fd
        for name in names[:-1]:
            fd = passed.enter_context(held(open_inside(fd, name)))
        return open_inside(fd, names[-1])


def open_inside(parent_fd: int, name: str) -> int:
    """Open a directory by its name in another one, on the same mount.

    Raises:
        LeavesRoot: it is a link or a mount point.
        OSError: it cannot be opened, or is no directory.
    """
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP} and _is_link(parent_fd, name):
            raise LeavesRoot(errno.ELOOP, "a symbolic link, which is never followed", name) from None
        raise
    if _mount(fd) != _mount(parent_fd):
        os.close(fd)
        raise LeavesRoot(errno.EXDEV, "a mount point, which is never crossed", name)
    return fd


def is_mount_point(parent_fd: int, name: str) -> bool:
    """Whether something is mounted on this very name.

    Raises:
        OSError: it is not there.
    """
    with held(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)) as fd:
        # A file's device says nothing: on overlayfs it differs from its directory's.
        return _mount(fd).mount != _mount(parent_fd).mount


def make_directory(parent_fd: int, name: str, mode: int = 0o750) -> bool:
    """Make a directory; the umask applies to `mode`. An existing one stays as it is.

    Returns:
        Whether it is new.

    Raises:
        OSError: it could not be made, or something that is no directory has the name.
    """
    try:
        os.mkdir(name, mode, dir_fd=parent_fd)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
        is_new = False
    else:
        is_new = True
    try:
        _sync(parent_fd)
    except OSError:
        if is_new:
            os.rmdir(name, dir_fd=parent_fd)
        raise
    return is_new


def write_file(parent_fd: int, name: str, data: bytes, mode: int = 0o640) -> None:
    """Write a file whole or not at all, over an old one if there is one; the umask applies to `mode`.

    Only one writer at a time may write a name.

    Raises:
        OSError: it could not be written, or not for sure; the name has its old content or the new one, whole.
    """
    hidden = f".{name}.tmp"
    with contextlib.suppress(FileNotFoundError):  # left by a crash
        os.unlink(hidden, dir_fd=parent_fd)
    fd = os.open(hidden, _NEW_FILE, mode, dir_fd=parent_fd)
    try:
        with held(fd):
            _write_all(fd, data)
            os.fsync(fd)
        os.rename(hidden, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(hidden, dir_fd=parent_fd)
        raise
    _sync(parent_fd)


def move(src_fd: int, src_name: str, dst_fd: int, dst_name: str) -> None:
    """Rename a file or directory to a free name, without ever replacing anything.

    Raises:
        FileExistsError: the name is taken.
        OSError: it could not be moved, and is where it was.
    """
    _rename_to_free_name(src_fd, src_name, dst_fd, dst_name)
    try:
        _sync(dst_fd)
        _sync(src_fd)
    except OSError:
        _rename_to_free_name(dst_fd, dst_name, src_fd, src_name)
        raise


def swap_symlink(parent_fd: int, name: str, target: str) -> None:
    """Point a link at something else in one step; a reader sees the old target or the new one.

    Raises:
        FileExistsError: something that is no link has the name.
        OSError: it could not be done, or not for sure; the link has its old target or the new one.
    """
    try:
        if not _is_link(parent_fd, name):
            raise FileExistsError(errno.EEXIST, "not a symbolic link, so it is not replaced", name)
    except FileNotFoundError:
        pass
    hidden = f".{name}.tmp"
    with contextlib.suppress(FileNotFoundError):  # left by a crash
        os.unlink(hidden, dir_fd=parent_fd)
    os.symlink(target, hidden, dir_fd=parent_fd)
    try:
        os.rename(hidden, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(hidden, dir_fd=parent_fd)
        raise
    _sync(parent_fd)


def sync_tree(dir_fd: int) -> None:
    """Flush each file and directory below a directory, and at last the directory itself.

    Raises:
        OSError: something could not be flushed.
    """
    for name in os.listdir(dir_fd):
        mode = os.lstat(name, dir_fd=dir_fd).st_mode
        if stat.S_ISDIR(mode):
            with held(open_inside(dir_fd, name)) as inner_fd:
                sync_tree(inner_fd)
        elif stat.S_ISREG(mode):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with held(os.open(name, flags, dir_fd=dir_fd)) as file_fd:
                os.fsync(file_fd)
    _sync(dir_fd)


def remove_file(parent_fd: int, name: str) -> bool:
    """Remove a name that is no directory.

    Returns:
        Whether it was there.

    Raises:
        OSError: it could not be removed.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return False
    _sync(parent_fd)
    return True


def remove_empty_directory(parent_fd: int, name: str) -> None:
    """Remove a directory that holds nothing; a missing one is fine.

    Raises:
        OSError: it holds something, or could not be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent_fd)
    _sync(parent_fd)


def remove_tree(parent_fd: int, name: str) -> None:
    """Remove a file or a directory with all that is in it; links are removed, never followed.

    Raises:
        LeavesRoot: there is a mount point in it.
        OSError: something could not be removed; what was removed before that is gone.
    """
    _remove_tree(parent_fd, name, depth=0)
    _sync(parent_fd)


def _remove_tree(parent_fd: int, name: str, *, depth: int) -> None:
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode):
            os.unlink(name, dir_fd=parent_fd)
            return
        if depth > _MAX_DEPTH:
            raise OSError(errno.ELOOP, "nested too deeply to be removed", name)
        with held(open_inside(parent_fd, name)) as fd:
            for inner in os.listdir(fd):
                _remove_tree(fd, inner, depth=depth + 1)
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return


def _rename_to_free_name(src_fd: int, src_name: str, dst_fd: int, dst_name: str) -> None:
    code = _renameat2(src_fd, src_name, dst_fd, dst_name)
    if code in {errno.ENOSYS, errno.EINVAL}:  # an old kernel, or a filesystem without the flag (NFS)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(dst_name, dir_fd=dst_fd)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), src_name, None, dst_name)
        os.rename(src_name, dst_name, src_dir_fd=src_fd, dst_dir_fd=dst_fd)
    elif code:
        raise OSError(code, os.strerror(code), src_name, None, dst_name)


def _renameat2(src_fd: int, src_name: str, dst_fd: int, dst_name: str) -> int:
    """The errno of the call, 0 for success; the C library has it since glibc 2.28."""
    call = getattr(_libc, "renameat2", None)
    if call is None:
        return errno.ENOSYS
    names = os.fsencode(src_name), os.fsencode(dst_name)
    if call(src_fd, names[0], dst_fd, names[1], ctypes.c_uint(_RENAME_NOREPLACE)) == 0:
        return 0
    return ctypes.get_errno()


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _sync(dir_fd: int) -> None:
    """Flush a directory; where a filesystem cannot (EINVAL: some FUSE ones), there is nothing more to do."""
    try:
        os.fsync(dir_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _is_link(parent_fd: int, name: str) -> bool:
    return stat.S_ISLNK(os.lstat(name, dir_fd=parent_fd).st_mode)


def _mount(fd: int) -> _Mount:
    """Format of fdinfo: proc(5); without /proc, only the device tells mounts apart."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as facts:
            mount = next((line.split()[1] for line in facts if line.startswith("mnt_id:")), "")
    except OSError:
        mount = ""
    return _Mount(os.fstat(fd).st_dev, mount)
