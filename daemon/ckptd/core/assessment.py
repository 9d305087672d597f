"""From a run's listing and scans to its judgements, its best set and its plan, in one pure step."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ckptd.core import best, retention, series, verdict
from ckptd.core.findings import worst_verdict
from ckptd.core.layouts import joined
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

_IN_WORDS = {
    EntryKind.SYMLINK: "symbolic link",
    EntryKind.DIRECTORY: "directory",
    EntryKind.OTHER: "FIFO, socket or device",
}
_START_OF_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_CODE_WHEN_NOT_SEEN_AGAIN = {Role.SCALER: "missing_scaler", Role.META: "missing_role"}


@dataclass(frozen=True, slots=True)
class Rules:
    """How the sets of a watch are judged, ranked and kept."""

    rule: MetricRule | None
    keys: ProgressKeys
    policy: Policy | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run at one moment.

    `known` are earlier `Assessment.alone` judgements of sets whose files did not change; they need no scans.
    """

    sets: tuple[CheckpointSet, ...]
    settled: frozenset[SetKey]
    scans: Mapping[Fingerprint, FileScan]
    known: Mapping[SetKey, Judgement] = field(default_factory=dict)
    pinned: frozenset[SetKey] = frozenset()
    released: frozenset[SetKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Assessment:
    """What follows from the facts.

    `alone` judges each set that is settled and read without regard to its neighbours, `judged` all with it.
    """

    alone: Mapping[SetKey, Judgement]
    judged: tuple[tuple[CheckpointSet, Judgement], ...]
    unscanned: tuple[Member, ...]  # of settled sets: what nobody has read as it is now
    candidates: tuple[Candidate, ...]
    choice: Candidate | None
    plan: Plan

    @property
    def verdicts(self) -> Counter[Verdict]:
        """How many sets there are of each verdict."""
        return Counter(judgement.verdict for _, judgement in self.judged)

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
    first = {one.key: _judgement(one, facts, rules) for one in facts.sets}
    alone = {key: judgement for key, judgement in first.items() if _is_final(judgement)}
    final = first | _judged_in_company(facts.sets, alone)
    judged = tuple((one, final[one.key]) for one in facts.sets)
    candidates = tuple(_candidate(one, judgement, facts) for one, judgement in judged)
    pending = [one for one in facts.sets if first[one.key].verdict is Verdict.PENDING]
    return Assessment(
        alone=alone,
        judged=judged,
        unscanned=tuple(member for one in pending for member in _unscanned(one, facts.scans)),
        candidates=candidates,
        choice=best.select(candidates, rules.rule) if rules.rule else None,
        plan=_plan(facts.sets, candidates, rules, now),
    )


def scans_of(checkpoint: CheckpointSet, scans: Mapping[Fingerprint, FileScan]) -> dict[str, FileScan]:
    """The scans of a set's members by path, as far as there are any."""
    found = ((member, _scan_of(member, scans)) for member in checkpoint.members if is_read(member))
    return {member.entry.path: scan for member, scan in found if scan is not None}


def is_read(member: Member) -> bool:
    """Whether a verdict needs this member's content."""
    return member.role not in verdict.NOT_READ


def saved_at(checkpoint: CheckpointSet) -> datetime:
    """When the set's youngest member was written; a time that no calendar holds becomes its last day."""
    try:
        return _START_OF_TIME + timedelta(microseconds=checkpoint.mtime_ns // 1000)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _position(one: CheckpointSet, judgement: Judgement) -> series.Position:
    return series.Position(saved_at(one), judgement.step, judgement.epoch, one.key)


def _is_final(judgement: Judgement) -> bool:
    return judgement.verdict not in {Verdict.WRITING, Verdict.PENDING}


def _judgement(one: CheckpointSet, facts: RunFacts, rules: Rules) -> Judgement:
    if one.key not in facts.settled:
        return Judgement(Verdict.WRITING, step=one.step, epoch=one.epoch)
    if one.key in facts.known:
        return facts.known[one.key]
    if _unscanned(one, facts.scans):
        return Judgement(Verdict.PENDING, step=one.step, epoch=one.epoch)
    judgement = verdict.judge(one, scans_of(one, facts.scans), rule=rules.rule, keys=rules.keys)
    step = one.step if judgement.step is None else judgement.step
    epoch = one.epoch if judgement.epoch is None else judgement.epoch
    return replace(judgement, step=step, epoch=epoch)


def _unscanned(checkpoint: CheckpointSet, scans: Mapping[Fingerprint, FileScan]) -> tuple[Member, ...]:
    return tuple(one for one in checkpoint.members if is_read(one) and _scan_of(one, scans) is None)


def _scan_of(member: Member, scans: Mapping[Fingerprint, FileScan]) -> FileScan | None:
    return _without_content(member.entry) or scans.get(member.entry.fingerprint)


def _without_content(entry: Entry) -> FileScan | None:
    """The scan of something that is no regular file and must not even be opened; None for a file."""
    if entry.kind is EntryKind.FILE:
        return None
    code = "symbolic_link" if entry.kind is EntryKind.SYMLINK else "not_a_regular_file"
    return FileScan("none", 0, None, (Finding(code, shown(entry.path), f"found a {_IN_WORDS[entry.kind]}"),))


def _judged_in_company(
    sets: Iterable[CheckpointSet], alone: Mapping[SetKey, Judgement]
) -> dict[SetKey, Judgement]:
    """The judgements that change when a set is seen beside the earlier ones of its series.

    A progress file or a scaler that earlier sets had, and this one has not, is not written yet or lost:
    without it the training cannot be resumed as it was.
    """
    families: dict[str, list[CheckpointSet]] = defaultdict(list)
    for one in sets:
        if one.key in alone and not one.is_alias:
            families[one.family].append(one)
    changed: dict[SetKey, Judgement] = {}
    for family in families.values():
        for one_series in series.split(family, lambda one: _position(one, alone[one.key])):
            seen: frozenset[Role] = frozenset()
            for one in one_series:
                judgement = alone[one.key]
                if missing := (seen - judgement.roles) & _CODE_WHEN_NOT_SEEN_AGAIN.keys():
                    changed[one.key] = _without(judgement, one, missing)
                seen |= judgement.roles
    return changed


def _without(judgement: Judgement, one: CheckpointSet, missing: Iterable[Role]) -> Judgement:
    path = shown(joined(one.run, one.name))
    findings = judgement.findings + tuple(
        Finding(_CODE_WHEN_NOT_SEEN_AGAIN[role], path, f"no {role}, which earlier sets of this run have")
        for role in sorted(missing)
    )
    return replace(judgement, verdict=worst_verdict(findings), findings=findings)


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
