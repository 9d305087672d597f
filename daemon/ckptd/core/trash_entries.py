"""What the trash holds, as values, and `entry.json`, by which each entry describes itself (schema 1)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ckptd.core.layouts import basename, joined, parent
from ckptd.core.model import CheckpointSet, Decision, Entry, EntryKind, Role, SetKey, SetShape, Verdict
from ckptd.core.names import from_shown, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

SCHEMA = 1
ENTRY_NAME = "entry.json"
CONTENT = "content"

_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_FIRST_OUT = (Role.PARAMS, Role.SHARD, Role.INDEX, Role.OPT)  # without these, no half-moved set looks whole
_MEMBER_KINDS = frozenset({EntryKind.FILE, EntryKind.DIRECTORY})


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """A removed set, with all that is needed to bring it back or to delete it for good.

    `members` are in the order in which they leave the run; they come back in the opposite one.
    """

    entry_id: str
    key: SetKey
    layout: str
    shape: SetShape
    directory: str | None
    members: tuple[Entry, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    removed_at: datetime
    purge_after: datetime
    bytes: int

    @property
    def origin(self) -> str:
        """The directory that the set was taken from."""
        return self.key.run if self.directory is None else parent(self.directory)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in `origin` that make up the set: each is moved by one rename."""
        if self.directory is not None:
            return (basename(self.directory),)
        return tuple(basename(member.path) for member in self.members)


@dataclass(frozen=True, slots=True)
class DamagedEntry:
    """Something in the trash that cannot be understood, and is left alone."""

    entry_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The set waits in the trash."""

    entry_id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """The removal was called off; the set is where it was, unless the reason says otherwise."""

    reason: str


@dataclass(frozen=True, slots=True)
class Restored:
    """The set is back where it came from, and pinned."""

    entry_id: str
    key: SetKey
    bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was done; the reason starts with *refusing to* and ends with the way out."""

    reason: str


@dataclass(frozen=True, slots=True)
class Purged:
    """The entry is gone for good; a purge that a crash cut off no longer knows the set."""

    entry_id: str
    key: SetKey | None
    bytes: int


@dataclass(frozen=True, slots=True)
class NotPurged:
    """The entry was due and stays in the trash."""

    entry_id: str
    reason: str


class RecoveryOutcome(StrEnum):
    """What became of something that a crash had cut off."""

    PUT_BACK = "put_back"  # the set is where it came from
    WITHDRAWN = "withdrawn"  # none of its files was in the trash; the empty entry is gone
    PURGED = "purged"
    LEFT = "left"  # in the trash, untouched


@dataclass(frozen=True, slots=True)
class Recovery:
    """One thing that was found half done, and what became of it."""

    entry_id: str
    key: SetKey | None
    outcome: RecoveryOutcome
    reason: str


def entry_id(now: datetime, token: str) -> str:
    """Name an entry so that names sort by time; `token` is six random hexadecimal digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{token}"


def is_entry_id(text: str) -> bool:
    """Whether this could be an entry's name."""
    return _ID.fullmatch(text) is not None


def entry_for(
    doomed: CheckpointSet, decision: Decision, entry_id: str, *, now: datetime, trash_for: timedelta
) -> TrashEntry:
    """Describe a set that is about to be removed.

    Raises:
        ValueError: it is not of a kind that may be moved; the message says why.
    """
    if decision.key != doomed.key:
        raise ValueError(f"the decision is about {shown(decision.key.name)}, not {shown(doomed.name)}")
    members = sorted(
        doomed.members, key=lambda member: _FIRST_OUT.index(member.role) if member.role in _FIRST_OUT else 9
    )
    return _checked(
        TrashEntry(
            entry_id=entry_id,
            key=doomed.key,
            layout=doomed.layout,
            shape=doomed.shape,
            directory=doomed.directory,
            members=tuple(member.entry for member in members),
            verdict=decision.verdict,
            reasons=decision.reasons,
            removed_at=now,
            purge_after=now + trash_for,
            bytes=doomed.bytes,
        )
    )


