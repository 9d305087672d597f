"""Runs the worker that loads files with Paddle, for those who ask what paddle.load makes of them."""

from __future__ import annotations

import json
import os
import select
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ckptd.core.names import shown
from ckptd.errors import CkptdError, UsageError
from ckptd.shell.export_process import worker_environment

if TYPE_CHECKING:
    from ckptd.core.model import Fingerprint

SCRIPT: Final = Path(__file__).parent.parent / "worker" / "load.py"

_IMPORT_SECONDS: Final = 120.0
_BASE_SECONDS: Final = 60.0  # what any load may take,
_SLOWEST_BYTES_PER_SECOND: Final = 2 << 20  # and how slow the disk may be beyond that
_SLOWEST_BYTES_PER_CPU_SECOND: Final = 32 << 20
_PATIENCE_SECONDS: Final = 30.0  # beyond the worker's own deadline
_READ_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """What paddle.load made of a file."""

    outcome: str  # "loaded", "changed", "refused" or "unfinished"
    detail: str = ""
    tensors: tuple[tuple[tuple[str | int, ...], tuple[int, ...], str], ...] | None = None  # None: not told


class LoadProcess:
    """The worker, from its start until `stop`."""

    def __init__(self, python: str) -> None:
        """Start it and wait until Paddle is there.

        Args:
            python: the interpreter that has Paddle.

        Raises:
            UsageError: it cannot be started, has no Paddle, or cannot be confined.
        """
        packages = str(Path(__file__).parent.parent.parent)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own interpreter, our own script
                [python, str(SCRIPT), packages, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=worker_environment((), "/tmp"),  # noqa: S108 - nothing is written there
            )
        except OSError as error:
            raise UsageError(
                f"{shown(python)}: {error.strerror}; name the Python that has Paddle with --python"
            ) from None
        self._received = b""
        ready = self._answer(_IMPORT_SECONDS) or {"error": "it did not answer"}
        if "error" in ready:
            self.stop()
            raise UsageError(
                f"refusing to load anything: {shown(python)} cannot load and be confined ({ready['error']});"
                " name a Python of 3.11 or newer that has paddlepaddle and psutil with --python, or leave out"
                " --load"
            )

    def load(self, root: str, expected: Fingerprint, *, safetensors: bool) -> Loaded:
        """Load one file.

        Args:
            root: the directory that the path is relative to.
            expected: the file as it was when it was scanned; another one is not loaded.
            safetensors: load it as safetensors.

        Raises:
            CkptdError: the worker itself is gone.
        """
        seconds = _BASE_SECONDS + expected.bytes / _SLOWEST_BYTES_PER_SECOND
        request = {
            "path": os.path.abspath(os.path.join(root, expected.path)),
            "bytes": expected.bytes,
            "mtime_ns": expected.mtime_ns,
            "inode": expected.inode,
            "safetensors": safetensors,
            "seconds": seconds,
            "cpu_seconds": int(_BASE_SECONDS) + expected.bytes // _SLOWEST_BYTES_PER_CPU_SECOND,
        }
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError:
            answer = None
        else:
            answer = self._answer(seconds + _PATIENCE_SECONDS)
        if answer is None:
            raise CkptdError(
                f"the process that loads with Paddle is gone, at {shown(expected.path)}; leave out --load"
            )
        if "tensors" not in answer:
            ((outcome, detail),) = answer.items()
            return Loaded(outcome, detail)
        tensors = answer["tensors"]
        if tensors is None:
            return Loaded("loaded")
        facts = ((tuple(key), tuple(shape), dtype) for key, shape, dtype in tensors)
        return Loaded("loaded", tensors=tuple(facts))

    def stop(self) -> None:
        """End the worker and what it has started."""
        self._process.kill()  # its child dies with it
        self._process.wait()
        self._input.close()
        self._output.close()

    @property
    def _input(self) -> Any:
        return self._process.stdin

    @property
    def _output(self) -> Any:
        return self._process.stdout

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The next line of the worker; None if there is none in time."""
        while b"\n" not in self._received:
            if not select.select([self._output], [], [], seconds)[0]:
                return None
            block = os.read(self._output.fileno(), _READ_BYTES)
            if not block:
                return None
            self._received += block
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
