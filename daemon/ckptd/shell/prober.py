"""Scans files in a small pool of low-priority, confined processes, away from the conductor."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.model import FileScan, Finding, Fingerprint, Role
from ckptd.core.names import shown
from ckptd.shell.confinement import Profile, allow_cpu, confine
from ckptd.shell.priority import become_background_worker
from ckptd.shell.scanning import scan_file

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence
    from multiprocessing.sharedctypes import Synchronized

    Scan = Callable[["ScanRequest", Callable[[int], None], bool], FileScan]
    """Scans a file, says how many of its bytes were read so far, and may give the page cache back."""

_IDLE_SECONDS = 30.0  # a pool without work is given back: the idle daemon is one small process
_AHEAD = 32  # requests given to the pool per process, so that small files do not wait for the conductor
_BASE_SECONDS = 60.0  # what any scan may take,
_SLOWEST_BYTES_PER_SECOND = 2 << 20  # and how slow a disk may be beyond that, before the scan counts as hung
_SLOWEST_BYTES_PER_CPU_SECOND = 32 << 20  # the same for a processor


class ScanRequest(NamedTuple):
    """One file to scan: as it was when it was looked at."""

    root: str
    role: Role
    expected: Fingerprint


class ScanResult(NamedTuple):
    """A request with its answer."""

    request: ScanRequest
    scan: FileScan


@dataclass(slots=True)
class _Running:
    request: ScanRequest
    pool: ProcessPoolExecutor
    deadline: float
    failed: str = ""  # why its process was killed


@dataclass(slots=True)
class _Progress:
    """How many bytes each process of a pool has read, in memory that it shares with the daemon."""

    slots: MutableSequence[int]
    taken: Synchronized[int]  # how many processes have found their slot
    own: int = 0  # the slot of this process


def scan_request(request: ScanRequest, on_progress: Callable[[int], None], give_cache_back: bool) -> FileScan:
    """Scan the requested file."""
    return scan_file(
        request.root,
        request.expected.path,
        request.role,
        expected=request.expected,
        on_progress=on_progress,
        give_cache_back=give_cache_back,
    )


@dataclass(slots=True)
class Prober:
    """The scan pool. All methods belong to one thread; only `on_result` is called from another.

    A file on which a scan process dies or hangs is tried once more with nothing beside it, so that it cannot
    be blamed for another one's doing; then it gets the finding `scanner_failed`.

    Attributes:
        workers: How many processes.
        on_result: Called when `take_results` has something to take.
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
    _waiting: deque[ScanRequest] = field(default_factory=deque)
    _suspects: deque[ScanRequest] = field(default_factory=deque)
    _running: dict[Future[FileScan], _Running] = field(default_factory=dict)
    _known: set[ScanRequest] = field(default_factory=set)
    _done: deque[Future[FileScan]] = field(default_factory=deque)
    _results: list[ScanResult] = field(default_factory=list)
    _pool: ProcessPoolExecutor | None = None
    _progress: _Progress | None = None  # of this pool
    _idle_since: float = 0.0
    _bytes_answered: int = 0
    _bytes_before: int = 0  # answered when the pool was made

    def submit(self, request: ScanRequest) -> None:
        """Ask for a scan; asking again while it is under way changes nothing."""
        if request not in self._known:
            self._known.add(request)
            self._waiting.append(request)
            self._launch()

    def __len__(self) -> int:
        """How many requests are not answered yet."""
        return len(self._known)

    @property
    def bytes_read(self) -> int:
        """How far all scans are together, in bytes: files that are answered, and what was read of others.

        An answered file counts as a whole, wherever its scan ended. What a process had read when it died no
        longer counts: it is read again.
        """
        if self._progress is None:
            return self._bytes_answered
        return max(self._bytes_answered, self._bytes_before + sum(self._progress.slots))

    def take_results(self) -> list[ScanResult]:
        """The answers since the last call; also starts what waits, and ends what hangs or idles."""
        while self._done:
            self._settle(self._done.popleft())
        self._end_what_hangs()
        self._launch()
        results, self._results = self._results, []
        self._known.difference_update(result.request for result in results)
        if self._running:
            self._idle_since = time.monotonic()
        elif self._pool is not None and time.monotonic() - self._idle_since > _IDLE_SECONDS:
            self._pool.shutdown(wait=False)
            self._forget_pool()
        return results

    @property
    def wants_attention_in(self) -> float | None:
        """After how many seconds `take_results` should be called even without a result."""
        return _IDLE_SECONDS if self._pool is not None else None

    def stop(self) -> None:
        """Kill what runs and forget what waits."""
        self._waiting.clear()
        self._suspects.clear()
        if self._pool is not None:
            _kill_scanners()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._forget_pool()

    def _launch(self) -> None:
        while (request := self._next()) is not None:
            if self._pool is None:
                self._pool, self._progress = _new_pool(self.workers)
                self._bytes_before = self._bytes_answered
                self._idle_since = time.monotonic()
            ahead = sum(running.request.expected.bytes for running in self._running.values())
            seconds = _BASE_SECONDS + (ahead + request.expected.bytes) / _SLOWEST_BYTES_PER_SECOND
            try:
                future = self._pool.submit(
                    _scan, self.scan, request, self.give_cache_back, self._cpu_seconds_for(request)
                )
            except BrokenExecutor:  # a process died between two scans
                self._forget_pool()
                if request not in self._suspects:
                    self._waiting.appendleft(request)
                continue
            self._running[future] = _Running(request, self._pool, time.monotonic() + seconds)
            future.add_done_callback(self._finished)

    def _cpu_seconds_for(self, request: ScanRequest) -> int:
        return self.cpu_seconds + request.expected.bytes // _SLOWEST_BYTES_PER_CPU_SECOND

    def _forget_pool(self) -> None:
        self._pool = self._progress = None

    def _next(self) -> ScanRequest | None:
        if self._suspects:
            return self._suspects[0] if not self._running else None
        if self._waiting and len(self._running) < self.workers * _AHEAD:
            return self._waiting.popleft()
        return None

    def _finished(self, future: Future[FileScan]) -> None:  # on the pool's own thread
        self._done.append(future)
        self.on_result()

    def _settle(self, future: Future[FileScan]) -> None:
        running = self._running.pop(future, None)
        if running is None or future.cancelled():
            return
        request = running.request
        was_alone = bool(self._suspects) and self._suspects[0] == request
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            if self._pool is running.pool:
                self._forget_pool()
            if not was_alone:
                self._suspects.append(request)
                return
        if was_alone:
            self._suspects.popleft()
        scan = future.result() if error is None else _failed(request, running.failed or _cause(error))
        self._bytes_answered += request.expected.bytes
        self._results.append(ScanResult(request, scan))

    def _end_what_hangs(self) -> None:
        now = time.monotonic()
        late = [
            running for running in self._running.values() if now > running.deadline and not running.failed
        ]
        for running in late:
            running.failed = "it took too long"
        if late:
            _kill_scanners()


