"""Reads the first bytes of files, which tell what they are."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptd.core.model import Entry

# O_NONBLOCK and O_NOCTTY: what has become a FIFO or a terminal since then neither waits nor becomes ours.
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def heads(root: str, entries: Iterable[Entry], count: int) -> dict[str, bytes | None]:
    """The first `count` bytes of each file, or as many as it has, by path; None for what cannot be read."""
    return {one.path: _head(os.path.join(root, one.path), count) for one in entries}


def _head(path: str, count: int) -> bytes | None:
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            return os.read(descriptor, count) if is_file else None
        finally:
            os.close(descriptor)
    except OSError:
        return None
