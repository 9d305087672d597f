"""Paths of a configuration: what they mean, and which directory lies within which."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

Identity = str | tuple[int, int]
"""The real path of a directory, or its device and inode: a bind mount changes the one and not the other."""


def is_path(value: object) -> bool:
    """Whether a value can be a path here; `~` is a shell's word, and no shell reads the file."""
    return isinstance(value, str) and value != "" and "\0" not in value and not value.startswith("~")


def absolute(base: str, path: str) -> str:
    """The absolute form of a path, which leads where the kernel would go from `base`; symlinks stay."""
    joined = os.path.join(base, path)
    tidy = os.path.normpath(joined)
    # `link/..` is the parent of the link's target: then the text cannot be shortened.
    return tidy if os.path.realpath(tidy) == os.path.realpath(joined) else joined


@dataclass(frozen=True, slots=True)
class Located:
    """A configured directory, with what it really is."""

    place: str
    path: str  # absolute
    real: str
    own: frozenset[Identity]
    chain: frozenset[Identity]  # its own identities and those of all directories above

    def is_same_as(self, other: Located) -> bool:
        """Whether both are one directory."""
        return not self.own.isdisjoint(other.own)

    def is_within(self, other: Located) -> bool:
        """Whether this is the other directory or lies somewhere below it."""
        return not self.chain.isdisjoint(other.own)


def located(place: str, path: str) -> Located:
    """Find out what an absolute path leads to, as far as it exists."""
    real = os.path.realpath(path)
    chain = [frozenset(_identities(directory)) for directory in _and_parents(real)]
    return Located(place, path, real, chain[0], frozenset[Identity]().union(*chain))


def _and_parents(path: str) -> Iterator[str]:
    yield path
    while path != (path := os.path.dirname(path)):
        yield path


def _identities(path: str) -> Iterator[Identity]:
    yield path
    with suppress(OSError):  # not there yet, or not to be seen: the real path must do
        yield _device_and_inode(path)


def _device_and_inode(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def default_name(path: str) -> str:
    """The name of a root that was given none: its directory's own, made printable."""
    return shown(os.path.basename(path))
