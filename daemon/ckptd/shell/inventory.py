"""Reads directory listings: what is on disk now, as values."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from ckptd.core.layouts import basename, joined, may_be_set_directory
from ckptd.core.model import Entry, EntryKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptd.core.layouts import Tree

OWN_DIRECTORY = ".ckptd"
"""Where ckptd keeps trash and pins below a root; never part of an inventory."""

_MAX_DEPTH = 64  # deeper trees are somebody's mistake; a listing must end


def look(root: str, run: str) -> Tree:
    """List a run's directory and everything below the directories in it that may be sets.

    Args:
        root: the root's absolute path.
        run: the run's path below it.

    Returns:
        The listing; empty when the run is gone. Directories that cannot be read are left out.
    """
    tree: Tree = {}
    _list(root, run, tree, descend=may_be_set_directory, depth=0)
    return tree


def walk(root: str) -> Tree:
    """List a root completely.

    Raises:
        OSError: the root itself cannot be read.
    """
    require_directory(root)
    tree: Tree = {}
    _list(root, ".", tree, descend=_everything, depth=0)
    return tree


def require_directory(root: str) -> None:
    """Make sure that a root is there.

    Raises:
        OSError: it is gone, no directory, or may not be read.
    """
    os.close(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def entry(root: str, path: str) -> Entry:
    """Look at one path below a root.

    Raises:
        OSError: it is not there.
    """
    facts = os.lstat(os.path.join(root, path))
    return Entry(path, _kind(facts.st_mode), facts.st_size, facts.st_mtime_ns, facts.st_ino)


def _list(root: str, directory: str, tree: Tree, *, descend: Callable[[str], bool], depth: int) -> None:
    try:
        entries = tuple(sorted(_entries(root, directory), key=lambda entry: entry.path))
    except OSError:
        return
    tree[directory] = entries
    if depth >= _MAX_DEPTH:
        return
    for entry in entries:
        if entry.kind is EntryKind.DIRECTORY and descend(basename(entry.path)):
            _list(root, entry.path, tree, descend=_everything, depth=depth + 1)


def _everything(_: str) -> bool:
    return True


def _entries(root: str, directory: str) -> Iterator[Entry]:
    with os.scandir(os.path.join(root, directory)) as listing:
        for item in listing:
            if item.name == OWN_DIRECTORY and directory == ".":
                continue
            try:
                facts = item.stat(follow_symlinks=False)
            except OSError:
                continue  # gone between the listing and the look
            kind = _kind(facts.st_mode)
            yield Entry(joined(directory, item.name), kind, facts.st_size, facts.st_mtime_ns, facts.st_ino)


def _kind(mode: int) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    if stat.S_ISDIR(mode):
        return EntryKind.DIRECTORY
    if stat.S_ISLNK(mode):
        return EntryKind.SYMLINK
    return EntryKind.OTHER