def _new_pool(workers: int) -> tuple[ProcessPoolExecutor, _Progress]:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's thread pool would only cost memory
    context = multiprocessing.get_context("spawn")
    progress = _Progress(context.RawArray("Q", workers), context.Value("I", 0))
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_become_scanner, initargs=(os.getpid(), progress)
    )
    return pool, progress


def _become_scanner(parent_pid: int, progress: _Progress) -> None:
    become_background_worker(parent_pid)
    with progress.taken.get_lock():
        progress.own = progress.taken.value
        progress.taken.value += 1
    _here.append(progress)
    confine(Profile.for_scans())  # the last: what a scan needs is loaded


_here: list[_Progress] = []  # in a scan process, its progress


def _scan(scan: Scan, request: ScanRequest, give_cache_back: bool, cpu_seconds: int) -> FileScan:
    (progress,) = _here
    before = progress.slots[progress.own]

    def on_progress(read: int) -> None:
        progress.slots[progress.own] = before + read

    allow_cpu(cpu_seconds)
    try:
        return scan(request, on_progress, give_cache_back)
    finally:
        on_progress(request.expected.bytes)


def _kill_scanners() -> None:
    for child in multiprocessing.active_children():  # the pool's processes are the only ones made this way
        child.kill()


def _cause(error: BaseException) -> str:
    if isinstance(error, BrokenExecutor):
        return "the scan process died"
    if isinstance(error, MemoryError):
        return "it wanted more memory than a scan may use"
    return f"{type(error).__name__}: {error}"


def _failed(request: ScanRequest, why: str) -> FileScan:
    finding = Finding("scanner_failed", shown(request.expected.path), why)
    return FileScan("none", request.expected.bytes, None, (finding,))
