"""`ckptd plan`: what would be kept and removed, and why; judges what is not judged yet, removes nothing."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ckptd.cli import output, places
from ckptd.core.layouts import find_runs
from ckptd.core.model import Action, SetKey
from ckptd.core.names import shown
from ckptd.core.units import shown_bytes
from ckptd.errors import CkptdError, UsageError
from ckptd.reconcile.assessor import Assessor, Moment, ScanStore
from ckptd.reconcile.releasing import doubt_about, live_source
from ckptd.shell.deploy_directory import live
from ckptd.shell.ledger import open_existing_ledger
from ckptd.shell.pins import pins
from ckptd.shell.prober import Prober

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptd.core.assessment import Assessment
    from ckptd.core.model import Decision, FileScan, Fingerprint, Policy
    from ckptd.core.settings import Settings, WatchSettings
    from ckptd.shell.ledger import Ledger

_ANSWER_SECONDS = 1.0
_STYLES = {Action.KEEP: "green", Action.REMOVE: "red", Action.LEAVE: "yellow"}


@dataclass(slots=True)
class MemoryScans:
    """A scan store for when there is no ledger yet."""

    _scans: dict[Fingerprint, FileScan] = field(default_factory=dict)

    def scans(self, root: str, fingerprints: Iterable[Fingerprint]) -> dict[Fingerprint, FileScan]:
        """The scans of those files; each root has a store of its own."""
        del root
        return {one: self._scans[one] for one in fingerprints if one in self._scans}

    def record_scans(
        self, root: str, found: Mapping[Fingerprint, FileScan], at: datetime
    ) -> dict[Fingerprint, FileScan]:
        """Remember scans; nothing is known that they could be compared with."""
        del root, at
        self._scans.update(found)
        return dict(found)


def run(options: argparse.Namespace) -> int:
    """Print the plan for all runs, or for those that are named."""
    settings = places.settings(options)
    watches = places.reachable(settings)
    _tell_doubts(watches)
    runs = _wanted(watches, options.runs)
    planned = list(assessed(settings, runs))
    decisions = [
        (watch, places.run_name(watch, run), decision)
        for watch, run, assessment in planned
        for decision in assessment.plan.decisions
    ]
    if options.json:
        for _, run, decision in decisions:
            output.print_json(output.decision_object(run, decision))
        output.print_json({"summary": _summary([decision for _, _, decision in decisions])})
    else:
        _print(planned)
    return 0 if watches == settings.watches else CkptdError.exit_code


def _wanted(watches: Iterable[WatchSettings], names: Sequence[str]) -> list[tuple[WatchSettings, str]]:
    """The runs that are named, by their names, those of their watches, or paths; all, if none is.

    Raises:
        UsageError: a name means no run.
    """
    runs = [(watch, run) for watch in watches for run in find_runs(places.listing(watch))]
    unknown = [name for name in names if not any(_is_meant(watch, run, name) for watch, run in runs)]
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no run of that name; `ckptd status` lists the runs")
    return [one for one in runs if not names or any(_is_meant(*one, name) for name in names)]


def _is_meant(watch: WatchSettings, run: str, name: str) -> bool:
    path = os.path.normpath(os.path.join(watch.path, run))
    full = places.run_name(watch, run)
    return os.path.abspath(name) in {path, watch.path} or name.rstrip("/") in {
        run,
        full,
        shown(run),
        shown(full),
        watch.name,
    }


def assessed(
    settings: Settings, runs: Iterable[tuple[WatchSettings, str]]
) -> Iterator[tuple[WatchSettings, str, Assessment]]:
    """Assess runs with all that a verdict takes.

    Args:
        settings: the configuration.
        runs: which of its runs.

    Yields:
        The watch, the run and its assessment, unless the run is gone meanwhile.
    """
    answered = threading.Event()
    prober = Prober(settings.daemon.workers, answered.set)
    with ExitStack() as stack:
        stack.callback(prober.stop)
        ledger = open_existing_ledger(Path(settings.daemon.state_dir))
        if ledger is not None:
            stack.enter_context(ledger)
        for watch, run in runs:
            store: ScanStore = MemoryScans() if ledger is None else ledger
            assessor = Assessor(watch, settings.daemon.settle.total_seconds(), store, prober)
            assessment = _assess(assessor, run, _released(watch, ledger), answered)
            if assessment is not None:
                yield watch, run, assessment


def _assess(
    assessor: Assessor, run: str, released: frozenset[SetKey], answered: threading.Event
) -> Assessment | None:
    watch, prober = assessor.watch, assessor.prober
    found = pins(watch.path)
    if found.problems:
        problem = found.problems[0]
        raise CkptdError(
            f"{watch.path}/{problem.path}: {problem.reason}; restore the pin, or delete it and pin again"
        )
    while True:
        moment = Moment(datetime.now(UTC), time.monotonic())
        assessment = assessor.look(run, moment, pinned=found.keys, released=released)
        if assessment is None or assessment.is_complete:
            return assessment
        while len(prober):
            answered.wait(_ANSWER_SECONDS)
            answered.clear()
            results = prober.take_results()
            assessor.take({request.expected: scan for request, scan in results}, moment.now)


def _released(watch: WatchSettings, ledger: Ledger | None) -> frozenset[SetKey]:
    if watch.release is None:
        return frozenset()
    deploy_dir = watch.release.deploy_dir
    source = live_source(live(deploy_dir), deploy_dir, ledger)
    return frozenset({source[1]}) if source is not None and source[0] == watch.path else frozenset()


def _tell_doubts(watches: Iterable[WatchSettings]) -> None:
    for deploy_dir in (watch.release.deploy_dir for watch in watches if watch.release is not None):
        if doubt := doubt_about(live(deploy_dir), deploy_dir):
            sys.stderr.write(f"ckptd: nothing is removed while any set may be the live one: {doubt}\n")


def _summary(decisions: list[Decision]) -> dict[str, int]:
    counts = {action.value: sum(one.action is action for one in decisions) for action in Action}
    return counts | {"bytes_freed": sum(one.bytes for one in decisions if one.action is Action.REMOVE)}


def _mode(policy: Policy | None) -> str:
    if policy is None:
        return "no retention rules: nothing is removed"
    return "the service removes what is marked so" if policy.enforce else "plan only: nothing is removed"


def _print(planned: list[tuple[WatchSettings, str, Assessment]]) -> None:
    console = output.console()
    if not planned:
        console.print("no run with checkpoint sets yet")
        return
    for watch, run, assessment in planned:
        title = Text.assemble((shown(places.run_name(watch, run)), "bold"), f"  {_mode(watch.retention)}")
        table = Table(title=title, title_justify="left", box=None, header_style="bold")
        for column in ("set", "verdict", "size", "action"):
            table.add_column(column, no_wrap=True)
        table.add_column("why")
        for decision in assessment.plan.decisions:
            table.add_row(
                Text(shown(decision.key.name)),
                output.styled(decision.verdict),
                shown_bytes(decision.bytes),
                Text(decision.action, style=_STYLES[decision.action]),
                Text("\n".join(decision.reasons)),
            )
        console.print(table)
    decisions = [decision for _, _, assessment in planned for decision in assessment.plan.decisions]
    summary = _summary(decisions)
    console.print(
        f"keep {summary['keep']}, remove {summary['remove']} ({shown_bytes(summary['bytes_freed'])}),"
        f" leave {summary['leave']}"
    )
