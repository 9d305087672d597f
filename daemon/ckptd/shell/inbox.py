"""Where all threads and signals leave word for the conductor, merged so that a burst costs one look."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptd.shell.watching import Hint


class Wake(Enum):
    """Reasons to wake the conductor."""

    HINT = auto()
    SWEEP = auto()
    HEARTBEAT = auto()
    SCRUB = auto()
    SCANNED = auto()
    EXPORTED = auto()
    RELOAD = auto()
    STOP = auto()


@dataclass(frozen=True, slots=True)
class Mail:
    """What has come in since the last time."""

    wakes: frozenset[Wake] = frozenset()
    hints: frozenset[Hint] = frozenset()


@dataclass(slots=True)
class Inbox:
    """Any thread or signal handler posts, the conductor takes.

    Hints are merged in a set behind a lock, which signal handlers never touch; everything else goes through a
    SimpleQueue, whose `put` may be called while the same thread is inside `get`.
    """

    gather_seconds: float = (
        0.05  # a save raises a handful of events; one look after the last of them is enough
    )
    _queue: queue.SimpleQueue[Wake] = field(default_factory=queue.SimpleQueue)
    _hints: set[Hint] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: bool = False

    def post(self, wake: Wake) -> None:
        """Leave word; safe in signal handlers."""
        if wake is Wake.STOP:
            self._stopping = True
        self._queue.put(wake)

    def post_hint(self, hint: Hint) -> None:
        """Leave word of a change."""
        with self._lock:
            is_first = not self._hints
            self._hints.add(hint)
        if is_first:
            self._queue.put(Wake.HINT)

    @property
    def is_stopping(self) -> bool:
        """Whether the daemon was told to stop; long work asks between its steps."""
        return self._stopping

    def take(self, timeout_seconds: float) -> Mail:
        """Wait for word, gather what comes with it, and return all of it; empty after the timeout."""
        wakes: set[Wake] = set()
        deadline = time.monotonic() + timeout_seconds
        while not self._stopping:
            try:
                wake = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if not wakes:
                deadline = time.monotonic() + self.gather_seconds
            wakes.add(wake)
        with self._lock:
            hints, self._hints = frozenset(self._hints), set()
        return Mail(frozenset(wakes), hints)
