"""Runs the export worker in a session of its own, and ends it with all that it started."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

SCRIPT = Path(__file__).parent.parent / "worker" / "export.py"

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_LOG_BYTES = 512 << 10  # of the worker's output that are kept from the start,
_TAIL_BYTES = 8 << 10  # and from the end
_LINES_QUOTED = 4
_LINE_LENGTH = 200
_READ_BYTES = 64 << 10  # the size of a pipe


@dataclass(frozen=True, slots=True)
class Ended:
    """How the worker ended, and what it printed last."""

    failure: str | None  # None: it ended by itself, with status 0
    last_lines: tuple[str, ...]
    was_killed: bool = False  # by somebody else, with SIGKILL: most likely the kernel, short of memory


class ExportProcess:
    """One worker process and its group, from its start until `wait` returns; any thread may call `kill`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: str) -> None:
        """Start it.

        Raises:
            OSError: the interpreter cannot be started.
        """
        self._lock = threading.Lock()
        self._is_over = False
        self._output_fd, output_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own interpreter, our own script
                command,
                stdin=subprocess.DEVNULL,
                stdout=output_end,
                stderr=output_end,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError:
            os.close(self._output_fd)
            raise
        finally:
            os.close(output_end)

    def kill(self) -> None:
        """Kill the whole process group, unless that was done already."""
        with self._lock:
            if not self._is_over:  # not reaped yet, so no other group can have its number
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, log_fd: int, timeout: timedelta) -> Ended:
        """Copy the output into the log until the worker ends or its time is up; then end its whole group."""
        output = _Output(log_fd)
        try:
            is_late = self._follow(output, time.monotonic() + timeout.total_seconds())
        finally:
            self.kill()  # also what the network's code has started and left behind
            with self._lock:
                self._is_over = True
            status = self._process.wait()
            self._drain(output)
        failure = f"it did not finish within {timeout.total_seconds():g} s" if is_late else _failure(status)
        was_killed = status == -signal.SIGKILL and not is_late
        return Ended(failure, output.last_lines(), was_killed)

    def _follow(self, output: _Output, deadline: float) -> bool:
        """Read until the process ends; True if it did not by the deadline."""
        ended_fd = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(ended_fd, selectors.EVENT_READ)
                selector.register(self._output_fd, selectors.EVENT_READ)
                while (left := deadline - time.monotonic()) > 0:
                    ready = {key.fd for key, _ in selector.select(left)}
                    if self._output_fd in ready and not output.take(os.read(self._output_fd, _READ_BYTES)):
                        selector.unregister(self._output_fd)
                    if ended_fd in ready:
                        return False
                return True
        finally:
            os.close(ended_fd)

    def _drain(self, output: _Output) -> None:
        """Read what is left in the pipe: no more, as a process that left the group may go on writing."""
        os.set_blocking(self._output_fd, False)
        with contextlib.suppress(BlockingIOError):
            output.take(os.read(self._output_fd, _READ_BYTES))
        os.close(self._output_fd)
        output.close()


class _Output:
    """What a process prints: the start goes to a file, the end is kept. A full disk costs the file only."""

    def __init__(self, log_fd: int) -> None:
        self._log_fd = log_fd
        self._left = _LOG_BYTES
        self._tail = b""

    def take(self, data: bytes) -> int:
        self._write(data[: self._left])
        self._left -= min(self._left, len(data))
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        return len(data)

    def close(self) -> None:
        if not self._left:
            self._write(b"\n[...]\n" + self._tail)

    def last_lines(self) -> tuple[str, ...]:
        lines = (line.strip() for line in self._tail.decode(errors="replace").splitlines())
        return tuple(shown(line[:_LINE_LENGTH]) for line in lines if line)[-_LINES_QUOTED:]

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._log_fd, data)


def _failure(status: int) -> str | None:
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it ended with status {status}" if status else None


def worker_environment(pythonpath: Sequence[str], temporary: str) -> dict[str, str]:
    """The worker's environment: no GPU, one thread, no traces in the network's source tree."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return passed_on | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(pythonpath),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": temporary,
    }
