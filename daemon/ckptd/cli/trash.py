"""`ckptd trash list|restore|purge`: what was removed and can come back."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ckptd.cli import output, places
from ckptd.core.layouts import joined
from ckptd.core.names import shown
from ckptd.core.records import Removal, RemovalState
from ckptd.core.trash_entries import NotPurged, Purged, Refused, TrashEntry
from ckptd.core.units import shown_bytes
from ckptd.errors import CkptdError
from ckptd.errors import Refused as RefusedError
from ckptd.shell import trash
from ckptd.shell.ledger import LedgerUnavailable, open_existing_ledger

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from ckptd.core.settings import Settings, WatchSettings


def show(options: argparse.Namespace) -> int:
    """List what lies in the trash of every root, oldest removal first."""
    settings = places.settings(options)
    watches = places.reachable(settings)
    code = 0 if watches == settings.watches else CkptdError.exit_code
    found = list(_entries(watches))
    if options.json:
        for watch, entry in found:
            output.print_json(
                {
                    "entry": entry.entry_id,
                    "root": shown(watch.path),
                    "run": shown(places.run_name(watch, entry.key.run)),
                    "set": shown(entry.key.name),
                    "verdict": entry.verdict,
                    "bytes": entry.bytes,
                    "removed_at": entry.removed_at.isoformat(),
                    "purge_after": entry.purge_after.isoformat(),
                    "reasons": list(entry.reasons),
                }
            )
        return code
    table = Table(box=None, header_style="bold")
    for column in ("entry", "set", "size", "purged after"):
        table.add_column(column, no_wrap=True)
    table.add_column("why it went")
    for watch, entry in found:
        table.add_row(
            entry.entry_id,
            Text(_name(watch, entry)),
            shown_bytes(entry.bytes),
            f"{entry.purge_after:%Y-%m-%d %H:%M} UTC",
            Text("\n".join(entry.reasons)),
        )
    output.console().print(table if found else "the trash is empty")
    for watch in watches:
        for damaged in trash.list_damaged(watch.path):
            place = f"{watch.path}/.ckptd/trash/{damaged.entry_id}"
            sys.stderr.write(f"ckptd: {shown(place)}: left alone: {damaged.reason}\n")
    return code


def restore(options: argparse.Namespace) -> int:
    """Bring a removed set back to where it was, and pin it."""
    settings = places.settings(options)
    watch, entry = _entry(settings, options.entry, "restore")
    now = datetime.now(UTC)
    try:
        outcome = trash.restore(watch.path, entry.entry_id, now)
    except OSError as error:
        raise CkptdError(f"{shown(watch.path)}: could not restore: {error.strerror}") from None
    if isinstance(outcome, Refused):
        raise RefusedError(outcome.reason)
    sys.stdout.write(
        f"{_name(watch, entry)}: restored and pinned; `ckptd unpin` gives it back to the policy\n"
    )
    removal = Removal(entry.key, entry.entry_id, RemovalState.RESTORED, "by hand", entry.bytes, now)
    _record(settings, watch, removal)
    return 0


def purge(options: argparse.Namespace) -> int:
    """Delete one entry for good, or all whose time is over; 1 if anything that was due stays."""
    settings = places.settings(options)
    now = datetime.now(UTC)
    outcomes: list[tuple[WatchSettings, Purged | NotPurged]] = []
    if options.entry is None:
        for watch in places.reachable(settings):
            outcomes += ((watch, outcome) for outcome in trash.purge(watch.path, now))
    else:
        watch, entry = _entry(settings, options.entry, "purge")
        outcome = trash.purge_one(watch.path, entry.entry_id)
        if isinstance(outcome, Refused):
            raise RefusedError(outcome.reason)
        outcomes.append((watch, outcome))
    for watch, one in outcomes:
        if isinstance(one, Purged):
            sys.stdout.write(f"{one.entry_id}: deleted, {shown_bytes(one.bytes)} freed\n")
            if one.key is not None:
                removal = Removal(one.key, one.entry_id, RemovalState.PURGED, "by hand", one.bytes, now)
                _record(settings, watch, removal)
        else:
            sys.stderr.write(f"ckptd: {one.entry_id or shown(watch.path)}: {one.reason}\n")
    if not outcomes:
        sys.stdout.write("nothing is due\n")
    return 1 if any(isinstance(one, NotPurged) for _, one in outcomes) else 0


def _entries(watches: Iterable[WatchSettings]) -> Iterator[tuple[WatchSettings, TrashEntry]]:
    for watch in watches:
        try:
            found = trash.list_trash(watch.path)
        except OSError as error:
            raise CkptdError(f"{shown(watch.path)}: the trash cannot be read: {error.strerror}") from None
        yield from ((watch, entry) for entry in found)


def _entry(settings: Settings, entry_id: str, what: str) -> tuple[WatchSettings, TrashEntry]:
    for watch, entry in _entries(places.reachable(settings)):
        if entry.entry_id == entry_id:
            return watch, entry
    name = shown(entry_id)
    raise RefusedError(f"refusing to {what} {name}: no such entry; `ckptd trash list` shows all there are")


def _record(settings: Settings, watch: WatchSettings, removal: Removal) -> None:
    """Note it in the ledger if that can be used; what is on disk counts without it."""
    try:
        ledger = open_existing_ledger(Path(settings.daemon.state_dir))
        if ledger is not None:
            with ledger:
                ledger.record_removal(watch.path, removal)
    except LedgerUnavailable as error:
        sys.stderr.write(f"ckptd: done, but without a note: {error}\n")


def _name(watch: WatchSettings, entry: TrashEntry) -> str:
    return shown(joined(places.run_name(watch, entry.key.run), entry.key.name))
