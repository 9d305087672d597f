"""Tells the ledger and the log what became of a run's sets, each change once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.events import event_for
from ckptd.core.model import Action, Role
from ckptd.core.names import shown
from ckptd.core.records import fingerprints_digest
from ckptd.core.scrubbing import ROTTED

if TYPE_CHECKING:
    from ckptd.core.assessment import Assessment
    from ckptd.core.model import CheckpointSet, Judgement, Plan, SetKey, Verdict
    from ckptd.core.scrubbing import Reading
    from ckptd.reconcile.assessor import Assessor, Moment
    from ckptd.shell.ledger import Ledger
    from ckptd.shell.logs import Log


class _Recorded(NamedTuple):
    """What was told of a set."""

    verdict: Verdict
    fingerprints: str
    rotted: frozenset[str] = frozenset()  # the files, as findings call them


@dataclass(slots=True)
class Reporter:
    """Compares each assessment with what was told before."""

    assessor: Assessor
    ledger: Ledger
    log: Log
    _told: dict[SetKey, tuple[CheckpointSet, Judgement]] = field(default_factory=dict)
    _recorded: dict[str, dict[SetKey, _Recorded]] = field(default_factory=dict)
    _best: dict[str, SetKey | None] = field(default_factory=dict)
    _plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def _root(self) -> str:
        return self.assessor.watch.path

    def tell(self, run: str, assessment: Assessment, moment: Moment) -> int:
        """Record and log what is new about a run's sets; returns how many verdicts changed."""
        changed = self._tell_verdicts(run, assessment, moment)
        if assessment.is_complete:
            self._tell_best(run, assessment)
            self._tell_plan(run, assessment, moment)
        return changed

    def forget(self, run: str) -> None:
        """Forget a run that is gone."""
        self._best.pop(run, None)
        self._plans.pop(run, None)
        self._recorded.pop(run, None)
        for key in [key for key in self._told if key.run == run]:
            del self._told[key]

    def _tell_verdicts(self, run: str, assessment: Assessment, moment: Moment) -> int:
        final = [(one, judgement) for one, judgement in assessment.judged if one.key in assessment.alone]
        new = [pair for pair in final if self._told.get(pair[0].key) != pair]
        if not new:
            return 0
        if run not in self._recorded:
            self._recorded[run] = {
                key: _Recorded(last.judgement.verdict, last.fingerprints, _rotted(last.judgement))
                for key, last in self.ledger.last_judgements(self._root, run).items()
            }
            if not self._recorded[run]:
                self.log.emit("run.started", root=self._root, run=run)
        recorded = self._recorded[run]
        changed = 0
        # Told first, then recorded: a crash in between says it twice, the other order might never say it.
        for one, judgement in new:
            now = _Recorded(judgement.verdict, fingerprints_digest(one.fingerprints), _rotted(judgement))
            last = recorded.get(one.key)
            is_known = last is not None and last.fingerprints == now.fingerprints
            self._tell_rot(one, now.rotted - (last.rotted if last and is_known else frozenset()), assessment)
            if last is None or last[:2] != now[:2]:
                self._emit_verdict(one, judgement)
                changed += 1
            recorded[one.key] = now
        self.ledger.record_judgements(self._root, new, moment.now)
        self._told.update({one.key: (one, judgement) for one, judgement in new})
        return changed

    def _tell_rot(self, one: CheckpointSet, paths: frozenset[str], assessment: Assessment) -> None:
        if not paths:
            return
        scans = self.assessor.scans_of([one])
        readings = self.ledger.readings(self._root, scans)
        for key, reading in readings.items():
            if shown(key.path) in paths:
                self.log.emit(
                    "set.rotted",
                    root=self._root,
                    run=one.run,
                    set=one.name,
                    path=key.path,
                    digest_before=reading.digest,
                    digest_now=scans[key].digest,
                    reasons=self._about_rot(one, reading, assessment),
                )

    def _about_rot(self, one: CheckpointSet, reading: Reading, assessment: Assessment) -> tuple[str, ...]:
        is_released = any(each.is_released for each in assessment.candidates if each.key == one.key)
        facts = (
            (
                True,
                f"changed since {reading.first_at:%Y-%m-%d %H:%M:%SZ}, with size, time and inode the same",
            ),
            (True, "it counts in no retention rule from now on, and is neither removed nor released"),
            (is_released, "the live release was made from it, or is being made: nothing there was touched"),
            (self._best.get(one.run) == one.key, "it was the best set of its run"),
        )
        return tuple(text for holds, text in facts if holds)

    def _emit_verdict(self, one: CheckpointSet, judgement: Judgement) -> None:
        scans = self.assessor.scans_of([one])
        weights = [member.entry.fingerprint for member in one.members if member.role is Role.PARAMS]
        digests = [scans[fingerprint].digest for fingerprint in weights if fingerprint in scans]
        self.log.emit(
            event_for(judgement.verdict),
            root=self._root,
            run=one.run,
            set=one.name,
            verdict=judgement.verdict.value,
            bytes=one.bytes,
            step=judgement.step,
            epoch=judgement.epoch,
            metric=judgement.metric,
            findings=judgement.findings or None,
            digest=digests[0] if len(digests) == 1 else None,
        )
        for finding in judgement.findings:
            if finding.code == "scanner_failed":
                self.log.emit(
                    "scan.failed",
                    root=self._root,
                    run=one.run,
                    set=one.name,
                    path=finding.path,
                    reason=finding.detail,
                )

    def _tell_best(self, run: str, assessment: Assessment) -> None:
        choice, before = assessment.choice, self._best.get(run)
        self._best[run] = choice.key if choice is not None else None
        if choice is not None and choice.key != before:
            self.log.emit(
                "best.changed",
                root=self._root,
                run=run,
                set=choice.key.name,
                metric=choice.metric,
                step=choice.step,
                epoch=choice.epoch,
                previous=before.name if before else None,
            )

    def _tell_plan(self, run: str, assessment: Assessment, moment: Moment) -> None:
        plan = assessment.plan
        if self._plans.get(run) == plan:
            return
        policy = self.assessor.watch.retention
        if self.ledger.record_plan(self._root, plan, moment.now) and policy is not None:
            remove = plan.with_action(Action.REMOVE)
            self.log.emit(
                "plan.changed",
                root=self._root,
                run=run,
                mode="enforce" if policy.enforce else "plan",
                keep=len(plan.with_action(Action.KEEP)),
                remove=len(remove),
                leave=len(plan.with_action(Action.LEAVE)),
                bytes=sum(decision.bytes for decision in remove),
            )
        self._plans[run] = plan


def _rotted(judgement: Judgement) -> frozenset[str]:
    return frozenset(finding.path for finding in judgement.findings if finding.code == ROTTED)
