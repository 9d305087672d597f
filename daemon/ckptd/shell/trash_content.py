"""The files of a set, in its run or in the trash: whether they are as described, and the way back."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from ckptd.core.layouts import basename, joined
from ckptd.core.model import Entry, EntryKind
from ckptd.core.names import shown
from ckptd.core.trash_entries import (
    CONTENT,
    ENTRY_NAME,
    DamagedEntry,
    NotPurged,
    Purged,
    TrashEntry,
    parse_entry,
)
from ckptd.shell import durable
from ckptd.shell.durable import held
from ckptd.shell.inventory import OWN_DIRECTORY
from ckptd.shell.own_directory import read_small, told

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_DEPTH = 64  # as deep as a listing goes; what lies deeper was not recognised
_KINDS = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.DIRECTORY,
}  # all that a described set consists of


def read_entry(trash_fd: int, entry_id: str) -> TrashEntry | DamagedEntry:
    """What an entry says of itself."""
    try:
        with held(durable.open_inside(trash_fd, entry_id)) as entry_fd:
            return parse_entry(read_small(entry_fd, ENTRY_NAME), entry_id)
    except OSError as error:
        return DamagedEntry(entry_id, told(error))


def present_names(trash_fd: int, entry: TrashEntry) -> tuple[str, ...]:
    """Which of the set's names lie in the entry, in the order in which they came.

    Raises:
        OSError: it cannot be looked at.
    """
    with held(durable.open_inside(trash_fd, entry.entry_id)) as entry_fd:
        present = content_of(entry_fd)
    return tuple(name for name in entry.names if name in present)


def content_of(entry_fd: int) -> frozenset[str]:
    """The names in an entry's content; none when there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        with held(durable.open_inside(entry_fd, CONTENT)) as content_fd:
            return frozenset(os.listdir(content_fd))
    except FileNotFoundError:
        return frozenset()


def open_content(trash_fd: int, entry_id: str) -> int:
    """Open the directory that holds an entry's files.

    Raises:
        OSError: it cannot be opened.
    """
    return durable.open_beneath(trash_fd, f"{entry_id}/{CONTENT}")


def open_origin(root_fd: int, entry: TrashEntry, *, make: bool = False) -> int:
    """Open the directory that a set lies in, or came from; `make` makes what is missing of it.

    Raises:
        LeavesRoot: the way there is not a plain one, or it is ckptd's own directory.
        OSError: it cannot be opened.
    """
    path = joined(entry.origin, entry.names[0])
    if path.partition("/")[0] == OWN_DIRECTORY:
        raise durable.LeavesRoot(errno.EINVAL, "ckptd's own directory holds no sets", path)
    if make:
        _make_way(root_fd, entry.origin)
    return durable.open_beneath(root_fd, entry.origin)


def withdraw(trash_fd: int, entry_id: str) -> None:
    """Remove an entry that holds nothing of anyone's.

    Raises:
        OSError: it holds something, or could not be removed.
    """
    with held(durable.open_inside(trash_fd, entry_id)) as entry_fd:
        durable.remove_empty_directory(entry_fd, CONTENT)
    durable.remove_tree(trash_fd, entry_id)


def taken_place(origin_fd: int, entry: TrashEntry, names: tuple[str, ...]) -> str | None:
    """The path of something that lies where one of these names would go back to; None if nothing does.

    Raises:
        OSError: it cannot be looked at.
    """
    taken = set(names) & set(os.listdir(origin_fd))
    return joined(entry.origin, min(taken)) if taken else None


def put_back(content_fd: int, origin_fd: int, names: tuple[str, ...]) -> None:
    """Move names out of an entry to where they came from, the last one first; all of them or none.

    Raises:
        OSError: they could not be moved, and are where they were.
    """
    moved: list[str] = []
    try:
        for name in reversed(names):
            durable.move(content_fd, name, origin_fd, name)
            moved.append(name)
    except OSError:
        for name in reversed(moved):
            with contextlib.suppress(OSError):  # a recovery knows from the entry where the rest belongs
                durable.move(origin_fd, name, content_fd, name)
        raise


