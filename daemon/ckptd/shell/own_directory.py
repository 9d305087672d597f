"""`<root>/.ckptd`, where trash and pins lie: found, made on first need, and locked for a change."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.names import shown
from ckptd.shell import durable
from ckptd.shell.durable import held
from ckptd.shell.inventory import OWN_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

TRASH = "trash"
PURGING = "purging"  # what is being deleted for good
PINS = "pins"

_LOCK = "lock"
_PARTS = (TRASH, PURGING, PINS)
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SMALL_BYTES = 64 << 20  # the description of a set of some hundred thousand members


class Opened(NamedTuple):
    """The descriptors of a root and of the parts of its own directory."""

    root_fd: int
    trash_fd: int
    purging_fd: int
    pins_fd: int


@contextlib.contextmanager
def reading(root: str, part: str) -> Iterator[int | None]:
    """Open a part of the own directory; None when it was never made.

    Raises:
        OSError: it cannot be opened, or is no real directory.
    """
    with held(durable.open_directory(root)) as root_fd:
        try:
            fd = durable.open_beneath(root_fd, f"{OWN_DIRECTORY}/{part}")
        except FileNotFoundError:
            yield None
            return
        with held(fd):
            yield fd


@contextlib.contextmanager
def making(root: str) -> Iterator[Opened]:
    """Make the own directory if it was never made, and hold the lock on it.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: it cannot be made or opened, or is no real directory.
    """
    with held(durable.open_directory(root)) as root_fd:
        durable.make_directory(root_fd, OWN_DIRECTORY)
        with held(durable.open_inside(root_fd, OWN_DIRECTORY)) as own_fd, _locked(root_fd, own_fd) as opened:
            yield opened


@contextlib.contextmanager
def changing(root: str) -> Iterator[Opened | None]:
    """Hold the lock on the own directory; None when it was never made.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: it cannot be opened, or is no real directory.
    """
    with held(durable.open_directory(root)) as root_fd:
        try:
            fd = durable.open_inside(root_fd, OWN_DIRECTORY)
        except FileNotFoundError:
            yield None
            return
        with held(fd) as own_fd, _locked(root_fd, own_fd) as opened:
            yield opened


def read_small(directory_fd: int, name: str) -> bytes:
    """The content of a file of our own.

    Raises:
        OSError: it cannot be read.
    """
    with held(os.open(name, _READ, dir_fd=directory_fd)) as fd, open(fd, "rb", closefd=False) as file:
        return file.read(_SMALL_BYTES)


def told(error: OSError) -> str:
    """An error with its name and place, for people and logs."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    place = error.filename if error.filename2 is None else error.filename2
    where = f" ({shown(os.fsdecode(place))})" if isinstance(place, str | bytes) else ""  # else a descriptor
    return f"{name}: {error.strerror}{where}"


@contextlib.contextmanager
def _locked(root_fd: int, own_fd: int) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock(own_fd))
        present = os.listdir(own_fd)
        for part in _PARTS:
            # All at once: a full disk has no room for a directory, and that is when to purge.
            if part not in present:
                durable.make_directory(own_fd, part)
        parts = [stack.enter_context(held(durable.open_inside(own_fd, part))) for part in _PARTS]
        yield Opened(root_fd, *parts)


@contextlib.contextmanager
def _lock(own_fd: int) -> Iterator[None]:
    """Keep the daemon and the commands apart: a purge must not delete what a restore is moving."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # writable, or NFS would refuse the lock
    with held(os.open(_LOCK, flags, 0o640, dir_fd=own_fd)) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "another ckptd is at work here; try again"
            raise BlockingIOError(errno.EAGAIN, reason, f"{OWN_DIRECTORY}/{_LOCK}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:  # such a filesystem cannot keep anyone apart
                raise
        yield
