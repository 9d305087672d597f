"""One scan process: asked for one file after another, its answers are read as data and never unpickled."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckptd.core.findings import FINDINGS
from ckptd.core.ledger_codec import UnknownFormat, decode_scan, encode_scan
from ckptd.shell.confinement import Profile, allow_cpu, confine
from ckptd.shell.priority import become_background_worker
from ckptd.shell.scanning import scan_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from ckptd.core.model import FileScan, Fingerprint, Role

    Scan = Callable[["ScanRequest", Callable[[int], None], bool], FileScan]
    """Scans a file, says how many of its bytes were read so far, and may give the page cache back."""

MAX_ANSWER_BYTES: Final = 1 << 28  # deflated; that of 100,000 tensors has a few million

_END_SECONDS: Final = 1.0  # for a process that waits, to notice that nobody will ask it any more
_SCAN: Final = b"s"
_FAILURE: Final = b"f"

# Python keeps one list of children, and two threads that look for the ended ones at once may miss one.
_children: Final = threading.Lock()


class ScanRequest(NamedTuple):
    """One file to scan: as it was when it was looked at."""

    root: str
    role: Role
    expected: Fingerprint


class ScanFailed(Exception):  # noqa: N818 - what is said of a file
    """There is no scan, for the reason that the text gives."""


class ScannerGone(ScanFailed):
    """The process ended before it answered, or took too long (`was_hung`) and is to be ended."""

    def __init__(self, reason: str, *, was_hung: bool = False) -> None:
        super().__init__(reason)
        self.was_hung = was_hung


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


@dataclass(slots=True, eq=False)
class Scanner:
    """A process that scans, confined before it gets its first file. Belongs to the thread that started it.

    The process ends with that thread, also when the daemon is killed. `kill` and `bytes_read` may be used by
    other threads.
    """

    scan: Scan
    give_cache_back: bool
    _process: SpawnProcess = field(init=False)
    _connection: Connection = field(init=False)
    _read: Any = field(init=False)  # a number of 64 bits in memory that both processes have

    def __post_init__(self) -> None:
        """Start the process."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's thread pool would only cost memory
        context = multiprocessing.get_context("spawn")
        self._read = context.RawValue("Q", 0)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, self._read, self.scan, os.getpid(), self.give_cache_back),
            daemon=True,
        )
        with _children:
            self._process.start()
        theirs.close()  # so that the end of the process is the end of its answers

    @property
    def bytes_read(self) -> int:
        """How much of the file under way was read."""
        return int(self._read.value)

    def ask(self, request: ScanRequest, *, cpu_seconds: int, seconds: float) -> FileScan:
        """Have a file scanned.

        Args:
            request: Which one.
            cpu_seconds: What the scan may compute.
            seconds: How long it may take at all.

        Raises:
            ScannerGone: The scanner is of no more use, and to be closed.
            ScanFailed: The process could not scan the file, and waits for the next one.
        """
        deadline = time.monotonic() + seconds
        try:
            self._connection.send((request, cpu_seconds))
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise ScannerGone("it took too long", was_hung=True)
            answer = self._connection.recv_bytes(MAX_ANSWER_BYTES)
        except (EOFError, OSError):
            raise ScannerGone("the scan process died") from None
        return _understood(answer)

    def forget_progress(self) -> None:
        """Count what is read from zero again."""
        self._read.value = 0

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """End the process, at once if it is at work, and wait until it has."""
        self._connection.close()
        with _children:
            self._process.join(_END_SECONDS)
            self._process.kill()
            self._process.join()


def _understood(answer: bytes) -> FileScan:
    """The scan that an answer holds; it comes from a process that has read hostile files."""
    kind, body = answer[:1], answer[1:]
    if kind == _FAILURE:
        raise ScanFailed(body.decode("utf-8", "replace"))
    try:
        scan = decode_scan(body)
    except UnknownFormat as error:
        raise ScanFailed(f"its answer is no scan: {error}") from None
    if unknown := {finding.code for finding in scan.findings} - FINDINGS.keys():
        raise ScanFailed(f"its answer has findings that do not exist: {', '.join(sorted(unknown))}")
    return scan


def _serve(
    connection: Connection,
    read: Any,
    scan: Scan,
    parent_pid: int,
    give_cache_back: bool,
) -> None:
    become_background_worker(parent_pid)
    confine(Profile.for_scans())  # the last: what a scan needs is loaded

    def on_progress(so_far: int) -> None:
        read.value = so_far

    while True:
        try:
            request, cpu_seconds = connection.recv()
        except EOFError:
            return
        allow_cpu(cpu_seconds)
        try:
            answer = _SCAN + encode_scan(scan(request, on_progress, give_cache_back))
        except MemoryError:
            answer = _FAILURE + b"it wanted more memory than a scan may use"
        except Exception as error:  # noqa: BLE001 - whatever it is, the file gets the blame and the daemon lives
            answer = _FAILURE + f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace")
        connection.send_bytes(answer)
