"""Assesses the runs of one root, from the listing to the plan, with the scans it takes; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptd.core.assessment import Alone, Assessment, Rules, RunFacts, assess, is_read
from ckptd.core.layouts import recognise
from ckptd.core.records import is_lasting
from ckptd.core.settling import settle
from ckptd.shell import inventory
from ckptd.shell.scanner import ScanRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from ckptd.core.layouts import Tree
    from ckptd.core.model import CheckpointSet, FileScan, Fingerprint, SetKey
    from ckptd.core.settings import WatchSettings
    from ckptd.core.settling import Look
    from ckptd.shell.prober import Prober


class ScanStore(Protocol):
    """Where scans are remembered, by root and fingerprint; the ledger is one."""

    def scans(self, root: str, fingerprints: Iterable[Fingerprint]) -> dict[Fingerprint, FileScan]:
        """The scans of those files that were scanned as they are now."""

    def record_scans(
        self, root: str, found: Mapping[Fingerprint, FileScan], at: datetime
    ) -> dict[Fingerprint, FileScan]:
        """Remember scans, but for those that are not lasting; returns them as they hold from now on."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One reading of both clocks; a pass happens at one moment."""

    now: datetime  # aware UTC
    monotonic: float  # seconds


@dataclass(slots=True)
class RunState:
    """What is remembered of a run between looks, to save work."""

    looks: Mapping[SetKey, Look] = field(default_factory=dict)
    sets: dict[SetKey, CheckpointSet] = field(default_factory=dict)
    assessment: Assessment | None = None
    is_stale: bool = False  # something in it could not be looked at, and is to be tried again
    recheck_at: float | None = None  # monotonic: when an unsettled set could be settled


@dataclass(slots=True)
class Assessor:
    """Assesses the runs of one root and remembers them."""

    watch: WatchSettings
    settle_seconds: float
    store: ScanStore
    prober: Prober
    runs: dict[str, RunState] = field(default_factory=dict)
    # Scans that hold for now but are not worth remembering, such as of a file that may not be read.
    _passing: dict[Fingerprint, FileScan] = field(default_factory=dict)

    @property
    def rules(self) -> Rules:
        """How the sets of this root are judged, ranked and kept."""
        return Rules(self.watch.best, self.watch.progress, self.watch.retention)

    def look(
        self,
        run: str,
        moment: Moment,
        *,
        pinned: frozenset[SetKey] = frozenset(),
        released: frozenset[SetKey] = frozenset(),
        listing: Tree | None = None,
    ) -> Assessment | None:
        """Look at a run and assess it; what nobody has read yet is given to the prober.

        Args:
            run: the run's path below the root.
            moment: the pass's clocks.
            pinned: sets that are pinned.
            released: sets that a release was or is being made from.
            listing: what a walk over the whole root has just listed; None to list the run now.

        Returns:
            The assessment; None if the run holds no sets (any more).
        """
        tree = inventory.look(self.watch.path, run) if listing is None else listing
        sets = recognise(tree, run, layout=self.watch.layout, required=self.watch.require)
        if not sets:
            self.runs.pop(run, None)
            return None
        state = self.runs.setdefault(run, RunState())
        settled = settle(
            sets,
            state.looks,
            settle_seconds=self.settle_seconds,
            now_ns=round(moment.now.timestamp() * 1e9),
            monotonic=moment.monotonic,
        )
        known = self._known(state, sets)
        unknown = [one for one in sets if one.key in settled.keys and one.key not in known]
        facts = RunFacts(sets, settled.keys, self.scans_of(unknown), known, pinned, released)
        state.assessment = assess(facts, self.rules, moment.now)
        state.is_stale = False
        state.sets = {one.key: one for one in sets}
        state.looks = settled.looks
        wait = settled.wait_seconds
        state.recheck_at = None if wait is None else moment.monotonic + wait
        for member in state.assessment.unscanned:
            self.prober.submit(ScanRequest(self.watch.path, member.role, member.entry.fingerprint))
        return state.assessment

    def take(self, found: Mapping[Fingerprint, FileScan], at: datetime) -> frozenset[Fingerprint]:
        """Take in scans of files, also of such as were scanned before.

        Returns:
            The files of which something else is known now.
        """
        before = self.store.scans(self.watch.path, found)
        taken = self.store.record_scans(self.watch.path, found, at)
        self._passing.update((key, scan) for key, scan in taken.items() if not is_lasting(scan))
        changed = frozenset(key for key, scan in taken.items() if before.get(key) != scan)
        outdated = changed & before.keys()
        for state in self.runs.values() if outdated else ():
            fingerprints = (member.entry.fingerprint for one in state.sets.values() for member in one.members)
            state.is_stale = state.is_stale or not outdated.isdisjoint(fingerprints)
        return changed

    def forget_passing(self) -> None:
        """Have everything that could not be looked at looked at again."""
        for state in self.runs.values():
            state.is_stale = any(self._is_passing(one) for one in state.sets.values())
        self._passing.clear()

    def scans_of(self, sets: Iterable[CheckpointSet]) -> dict[Fingerprint, FileScan]:
        """The scans there are of the sets' members as they are now."""
        wanted = [member.entry.fingerprint for one in sets for member in one.members if is_read(member)]
        passing = {key: self._passing[key] for key in wanted if key in self._passing}
        return (self.store.scans(self.watch.path, wanted) if wanted else {}) | passing

    def _known(self, state: RunState, sets: Iterable[CheckpointSet]) -> dict[SetKey, Alone]:
        """Earlier judgements of sets that are still the same, file by file."""
        if state.assessment is None or state.is_stale:
            return {}
        alone = state.assessment.alone
        return {one.key: alone[one.key] for one in sets if one.key in alone and state.sets[one.key] == one}

    def _is_passing(self, one: CheckpointSet) -> bool:
        return any(member.entry.fingerprint in self._passing for member in one.members)
