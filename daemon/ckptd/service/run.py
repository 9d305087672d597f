"""Puts the daemon together, and takes it apart again within five seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ckptd import __version__
from ckptd.config import ConfigError, load, notes
from ckptd.core.scrubbing import step
from ckptd.reconcile.passes import Resources
from ckptd.service.conductor import Conductor
from ckptd.shell import locking, logs
from ckptd.shell.inbox import Inbox, Wake
from ckptd.shell.ledger import open_ledger
from ckptd.shell.pacing import at_pace
from ckptd.shell.prober import Prober
from ckptd.shell.publishing import clean_up
from ckptd.shell.releaser import Releaser
from ckptd.shell.scheduling import Schedule
from ckptd.shell.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptd.core.settings import Settings
    from ckptd.shell.logs import Log

_INTERRUPTED = 128 + signal.SIGINT


def serve(config_path: str, *, once: bool) -> int:
    """Serve until told to stop, or make one complete pass; returns the exit code.

    Raises:
        CkptdError: the configuration is wrong, another daemon holds the state directory, or the ledger cannot
            be used.
    """
    inbox = Inbox()
    with _signals(inbox) as caught:
        settings = load(config_path)
        with locking.state_directory(settings.daemon.state_dir):
            code = _serve_alone(config_path, settings, inbox, caught, once=once)
    return _INTERRUPTED if once and caught else code


def _serve_alone(config_path: str, settings: Settings, inbox: Inbox, caught: list[int], *, once: bool) -> int:
    started = time.monotonic()
    log = _log(settings)
    state_dir = settings.daemon.state_dir
    ledger, damage = open_ledger(Path(state_dir), datetime.now(UTC))
    log.emit(
        "daemon.started",
        version=__version__,
        pid=os.getpid(),
        config=config_path,
        roots=tuple(watch.path for watch in settings.watches),
    )
    if damage is not None:
        log.emit("ledger.damaged", path=state_dir, set_aside=str(damage.set_aside), reason=damage.reason)
        log.emit("ledger.rebuilt", path=state_dir)
    _tell_notes(log, settings)
    _clear_staging(settings)
    resources = Resources(
        ledger=ledger,
        log=log,
        prober=Prober(settings.daemon.workers, lambda: inbox.post(Wake.SCANNED)),
        scrubber=_scrubber(settings, inbox),
        releaser=Releaser(lambda: inbox.post(Wake.EXPORTED)),
    )
    watcher, schedule = Watcher(inbox.post_hint), Schedule()
    conductor = Conductor(settings, resources, watcher, inbox)
    try:
        if once:
            return conductor.run_once()
        _set_intervals(schedule, settings, inbox)
        schedule.start()
        conductor.run(lambda: _reload(config_path, conductor, schedule, inbox))
        return 0
    finally:
        _stop(conductor.resources, watcher, schedule if not once else None)
        reason = ", ".join(signal.Signals(one).name for one in caught) or "it has finished"
        log.emit("daemon.stopped", reason=reason, seconds=round(time.monotonic() - started, 3))


def _reload(config_path: str, conductor: Conductor, schedule: Schedule, inbox: Inbox) -> None:
    """Take up the configuration as it is now; if it is wrong, the one before stays in force."""
    before = conductor.settings
    try:
        settings = _loaded_beside(config_path, before)
    except ConfigError as error:
        conductor.resources.log.emit("config.rejected", config=config_path, problems=error.problems)
        return
    resources = replace(conductor.resources, log=_log(settings))
    if settings.daemon.workers != before.daemon.workers:
        resources.prober.stop()
        resources = replace(
            resources, prober=Prober(settings.daemon.workers, lambda: inbox.post(Wake.SCANNED))
        )
    if settings.daemon.scrub_rate != before.daemon.scrub_rate:
        resources.scrubber.stop()
        resources = replace(resources, scrubber=_scrubber(settings, inbox))
    conductor.leave()
    conductor.conduct(settings, resources)
    _set_intervals(schedule, settings, inbox)
    resources.log.emit("config.reloaded", config=config_path)
    _tell_notes(resources.log, settings)


def _loaded_beside(config_path: str, before: Settings) -> Settings:
    """The configuration as it is now, if a running daemon can take it up."""
    settings = load(config_path)
    if settings.daemon.state_dir != before.daemon.state_dir:
        problem = "daemon.state_dir: expected the directory in use, which only a restart can change"
        raise ConfigError((f"{config_path}: {problem}, got {settings.daemon.state_dir!r}",))
    return settings


def _scrubber(settings: Settings, inbox: Inbox) -> Prober:
    return Prober(1, lambda: inbox.post(Wake.SCANNED), scan=at_pace(settings.daemon.scrub_rate))


def _log(settings: Settings) -> Log:
    return logs.configure(
        sys.stdout,
        format=settings.log.format,
        level=settings.log.level,
        journal=os.environ.get("JOURNAL_STREAM"),
    )


def _tell_notes(log: Log, settings: Settings) -> None:
    for note in notes(settings):
        log.emit("config.noted", message=note)


def _clear_staging(settings: Settings) -> None:
    """Remove what an export that was cut off has left; no export runs yet."""
    for watch in settings.watches:
        if watch.release is not None:
            with suppress(OSError):  # the next export there meets the same trouble, and tells it
                clean_up(watch.release.deploy_dir)


def _set_intervals(schedule: Schedule, settings: Settings, inbox: Inbox) -> None:
    schedule.every(settings.daemon.sweep, "sweep", lambda: inbox.post(Wake.SWEEP))
    schedule.every(settings.daemon.heartbeat, "heartbeat", lambda: inbox.post(Wake.HEARTBEAT))
    if settings.daemon.scrub is None:
        schedule.never("scrub")
    else:
        schedule.every(step(settings.daemon.scrub), "scrub", lambda: inbox.post(Wake.SCRUB))


def _stop(resources: Resources, watcher: Watcher, schedule: Schedule | None) -> None:
    if schedule is not None:
        schedule.stop()
    resources.prober.stop()
    resources.scrubber.stop()
    resources.releaser.stop()
    watcher.stop()
    resources.ledger.close()


@contextmanager
def _signals(inbox: Inbox) -> Iterator[list[int]]:
    """Turn signals into word for the conductor; yields those that told it to stop."""
    caught: list[int] = []

    def stop(number: int, _: object) -> None:
        caught.append(number)
        inbox.post(Wake.STOP)

    handlers = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: lambda *_: inbox.post(Wake.RELOAD),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
