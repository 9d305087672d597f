"""Exports in the background and publishes what was proven: one export at a time per deploy directory."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckptd.shell import durable, publishing
from ckptd.shell.durable import held
from ckptd.shell.exporting import Brake, Refusal, ReleaseJob, export, refused, trouble
from ckptd.shell.publishing import Exported, Published

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_STOP_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that has ended."""

    job: ReleaseJob
    outcome: Exported | Refusal


class _Running(NamedTuple):
    job: ReleaseJob
    brake: Brake
    thread: threading.Thread


@dataclass(slots=True)
class Releaser:
    """The exports under way. All methods belong to one thread; `on_finished` is called from others."""

    on_finished: Callable[[], None]
    _running: dict[str, _Running] = field(default_factory=dict)
    _finished: list[Finished] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, job: ReleaseJob, now: datetime) -> bool:
        """Begin an export and return at once; False if one for the same deploy directory is under way."""
        if job.deploy_dir in self._running:
            return False
        brake = Brake()
        # A daemon thread: a disk that does not answer must not keep the service from ending.
        thread = threading.Thread(target=self._run, args=(job, now, brake), name="export", daemon=True)
        self._running[job.deploy_dir] = _Running(job, brake, thread)
        thread.start()
        return True

    def running(self, deploy_dir: str) -> ReleaseJob | None:
        """The job for a deploy directory, from its start until `take_finished` has given it."""
        running = self._running.get(deploy_dir)
        return running.job if running is not None else None

    def take_finished(self) -> list[Finished]:
        """The jobs that have ended since the last call; each is then to be given to `publish`."""
        with self._lock:
            finished, self._finished = self._finished, []
        for one in finished:
            del self._running[one.job.deploy_dir]
        return finished

    def publish(self, finished: Finished, now: datetime) -> Published | Refusal:
        """Make a finished job's model live if it is still better than what is live; quick."""
        job, exported = finished.job, finished.outcome
        if isinstance(exported, Refusal):
            return exported
        outcome: Published | str | Refusal
        try:
            outcome = publishing.publish(job.deploy_dir, exported, job.rule, job.settings.keep, now)
        except OSError as error:
            outcome = trouble(job, error)
        if isinstance(outcome, Published):
            return outcome
        # A refused model must not fill the disk; where it cannot be removed, the next start does it.
        with contextlib.suppress(OSError), held(durable.open_directory(job.deploy_dir)) as deploy_fd:
            publishing.drop_staged(deploy_fd, exported.version)
        return Refusal(outcome, is_lasting=False) if isinstance(outcome, str) else outcome

    def stop(self) -> None:
        """Kill what runs, within a second. What it leaves in `.staging` is removed at the next start."""
        for running in self._running.values():
            running.brake.pull()
        deadline = time.monotonic() + _STOP_SECONDS
        for running in self._running.values():
            running.thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, job: ReleaseJob, now: datetime, brake: Brake) -> None:  # in the job's own thread
        outcome: Exported | Refusal = refused(
            job, "the export failed within ckptd", "Report it with the log."
        )
        try:
            outcome = export(job, now, brake)
        finally:  # whatever happened, the deploy directory must not stay taken
            with self._lock:
                self._finished.append(Finished(job, outcome))
            self.on_finished()
