"""Rot: which files are to be read again now, and what another reading says about a file's content.

A round is the time within which every file is read again. It goes no faster than that takes: the budget grows
by what is needed to be through in time, and by no more than the allowed bytes per second. The file that was
read longest ago comes first, and is read once the budget holds all its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.ledger_codec import FORMAT
from ckptd.core.model import Finding
from ckptd.core.names import shown
from ckptd.core.units import LONGEST

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ckptd.core.model import FileScan, Fingerprint

ROTTED = "content_rotted"
"""The finding's code."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = 1000  # looks at the budget in one round
_SHORTEST_STEP, _LONGEST_STEP = timedelta(seconds=0.2), timedelta(minutes=10)
_LEAST_BYTES = 4096  # what reading any file costs: opening it reads a block at least
# So much of a round is planned for; the rest is for new sets, which go first, and for standing still.
_PLANNED_PART = 0.9


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of a file's content, as long as its size, time and inode stay the same."""

    digest: str  # of the first complete reading
    first_at: datetime
    last_at: datetime  # of the last complete reading
    scanner: int  # `ledger_codec.FORMAT` of the scanner that read it last
    is_rotted: bool = False


class KnownFile(NamedTuple):
    """A file that a round reads, and when it was last read to its end."""

    root: str
    fingerprint: Fingerprint
    read_at: datetime


@dataclass(frozen=True, slots=True)
class Budget:
    """How many bytes may be read, and when that was reckoned on the monotonic clock."""

    bytes: float
    at: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the present round is."""

    files: int
    bytes: int
    files_read: int
    bytes_read: int
    began_at: datetime
    through_at: datetime | None  # about when the last file will be read; None when all are
    is_late: bool  # it will take longer than a round


def compared(
    fingerprint: Fingerprint, reading: Reading | None, scan: FileScan, at: datetime
) -> tuple[FileScan, Reading | None]:
    """Compare a complete scan with what is known of the file.

    Args:
        fingerprint: the file, which by size, time and inode is the one that was read before.
        reading: what is known of it, if it was read before.
        scan: what was found now.
        at: when.

    Returns:
        The scan, with a finding if the content is not what it was; and what is known from now on. A rotted
        file stays so: content that changes by itself is not to be trusted, whatever it is the next time.
    """
    if reading is None:
        return scan, Reading(scan.digest, at, at, FORMAT) if scan.digest else None
    if scan.digest is None and not reading.is_rotted and reading.scanner != FORMAT:
        return scan, reading  # this scanner stops where another one went on: that says nothing of the content
    is_rotted = reading.is_rotted or scan.digest != reading.digest
    now_known = replace(reading, last_at=at, scanner=FORMAT, is_rotted=is_rotted)
    if not is_rotted:
        return scan, now_known
    detail = (
        f"its digest was {reading.digest} at {reading.first_at:%Y-%m-%d %H:%M:%SZ}, now {_now_words(scan)};"
        " size, time and inode are the same"
    )
    finding = Finding(ROTTED, shown(fingerprint.path), detail)
    return replace(scan, findings=(*scan.findings, finding)), now_known


def _now_words(scan: FileScan) -> str:
    return f"it is {scan.digest}" if scan.digest else "the file cannot be read to its end"


def files_of(root: str, readings: Mapping[Fingerprint, Reading]) -> list[KnownFile]:
    """What a round reads of these files of a root; of what has rotted there is nothing more to learn."""
    return [
        KnownFile(root, key, reading.last_at) for key, reading in readings.items() if not reading.is_rotted
    ]


def step(round_length: timedelta) -> timedelta:
    """How often to look whether a file is due."""
    return min(max(round_length / _STEPS, _SHORTEST_STEP), _LONGEST_STEP)


def due(
    files: Iterable[KnownFile],
    budget: Budget,
    *,
    now: datetime,
    monotonic: float,
    round_length: timedelta,
    bytes_per_second: int,
) -> tuple[tuple[KnownFile, ...], Budget]:
    """Choose what is to be read now.

    Args:
        files: all files of the round, but for those that are being read.
        budget: what the call before has left.
        now: the wall clock, for the times of the readings.
        monotonic: the monotonic clock, for the budget; a long sleep counts as two steps, so no burst follows.
        round_length: the time within which every file is read again.
        bytes_per_second: the budget grows by no more than this.

    Returns:
        The files to read, the one read longest ago first, and the budget that is left.
    """
    waiting = sorted(files, key=lambda one: (one.read_at, one.root, one.fingerprint))
    if not waiting:
        return (), Budget(0.0, monotonic)
    saved = min(budget.bytes, _cost(waiting[0]))
    elapsed = min(max(0.0, monotonic - budget.at), 2 * step(round_length).total_seconds())
    saved += elapsed * min(bytes_per_second, _needed_pace(waiting, saved, now, _planned(round_length)))
    chosen: list[KnownFile] = []
    for one in waiting:
        if saved < _cost(one):
            return tuple(chosen), Budget(saved, monotonic)
        saved -= _cost(one)
        chosen.append(one)
    return tuple(chosen), Budget(0.0, monotonic)


def progress(
    files: Collection[KnownFile], *, now: datetime, round_length: timedelta, bytes_per_second: int
) -> Progress:
    """Tell how far the present round is; rounds follow one another from 1970 on, so that no start is lost."""
    began_at = _EPOCH + (now - _EPOCH) // round_length * round_length
    waiting = [one for one in files if one.read_at < began_at]
    size, left = (sum(one.fingerprint.bytes for one in part) for part in (files, waiting))
    through_at = None
    if waiting:
        seconds = min(left / bytes_per_second, LONGEST.total_seconds())
        through_at = max(
            now + timedelta(seconds=seconds), max(one.read_at for one in waiting) + _planned(round_length)
        )
    return Progress(
        files=len(files),
        bytes=size,
        files_read=len(files) - len(waiting),
        bytes_read=size - left,
        began_at=began_at,
        through_at=through_at,
        is_late=through_at is not None and through_at > began_at + round_length,
    )


def _cost(one: KnownFile) -> int:
    return max(one.fingerprint.bytes, _LEAST_BYTES)


def _planned(round_length: timedelta) -> timedelta:
    return round_length * _PLANNED_PART


def _needed_pace(waiting: Sequence[KnownFile], saved: float, now: datetime, planned: timedelta) -> float:
    """The slowest bytes per second at which each of these files, oldest first, is read in time."""
    pace, wanted = 0.0, -saved
    for one in waiting:
        wanted += _cost(one)
        left = (one.read_at + planned - now).total_seconds()
        if left <= 0:
            return float("inf")
        pace = max(pace, wanted / left)
    return pace
