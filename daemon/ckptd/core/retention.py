"""Which sets of a run stay, which may go, and every reason for it.

Each rule makes claims by itself; a set that no rule claims may go. Only valid sets that are neither aliases
nor dated in the future fill a rule's slots, so nothing broken, passing or misdated pushes a good set out.
`docs/retention.md` shows the rules at work.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from itertools import chain, pairwise
from typing import TYPE_CHECKING

from ckptd.core.best import ranked, select
from ckptd.core.model import Action, Decision, Plan, Verdict
from ckptd.core.series import position, progress_of, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from ckptd.core.model import Candidate, MetricRule, Policy, SetKey

    Claims = Iterator[tuple[Candidate, str]]


def plan(
    candidates: Iterable[Candidate], policy: Policy | None, rule: MetricRule | None, now: datetime
) -> Plan:
    """Decide for every set of one run whether it stays.

    Args:
        candidates: all sets of the run, in any order.
        policy: the retention rules; without any, everything stays.
        rule: how sets are ranked, if they are.
        now: the wall clock, aware UTC.

    Returns:
        One decision per set, oldest first.
    """
    ordered = sorted(candidates, key=lambda one: position(one).rank)
    counted = [one for one in ordered if _is_removable(one) and one.saved_at <= now]
    claims = chain(
        _standing_claims(ordered, counted, rule),
        ((one, "clock: dated in the future, so its age is unknown") for one in ordered if one.saved_at > now),
        _policy_claims(ordered, counted, policy, rule, now) if policy else _claim_all(ordered),
    )
    reasons: dict[SetKey, list[str]] = defaultdict(list)
    for claimed, reason in claims:
        reasons[claimed.key].append(reason)
    return Plan(tuple(_decision(one, reasons[one.key], policy) for one in ordered))


def _is_removable(candidate: Candidate) -> bool:
    return candidate.verdict is Verdict.VALID and not candidate.is_alias


def _decision(candidate: Candidate, claims: Sequence[str], policy: Policy | None) -> Decision:
    if candidate.verdict is not Verdict.VALID:
        action, reasons = Action.LEAVE, (f"{candidate.verdict}: only valid sets are ever removed", *claims)
    elif candidate.is_alias:
        action, reasons = Action.LEAVE, ("alias: the trainer rewrites it in place", *claims)
    elif claims:
        action, reasons = Action.KEEP, tuple(claims)
    else:
        action, reasons = Action.REMOVE, (f"no rule claims it: {_summary(policy)}",)
    return Decision(candidate.key, candidate.verdict, action, reasons, candidate.bytes)


def _summary(policy: Policy | None) -> str:
    names = ("keep_last", "keep_best", "keep_every_steps", "min_valid")
    values = ((name, getattr(policy, name)) for name in names)
    return ", ".join(f"{name}={value}" for name, value in values if value is not None)


def _standing_claims(
    ordered: Sequence[Candidate], counted: Sequence[Candidate], rule: MetricRule | None
) -> Claims:
    """What holds under any policy."""
    yield from ((one, "pinned: until it is unpinned") for one in ordered if one.is_pinned)
    yield from ((one, "released: the live release was made from it") for one in ordered if one.is_released)
    if rule:
        # The best of all may be an alias, which the next save overwrites, or have a wrong date: then the best
        # of the others has to stay as well.
        lasting = [one for one in ordered if not one.is_alias]
        winners = (select(group, rule) for group in (ordered, lasting, counted))
        for best in dict.fromkeys(one for one in winners if one):
            yield best, f"best: {_measured(best)}"
    if counted:
        yield counted[-1], "newest: no newer set is proved valid"


def _claim_all(ordered: Iterable[Candidate]) -> Claims:
    return ((one, "no retention rules") for one in ordered if _is_removable(one))


def _policy_claims(
    ordered: Sequence[Candidate],
    counted: Sequence[Candidate],
    policy: Policy,
    rule: MetricRule | None,
    now: datetime,
) -> Claims:
    yield from _newest(counted, policy.keep_last or 0)
    if rule:
        for rank, one in enumerate(ranked(counted, rule)[: policy.keep_best or 0], start=1):
            yield one, f"keep_best: rank {rank} by {_measured(one)}"
    if policy.keep_every_steps:
        yield from _milestones(counted, policy.keep_every_steps)
    yield from _floor(counted, policy.min_valid)
    for one in counted:
        if now - one.saved_at < policy.min_age:
            written = f"{one.saved_at:%Y-%m-%d %H:%M:%SZ}"
            yield one, f"min_age: written {written}, younger than {_span(policy.min_age)}"
    # Any sign of life counts, also that of a set which is being written or turned out broken.
    if ordered and now - ordered[-1].saved_at <= policy.idle_after:
        for one in counted:
            if one.trainer_prunes:
                yield one, f"trainer_prunes: until nothing was saved for {_span(policy.idle_after)}"


def _newest(counted: Sequence[Candidate], number: int) -> Claims:
    for rank, one in enumerate(list(reversed(counted))[:number], start=1):
        yield one, f"keep_last: {_ordinal(rank)} newest of {number}"


def _floor(counted: Sequence[Candidate], number: int) -> Claims:
    """The newest sets, and those that got furthest, because copied directories lose their dates."""
    newest_first = list(reversed(counted))
    yield from ((one, f"min_valid: among the {number} newest valid") for one in newest_first[:number])
    for unit in ("step", "epoch"):
        known = [one for one in newest_first if getattr(one, unit) is not None]
        known.sort(key=lambda one: -getattr(one, unit))
        yield from (
            (one, f"min_valid: among the {number} valid of the highest {unit}") for one in known[:number]
        )


def _milestones(counted: Sequence[Candidate], every: int) -> Claims:
    """For each multiple the set closest to it, series by series; of two equally close ones the newer."""
    all_series = split(counted, position)
    for series in all_series:
        closest: dict[int, tuple[int, Candidate]] = {}
        for one in series:
            if one.step is not None:
                multiple = (2 * one.step + every) // (2 * every) * every
                distance = abs(multiple - one.step)
                if distance <= closest.get(multiple, (distance, one))[0]:
                    closest[multiple] = distance, one
        closest.pop(0, None)
        yield from (
            (one, f"keep_every_steps: closest to {multiple}") for multiple, (_, one) in closest.items()
        )
    # Without the sets at their border, two series would look like one the next time and share milestones.
    for before, after in pairwise(all_series):
        progress = ((progress_of(position(one)), one) for one in before)
        ends = {unit: one for (unit, number), one in progress if number is not None}
        yield from ((one, "keep_every_steps: ends a series") for one in ends.values())
        yield after[0], "keep_every_steps: begins a series"


def _measured(candidate: Candidate) -> str:
    metric = candidate.metric
    return f"{metric.name}={metric.value:g} ({metric.order})" if metric else "unmeasured"


def _ordinal(number: int) -> str:
    suffixes = {1: "st", 2: "nd", 3: "rd"}  # codespell:ignore nd - it is no word here
    suffix = "th" if number % 100 in range(11, 14) else suffixes.get(number % 10, "th")
    return f"{number}{suffix}"


def _span(span: timedelta) -> str:
    """A duration in the largest unit that divides it."""
    units = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1)))
    return next(
        (f"{span // unit} {name}" for name, unit in units if span and not span % unit),
        f"{span.total_seconds():g} s",
    )
