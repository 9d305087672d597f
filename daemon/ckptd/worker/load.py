"""Loads files with paddle.load, each in a confined child process, and says what came out.

A stand-alone script: it runs under the Python that has Paddle, as `python load.py PACKAGES PARENT_PID`. It
takes the confinement from ckptd's own package below the directory PACKAGES: it needs Python 3.11 and psutil.

Standard output begins with one line of JSON: `{"paddle": VERSION}`, or `{"error": TEXT}` if it cannot work.
Then each line of standard input is a request: `path`, `bytes`, `mtime_ns` and `inode` as the scan saw the
file, `safetensors`, `seconds`, `cpu_seconds`. The answer is one line, with `tensors`, a list of key, shape
and dtype each, or null if the nesting has no end; or with the reason under `changed`, `refused` or
`unfinished`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_DEEPEST_NESTING = 100
_MESSAGE_CHARACTERS = 400
_READ_BYTES = 1 << 16


def main(packages: str, parent_pid: int) -> int:
    """Serve until standard input ends."""
    _die_with(parent_pid)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what Paddle prints goes elsewhere
    try:
        paddle: Any = importlib.import_module("paddle")
        paddle.set_device("cpu")
        sys.path.append(packages)
        confinement: Any = importlib.import_module("ckptd.shell.confinement")
    except Exception as error:  # noqa: BLE001 - an installation can be broken in any way
        _say(answers, {"error": _in_words(error)})
        return 1
    _say(answers, {"paddle": paddle.__version__})
    for line in sys.stdin:
        _say(answers, _answer(json.loads(line), paddle, confinement))
    return 0


def _die_with(parent_pid: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above took effect
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides


def _say(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _answer(request: dict[str, Any], paddle: Any, confinement: Any) -> dict[str, Any]:
    """Load one file in a child process and wait for its answer."""
    own_pid = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_with(own_pid)
        with os.fdopen(writing, "w", encoding="ascii") as answers:
            _say(answers, _loaded(request, paddle, confinement))
        os._exit(0)
    os.close(writing)
    received = b""
    deadline = time.monotonic() + request["seconds"]
    is_late = True
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        block = os.read(reading, _READ_BYTES)
        received += block
        if not block:
            is_late = False
            break
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if is_late:
        return {"unfinished": f"it did not finish within {request['seconds']:g} s"}
    if not received.endswith(b"\n"):
        killed = os.WIFSIGNALED(status)
        how = f"it was killed by {signal.Signals(os.WTERMSIG(status)).name}" if killed else "it ended early"
        return {"unfinished": how}
    answer: dict[str, Any] = json.loads(received)
    return answer


def _loaded(request: dict[str, Any], paddle: Any, confinement: Any) -> dict[str, Any]:
    """Load the very file that was scanned: it is opened first, and compared with what the scan saw."""
    try:
        descriptor = os.open(request["path"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return {"changed": str(error.strerror)}
    expected = (request["bytes"], request["mtime_ns"], request["inode"])
    if _identity(descriptor) != expected:
        return {"changed": "not the file that was scanned any more"}
    confinement.confine(confinement.Profile.for_paddle_load(request["bytes"]))
    confinement.allow_cpu(request["cpu_seconds"])
    answer = _answer_of_paddle(paddle, f"/proc/self/fd/{descriptor}", safetensors=request["safetensors"])
    if _identity(descriptor) != expected:
        return {"changed": "written to while it was loaded"}
    return answer


def _answer_of_paddle(paddle: Any, path: str, *, safetensors: bool) -> dict[str, Any]:
    options = {"safetensors": True} if safetensors else {}
    try:
        return {"tensors": list(_tensors([], paddle.load(path, return_numpy=True, **options)))}
    except MemoryError:
        return {"unfinished": "it wanted more memory than it may use"}
    except RecursionError:
        return {"tensors": None}
    except BaseException as error:  # noqa: BLE001 - loading can raise anything
        return {"refused": _in_words(error).replace(path, "the file")}


def _identity(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ino


def _tensors(key: list[str | int], value: Any) -> Iterator[list[Any]]:
    """The arrays in what was loaded, under the key paths that a scan uses."""
    if len(key) > _DEEPEST_NESTING:
        raise RecursionError
    if hasattr(value, "dtype") and hasattr(value, "nbytes") and hasattr(value, "shape"):
        if type(value).__name__ == "ndarray":
            yield [key, list(value.shape), _dtype_name(value.dtype)]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _tensors([*key, _component(name)], item)
    elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        # A tensor with its name: one thing, also where Paddle leaves the pair as it is.
        is_array = type(value[1]).__name__ == "ndarray"
        yield from _tensors(key if is_array else [*key, 1], value[1])
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors([*key, index], item)


def _component(key: Any) -> str | int:
    """A dict's key as a scan has it."""
    if isinstance(key, str):
        return key.encode("utf-8", "backslashreplace").decode()
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    return str(tuple(_component(item) for item in key)) if isinstance(key, tuple) else str(key)


def _dtype_name(dtype: Any) -> str:
    """A dtype as a scan has it: strings by their number of characters."""
    if dtype.kind in "US":
        return f"str{dtype.itemsize // 4}" if dtype.kind == "U" else f"bytes{dtype.itemsize}"
    return str(dtype.name)


def _in_words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_MESSAGE_CHARACTERS]


if __name__ == "__main__":
    sys.path.pop(0)  # this directory: its files are no modules
    with contextlib.suppress(BrokenPipeError):
        code = main(sys.argv[1], int(sys.argv[2]))
        os._exit(code)
    os._exit(1)
