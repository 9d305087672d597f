"""One daemon for each state directory."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptd.core.names import shown
from ckptd.errors import CkptdError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "lock"


@contextmanager
def state_directory(path: str) -> Iterator[None]:
    """Hold the state directory, made if need be, for as long as the block runs.

    Raises:
        CkptdError: another process holds it, or it cannot be made or written.
    """
    try:
        os.makedirs(path, mode=0o750, exist_ok=True)
        lock = os.open(
            os.path.join(path, _NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
    except OSError as error:
        raise CkptdError(
            f"refusing to start: {shown(path)} cannot be used as state directory ({error.strerror});"
            " set daemon.state_dir to a directory that the service may write"
        ) from None
    try:
        _lock(lock, path)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)  # gives the lock back; the file stays, so that nobody ever locks a removed one


def holder(path: str) -> int | None:
    """The process that holds the state directory, None if nobody does."""
    try:
        lock = os.open(os.path.join(path, _NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(lock, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(lock)
    return None


def _lock(lock: int, path: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CkptdError(
            f"refusing to start: process {holder(path)} already works on {shown(path)};"
            " stop it first, or give this configuration a daemon.state_dir of its own"
        ) from None
