"""Says of each file what paddle.load makes of it; run as a program, which forks a throw-away child per batch.

Usage: `python paddle_oracle.py`. Standard input: one JSON list of `[path, way]` per line. Standard output:
"ready", then one JSON list per line, with one answer per file: `{"error": TEXT}` if Paddle refused it or died
on it, else `{"tensors": [[key, shape, dtype, bytes, nonfinite], ...]}`, with null where the list has no end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys

import numpy as np
import paddle
from paddle.base import core

SECONDS_PER_FILE = 10
CPU_SECONDS = 60
MEMORY_BYTES = 1 << 30  # beyond what the process had when it forked
OPEN_FILES = 64
DEPTH = 100
NEW_NETWORK = 0x40000000  # linux/sched.h


def load(path, way):
    """Load a file the way its reader would."""
    if way == "safetensors":  # numpy has no bfloat16
        loaded = paddle.load(path, safetensors=True)
        return {name: tensor.numpy() for name, tensor in loaded.items()}
    if way == "program":
        core.deserialize_pir_program(path, paddle.static.Program())
        return None
    return read_stream(path) if way == "stream" else paddle.load(path, return_numpy=True)


def read_stream(path):
    """All tensors of a `.pdiparams`, of which paddle.load reads the first one only."""
    with open(path, "rb") as file:
        rest = file.read()
    tensors = []
    while rest:
        tensor = core.DenseTensor()
        core.load_dense_tensor_from_memory(tensor, rest)
        rest = rest[len(core.save_dense_tensor_to_memory(tensor)) :]
        tensors.append(np.array(tensor))
    return tensors


def answer(path, way):
    """What Paddle says of one file."""
    try:
        loaded = load(path, way)
    except BaseException as error:  # noqa: BLE001 - a pickle can raise anything, SystemExit too
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    tensors = []
    try:
        note(tensors, [], loaded)
    except RecursionError:
        tensors = None
    return {"tensors": tensors}


def note(tensors, key, value):
    """List the arrays in what was loaded, under the key paths that a scan uses."""
    if len(key) > DEPTH:
        raise RecursionError
    if isinstance(value, np.ndarray):
        tensors.append([key, list(value.shape), dtype_name(value.dtype), value.nbytes, nonfinite(value)])
    elif isinstance(value, dict):
        for name, item in value.items():
            note(tensors, [*key, component(name)], item)
    elif isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        # A tensor with its name: one thing, also where Paddle leaves the pair as it is.
        note(tensors, key if isinstance(value[1], np.ndarray) else [*key, 1], value[1])
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            note(tensors, [*key, index], item)


def component(key):
    """A dict's key as a scan has it."""
    if isinstance(key, str):
        return key.encode("utf-8", "backslashreplace").decode()
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    return str(tuple(component(item) for item in key)) if isinstance(key, tuple) else str(key)


def dtype_name(dtype):
    """A dtype as a scan has it: strings by their number of characters."""
    if dtype.kind in "US":
        return f"str{dtype.itemsize // 4}" if dtype.kind == "U" else f"bytes{dtype.itemsize}"
    return dtype.name


def nonfinite(array):
    """How many elements are NaN or infinite; uint16 is bfloat16."""
    if array.dtype == np.uint16:
        return int(np.count_nonzero(array & 0x7F80 == 0x7F80))
    return int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind in "fc" else 0


def confine():
    """Keep a child that a damaged file leads astray from hurting the machine."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def in_child(jobs):
    """Answer for as many of the jobs as a child survives, at least one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        confine()
        with os.fdopen(writing, "w", encoding="utf-8") as results:
            for path, way in jobs:
                results.write(json.dumps(answer(path, way)) + "\n")
                results.flush()
        os._exit(0)
    os.close(writing)
    received = b""
    hung = False
    while select.select([reading], [], [], SECONDS_PER_FILE)[0]:
        block = os.read(reading, 1 << 16)
        if not block:
            break
        received += block
    else:
        hung = True
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    *lines, _ = received.split(b"\n")
    answers = [json.loads(line) for line in lines]
    if len(answers) < len(jobs):
        why = "hung" if hung else f"died, wait status {status}"
        answers.append({"error": f"Paddle {why}"})
    return answers


def main():
    """Serve until standard input ends."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).unshare(NEW_NETWORK)
    # What Paddle prints itself, also from C++, goes to standard error.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    output.write("ready\n")
    output.flush()
    for line in sys.stdin:
        jobs = json.loads(line)
        answers = []
        while len(answers) < len(jobs):
            answers += in_child(jobs[len(answers) :])
        output.write(json.dumps(answers) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
