"""What the ledger remembers, as values, and which scans are worth remembering."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from ckptd.core.model import Decision, FileScan, Fingerprint, Judgement, Metric, SetKey

_PASSING = frozenset(
    {
        "missing_file",
        "changed_while_reading",
        "permission_denied",  # chmod and ACLs leave size, mtime and inode as they are
        "read_error",
        "scanner_failed",
    }
)


def is_lasting(scan: FileScan) -> bool:
    """Whether the scan still holds as long as the file's fingerprint stays the same."""
    return all(finding.code not in _PASSING for finding in scan.findings)


def fingerprints_digest(fingerprints: Iterable[Fingerprint]) -> str:
    """Digest a set's identity on disk; the order of the fingerprints does not matter."""
    text = "\0".join(repr(tuple(fingerprint)) for fingerprint in sorted(fingerprints))
    return blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class RecordedJudgement:
    """A set's judgement as it was made at a time, on files with these fingerprints."""

    key: SetKey
    judgement: Judgement
    fingerprints: str  # `fingerprints_digest`
    bytes: int
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """A decision that differed from the one before it."""

    decision: Decision
    at: datetime


class RemovalState(StrEnum):
    """Where a removal stands; every removal begins, and ends in one of the others."""

    BEGUN = "begun"  # the rename may or may not have happened
    REMOVED = "removed"  # the set waits in the trash
    SKIPPED = "skipped"  # called off, the set is where it was
    RESTORED = "restored"
    PURGED = "purged"


@dataclass(frozen=True, slots=True)
class Removal:
    """One step of a removal."""

    key: SetKey
    entry: str  # the trash entry's id
    state: RemovalState
    reason: str
    bytes: int
    at: datetime


class ReleaseState(StrEnum):
    """Where a release stands."""

    STARTED = "started"
    PUBLISHED = "published"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """One step of a release.

    `export_key` names what was exported and how (source digests, export settings): equal keys, equal outcome.
    """

    deploy_dir: str
    root: str
    key: SetKey
    state: ReleaseState
    export_key: str
    at: datetime
    version: str | None = None
    reason: str = ""
    metric: Metric | None = None


HistoryEntry = RecordedJudgement | RecordedDecision | Removal | ReleaseRecord
"""Anything that the ledger knows about one set."""
