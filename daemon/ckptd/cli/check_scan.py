"""Reads files for `ckptd check`, with a progress bar where somebody watches."""

from __future__ import annotations

import threading
from contextlib import contextmanager
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

from ckptd.shell.prober import Prober

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckptd.shell.prober import ScanResult
    from ckptd.shell.scanner import ScanRequest

_LOOK_SECONDS = 0.2  # how often the bar moves, and a scan that hangs is looked for


def scan_all(requests: Sequence[ScanRequest], workers: int, on_result: Callable[[ScanResult], None]) -> None:
    """Scan all files.

    Args:
        requests: the files.
        workers: how many scan processes.
        on_result: told each answer.
    """
    if not requests:
        return
    answered = threading.Event()
    prober = Prober(workers, answered.set)
    try:
        with progress_bar("checking", sum(one.expected.bytes for one in requests)) as advance_to:
            for request in requests:
                prober.submit(request)
            while len(prober):
                answered.wait(_LOOK_SECONDS)
                answered.clear()
                for result in prober.take_results():
                    on_result(result)
                advance_to(prober.bytes_read)
    finally:
        prober.stop()


@contextmanager
def progress_bar(doing: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show bytes, speed and time left on stderr while the block runs, if that is a terminal.

    Yields:
        What is told how many bytes are done.
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn(doing),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = progress.add_task("", total=total_bytes)
    with progress:
        yield lambda done: progress.update(task, completed=min(done, total_bytes))
