"""A pass: each marked run is looked at, told about, released from and pruned, in that order."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptd.core.layouts import find_runs, is_set_directory, owning_run, parent
from ckptd.core.scrubbing import Budget
from ckptd.errors import CkptdError
from ckptd.reconcile.assessor import Assessor
from ckptd.reconcile.releasing import ReleaseStep
from ckptd.reconcile.removing import RemovalStep
from ckptd.reconcile.reporting import Reporter
from ckptd.reconcile.scrubbing import ScrubStep
from ckptd.shell import inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from ckptd.core.assessment import Assessment
    from ckptd.core.layouts import Tree
    from ckptd.core.model import FileScan, Fingerprint, Verdict
    from ckptd.core.settings import Settings, WatchSettings
    from ckptd.reconcile.assessor import Moment
    from ckptd.shell.ledger import Ledger
    from ckptd.shell.logs import Log
    from ckptd.shell.prober import Prober, ScanResult
    from ckptd.shell.releaser import Finished, Releaser
    from ckptd.shell.watching import Hint


@dataclass(frozen=True, slots=True)
class Resources:
    """What a pass works with."""

    ledger: Ledger
    log: Log
    prober: Prober
    scrubber: Prober  # reads again, slowly, what the prober has read
    releaser: Releaser


@dataclass(slots=True)
class PassReport:
    """What a pass did."""

    runs: int = 0
    changed: int = 0  # verdicts
    removed: int = 0
    freed_bytes: int = 0
    is_complete: bool = True  # not cut short by a stop


@dataclass(slots=True)
class Root:
    """A watched root with all that is done about it."""

    watch: WatchSettings
    assessor: Assessor
    reporter: Reporter
    removal: RemovalStep
    release: ReleaseStep | None
    hinted: set[str] = field(default_factory=set)  # runs to list anew
    swept: set[str] = field(default_factory=set)  # runs as the last walk listed them
    listing: Tree = field(default_factory=dict)
    scanned: dict[Fingerprint, FileScan] = field(default_factory=dict)  # not recorded yet


class Reconciler:
    """All roots of one configuration."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        self.verdicts: Counter[Verdict] = Counter()
        """How many sets there are of each verdict."""
        self._ledger = resources.ledger
        self._log = resources.log
        self._roots = {
            watch.path: _root(watch, settings.daemon.settle.total_seconds(), resources)
            for watch in settings.watches
        }
        self._prober = resources.prober
        self._scrub = _scrub(settings, [one.assessor for one in self._roots.values()], resources)

    def recover(self, root: str, now: datetime) -> None:
        """Bring to an end what a crash has cut off in a root; before anything else is done there."""
        self._roots[root].removal.recover(now)

    def sweep(self, root: str) -> None:
        """Walk a root and mark every run in it.

        Raises:
            OSError: the root cannot be read; nothing is concluded from that.
        """
        one = self._roots[root]
        one.listing = inventory.walk(root)
        one.assessor.forget_passing()
        one.swept |= set(find_runs(one.listing)) | one.assessor.runs.keys()

    def hint(self, hint: Hint) -> None:
        """Mark what a hint points at."""
        one = self._roots.get(hint.root)
        if one is not None and hint.directory is not None:
            one.hinted.add(_owning_run(hint.root, hint.directory))

    def take_scans(self, results: Iterable[ScanResult], moment: Moment) -> None:
        """Take in finished scans and mark the runs that waited for them.

        Raises:
            CkptdError: the ledger cannot be used; the scans are kept for the next call.
        """
        for request, scan in results:
            root = self._roots.get(request.root)
            if root is not None:  # still watched
                root.scanned[request.expected] = scan
        for path, root in self._roots.items():
            if root.scanned:
                root.assessor.take(root.scanned, moment.now)
                root.hinted |= {_owning_run(path, parent(fingerprint.path)) for fingerprint in root.scanned}
                root.scanned = {}

    def take_rereads(self, results: Iterable[ScanResult], moment: Moment) -> None:
        """Take in what was read again, and mark the runs in which it changes something.

        Raises:
            CkptdError: the ledger cannot be used; the files are read again another time.
        """
        for request, scan in results:
            root = self._roots.get(request.root)
            if root is not None:  # still watched
                changed = root.assessor.take({request.expected: scan}, moment.now)
                root.hinted |= {_owning_run(request.root, parent(one.path)) for one in changed}

    def mark_scrub(self) -> None:
        """Mark that it is time to look whether a file is to be read again."""
        if self._scrub is not None:
            self._scrub.is_marked = True

    def scrub(self, moment: Moment) -> None:
        """Have a file read again if one is due, and nothing new waits to be read.

        Raises:
            CkptdError: the ledger cannot be used.
        """
        if self._scrub is not None and not len(self._prober):
            self._scrub.proceed(moment)

    def take_exports(self, finished: Sequence[Finished], moment: Moment) -> None:
        """Publish finished exports and mark the runs they came from.

        Raises:
            CkptdError: the ledger cannot be used; what was not published is exported anew.
        """
        roots = [(one, self._roots.get(one.job.source.root)) for one in finished]
        for _, root in roots:
            if root is not None:
                root.hinted |= root.assessor.runs.keys()
        for one, root in roots:
            if root is not None and root.release is not None:
                root.release.finish(one, moment)

    def mark_due(self, monotonic: float) -> None:
        """Mark the runs in which an unsettled set could be settled by now."""
        for one in self._roots.values():
            one.hinted |= {
                run
                for run, state in one.assessor.runs.items()
                if state.recheck_at is not None and state.recheck_at <= monotonic
            }

    def next_due(self) -> float | None:
        """When `mark_due` will next find something, on the monotonic clock."""
        states = (state for one in self._roots.values() for state in one.assessor.runs.values())
        return min((state.recheck_at for state in states if state.recheck_at is not None), default=None)

    def run_pass(self, moment: Moment, is_stopping: Callable[[], bool]) -> PassReport:
        """Reconcile every marked run.

        Raises:
            CkptdError: the ledger cannot be used; what was not reconciled stays marked.
        """
        report = PassReport()
        for one in self._roots.values():
            dirty = sorted(one.hinted | one.swept)
            if dirty:
                one.removal.refresh()
                if one.release is not None:
                    one.release.refresh()
            for run in dirty:
                if is_stopping():
                    report.is_complete = False
                    return report
                # A walk's listing may be older than a hint.
                listing = None if run in one.hinted else one.listing
                one.hinted.discard(run)
                self._reconcile_guarded(one, run, listing, moment, report)
                one.swept.discard(run)
            if one.listing:
                self._forget_what_is_gone(one)
                one.listing = {}
        return report

    def tidy_up(self, now: datetime) -> None:
        """Delete what has been in the trash for long enough."""
        for one in self._roots.values():
            one.removal.purge(now)

    @property
    def has_work(self) -> bool:
        """Whether a run is marked, or a scan not recorded."""
        return any(one.hinted or one.swept or one.scanned for one in self._roots.values())

    @property
    def refusals(self) -> tuple[str, ...]:
        """What was refused and still is: releases that cannot be made, removals that were called off."""
        return tuple(
            reason
            for one in self._roots.values()
            for reason in (one.removal.refusal, one.release.refusal if one.release is not None else "")
            if reason
        )

    def _reconcile_guarded(
        self, one: Root, run: str, listing: Tree | None, moment: Moment, report: PassReport
    ) -> None:
        """Reconcile a run; whatever is wrong with it must not keep the other runs waiting."""
        try:
            self._reconcile(one, run, listing, moment, report)
        except CkptdError:  # the ledger: nothing goes on without it
            one.hinted.add(run)
            raise
        except Exception as error:  # noqa: BLE001 - a bug or a disk; either way it is told, and the others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} (in {place.name}, line {place.lineno})"
            self._log.emit("run.failed", root=one.watch.path, run=run, reason=reason)

    def _reconcile(
        self, one: Root, run: str, listing: Tree | None, moment: Moment, report: PassReport
    ) -> None:
        report.runs += 1
        assessment = self._look(one, run, listing, moment)
        if assessment is None:
            one.reporter.forget(run)
            return
        report.changed += one.reporter.tell(run, assessment, moment)
        if one.release is not None and one.release.consider(run, assessment, moment):
            assessment = self._look(one, run, listing, moment)  # what is being exported now must stay
        if assessment is None or not assessment.is_complete:
            return
        doubt = one.release.doubt if one.release is not None else ""
        freed = one.removal.apply(run, assessment.plan, moment, doubt)
        if freed:
            report.removed += len(freed)
            report.freed_bytes += sum(freed)
            one.hinted.add(run)  # to see what is there now

    def _look(self, one: Root, run: str, listing: Tree | None, moment: Moment) -> Assessment | None:
        before = one.assessor.runs.get(run)
        if before is not None and before.assessment is not None:
            self.verdicts -= before.assessment.verdicts
        released = one.release.sources if one.release is not None else frozenset()
        found = one.assessor.look(run, moment, pinned=one.removal.pinned, released=released, listing=listing)
        if found is not None:
            self.verdicts += found.verdicts
        return found

    def _forget_what_is_gone(self, one: Root) -> None:
        """Keep the ledger from growing with every file there ever was; the history of sets stays."""
        paths = (entry.path for entries in one.listing.values() for entry in entries)
        self._ledger.forget_scans(one.watch.path, paths)
        present = (key for state in one.assessor.runs.values() for key in state.sets)
        self._ledger.forget_judgements(one.watch.path, present)


def _root(watch: WatchSettings, settle_seconds: float, resources: Resources) -> Root:
    assessor = Assessor(watch, settle_seconds, resources.ledger, resources.prober)
    release = None
    if watch.release is not None and watch.best is not None:
        release = ReleaseStep(
            assessor, watch.release, watch.best, resources.releaser, resources.ledger, resources.log
        )
    return Root(
        watch,
        assessor,
        Reporter(assessor, resources.ledger, resources.log),
        RemovalStep(assessor, resources.ledger, resources.log),
        release,
    )


def _scrub(settings: Settings, assessors: Iterable[Assessor], resources: Resources) -> ScrubStep | None:
    if settings.daemon.scrub is None:
        return None
    return ScrubStep(
        tuple(assessors),
        resources.ledger,
        resources.scrubber,
        settings.daemon.scrub,
        settings.daemon.scrub_rate,
        Budget(0.0, time.monotonic()),
    )


def _owning_run(root: str, directory: str) -> str:
    """The run that a directory belongs to, as the disk is now."""
    return owning_run(directory, lambda path: is_set_directory(inventory.look(root, path), path))
