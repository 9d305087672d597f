"""`ckptd check --load`: what paddle.load says of files in which the scan found nothing wrong."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptd.cli.check_scan import progress_bar
from ckptd.core.assessment import scans_of
from ckptd.core.load_comparison import FINDING_OF, is_loadable, load_differences
from ckptd.core.model import Finding, Verdict
from ckptd.core.names import shown
from ckptd.shell.load_process import LoadProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptd.cli.check_places import Place
    from ckptd.core.model import FileScan, Fingerprint


@contextmanager
def loader(python: str | None) -> Iterator[LoadProcess]:
    """Start the process that has Paddle, and end it with the block.

    Raises:
        UsageError: there is no Paddle.
    """
    process = LoadProcess(python or sys.executable)
    try:
        yield process
    finally:
        process.stop()


def load_all(places: Sequence[Place], process: LoadProcess) -> None:
    """Load the files of all sets that the scan found valid or suspect, and add what is found."""
    jobs: dict[tuple[str, Fingerprint], list[Place]] = {}  # several places where paths overlap
    scans: dict[tuple[str, Fingerprint], FileScan] = {}
    for place in places:
        for expected, scan in _to_load(place):
            jobs.setdefault((place.root, expected), []).append(place)
            scans[place.root, expected] = scan
    done = 0
    with progress_bar("loading", sum(expected.bytes for _, expected in jobs)) as advance_to:
        for (root, expected), owners in jobs.items():
            findings = _loaded(process, root, expected, scans[root, expected])
            for place in owners:
                place.loaded[expected] = findings
            done += expected.bytes
            advance_to(done)


def _to_load(place: Place) -> Iterator[tuple[Fingerprint, FileScan]]:
    for one, judgement in place.judged():
        if judgement.verdict in {Verdict.VALID, Verdict.SUSPECT}:
            found = scans_of(one, place.scans)
            for member in one.members:
                scan = found.get(member.entry.path)
                if scan is not None and is_loadable(member, scan):
                    yield member.entry.fingerprint, scan


def _loaded(process: LoadProcess, root: str, expected: Fingerprint, scan: FileScan) -> tuple[Finding, ...]:
    loaded = process.load(root or os.curdir, expected, safetensors=scan.container == "safetensors")
    if loaded.outcome in FINDING_OF:
        return (Finding(FINDING_OF[loaded.outcome], shown(expected.path), shown(loaded.detail)),)
    return () if loaded.tensors is None else load_differences(expected.path, scan, loaded.tensors)
