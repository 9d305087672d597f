"""Releases the best set of a root's runs: starts the export, publishes what was proven."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptd.core.model import Role, SetKey
from ckptd.core.names import shown
from ckptd.core.records import ReleaseRecord, ReleaseState
from ckptd.core.releases import Damaged, Release, Source, why_not
from ckptd.shell.deploy_directory import live
from ckptd.shell.exporting import Refusal, ReleaseJob

if TYPE_CHECKING:
    from ckptd.core.assessment import Assessment
    from ckptd.core.model import Candidate, MetricRule
    from ckptd.core.settings import ReleaseSettings
    from ckptd.reconcile.assessor import Assessor, Moment
    from ckptd.shell.ledger import Ledger
    from ckptd.shell.logs import Log
    from ckptd.shell.releaser import Finished, Releaser

_RETRY_SECONDS = 60.0  # after a refusal that need not last, such as a full disk


def live_source(
    current: Release | Damaged | None, deploy_dir: str, ledger: Ledger | None
) -> tuple[str, SetKey] | None:
    """The root and the set that the live release was made from, as far as that can be told.

    Where nothing is live, what was published last still counts: the deploy directory may not be mounted.
    """
    if isinstance(current, Release):
        return _source_key(current.source)
    records = ledger.releases(deploy_dir) if ledger is not None else []
    published = [record for record in records if record.state is ReleaseState.PUBLISHED]
    return (published[-1].root, published[-1].key) if published else None


def doubt_about(current: Release | Damaged | None, deploy_dir: str) -> str:
    """Why it cannot be told which set the live release was made from, and the way out; empty when it can."""
    if not isinstance(current, Damaged):
        return ""
    place = "" if current.reason.startswith(deploy_dir) else f"{shown(deploy_dir)}: "
    return f"{place}{current.reason}; {current.way_out}"


def _source_key(source: Source) -> tuple[str, SetKey]:
    return source.root, SetKey(source.run, source.set_name)


@dataclass(slots=True)
class ReleaseStep:
    """The releases of one root, whose runs compete for one deploy directory."""

    assessor: Assessor
    settings: ReleaseSettings
    rule: MetricRule
    releaser: Releaser
    ledger: Ledger
    log: Log
    _live: Release | Damaged | None = None
    _live_source: tuple[str, SetKey] | None = None
    _retry_at: float = 0.0  # monotonic
    # Exports that would end the same way. A restart or a reload gives them another try: somebody may have
    # mended the code behind the entrypoint.
    _refused: set[str] = field(default_factory=set)
    refusal: str = ""  # why the best set is not live; empty when it is, or when nothing speaks against it

    def refresh(self) -> None:
        """Read what is live now."""
        self._live = live(self.settings.deploy_dir)
        self._live_source = live_source(self._live, self.settings.deploy_dir, self.ledger)

    @property
    def sources(self) -> frozenset[SetKey]:
        """The sets of this root that must stay: what is live was made from them, or is being made."""
        job = self.releaser.running(self.settings.deploy_dir)
        sources = [] if self._live_source is None else [self._live_source]
        sources += [] if job is None else [_source_key(job.source)]
        return frozenset(key for root, key in sources if root == self.assessor.watch.path)

    @property
    def doubt(self) -> str:
        """Why it cannot be told which set the live release was made from; empty when it can."""
        return doubt_about(self._live, self.settings.deploy_dir)

    def consider(self, run: str, assessment: Assessment, moment: Moment) -> bool:
        """Begin to release the run's best set if it is better than what is live; whether that was begun."""
        choice = assessment.choice
        busy = (
            self.releaser.running(self.settings.deploy_dir) is not None or moment.monotonic < self._retry_at
        )
        if choice is None or not assessment.is_complete or busy:
            return False
        job = self._job(run, choice)
        if job is None:
            return False
        reason = why_not(job.source, self._live, self.rule)
        if reason is not None:
            if reason.startswith("refusing to"):
                self._tell_refusal(job, reason, moment)
            return False
        if job.export_key in self._refused:
            return False
        self.ledger.record_release(self._record(job, ReleaseState.STARTED, moment))
        self.log.emit("release.started", **self._names(job))
        return self.releaser.start(job, moment.now)

    def finish(self, finished: Finished, moment: Moment) -> None:
        """Publish an export that has ended, or say why not."""
        job = finished.job
        outcome = self.releaser.publish(finished, moment.now)
        self.refresh()
        if isinstance(outcome, Refusal):
            self._retry_at = 0.0 if outcome.is_lasting else moment.monotonic + _RETRY_SECONDS
            self._tell_refusal(job, outcome.reason, moment, is_lasting=outcome.is_lasting)
            return
        self.refusal = ""
        version = outcome.release.version
        # Told first: it is live, whether or not that can be recorded.
        self.log.emit("release.published", version=version, **self._names(job))
        self.ledger.record_release(self._record(job, ReleaseState.PUBLISHED, moment, version=version))

    def _job(self, run: str, choice: Candidate) -> ReleaseJob | None:
        one = self.assessor.runs[run].sets[choice.key]
        scans = self.assessor.scans_of([one])
        weights = [member.entry.path for member in one.members if member.role is Role.PARAMS]
        digests = tuple(sorted((key.path, scan.digest) for key, scan in scans.items() if scan.digest))
        if choice.metric is None or not weights or weights[0] not in dict(digests):
            return None  # the set changed under our hands; the next pass sees it anew
        source = Source(
            root=self.assessor.watch.path,
            run=choice.key.run,
            set_name=choice.key.name,
            step=choice.step,
            epoch=choice.epoch,
            metric=choice.metric,
            digests=digests,
        )
        return ReleaseJob(source, self.assessor.watch.path, weights[0], self.rule, self.settings)

    def _tell_refusal(
        self, job: ReleaseJob, reason: str, moment: Moment, *, is_lasting: bool = False
    ) -> None:
        if reason == self.refusal and not is_lasting:
            return
        self.refusal = reason
        self.log.emit("release.refused", reason=reason, **self._names(job))
        if is_lasting:
            self._refused.add(job.export_key)
            self.ledger.record_release(self._record(job, ReleaseState.REFUSED, moment, reason=reason))

    def _names(self, job: ReleaseJob) -> dict[str, object]:
        source = job.source
        return {
            "deploy_dir": job.deploy_dir,
            "root": source.root,
            "run": source.run,
            "set": source.set_name,
            "metric": source.metric,
        }

    def _record(
        self,
        job: ReleaseJob,
        state: ReleaseState,
        moment: Moment,
        *,
        version: str | None = None,
        reason: str = "",
    ) -> ReleaseRecord:
        return ReleaseRecord(
            deploy_dir=job.deploy_dir,
            root=job.source.root,
            key=SetKey(job.source.run, job.source.set_name),
            state=state,
            export_key=job.export_key,
            at=moment.now,
            version=version,
            reason=reason,
            metric=job.source.metric,
        )
