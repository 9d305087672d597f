"""The one thread that decides and acts: it waits for word, makes a pass, and waits again."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ckptd import __version__
from ckptd.core.model import Verdict
from ckptd.core.names import shown
from ckptd.reconcile.assessor import Moment
from ckptd.reconcile.passes import Reconciler
from ckptd.service.attendance import Attendance
from ckptd.shell import systemd
from ckptd.shell.inbox import Mail, Wake
from ckptd.shell.ledger import LedgerDamaged, LedgerUnavailable, open_ledger
from ckptd.shell.status import write_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.settings import Settings
    from ckptd.reconcile.passes import PassReport, Resources
    from ckptd.shell.inbox import Inbox
    from ckptd.shell.watching import Watcher

_LONGEST_WAIT_SECONDS = 60.0
_TROUBLED_SECONDS = 5.0  # how often a root that is in trouble is tried again
_SETTLE_MARGIN_SECONDS = 2.0  # what a complete pass waits for sets to settle, beyond the time they need
_REMEMBERED = timedelta(days=365)
_SWEEP = Mail(wakes=frozenset({Wake.SWEEP}))


class Conductor:
    """Makes passes over the roots of one configuration, which a reload may replace."""

    def __init__(self, settings: Settings, resources: Resources, watcher: Watcher, inbox: Inbox) -> None:
        self._watcher = watcher
        self._inbox = inbox
        self._ledger_trouble = ""
        self._started_at = datetime.now(UTC)
        self._complete_at = time.monotonic()  # when the last complete pass ended
        self._told: Counter[Verdict] = Counter()  # what the last told pass has found
        self.conduct(settings, resources)

    def conduct(self, settings: Settings, resources: Resources) -> None:
        """Take up a configuration; what was known of the runs is looked up again."""
        self.settings = settings
        self.resources = resources
        self._reconciler = Reconciler(settings, resources)
        self._attendance = Attendance(settings.watches, self._reconciler, self._watcher, resources.log)

    def leave(self) -> None:
        """Drop the present configuration."""
        self._attendance.leave()

    def run(self, reload: Callable[[], None]) -> None:
        """Serve until told to stop; `reload` is called when word of a new configuration comes."""
        self._pass(_SWEEP)
        self._notify(READY=1)
        while not self._inbox.is_stopping:
            mail = self._inbox.take(self._wait_seconds())
            if Wake.RELOAD in mail.wakes:
                systemd.notify_reloading()
                reload()
                self._pass(_SWEEP)
                self._notify(READY=1)
            self._pass(mail)
            if Wake.HEARTBEAT in mail.wakes:
                self._beat()
            self._notify(WATCHDOG=1)
        systemd.notify(STOPPING=1)

    def run_once(self) -> int:
        """Make one complete pass: all scans and exports are waited for; returns the exit code.

        Sets that somebody still writes get the settle time once, then they are left for another time.
        """
        self._pass(_SWEEP)
        settle_until = time.monotonic() + self.settings.daemon.settle.total_seconds() + _SETTLE_MARGIN_SECONDS
        while not (self._inbox.is_stopping or self._ledger_trouble) and self._is_busy(settle_until):
            self._pass(self._inbox.take(min(1.0, self._wait_seconds())))
        if self._attendance.trouble or self._ledger_trouble:
            return 3
        bad = self._reconciler.verdicts.keys() - {Verdict.VALID, Verdict.WRITING}
        return 1 if bad or self._reconciler.refusals else 0

    def _is_busy(self, settle_until: float) -> bool:
        unsettled = self._reconciler.verdicts[Verdict.WRITING] > 0 and time.monotonic() < settle_until
        exporting = any(
            watch.release is not None and self.resources.releaser.running(watch.release.deploy_dir)
            for watch in self.settings.watches
        )
        return len(self.resources.prober) > 0 or exporting or unsettled or self._reconciler.has_work

    def _wait_seconds(self) -> float:
        now = time.monotonic()
        due = self._reconciler.next_due()
        watchdog = systemd.watchdog_seconds()
        waits = (
            0.0 if self._reconciler.has_work and not self._ledger_trouble else None,
            _LONGEST_WAIT_SECONDS,
            None if due is None else due - now,
            _TROUBLED_SECONDS if self._attendance.trouble or self._ledger_trouble else None,
            None if watchdog is None else watchdog / 3,
        )
        return max(0.0, min(wait for wait in waits if wait is not None))

    def _pass(self, mail: Mail) -> None:
        started = time.monotonic()
        try:
            report = self._reconcile(mail)
        except LedgerDamaged as error:
            self._replace_ledger(error.reason)
            return
        except LedgerUnavailable as error:
            self._note_ledger(str(error))
            return
        self._note_ledger("")
        if not report.is_complete:
            return
        self._complete_at = time.monotonic()
        is_news = report.changed or report.removed or self._judged != self._told
        if is_news or Wake.SWEEP in mail.wakes:
            self._tell(report, self._complete_at - started)

    def _reconcile(self, mail: Mail) -> PassReport:
        if Wake.SWEEP in mail.wakes:
            self._attendance.sweep()
            self._reconciler.tidy_up(datetime.now(UTC))
            self.resources.ledger.forget_before(datetime.now(UTC) - _REMEMBERED)
        else:
            self._attendance.retry()
        for hint in mail.hints:
            if hint.directory is None:
                self._attendance.sweep_root(hint.root)
            else:
                self._reconciler.hint(hint)
        moment = self._moment()
        self._reconciler.take_scans(self.resources.prober.take_results(), moment)
        self._reconciler.take_rereads(self.resources.scrubber.take_results(), moment)
        self._reconciler.take_exports(self.resources.releaser.take_finished(), moment)
        self._reconciler.mark_due(moment.monotonic)
        report = self._reconciler.run_pass(moment, lambda: self._inbox.is_stopping)
        if Wake.SCRUB in mail.wakes:
            self._reconciler.mark_scrub()
        self._reconciler.scrub(moment)
        return report

    def _moment(self) -> Moment:
        return Moment(datetime.now(UTC), time.monotonic())

    @property
    def _judged(self) -> Counter[Verdict]:
        """How many sets there are of each final verdict."""
        verdicts = self._reconciler.verdicts.copy()
        del verdicts[Verdict.WRITING], verdicts[Verdict.PENDING]
        return verdicts

    def _tell(self, report: PassReport, seconds: float) -> None:
        self._told = self._judged
        verdicts = self._reconciler.verdicts
        pending = verdicts[Verdict.WRITING] + verdicts[Verdict.PENDING]
        self.resources.log.emit(
            "pass.finished",
            runs=report.runs,
            sets=verdicts.total(),
            valid=verdicts[Verdict.VALID],
            not_valid=verdicts.total() - pending - verdicts[Verdict.VALID],
            pending=pending,
            removed=report.removed,
            bytes_freed=report.freed_bytes,
            seconds=round(seconds, 3),
        )
        self._leave_status()

    def _beat(self) -> None:
        self.resources.log.emit(
            "daemon.heartbeat",
            seconds=round(time.monotonic() - self._complete_at, 3),
            pending=len(self.resources.prober) or None,
        )
        self._leave_status()

    def _leave_status(self) -> None:
        since = time.monotonic() - self._complete_at
        with suppress(OSError):  # nothing depends on it
            write_status(
                self.settings.daemon.state_dir,
                {
                    "schema": 1,
                    "version": __version__,
                    "pid": os.getpid(),
                    "started_at": self._started_at.isoformat(),
                    "complete_pass_at": (datetime.now(UTC) - timedelta(seconds=since)).isoformat(),
                    "pending_scans": len(self.resources.prober),
                    "trouble": {shown(root): reason for root, reason in self._attendance.trouble.items()},
                },
            )

    def _notify(self, **state: int) -> None:
        verdicts = self._reconciler.verdicts
        systemd.notify(**state, STATUS=f"{verdicts.total()} sets, {verdicts[Verdict.VALID]} of them valid")

    def _note_ledger(self, trouble: str) -> None:
        if trouble and trouble != self._ledger_trouble:
            self.resources.log.emit("ledger.unavailable", reason=trouble)
        self._ledger_trouble = trouble

    def _replace_ledger(self, reason: str) -> None:
        """Set a ledger aside that broke while it was in use, and begin anew."""
        self.resources.ledger.close()
        state_dir = self.settings.daemon.state_dir
        try:
            ledger, damage = open_ledger(Path(state_dir), datetime.now(UTC))
        except LedgerUnavailable as error:
            self._note_ledger(str(error))
            return
        log = self.resources.log
        if damage is not None:
            log.emit("ledger.damaged", path=state_dir, set_aside=str(damage.set_aside), reason=damage.reason)
        else:
            log.emit("ledger.damaged", path=state_dir, set_aside="", reason=reason)
        log.emit("ledger.rebuilt", path=state_dir)
        self.leave()
        self.conduct(self.settings, replace(self.resources, ledger=ledger))
        self._pass(_SWEEP)
