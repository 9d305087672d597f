"""Opens one file safely and has it scanned: follows no symbolic link below the root, waits for no writer."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ckptd.core.containers import scan_windows
from ckptd.core.model import FileScan, Finding
from ckptd.core.names import shown
from ckptd.shell.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.model import Fingerprint, Role

# O_PATH needs no read permission on the directories in between; O_DIRECTORY makes a symbolic link an error.
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOCTTY: a terminal must not become ours.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_KINDS: Final = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}
_CODES: Final = {
    errno.ENOENT: "missing_file",
    errno.ENOTDIR: "missing_file",  # a directory on the way became a file
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.ELOOP: "symbolic_link",
    errno.ENXIO: "not_a_regular_file",  # a socket, or a device without its driver
}


def scan_file(
    root: str,
    path: str,
    role: Role,
    *,
    expected: Fingerprint | None = None,
    on_progress: Callable[[int], None] | None = None,
    give_cache_back: bool = True,
    from_disk: bool = False,
) -> FileScan:
    """Scan one file, whatever it turns out to be.

    Args:
        root: The watch root; may itself be reached by symbolic links.
        path: The file below it, relative and `/`-joined.
        role: What the file is for.
        expected: What the file was when it was chosen; another one is not read.
        on_progress: Told after each read how many bytes were read so far.
        give_cache_back: Drop what was read from the page cache behind the reader: training data stays there.
        from_disk: Drop what the page cache holds of the file first, so that the disk is asked.

    Returns:
        The scan; what could not be opened or read has container "none" and one finding that says why.

    Raises:
        ValueError: The path is absolute, empty, or leads upwards.
    """
    parts = path.split("/")
    if not all(parts) or not {".", ".."}.isdisjoint(parts):
        raise ValueError(f"a file's path must be relative to its root and have no dots: {path!r}")
    try:
        with ExitStack() as opened:
            descriptor = _open(root, parts, opened)
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return _unread(
                    path, "not_a_regular_file", _KINDS.get(stat.S_IFMT(before.st_mode), "a device")
                )
            if expected is not None and _identity(before) != expected[1:]:
                return _unread(
                    path, "changed_while_reading", "not the file that was chosen for the scan any more"
                )
            if from_disk:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            size = before.st_size
            with Reader(descriptor, size, on_progress, give_cache_back=give_cache_back) as reader:
                found = scan_windows(reader.next_window, size, path=path, role=role, align=reader.align)
            if change := _change(descriptor, os.path.join(root, path), before):
                return _unread(path, "changed_while_reading", change, before.st_size)
            return found
    except OSError as error:
        code = _CODES.get(error.errno or 0, "read_error")
        return _unread(path, code, f"{errno.errorcode.get(error.errno or 0, 'no errno')}: {error.strerror}")


def _unread(path: str, code: str, detail: str, size: int = 0) -> FileScan:
    return FileScan("none", size, None, (Finding(code, shown(path), detail),))


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """What a fingerprint holds besides the path."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def _change(descriptor: int, path: str, before: os.stat_result) -> str | None:
    """What happened to the file during the scan, or None."""
    if _identity(os.fstat(descriptor)) != _identity(before):
        return "written to during the scan"
    # The descriptor still reads a file that was replaced or removed under its name.
    if _identity(os.lstat(path)) != _identity(before):
        return "replaced by another file during the scan"
    return None


def _open(root: str, parts: list[str], opened: ExitStack) -> int:
    """Open the file component by component; every descriptor is closed with `opened`."""
    directory = _kept(os.open(root, _DIRECTORY), opened)
    for part in parts[:-1]:
        try:
            directory = _kept(os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory), opened)
        except NotADirectoryError:
            if stat.S_ISLNK(os.lstat(part, dir_fd=directory).st_mode):
                raise OSError(errno.ELOOP, f"{shown(part)} is a symbolic link") from None
            raise
    return _kept(os.open(parts[-1], _FILE, dir_fd=directory), opened)


def _kept(descriptor: int, opened: ExitStack) -> int:
    opened.callback(os.close, descriptor)
    return descriptor
