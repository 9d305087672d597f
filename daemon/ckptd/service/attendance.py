"""Keeps every root watched and walked, through their going away and coming back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ckptd.core.names import shown
from ckptd.shell import inventory
from ckptd.shell.mounts import is_remote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptd.core.settings import WatchSettings
    from ckptd.reconcile.passes import Reconciler
    from ckptd.shell.logs import Log
    from ckptd.shell.watching import Watcher, Way


@dataclass(slots=True)
class Attendance:
    """The roots of one configuration, as far as they can be watched."""

    watches: tuple[WatchSettings, ...]
    reconciler: Reconciler
    watcher: Watcher
    log: Log
    _unwatched: set[str] = field(default_factory=set)
    _recovered: set[str] = field(default_factory=set)  # roots in which nothing half done is left
    _trouble: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._unwatched |= {watch.path for watch in self.watches}

    @property
    def trouble(self) -> Mapping[str, str]:
        """Why a root cannot be watched or walked now; roots that are fine are not in it."""
        return self._trouble

    def sweep(self) -> None:
        """Walk every root, and watch again those whose watch has ended."""
        self._unwatched |= set(self.watcher.dead())
        for watch in self.watches:
            self._attend(watch)

    def sweep_root(self, root: str) -> None:
        """Walk one root."""
        for watch in self.watches:
            if watch.path == root:
                self._attend(watch)

    def retry(self) -> None:
        """Attend to the roots that are in trouble, and to those whose watch has ended."""
        self._unwatched |= set(self.watcher.dead())
        for watch in self.watches:
            if watch.path in self._trouble or watch.path in self._unwatched:
                self._attend(watch)

    def leave(self) -> None:
        """Watch none of the roots any more."""
        for watch in self.watches:
            self.watcher.unwatch(watch.path)

    def _attend(self, watch: WatchSettings) -> None:
        reason = self._watch(watch) if watch.path in self._unwatched else ""
        try:
            inventory.require_directory(watch.path)
            reason = reason or self._recover(watch)
            self.reconciler.sweep(watch.path)  # after the watch began, so that nothing falls between the two
        except OSError as error:
            self._recovered.discard(watch.path)  # it may come back as another one
            reason = f"the root cannot be read: {error.strerror}; make it readable, or mount it"
        self._note(watch, reason)

    def _recover(self, watch: WatchSettings) -> str:
        """End what a crash has cut off; returns why that is not possible. Sets can be judged all the same."""
        if watch.path not in self._recovered:
            try:
                self.reconciler.recover(watch.path, datetime.now(UTC))
            except OSError as error:
                place = f"{shown(watch.path)}/{inventory.OWN_DIRECTORY}"
                return f"the trash cannot be used: {error.strerror}; mend what is in the way in {place}"
            self._recovered.add(watch.path)
        return ""

    def _watch(self, watch: WatchSettings) -> str:
        """Begin to watch; returns why that is not possible."""
        way: Way = "polling" if _wants_polling(watch) else "inotify"
        try:
            self.watcher.watch(watch.path, way, watch.poll_interval.total_seconds())
        except OSError as error:
            return f"the root cannot be watched by {way}: {error.strerror or error}"
        self._unwatched.discard(watch.path)
        self.log.emit("watch.started", root=watch.path, observer=way)
        return ""

    def _note(self, watch: WatchSettings, reason: str) -> None:
        before = self._trouble.pop(watch.path, "")
        if reason:
            self._trouble[watch.path] = reason
        if reason and reason != before:
            self.log.emit("watch.degraded", root=watch.path, reason=reason)
        elif before and not reason:
            self.log.emit("watch.recovered", root=watch.path)


def _wants_polling(watch: WatchSettings) -> bool:
    return watch.observer == "polling" or (watch.observer == "auto" and is_remote(watch.path))
