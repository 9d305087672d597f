"""Wakes the conductor at fixed intervals. A job only posts a message; the work is the conductor's."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from apscheduler.schedulers.background import BackgroundScheduler

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta


class Schedule:
    """Recurring wake-ups on a thread of their own."""

    def __init__(self) -> None:
        # UTC knows no daylight saving; a late job runs late instead of being dropped, never twice at once.
        self._scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def every(self, interval: timedelta, name: str, post: Callable[[], None]) -> None:
        """Call `post` each `interval`; a job of the same name is replaced."""
        seconds = interval.total_seconds()
        self._scheduler.add_job(post, "interval", seconds=seconds, id=name, replace_existing=True)

    def never(self, name: str) -> None:
        """End the job of this name, if there is one."""
        if self._scheduler.get_job(name) is not None:
            self._scheduler.remove_job(name)

    def start(self) -> None:
        """Begin to wake."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wake no more."""
        self._scheduler.shutdown(wait=False)
