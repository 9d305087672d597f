"""From a run's listing and scans to its judgements, its best set and its plan, in one pure step."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ckptd.core import best, retention, series, verdict
from ckptd.core.model import Candidate, EntryKind, FileScan, Finding, Judgement, Plan, Role, Verdict
from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptd.core.model import (
        CheckpointSet,
        Entry,
        Fingerprint,
        Member,
        MetricRule,
        Policy,
        ProgressKeys,
        SetKey,
    )

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_READ = frozenset({Role.EXTRA, Role.MARKER, Role.PROGRAM, Role.OPAQUE})
_EXPECTED_ONCE_SEEN = frozenset({Role.SCALER, Role.META})
_IN_A_FILES_PLACE = {EntryKind.SYMLINK: "symbolic_link"}


@dataclass(frozen=True, slots=True)
class Rules:
    """How the sets of a watch are judged, ranked and kept."""

    rule: MetricRule | None
    keys: ProgressKeys
    policy: Policy | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run at one moment."""

    sets: tuple[CheckpointSet, ...]
    settled: frozenset[SetKey]
    scans: Mapping[Fingerprint, FileScan]
    pinned: frozenset[SetKey] = frozenset()
    released: frozenset[SetKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Assessment:
    """What follows from the facts."""

    judged: tuple[tuple[CheckpointSet, Judgement], ...]
    unscanned: tuple[Member, ...]  # members of settled sets that nobody has read as they are now
    candidates: tuple[Candidate, ...]
    choice: Candidate | None
    plan: Plan

    @property
    def is_complete(self) -> bool:
        """Whether every settled set has its final verdict."""
        return not self.unscanned


def assess(facts: RunFacts, rules: Rules, now: datetime) -> Assessment:
    """Judge the sets of one run and decide what to do with them.

    Args:
        facts: the sets, which of them are settled, and the scans there are.
        rules: the watch's settings.
        now: the wall clock, aware UTC.
    """
    judgements = {one.key: _judgement(one, facts, rules, frozenset()) for one in facts.sets}
    for one, expected in _expected_roles(facts, judgements):
        judgements[one.key] = _judgement(one, facts, rules, expected)
    judged = tuple((one, judgements[one.key]) for one in facts.sets)
    candidates = tuple(_candidate(one, judgement, facts) for one, judgement in judged)
    return Assessment(
        judged=judged,
        unscanned=tuple(
            member for one in facts.sets if one.key in facts.settled for member in _unscanned(one, facts.scans)
        ),
        candidates=candidates,
        choice=best.select(candidates, rules.rule) if rules.rule else None,
        plan=_plan(facts.sets, candidates, rules, now),
    )


def is_read(member: Member) -> bool:
    """Whether a verdict needs this member's content."""
    return member.role not in _NOT_READ


def without_content(entry: Entry) -> FileScan | None:
    """The scan of something that is no regular file and must not be opened; None for a file."""
    if entry.kind is EntryKind.FILE:
        return None
    code = _IN_A_FILES_PLACE.get(entry.kind, "not_a_regular_file")
    return FileScan("none", 0, None, (Finding(code, shown(entry.path), f"it is a {entry.kind}"),))


def saved_at(checkpoint: CheckpointSet) -> datetime:
    """When the set's youngest member was written; times that no calendar holds become its last day."""
    try:
        return _EPOCH + timedelta(microseconds=checkpoint.mtime_ns // 1000)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def scans_of(checkpoint: CheckpointSet, scans: Mapping[Fingerprint, FileScan]) -> dict[str, FileScan]:
    """The scans of a set's members by path, as far as there are any."""
    found = ((member, _scan_of(member, scans)) for member in checkpoint.members if is_read(member))
    return {member.entry.path: scan for member, scan in found if scan is not None}


def _scan_of(member: Member, scans: Mapping[Fingerprint, FileScan]) -> FileScan | None:
    return without_content(member.entry) or scans.get(member.entry.fingerprint)


def _unscanned(checkpoint: CheckpointSet, scans: Mapping[Fingerprint, FileScan]) -> tuple[Member, ...]:
    return tuple(
        member for member in checkpoint.members if is_read(member) and _scan_of(member, scans) is None
    )


def _judgement(one: CheckpointSet, facts: RunFacts, rules: Rules, expected: frozenset[Role]) -> Judgement:
    if one.key not in facts.settled:
        return Judgement(Verdict.WRITING, step=one.step, epoch=one.epoch)
    if _unscanned(one, facts.scans):
        return Judgement(Verdict.PENDING, step=one.step, epoch=one.epoch)
    judgement = verdict.judge(
        one, scans_of(one, facts.scans), expected_roles=expected, rule=rules.rule, keys=rules.keys
    )
    step = one.step if judgement.step is None else judgement.step
    epoch = one.epoch if judgement.epoch is None else judgement.epoch
    return replace(judgement, step=step, epoch=epoch)


def _candidate(one: CheckpointSet, judgement: Judgement, facts: RunFacts) -> Candidate:
    return Candidate(
        key=one.key,
        verdict=judgement.verdict,
        saved_at=saved_at(one),
        bytes=one.bytes,
        step=judgement.step,
        epoch=judgement.epoch,
        metric=judgement.metric,
        is_alias=one.is_alias,
        is_pinned=one.key in facts.pinned,
        is_released=one.key in facts.released,
        trainer_prunes=one.trainer_prunes,
    )


def _plan(
    sets: Iterable[CheckpointSet], candidates: Sequence[Candidate], rules: Rules, now: datetime
) -> Plan:
    """Plan each family by itself: sets that differ in more than a number do not push each other out."""
    families: dict[str, list[Candidate]] = defaultdict(list)
    for one, candidate in zip(sets, candidates, strict=True):
        families[one.family].append(candidate)
    plans = [retention.plan(members, rules.policy, rules.rule, now) for members in families.values()]
    return Plan(tuple(decision for plan in plans for decision in plan.decisions))
