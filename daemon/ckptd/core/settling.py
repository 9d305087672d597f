"""Decides when a set that a trainer writes file by file may be looked at.

Nothing in the formats says that a save has ended, so a set counts as settled when none of its files changed
for a while: by the files' own times, or, where those lie ahead of the clock, by how long the looks at it have
seen the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptd.core.model import CheckpointSet, Fingerprint, SetKey

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Look:
    """Since when a set has been seen unchanged, on the monotonic clock."""

    fingerprints: tuple[Fingerprint, ...]
    since: float


@dataclass(frozen=True, slots=True)
class Settled:
    """Which sets of a run may be judged now.

    `wait_seconds` is after how long the next one could be, None when there is none to wait for.
    """

    keys: frozenset[SetKey]
    looks: Mapping[SetKey, Look]
    wait_seconds: float | None


def settle(
    sets: Iterable[CheckpointSet],
    looks: Mapping[SetKey, Look],
    *,
    settle_seconds: float,
    now_ns: int,
    monotonic: float,
) -> Settled:
    """Sort the sets into settled ones and ones that are still being written.

    Args:
        sets: what the present look recognised.
        looks: the `looks` of the previous call for the same run.
        settle_seconds: how long a set must be unchanged.
        now_ns: the wall clock, for the files' own times.
        monotonic: the monotonic clock, for what was observed.
    """
    keys: set[SetKey] = set()
    seen: dict[SetKey, Look] = {}
    waits: list[float] = []
    for one in sets:
        previous = looks.get(one.key)
        unchanged = previous is not None and previous.fingerprints == one.fingerprints
        look = previous if previous is not None and unchanged else Look(one.fingerprints, monotonic)
        seen[one.key] = look
        age = (now_ns - one.mtime_ns) / _NS
        rest = settle_seconds - max(monotonic - look.since, age)
        if rest <= 0:
            keys.add(one.key)
        else:
            waits.append(rest)
    return Settled(frozenset(keys), seen, min(waits, default=None))
