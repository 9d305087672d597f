"""From a run's listing and scans to its judgements, its best set and its plan, in one pure step."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ckptd.core import best, retention, series
from ckptd.core.continuity import Traits, changes, traits_of
from ckptd.core.findings import worst_verdict
from ckptd.core.model import Candidate, EntryKind, FileScan, Finding, Judgement, Plan, Role, Verdict
from ckptd.core.names import shown
from ckptd.core.set_contents import NOT_READ, contents_of
from ckptd.core.verdict import judge, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptd.core.model import (
        CheckpointSet,
        Entry,
        Fingerprint,
        Member,
        MetricRule,
        Policy,
        ProgressKeys,
        SetKey,
        SetShape,
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
class Alone:
    """A set judged without regard to its neighbours, and what its successors are compared with."""

    judgement: Judgement
    traits: Traits = field(default_factory=Traits)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run at one moment.

    `known` is what an earlier `Assessment.alone` says of sets whose files did not change; they need no scans.
    """

    sets: tuple[CheckpointSet, ...]
    settled: frozenset[SetKey]
    scans: Mapping[Fingerprint, FileScan]
    known: Mapping[SetKey, Alone] = field(default_factory=dict)
    pinned: frozenset[SetKey] = frozenset()
    released: frozenset[SetKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Assessment:
    """What follows from the facts.

    `alone` judges each set that is settled and read without regard to its neighbours, `judged` all with it.
    """

    alone: Mapping[SetKey, Alone]
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
    first = {one.key: _alone(one, facts, rules) for one in facts.sets}
    alone = _sharing({key: one for key, one in first.items() if _is_final(one.judgement)})
    final = {key: one.judgement for key, one in first.items()} | _judged_in_company(facts.sets, alone)
    judged = tuple((one, final[one.key]) for one in facts.sets)
    candidates = tuple(_candidate(one, judgement, facts) for one, judgement in judged)
    pending = [one for one in facts.sets if final[one.key].verdict is Verdict.PENDING]
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
    return member.role not in NOT_READ


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


def _alone(one: CheckpointSet, facts: RunFacts, rules: Rules) -> Alone:
    if one.key not in facts.settled:
        return Alone(Judgement(Verdict.WRITING, step=one.step, epoch=one.epoch))
    if one.key in facts.known:
        return facts.known[one.key]
    if _unscanned(one, facts.scans):
        return Alone(Judgement(Verdict.PENDING, step=one.step, epoch=one.epoch))
    scans = scans_of(one, facts.scans)
    contents = contents_of(one, scans)
    judgement = judge(one, scans, contents, rule=rules.rule, keys=rules.keys)
    step = one.step if judgement.step is None else judgement.step
    epoch = one.epoch if judgement.epoch is None else judgement.epoch
    return Alone(replace(judgement, step=step, epoch=epoch), traits_of(one, contents))


def _sharing(alone: Mapping[SetKey, Alone]) -> dict[SetKey, Alone]:
    """The same, with one copy of weights that are the same in many sets: a daemon keeps these for long."""
    copies: dict[bytes | None, bytes | None] = {}
    shared = {}
    for key, one in alone.items():
        weights = copies.setdefault(one.traits.weights, one.traits.weights)
        is_copy = weights is not one.traits.weights
        shared[key] = replace(one, traits=replace(one.traits, weights=weights)) if is_copy else one
    return shared


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
    sets: Iterable[CheckpointSet], alone: Mapping[SetKey, Alone]
) -> dict[SetKey, Judgement]:
    """The judgements that change when a set is seen beside the earlier ones of its series."""
    families: dict[str, list[CheckpointSet]] = defaultdict(list)
    for one in sets:
        if one.key in alone and not one.is_alias:
            families[one.family].append(one)
    changed: dict[SetKey, Judgement] = {}
    for family in families.values():
        for one_series in series.split(family, lambda one: _position(one, alone[one.key].judgement)):
            for key, findings in _findings_in_company(one_series, alone):
                judgement = alone[key].judgement
                together = (*judgement.findings, *findings)
                changed[key] = replace(judgement, verdict=worst_verdict(together), findings=together)
    return changed


def _findings_in_company(
    one_series: Iterable[CheckpointSet], alone: Mapping[SetKey, Alone]
) -> Iterator[tuple[SetKey, tuple[Finding, ...]]]:
    """What is said of sets that are held against the earlier ones of their series.

    A progress file or a scaler that earlier sets had, and this one has not, is not written yet or lost:
    without it the training cannot be resumed as it was.
    """
    seen: set[Role] = set()
    had_scaler_state = False
    last: dict[tuple[str, SetShape], CheckpointSet] = {}
    for one in one_series:
        place, roles, traits = place_of(one), alone[one.key].judgement.roles, alone[one.key].traits
        findings = [
            Finding(_CODE_WHEN_NOT_SEEN_AGAIN[role], place, f"no {role}, which earlier sets of this run have")
            for role in sorted((seen - roles) & _CODE_WHEN_NOT_SEEN_AGAIN.keys())
        ]
        if had_scaler_state and traits.has_scaler_state is False:
            findings.append(Finding("empty_scaler_state", place, "earlier sets of this run have a state"))
        before = last.get((one.layout, one.shape))
        if before is not None:
            findings += changes(place, alone[before.key].traits, traits, shown(before.name))
        if findings:
            yield one.key, tuple(findings)
        seen |= roles
        had_scaler_state = had_scaler_state or traits.has_scaler_state is True
        if traits.weights is not None:
            last[one.layout, one.shape] = one


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
