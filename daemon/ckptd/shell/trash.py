"""Removed sets: what waits in `<root>/.ckptd/trash`, the way back, and the end.

An entry is a directory with `entry.json` and `content/`; it describes itself, so no ledger is needed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from ckptd.core.layouts import joined
from ckptd.core.names import shown
from ckptd.core.trash_entries import (
    DamagedEntry,
    NotPurged,
    Purged,
    Refused,
    Restored,
    TrashEntry,
    is_entry_id,
)
from ckptd.shell import durable
from ckptd.shell.durable import held
from ckptd.shell.inventory import OWN_DIRECTORY
from ckptd.shell.own_directory import TRASH, changing, reading, told
from ckptd.shell.pins import has_pin, remove_pin, write_pin
from ckptd.shell.trash_content import (
    delete_condemned,
    finish_purges,
    open_content,
    open_origin,
    present_names,
    put_back,
    read_entry,
    taken_place,
    why_changed,
    withdraw,
)

if TYPE_CHECKING:
    from datetime import datetime

    from ckptd.shell.own_directory import Opened

_NO_SUCH_ENTRY = "there is no such entry; `ckptd trash list` shows those there are"


def list_trash(root: str) -> list[TrashEntry]:
    """The removed sets that can come back, oldest removal first.

    Raises:
        OSError: the trash cannot be read.
    """
    return [entry for entry in _look(root) if isinstance(entry, TrashEntry)]


def list_damaged(root: str) -> list[DamagedEntry]:
    """What else lies in the trash; it is neither restored nor purged by itself.

    Raises:
        OSError: the trash cannot be read.
    """
    return [entry for entry in _look(root) if isinstance(entry, DamagedEntry)]


def restore(root: str, entry_id: str, now: datetime) -> Restored | Refused:
    """Move a set back to where it came from, and pin it, or the next pass would remove it again.

    Directories on the way that are gone meanwhile are made anew.

    Raises:
        OSError: it could not be done; nothing has changed but for such directories.
    """
    with changing(root) as opened:
        if opened is None or not _is_there(opened.trash_fd, entry_id):
            return Refused(f"refusing to restore {shown(entry_id)}: {_NO_SUCH_ENTRY}")
        entry = _whole_entry(opened.trash_fd, entry_id)
        if isinstance(entry, DamagedEntry):
            place = f"{shown(root)}/{OWN_DIRECTORY}/{TRASH}/{entry_id}"
            return Refused(
                f"refusing to restore {entry_id}: {entry.reason}; move what you need out of {place}"
            )
        with held(open_origin(opened.root_fd, entry, make=True)) as origin_fd:
            if taken := taken_place(origin_fd, entry, entry.names):
                advice = "move it away, then restore again"
                return Refused(f"refusing to restore {entry_id}: {shown(taken)} exists; {advice}")
            _bring_back(opened, origin_fd, entry, now)
        with contextlib.suppress(OSError):  # the set is back; the empty entry goes with the next recovery
            withdraw(opened.trash_fd, entry_id)
        return Restored(entry_id, entry.key, entry.bytes)


def purge(root: str, now: datetime) -> list[Purged | NotPurged]:
    """Delete for good what has waited long enough, and what an interrupted purge has left.

    An entry whose files changed after they were removed stays, and so does everything that is not understood.
    """
    done: list[Purged | NotPurged] = []
    try:
        with changing(root) as opened:
            if opened is None:
                return []
            done += finish_purges(opened.purging_fd)
            for entry in _entries(opened.trash_fd):
                if isinstance(entry, TrashEntry) and entry.purge_after <= now:
                    done.append(_purge_unchanged(opened, entry))
    except OSError as error:
        done.append(NotPurged("", told(error)))
    return done


def purge_one(root: str, entry_id: str) -> Purged | NotPurged | Refused:
    """Delete one entry for good, now, whatever has become of its files."""
    try:
        with changing(root) as opened:
            if opened is None or not _is_there(opened.trash_fd, entry_id):
                return Refused(f"refusing to purge {shown(entry_id)}: {_NO_SUCH_ENTRY}")
            return _purge(opened, entry_id)
    except OSError as error:
        return NotPurged(entry_id, told(error))


def _look(root: str) -> list[TrashEntry | DamagedEntry]:
    with reading(root, TRASH) as trash_fd:
        return [] if trash_fd is None else _entries(trash_fd)


def _entries(trash_fd: int) -> list[TrashEntry | DamagedEntry]:
    return [
        _whole_entry(trash_fd, name) if is_entry_id(name) else DamagedEntry(name, "not an entry's name")
        for name in sorted(os.listdir(trash_fd))
    ]


def _whole_entry(trash_fd: int, entry_id: str) -> TrashEntry | DamagedEntry:
    """An entry that describes itself and holds all of its set."""
    entry = read_entry(trash_fd, entry_id)
    try:
        if isinstance(entry, TrashEntry) and present_names(trash_fd, entry) != entry.names:
            return DamagedEntry(entry_id, f"it holds only part of {shown(joined(*entry.key))}")
    except OSError as error:
        return DamagedEntry(entry_id, told(error))
    return entry


def _is_there(trash_fd: int, entry_id: str) -> bool:
    return is_entry_id(entry_id) and entry_id in os.listdir(trash_fd)


def _bring_back(opened: Opened, origin_fd: int, entry: TrashEntry, now: datetime) -> None:
    was_pinned = has_pin(opened.pins_fd, entry.key)
    if not was_pinned:
        write_pin(opened.pins_fd, entry.key, "restored from the trash", now)
    try:
        with held(open_content(opened.trash_fd, entry.entry_id)) as content_fd:
            put_back(content_fd, origin_fd, entry.names)
    except OSError:
        if not was_pinned:
            with contextlib.suppress(OSError):  # a pin too many keeps a set, no more
                remove_pin(opened.pins_fd, entry.key)
        raise


def _purge_unchanged(opened: Opened, entry: TrashEntry) -> Purged | NotPurged:
    try:
        with held(open_content(opened.trash_fd, entry.entry_id)) as content_fd:
            reason = why_changed(content_fd, entry, elsewhere=True)
        if reason is not None:
            advice = f"look at it, then `ckptd trash purge {entry.entry_id}`"
            return NotPurged(entry.entry_id, f"refusing to purge it: {reason}; {advice}")
        return _purge(opened, entry.entry_id)
    except OSError as error:
        return NotPurged(entry.entry_id, told(error))


def _purge(opened: Opened, entry_id: str) -> Purged:
    """One rename, so that the trash never holds half a set; then the deletion."""
    durable.move(opened.trash_fd, entry_id, opened.purging_fd, entry_id)
    return delete_condemned(opened.purging_fd, entry_id)
