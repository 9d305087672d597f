"""Carries out what a plan wants removed, and empties the trash when its time has come."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptd.core.model import Action
from ckptd.core.records import Removal, RemovalState
from ckptd.core.trash_entries import Purged, Removed, entry_id
from ckptd.shell import reaper, trash
from ckptd.shell.pins import pins

if TYPE_CHECKING:
    from datetime import datetime

    from ckptd.core.model import Decision, Plan, SetKey
    from ckptd.reconcile.assessor import Assessor, Moment
    from ckptd.shell.ledger import Ledger
    from ckptd.shell.logs import Log


@dataclass(slots=True)
class RemovalStep:
    """The removals of one root."""

    assessor: Assessor
    ledger: Ledger
    log: Log
    pinned: frozenset[SetKey] = frozenset()
    refusal: str = ""  # why the last removal was called off
    _pins_problem: str = ""
    _called_off: dict[SetKey, str] = field(default_factory=dict)  # why; told once
    _not_purged: dict[str, str] = field(default_factory=dict)  # by entry, why; told once

    def recover(self, now: datetime) -> None:
        """Bring to an end what a crash has cut off, and the journal up to date with the trash.

        Raises:
            OSError: the trash cannot be used.
        """
        root = self.assessor.watch.path
        trash.list_trash(root)  # a trash that cannot be used is told by the caller, once
        for found in reaper.recover(root):
            self.log.emit(
                "trash.recovered",
                root=root,
                entry=found.entry_id,
                run=found.key.run if found.key else None,
                set=found.key.name if found.key else None,
                reason=f"{found.outcome}: {found.reason}",
            )
        in_trash = {entry.entry_id for entry in trash.list_trash(root)}
        for removal in self.ledger.open_removals(root):
            state = RemovalState.REMOVED if removal.entry in in_trash else RemovalState.SKIPPED
            reason = (
                "found in the trash after a crash" if state is RemovalState.REMOVED else "cut off by a crash"
            )
            self._record(removal.key, removal.entry, state, now, size=removal.bytes, reason=reason)

    def refresh(self) -> None:
        """Read the pins; while they cannot be read, nothing is removed."""
        found = pins(self.assessor.watch.path)
        self.pinned = found.keys
        problem = f"{found.problems[0].path}: {found.problems[0].reason}" if found.problems else ""
        if found.problems and problem != self._pins_problem:
            self.log.emit("pin.damaged", path=found.problems[0].path, reason=found.problems[0].reason)
        self._pins_problem = problem

    def apply(self, run: str, plan: Plan, moment: Moment, doubt: str) -> list[int]:
        """Remove what the plan says, if the policy is enforced.

        Args:
            run: the run's path below the root.
            plan: what is to be done with its sets.
            moment: the pass's clocks.
            doubt: why it cannot be told which set is live; then any could be, and all stay.

        Returns:
            The bytes of each set that went.
        """
        policy = self.assessor.watch.retention
        if policy is None or not policy.enforce or self._pins_problem:
            return []
        if doubt:
            self._call_off(plan, f"refusing to remove a set that may be live: {doubt}")
            return []
        self._called_off.clear()
        freed = []
        for decision in plan.with_action(Action.REMOVE):
            entry = entry_id(moment.now, secrets.token_hex(3))
            self._record(decision.key, entry, RemovalState.BEGUN, moment.now, size=decision.bytes)
            doomed = self.assessor.runs[run].sets[decision.key]
            outcome = reaper.remove(
                self.assessor.watch.path, doomed, decision, entry, now=moment.now, trash_for=policy.trash_for
            )
            if isinstance(outcome, Removed):
                self.refusal = ""
                self._record(decision.key, entry, RemovalState.REMOVED, moment.now, size=outcome.bytes)
                self._tell_removed(decision, outcome)
                freed.append(outcome.bytes)
            else:
                self.refusal = outcome.reason
                self._record(decision.key, entry, RemovalState.SKIPPED, moment.now, reason=outcome.reason)
                self._tell_skipped(decision.key, outcome.reason)
        return freed

    def _call_off(self, plan: Plan, reason: str) -> None:
        for decision in plan.with_action(Action.REMOVE):
            self.refusal = reason
            if self._called_off.get(decision.key) != reason:
                self._called_off[decision.key] = reason
                self._tell_skipped(decision.key, reason)

    def purge(self, now: datetime) -> None:
        """Delete what has been in the trash for long enough."""
        root = self.assessor.watch.path
        if not os.path.isdir(root):
            return  # it is told elsewhere that the root is gone
        for outcome in trash.purge(root, now):
            if isinstance(outcome, Purged):
                self._tell_purged(outcome, now)
            elif self._not_purged.get(outcome.entry_id) != outcome.reason:
                self._not_purged[outcome.entry_id] = outcome.reason
                self.log.emit("trash.kept", root=root, entry=outcome.entry_id, reason=outcome.reason)

    def _tell_purged(self, outcome: Purged, now: datetime) -> None:
        key = outcome.key
        self.log.emit(
            "trash.purged",
            root=self.assessor.watch.path,
            entry=outcome.entry_id,
            bytes=outcome.bytes,
            run=key.run if key else None,
            set=key.name if key else None,
        )
        if key is not None:
            self._record(key, outcome.entry_id, RemovalState.PURGED, now, size=outcome.bytes)

    def _tell_removed(self, decision: Decision, outcome: Removed) -> None:
        self.log.emit(
            "set.removed",
            root=self.assessor.watch.path,
            run=decision.key.run,
            set=decision.key.name,
            entry=outcome.entry_id,
            bytes=outcome.bytes,
            reasons=decision.reasons,
        )

    def _tell_skipped(self, key: SetKey, reason: str) -> None:
        self.log.emit("set.skipped", root=self.assessor.watch.path, run=key.run, set=key.name, reason=reason)

    def _record(
        self, key: SetKey, entry: str, state: RemovalState, at: datetime, *, size: int = 0, reason: str = ""
    ) -> None:
        removal = Removal(key, entry, state, reason, size, at)
        self.ledger.record_removal(self.assessor.watch.path, removal)
