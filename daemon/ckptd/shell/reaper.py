"""Takes a set out of its run into the trash, and brings to an end what a crash has cut off.

The order: the set is looked at once more, the entry's description is written, the set is renamed, and it is
looked at again, as a file may have changed in between. Whatever goes wrong, what was moved goes back.

A recovery never completes a removal: the sets that made this one superfluous may be gone since.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptd.core.names import shown
from ckptd.core.trash_entries import (
    CONTENT,
    ENTRY_NAME,
    DamagedEntry,
    NotPurged,
    Purged,
    Recovery,
    RecoveryOutcome,
    Removed,
    Skipped,
    TrashEntry,
    entry_for,
    is_entry_id,
    render_entry,
)
from ckptd.shell import durable
from ckptd.shell.durable import held
from ckptd.shell.inventory import OWN_DIRECTORY
from ckptd.shell.own_directory import TRASH, changing, making, told
from ckptd.shell.pins import has_pin
from ckptd.shell.trash_content import (
    content_of,
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
    from datetime import datetime, timedelta

    from ckptd.core.model import CheckpointSet, Decision
    from ckptd.shell.own_directory import Opened

_OF_OURS = frozenset({CONTENT, f".{ENTRY_NAME}.tmp"})  # what a crash leaves before there is a description


def remove(
    root: str,
    doomed: CheckpointSet,
    decision: Decision,
    entry_id: str,
    *,
    now: datetime,
    trash_for: timedelta,
) -> Removed | Skipped:
    """Move a set into the trash if it is just as it was when it was judged.

    Whether enough other sets survive is the caller's to know. A pin made since then is honoured.

    Args:
        root: the root's absolute path.
        doomed: the set, with its members as they were recognised.
        decision: why it goes.
        entry_id: a new name for the trash entry, from `core.trash_entries.entry_id`.
        now: when it is removed.
        trash_for: how long it waits in the trash.
    """
    try:
        entry = entry_for(doomed, decision, entry_id, now=now, trash_for=trash_for)
        with making(root) as opened:
            if has_pin(opened.pins_fd, entry.key):
                return Skipped("it was pinned in the meantime")
            with held(open_origin(opened.root_fd, entry)) as origin_fd:
                return _remove(opened, origin_fd, entry)
    except OSError as error:
        return Skipped(told(error))
    except ValueError as error:
        return Skipped(str(error))


def recover(root: str) -> list[Recovery]:
    """Bring to an end what a crash has cut off in a root's trash; needs nothing but the trash itself.

    A set that is there in part goes back, unless something took its place; one that is there whole stays.
    """
    found: list[Recovery] = []
    try:
        with changing(root) as opened:
            if opened is None:
                return []
            for name in sorted(os.listdir(opened.trash_fd)):
                try:
                    recovery = _recover(opened, name)
                except OSError as error:
                    recovery = Recovery(name, None, RecoveryOutcome.LEFT, told(error))
                if recovery is not None:
                    found.append(recovery)
            found += [_purge_recovery(one) for one in finish_purges(opened.purging_fd)]
    except OSError as error:
        found.append(Recovery("", None, RecoveryOutcome.LEFT, told(error)))
    return found


def _remove(opened: Opened, origin_fd: int, entry: TrashEntry) -> Removed | Skipped:
    reason = why_changed(origin_fd, entry)
    if reason is not None:
        return Skipped(reason)
    if not durable.make_directory(opened.trash_fd, entry.entry_id):
        return Skipped(f"the trash has an entry {entry.entry_id} already")
    try:
        with held(durable.open_inside(opened.trash_fd, entry.entry_id)) as entry_fd:
            durable.make_directory(entry_fd, CONTENT)
            durable.write_file(entry_fd, ENTRY_NAME, render_entry(entry))
        with held(open_content(opened.trash_fd, entry.entry_id)) as content_fd:
            reason = _move(origin_fd, content_fd, entry)
    except OSError as error:
        reason = told(error)
    if reason is None:
        return Removed(entry.entry_id, entry.bytes)
    try:
        withdraw(opened.trash_fd, entry.entry_id)
    except OSError as error:
        reason = (
            f"{reason}; what is left in {OWN_DIRECTORY}/{TRASH}/{entry.entry_id} stays there: {told(error)}"
        )
    return Skipped(reason)


def _move(origin_fd: int, content_fd: int, entry: TrashEntry) -> str | None:
    """Move the set into the entry; None on success, else why it was moved back."""
    try:
        for name in entry.names:
            durable.move(origin_fd, name, content_fd, name)
        reason = why_changed(content_fd, entry)
    except OSError as error:
        reason = told(error)
    if reason is None:
        return None
    present = os.listdir(content_fd)
    names = tuple(name for name in entry.names if name in present)
    if taken := taken_place(origin_fd, entry, names):
        return f"{reason}; meanwhile {shown(taken)} was written anew"
    put_back(content_fd, origin_fd, names)
    return reason


def _recover(opened: Opened, name: str) -> Recovery | None:
    entry = (
        read_entry(opened.trash_fd, name) if is_entry_id(name) else DamagedEntry(name, "not an entry's name")
    )
    if isinstance(entry, DamagedEntry):
        return _recover_damaged(opened, entry)
    present = present_names(opened.trash_fd, entry)
    if present == entry.names:
        return None
    if not present:
        withdraw(opened.trash_fd, name)
        return Recovery(name, entry.key, RecoveryOutcome.WITHDRAWN, "none of its files was in the trash")
    with (
        held(open_content(opened.trash_fd, name)) as content_fd,
        held(open_origin(opened.root_fd, entry)) as origin_fd,
    ):
        if taken := taken_place(origin_fd, entry, present):
            reason = f"it is here in part, and {shown(taken)} has been written anew"
            return Recovery(name, entry.key, RecoveryOutcome.LEFT, reason)
        put_back(content_fd, origin_fd, present)
    withdraw(opened.trash_fd, name)
    return Recovery(name, entry.key, RecoveryOutcome.PUT_BACK, "it was here in part")


def _purge_recovery(done: Purged | NotPurged) -> Recovery:
    if isinstance(done, NotPurged):
        return Recovery(done.entry_id, None, RecoveryOutcome.LEFT, done.reason)
    return Recovery(done.entry_id, done.key, RecoveryOutcome.PURGED, "its purge had been cut off")


def _recover_damaged(opened: Opened, entry: DamagedEntry) -> Recovery:
    """Drop what a removal leaves that was cut off before it touched the set; leave everything else alone."""
    if is_entry_id(entry.entry_id):
        with held(durable.open_inside(opened.trash_fd, entry.entry_id)) as entry_fd:
            is_ours = not content_of(entry_fd) and _OF_OURS.issuperset(os.listdir(entry_fd))
        if is_ours:
            withdraw(opened.trash_fd, entry.entry_id)
            return Recovery(entry.entry_id, None, RecoveryOutcome.WITHDRAWN, "it had no files in it yet")
    return Recovery(entry.entry_id, None, RecoveryOutcome.LEFT, entry.reason)
