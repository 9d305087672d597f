"""Training order, and the stretches of a run in which progress only grows.

Sets are ordered by when they were written. A step that goes back means that the training was started again,
and begins a new series; among sets that tell no step, an epoch that goes back does. Equal steps do not: a
trainer may save the same step twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from ckptd.core.model import Candidate, SetKey

T = TypeVar("T")


class Position(NamedTuple):
    """Where a set stands in the training of its run; steps and epochs are not negative."""

    saved_at: datetime
    step: int | None
    epoch: int | None
    key: SetKey

    @property
    def rank(self) -> tuple[datetime, int, int, SetKey]:
        """Sorts sets in training order; those written at the same moment go by progress, then by name."""
        step, epoch = (-1 if number is None else number for number in (self.step, self.epoch))
        return self.saved_at, step, epoch, self.key


def position(candidate: Candidate) -> Position:
    """Where a candidate stands."""
    return Position(candidate.saved_at, candidate.step, candidate.epoch, candidate.key)


def split(items: Iterable[T], position_of: Callable[[T], Position]) -> tuple[tuple[T, ...], ...]:
    """Cut the sets of one run into its series.

    Args:
        items: the sets, in any order.
        position_of: where an item stands.

    Returns:
        The series, oldest first, each in training order; none of them is empty.
    """
    series: list[list[T]] = []
    highest: dict[str, int] = {}
    for item in sorted(items, key=lambda one: position_of(one).rank):
        unit, progress = progress_of(position_of(item))
        if not series or (progress is not None and progress < highest.get(unit, 0)):
            series.append([])
            highest = {}
        if progress is not None:
            highest[unit] = progress
        series[-1].append(item)
    return tuple(tuple(one) for one in series)


def progress_of(position: Position) -> tuple[str, int | None]:
    """How far the set is, and in what; sets that count in different units are not compared."""
    return ("epoch", position.epoch) if position.step is None else ("step", position.step)
