"""`ckptd check PATH…`: judges the sets at the paths, with no configuration and no daemon."""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text
from rich.tree import Tree as RichTree

from ckptd.cli import output
from ckptd.core.assessment import Assessment, Rules, RunFacts, assess, scans_of
from ckptd.core.findings import FINDINGS
from ckptd.core.layouts import find_runs, lone_file, may_be_set_directory, recognise
from ckptd.core.model import ProgressKeys, Verdict
from ckptd.core.names import shown
from ckptd.core.units import shown_bytes
from ckptd.errors import CkptdError
from ckptd.shell import inventory
from ckptd.shell.prober import Prober, ScanRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ckptd.core.model import CheckpointSet, FileScan, Fingerprint, Judgement

_RULES = Rules(rule=None, keys=ProgressKeys(), policy=None)
_ANSWER_SECONDS = 1.0  # how often a scan that hangs is looked for


@dataclass(slots=True)
class _Place:
    """The sets of one run below one directory, with their scans."""

    root: str
    run: str
    sets: tuple[CheckpointSet, ...]
    scans: dict[Fingerprint, FileScan]

    @property
    def path(self) -> str:
        """The run's directory as the user wrote it."""
        return os.path.normpath(os.path.join(self.root, self.run))

    def assess(self) -> Assessment:
        """Judge what was scanned so far."""
        facts = RunFacts(self.sets, frozenset(one.key for one in self.sets), self.scans)
        return assess(facts, _RULES, datetime.now(UTC))


def run(options: argparse.Namespace) -> int:
    """Judge everything at the paths; 1 if anything is not valid or a path holds nothing to judge."""
    found = {path: _places(path) for path in options.paths}
    places = [place for some in found.values() for place in some]
    _scan(places, options.workers)
    verdicts = {verdict for place in places for verdict in _print(place, as_json=options.json)}
    empty = [path for path, some in found.items() if not some]
    for path in empty:
        sys.stderr.write(f"ckptd: {shown(path)}: there is no checkpoint set here\n")
    return 0 if verdicts <= {Verdict.VALID} and not empty else 1


def _places(path: str) -> list[_Place]:
    """The runs at a path: of a whole tree, of one set's directory, or one file taken by itself."""
    try:
        os.lstat(path)
        if not os.path.isdir(path):
            return [_lone_file(path)]
        parent, name = os.path.split(os.path.abspath(path))
        if may_be_set_directory(name):
            sets = recognise(inventory.look(parent, "."), ".")
            if own := tuple(one for one in sets if one.directory == name):
                return [_Place(os.path.dirname(os.path.normpath(path)), ".", own, {})]
        tree = inventory.walk(path)
    except OSError as error:
        raise CkptdError(f"{shown(path)}: {error.strerror}") from None
    # The trash of a root below is passed over: what lies there was removed.
    runs = [run for run in find_runs(tree) if inventory.OWN_DIRECTORY not in run.split("/")]
    return [_Place(path, run, recognise(tree, run), {}) for run in runs]


def _lone_file(path: str) -> _Place:
    root, name = os.path.split(os.path.normpath(path))
    entry = inventory.entry(root, name)
    return _Place(root, ".", (lone_file(entry),), {})


def _scan(places: Sequence[_Place], workers: int) -> None:
    """Fill in the scans of all places, with a progress bar where somebody watches."""
    answered = threading.Event()
    prober = Prober(workers, answered.set)
    owners: dict[ScanRequest, list[_Place]] = defaultdict(list)  # several where paths overlap
    for place in places:
        for member in place.assess().unscanned:
            owners[ScanRequest(place.root or ".", member.role, member.entry.fingerprint)].append(place)
    try:
        with _progress(sum(request.expected.bytes for request in owners)) as progress:
            for request in owners:
                prober.submit(request)
            while len(prober):
                answered.wait(_ANSWER_SECONDS)
                answered.clear()
                for result in prober.take_results():
                    for place in owners[result.request]:
                        place.scans[result.request.expected] = result.scan
                    progress.advance(progress.task_ids[0], result.request.expected.bytes)
    finally:
        prober.stop()


def _progress(total_bytes: int) -> Progress:
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("checking"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    progress.add_task("", total=total_bytes)
    return progress


def _print(place: _Place, *, as_json: bool) -> list[Verdict]:
    judged = place.assess().judged
    if as_json:
        for one, judgement in judged:
            output.print_json(output.set_object(place.path, one, judgement, scans_of(one, place.scans)))
    else:
        tree = RichTree(Text(shown(place.path), style="bold"))
        for one, judgement in sorted(judged, key=_by_progress):
            tree.add(_line(one, judgement))
        output.console().print(tree)
    return [judgement.verdict for _, judgement in judged]


def _by_progress(judged: tuple[CheckpointSet, Judgement]) -> tuple[bool, int, int, str]:
    one, judgement = judged
    return one.is_alias, judgement.step or 0, judgement.epoch or 0, one.name


def _line(one: CheckpointSet, judgement: Judgement) -> Text:
    where = f"step {judgement.step}" if judgement.step is not None else ""
    where = where or (f"epoch {judgement.epoch}" if judgement.epoch is not None else "")
    facts = ", ".join(part for part in (shown_bytes(one.bytes), where, one.layout) if part)
    line = Text.assemble(f"{shown(one.name)}  ", output.styled(judgement.verdict), f"  ({facts})")
    if judgement.findings:
        more = len(judgement.findings) - 1
        to_blame = [one for one in judgement.findings if FINDINGS[one.code].verdict is judgement.verdict]
        line.append(f"\n{output.in_words((*to_blame, *judgement.findings)[0])}")
        line.append(f"\nand {more} more; --json shows all" if more else "")
    return line