def render_entry(entry: TrashEntry) -> bytes:
    """Write an entry down; names are shown, so that any bytes in them survive."""
    found = {
        "schema": SCHEMA,
        "id": entry.entry_id,
        "run": shown(entry.key.run),
        "set": shown(entry.key.name),
        "layout": entry.layout,
        "shape": entry.shape.value,
        "directory": None if entry.directory is None else shown(entry.directory),
        "verdict": entry.verdict.value,
        "reasons": [shown(reason) for reason in entry.reasons],
        "removed_at": entry.removed_at.isoformat(),
        "purge_after": entry.purge_after.isoformat(),
        "bytes": entry.bytes,
        "members": [
            {
                "path": shown(member.path),
                "kind": member.kind.value,
                "bytes": member.bytes,
                "mtime_ns": member.mtime_ns,
                "inode": member.inode,
            }
            for member in entry.members
        ],
    }
    return (json.dumps(found, indent=1) + "\n").encode()


def parse_entry(data: bytes, entry_id: str) -> TrashEntry | DamagedEntry:
    """Read the `entry.json` of the entry with this name; any damage is a value, never an exception."""
    try:
        return _checked(_entry(json.loads(data), entry_id))
    except (ValueError, OverflowError, RecursionError) as error:
        return DamagedEntry(entry_id, f"{ENTRY_NAME}: {error}")


def _entry(found: Any, entry_id: str) -> TrashEntry:
    if _field(found, "schema", int) != SCHEMA:
        raise ValueError(f"schema {found['schema']} is not {SCHEMA}")
    if _field(found, "id", str) != entry_id:
        raise ValueError(f"it describes {found['id']!r}")
    directory = _field(found, "directory", str, type(None))
    return TrashEntry(
        entry_id=entry_id,
        key=SetKey(from_shown(_field(found, "run", str)), from_shown(_field(found, "set", str))),
        layout=_field(found, "layout", str),
        shape=SetShape(_field(found, "shape", str)),
        directory=None if directory is None else from_shown(directory),
        members=tuple(_member(member) for member in _field(found, "members", list)),
        verdict=Verdict(_field(found, "verdict", str)),
        reasons=tuple(from_shown(str(reason)) for reason in _field(found, "reasons", list)),
        removed_at=_instant(found, "removed_at"),
        purge_after=_instant(found, "purge_after"),
        bytes=_field(found, "bytes", int),
    )


def _member(found: Any) -> Entry:
    return Entry(
        path=from_shown(_field(found, "path", str)),
        kind=EntryKind(_field(found, "kind", str)),
        bytes=_field(found, "bytes", int),
        mtime_ns=_field(found, "mtime_ns", int),
        inode=_field(found, "inode", int),
    )


def _checked(entry: TrashEntry) -> TrashEntry:
    """Refuse an entry by which anything but the members of one set could be touched."""
    if not entry.members:
        raise ValueError("the set has no members")
    if (entry.shape is SetShape.DIRECTORY) != (entry.directory is not None):
        raise ValueError(f"a {entry.shape} set with the directory {entry.directory!r}")
    for member in entry.members:
        if member.kind not in _MEMBER_KINDS or (
            entry.directory is None and member.kind is not EntryKind.FILE
        ):
            raise ValueError(
                f"{shown(member.path)} is no regular file ({member.kind}); such a set is never moved"
            )
        if not _is_plain(member.path):
            raise ValueError(f"{shown(member.path)} is no plain path below the root")
        if entry.directory is None and member.path != joined(entry.key.run, basename(member.path)):
            raise ValueError(f"{shown(member.path)} does not lie in the run {shown(entry.key.run)}")
        if entry.directory is not None and not member.path.startswith(f"{entry.directory}/"):
            raise ValueError(f"{shown(member.path)} does not lie in {shown(entry.directory)}")
    return entry


def _is_plain(path: str) -> bool:
    return not any(name in {"", ".", ".."} or "\0" in name for name in path.split("/"))


def _field(mapping: Mapping[str, Any], key: str, *kinds: type) -> Any:
    if not isinstance(mapping, dict) or key not in mapping:
        raise ValueError(f"{key!r} is missing")
    value = mapping[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{key!r} is {type(value).__name__}")  # noqa: TRY004 - damage is one kind of error here
    return value


def _instant(mapping: Mapping[str, Any], key: str) -> datetime:
    instant = datetime.fromisoformat(_field(mapping, key, str))
    if instant.tzinfo is None:
        raise ValueError(f"{key!r} has no time zone")
    return instant.astimezone(UTC)
