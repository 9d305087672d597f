"""Turns file events into hints: which directory of which root may have changed.

A hint may be late, doubled, wrong or missing; the sweep makes up for all of that.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from ckptd.shell.inventory import OWN_DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchdog.observers.api import BaseObserver, ObservedWatch

_INOTIFY_EVENTS: Final[list[type[FileSystemEvent]]] = [
    # Without a filter watchdog 7.1 also asks for open and close-without-write events; from about 10,000
    # directories on, its own listing of them then floods the queue for ever. The created events must stay:
    # without them new directories are not watched at all (watchdog issue 990).
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
]
_POLLING_EVENTS: Final[list[type[FileSystemEvent]]] = [*_INOTIFY_EVENTS, FileModifiedEvent]

Way = Literal["inotify", "polling"]


@dataclass(frozen=True, slots=True)
class Hint:
    """Something may have changed in a directory of a root; the root as a whole when `directory` is None."""

    root: str
    directory: str | None


class Watcher:
    """Watches roots with one inotify instance for all, and with one poller for each interval."""

    def __init__(self, on_hint: Callable[[Hint], None]) -> None:
        # A directory that is moved twice, as on its way into the trash, is watched anew while the old watch
        # is still known: the library rightly replaces it, and warns about that.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        self._on_hint = on_hint
        self._inotify: BaseObserver = Observer()
        self._pollers: dict[float, BaseObserver] = {}
        self._watches: dict[str, tuple[BaseObserver, ObservedWatch]] = {}
        self._overflow = _OverflowListener(self._lost)
        # watchdog tells nobody but its log that the kernel dropped events.
        self._library_log = logging.getLogger("watchdog.observers.inotify_c")
        self._library_log.addHandler(self._overflow)
        self._inotify.start()

    def watch(self, root: str, way: Way, poll_seconds: float) -> None:
        """Begin to watch a root; anything before this call must be found by a scan after it.

        Raises:
            OSError: the root cannot be watched (missing, no permission, a limit of the system).
        """
        self.unwatch(root)
        observer = self._inotify if way == "inotify" else self._poller(poll_seconds)
        handler = _Handler(root, self._on_hint)
        events = _INOTIFY_EVENTS if way == "inotify" else _POLLING_EVENTS
        watch = observer.schedule(handler, root, recursive=True, event_filter=events)
        self._watches[root] = (observer, watch)

    def unwatch(self, root: str) -> None:
        """Stop watching a root; unknown ones are ignored."""
        observer, watch = self._watches.pop(root, (None, None))
        if observer is not None and watch is not None:
            with suppress(KeyError, OSError):  # the library may have dropped it when the root vanished
                observer.unschedule(watch)

    def dead(self) -> tuple[str, ...]:
        """The roots whose watch has ended by itself, as it does when a root is removed."""
        return tuple(
            root for root, (observer, watch) in self._watches.items() if not _is_alive(observer, watch)
        )

    def stop(self) -> None:
        """End all watching."""
        self._library_log.removeHandler(self._overflow)
        for observer in (self._inotify, *self._pollers.values()):
            observer.stop()
        for observer in (self._inotify, *self._pollers.values()):
            observer.join(timeout=2)

    def _poller(self, seconds: float) -> BaseObserver:
        if seconds not in self._pollers:
            self._pollers[seconds] = PollingObserver(timeout=seconds)
            self._pollers[seconds].start()
        return self._pollers[seconds]

    def _lost(self) -> None:
        for root in tuple(self._watches):
            self._on_hint(Hint(root, None))


def _is_alive(observer: BaseObserver, watch: ObservedWatch) -> bool:
    return any(emitter.watch == watch and emitter.is_alive() for emitter in tuple(observer.emitters))


class _Handler(FileSystemEventHandler):
    """Maps events to the directories they happened in."""

    def __init__(self, root: str, on_hint: Callable[[Hint], None]) -> None:
        self._root = root
        self._on_hint = on_hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        for directory in self._directories(event):
            self._on_hint(Hint(self._root, directory))

    def _directories(self, event: FileSystemEvent) -> Iterable[str]:
        found: set[str] = set()
        for raw in (event.src_path, event.dest_path):
            path = os.path.relpath(os.fsdecode(raw), self._root) if raw else OWN_DIRECTORY
            if path.split("/", 1)[0] in {OWN_DIRECTORY, ".."}:
                continue
            found.add(os.path.dirname(path) or ".")
            if event.is_directory:
                found.add(path)
        return found


class _OverflowListener(logging.Handler):
    """Hears the only sign that watchdog gives of lost events."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._on_overflow()