def delete_condemned(purging_fd: int, entry_id: str) -> Purged:
    """Delete for good what was taken out of the trash.

    Raises:
        OSError: part of it could not be deleted.
    """
    entry = read_entry(purging_fd, entry_id)
    durable.remove_tree(purging_fd, entry_id)
    if isinstance(entry, DamagedEntry):
        return Purged(entry_id, None, 0)
    return Purged(entry_id, entry.key, entry.bytes)


def finish_purges(purging_fd: int) -> list[Purged | NotPurged]:
    """Delete what interrupted purges have left.

    Raises:
        OSError: it cannot be looked for.
    """
    done: list[Purged | NotPurged] = []
    for name in sorted(os.listdir(purging_fd)):
        try:
            done.append(delete_condemned(purging_fd, name))
        except OSError as error:
            done.append(NotPurged(name, told(error)))
    return done


def why_changed(place_fd: int, entry: TrashEntry, *, elsewhere: bool = False) -> str | None:
    """How a set differs from its description; None if it does not.

    Args:
        place_fd: the directory that holds the set's names.
        entry: the description.
        elsewhere: the root may have been copied meanwhile: inodes and the dates of directories say nothing.

    Raises:
        OSError: it cannot be looked at, or there is a link or a mount point in it.
    """
    expected = {member.path: member for member in entry.members}
    if entry.directory is None:
        found = {member.path: _look(place_fd, member.path) for member in entry.members}
    else:
        with held(durable.open_inside(place_fd, basename(entry.directory))) as set_fd:
            found = {one.path: one for one in _walk(set_fd, entry.directory, depth=0)}
    for path in sorted(found.keys() | expected.keys()):
        if path not in expected:
            return f"{shown(path)} is new"
        if path not in found:
            return f"{shown(path)} is gone"
        if _identity(found[path], elsewhere=elsewhere) != _identity(expected[path], elsewhere=elsewhere):
            return f"{shown(path)} has changed since it was judged"
    return None


def _make_way(root_fd: int, path: str) -> None:
    """Make the directories of a path that are missing, each as open as the one that holds it."""
    with contextlib.ExitStack() as passed:
        fd = passed.enter_context(held(durable.open_beneath(root_fd, ".")))
        for name in () if path == "." else path.split("/"):
            if name not in os.listdir(fd):
                durable.make_directory(fd, name, stat.S_IMODE(os.fstat(fd).st_mode))
            fd = passed.enter_context(held(durable.open_inside(fd, name)))


def _identity(entry: Entry, *, elsewhere: bool) -> tuple[object, ...]:
    if not elsewhere:
        return entry.kind, *entry.fingerprint
    return (entry.kind, entry.bytes, entry.mtime_ns) if entry.kind is EntryKind.FILE else (entry.kind,)


def _walk(directory_fd: int, path: str, *, depth: int) -> Iterator[Entry]:
    if depth > _MAX_DEPTH:
        raise OSError(errno.ELOOP, "nested too deeply", path)
    for name in os.listdir(directory_fd):
        entry = _look(directory_fd, joined(path, name))
        yield entry
        if entry.kind is EntryKind.DIRECTORY:
            with held(durable.open_inside(directory_fd, name)) as inner_fd:
                yield from _walk(inner_fd, entry.path, depth=depth + 1)


def _look(directory_fd: int, path: str) -> Entry:
    name = basename(path)
    if durable.is_mount_point(directory_fd, name):
        raise durable.LeavesRoot(errno.EXDEV, "a mount point, which is never crossed", path)
    facts = os.lstat(name, dir_fd=directory_fd)
    kind = _KINDS.get(stat.S_IFMT(facts.st_mode), EntryKind.OTHER)
    return Entry(path, kind, facts.st_size, facts.st_mtime_ns, facts.st_ino)
