"""Scans files in a few low-priority, confined processes, away from the conductor."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.model import FileScan, Finding
from ckptd.core.names import shown
from ckptd.shell.scanner import ScanFailed, Scanner, ScannerGone, ScanRequest, scan_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.shell.scanner import Scan

_IDLE_SECONDS = 30.0  # a process without work is given back: the idle daemon is one small process
_BASE_SECONDS = 60.0  # what any scan may take,
_SLOWEST_BYTES_PER_SECOND = 2 << 20  # and how slow a disk may be beyond that, before the scan counts as hung
_SLOWEST_BYTES_PER_CPU_SECOND = 32 << 20  # the same for a processor


class ScanResult(NamedTuple):
    """A request with its answer."""

    request: ScanRequest
    scan: FileScan


@dataclass(slots=True)
class Prober:
    """The scan processes, each fed by a thread of its own. All methods belong to one other thread.

    A file on whose scan a process dies is tried once more, by a new process, because somebody else may have
    killed the first; then it gets the finding `scanner_failed`, and so does a file whose scan hangs.

    Attributes:
        workers: How many processes there are at most.
        on_result: Called, on another thread, when `take_results` has something to take.
        give_cache_back: Whether scans drop from the page cache what they have read.
        cpu_seconds: What a scan may compute besides what the size of its file explains: the largest head
            takes a few seconds, so what takes longer goes round in circles.
        scan: What a process does for a request; a function of a module.
    """

    workers: int
    on_result: Callable[[], None]
    give_cache_back: bool = True
    cpu_seconds: int = 30
    scan: Scan = scan_request
    _known: set[ScanRequest] = field(default_factory=set)
    _results: deque[ScanResult] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)  # guards what follows
    _waiting: deque[ScanRequest] = field(default_factory=deque)
    _threads: set[threading.Thread] = field(default_factory=set)
    _scanners: set[Scanner] = field(default_factory=set)
    _bytes_answered: int = 0
    _is_stopped: bool = False

    def submit(self, request: ScanRequest) -> None:
        """Ask for a scan; asking again while it is under way changes nothing."""
        if request in self._known:
            return
        self._known.add(request)
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()
            if len(self._threads) < min(self.workers, len(self._known)):
                thread = threading.Thread(target=self._work, name="scans", daemon=True)
                self._threads.add(thread)
                thread.start()

    def __len__(self) -> int:
        """How many requests are not answered yet."""
        return len(self._known)

    @property
    def bytes_read(self) -> int:
        """How far all scans are together, in bytes: files that are answered, and what was read of others.

        An answered file counts as a whole, wherever its scan ended. What a process had read when it died no
        longer counts: it is read again.
        """
        with self._changed:
            return self._bytes_answered + sum(scanner.bytes_read for scanner in self._scanners)

    def take_results(self) -> list[ScanResult]:
        """The answers since the last call."""
        results = [self._results.popleft() for _ in range(len(self._results))]
        self._known.difference_update(result.request for result in results)
        return results

    def stop(self) -> None:
        """Kill what runs and forget what waits."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            threads = list(self._threads)
            for scanner in self._scanners:
                scanner.kill()
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        """Feed one process after the other, until there has been nothing to do for a while."""
        scanner: Scanner | None = None
        while (request := self._next()) is not None:
            scanner, scan = self._scanned(request, scanner)
            self._answer(ScanResult(request, scan), scanner)
        if scanner is not None:
            self._end(scanner)

    def _next(self) -> ScanRequest | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopped, _IDLE_SECONDS)
            if self._waiting and not self._is_stopped:
                return self._waiting.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def _scanned(self, request: ScanRequest, scanner: Scanner | None) -> tuple[Scanner | None, FileScan]:
        """What a process says of a file, or what became of it; and the process to go on with, if it lives."""
        size = request.expected.bytes
        is_retry = False
        while True:
            try:
                scanner = scanner or self._start()
            except OSError as error:
                return None, _failed(request, f"no scan process could be started: {error}")
            try:
                return scanner, scanner.ask(
                    request,
                    cpu_seconds=self.cpu_seconds + size // _SLOWEST_BYTES_PER_CPU_SECOND,
                    seconds=_BASE_SECONDS + size / _SLOWEST_BYTES_PER_SECOND,
                )
            except ScannerGone as gone:
                self._end(scanner)
                scanner = None
                if is_retry or gone.was_hung or self._is_stopped:
                    return None, _failed(request, str(gone))
                is_retry = True
            except ScanFailed as failed:
                return scanner, _failed(request, str(failed))

    def _start(self) -> Scanner:
        scanner = Scanner(self.scan, self.give_cache_back)
        with self._changed:
            self._scanners.add(scanner)
            if self._is_stopped:
                scanner.kill()
        return scanner

    def _end(self, scanner: Scanner) -> None:
        with self._changed:
            self._scanners.discard(scanner)
        scanner.close()

    def _answer(self, result: ScanResult, scanner: Scanner | None) -> None:
        with self._changed:
            if self._is_stopped:
                return
            if scanner is not None:
                scanner.forget_progress()
            self._bytes_answered += result.request.expected.bytes
            self._results.append(result)
        self.on_result()


def _failed(request: ScanRequest, why: str) -> FileScan:
    finding = Finding("scanner_failed", shown(request.expected.path), why)
    return FileScan("none", request.expected.bytes, None, (finding,))
