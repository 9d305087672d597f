"""How fast and in how much memory a checkpoint is scanned, against what else reads the same file.

Run as `python benchmarks/scan.py [--quick]`; prints a Markdown table, writes docs/images/scan.svg, and exits
with 1 if a target is missed. Each measurement is a process of its own, in turns with its peer's, and stands
for the median; memory is the peak above a bare interpreter's. The scan is the daemon's, with digest and value
checks; but where the page cache is what is read from, it is not given back. Each is measured as it is used: a
training loads once, so `paddle.load` is the first of its process; a scan process goes from file to file, so
it has scanned a small one before. What difference that makes is a row of its own.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from figure import Curve, draw

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
TENSOR_BYTES = 16 * MIB
SMALL_TENSORS = 5_000

LEAST_SPEED_UP = 12.0
LEAST_SPEED_UP_OF_SMALL = 1.5
LEAST_OF_PLAIN_READ = 0.40
LEAST_OF_CAT = 0.90
MOST_MEMORY_MIB = 48.0
MOST_READ_BYTES = 2 * MIB

LOAD = """
import sys, time, paddle
if sys.argv[2:]:
    paddle.load(sys.argv[1] + ".warm")
start = time.perf_counter()
paddle.load(sys.argv[1])
print(time.perf_counter() - start)
"""
SCAN = """
import os, sys, time
from ckptd.core.model import Role
from ckptd.shell.scanning import scan_file
root, name = os.path.split(sys.argv[1])
if sys.argv[3] == "cold":
    descriptor = os.open(sys.argv[1], os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
scan_file(root, name + ".warm", Role.PARAMS)
read = [0]
start = time.perf_counter()
found = scan_file(root, name, Role.PARAMS, give_cache_back=sys.argv[3] == "cold", on_progress=read.append)
print(max(read))
print(time.perf_counter() - start)
assert [one.code for one in found.findings] == sys.argv[2].split(), found.findings
"""
READ = """
import mmap, sys, time
buffer = mmap.mmap(-1, 1 << 20)  # a bytearray's place in its page makes the copying slower
start = time.perf_counter()
with open(sys.argv[1], "rb", buffering=0) as file:
    while file.readinto(buffer):
        pass
print(time.perf_counter() - start)
"""
CAT = """
import os, subprocess, sys, time
descriptor = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
start = time.perf_counter()
subprocess.run(["cat", sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - start)
"""
# Not ru_maxrss: that one starts with what the parent had when it forked.
PEAK = """
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Measured:
    """What one way of reading a file took."""

    seconds: float  # median
    memory_mib: float  # peak resident memory above a bare interpreter, highest of the runs
    read_bytes: int = 0  # as far as it went into the file


@dataclass
class Table:
    """The rows printed so far, and the targets they missed."""

    missed: list[str]

    def row(self, work: str, peer: str, measured: str, target: str, *, met: bool) -> None:
        """Print a row, at once."""
        print(f"| {work} | {peer} | {measured} | {target} | {'yes' if met else '**no**'} |", flush=True)
        if not met:
            self.missed.append(f"{work}, {peer}: {measured}, wanted {target}")


def main() -> int:
    """Make the files one after the other, read them in turns, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no file over 1 GiB, three runs, no picture")
    parser.add_argument("--runs", type=int, default=5, help="processes per measurement")
    options = parser.parse_args()
    runs = 3 if options.quick else options.runs
    table = Table([])
    print("| work | against | measured | target | met |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ckptd-bench-") as directory:
        path = Path(directory, "model.pdparams")
        memory = {}
        write_large(path, TENSOR_BYTES, "float32")
        path.rename(f"{path}.warm")
        for gib in (1,) if options.quick else (1, 8):
            for dtype in ("float32", "bfloat16"):
                write_large(path, gib << 30, dtype)
                memory[gib, dtype] = large(table, path, f"{gib} GiB {dtype}", runs)
        if not options.quick:
            grown = max(memory[8, dtype] - memory[1, dtype] for dtype in ("float32", "bfloat16"))
            table.row("8 GiB", "1 GiB", f"{grown:+.0f} MiB of memory", "equal, ± 4 MiB", met=grown <= 4)
        write_large(path, 1 << 30, "float32")
        again(table, path, runs)
        write_small(path)
        small(table, path, runs)
        write_large(path, 1 << 30, "float32")
        cold(table, path, runs)
        stopped(table, path)
        if not options.quick:
            draw(curves(path), Path(__file__).parents[1] / "docs" / "images" / "scan.svg")
    for text in table.missed:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if table.missed else 0


def write_large(path: Path, size: int, dtype: str) -> None:
    """Write what `paddle.save` writes of a model of that size: protocol 4, bfloat16 as uint16."""
    numbers = np.random.default_rng(0).standard_normal(TENSOR_BYTES // 2 + 1024, np.float32)
    if dtype == "bfloat16":
        numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    count = TENSOR_BYTES // numbers.itemsize
    # Views of one array: pickled one by one, so that the file may be larger than the memory.
    state = {
        f"layer{i}.weight": numbers[i : i + count].reshape(-1, 2048) for i in range(size // TENSOR_BYTES)
    }
    write(path, state)


def write_small(path: Path) -> None:
    """Write a model of 5,000 tensors of 1 KiB."""
    numbers = np.random.default_rng(0).standard_normal((SMALL_TENSORS, 16, 16), np.float32)
    write(path, {f"layer{i}.weight": one for i, one in enumerate(numbers)})


def write(path: Path, state: dict[str, object]) -> None:
    """Write a state dict with the table of names that Paddle adds, and bring it to the disk."""
    names = {key: f"linear_{i}.w_0" for i, key in enumerate(state)}
    path.unlink(missing_ok=True)  # the page cache of the old one goes with it
    with path.open("wb") as file:
        pickle.dump(state | {"StructuredToParameterName@@": names}, file, protocol=4)
        os.fsync(file.fileno())


def large(table: Table, path: Path, name: str, runs: int) -> float:
    """Measure one large file in the page cache; returns the scan's memory in MiB."""
    into_page_cache(path)
    loaded, scanned, read = in_turns(
        runs, lambda: run(LOAD, path), lambda: run(SCAN, path, "", "warm"), lambda: run(READ, path)
    )
    size = path.stat().st_size
    faster = loaded.seconds / scanned.seconds
    rate = f"{size / scanned.seconds / 1e9:.1f} GB/s"
    table.row(
        name,
        "`paddle.load`",
        f"{faster:.1f} times its speed ({rate}; {loaded.memory_mib:.0f} MiB)",
        f"≥ {LEAST_SPEED_UP:g} times",
        met=faster >= LEAST_SPEED_UP,
    )
    share = read.seconds / scanned.seconds
    table.row(
        name,
        "a plain `readinto` loop",
        f"{share:.2f} of its speed",
        f"≥ {LEAST_OF_PLAIN_READ:.2f}",
        met=share >= LEAST_OF_PLAIN_READ,
    )
    table.row(
        name,
        "a bare interpreter",
        f"{scanned.memory_mib:.0f} MiB above it",
        f"≤ {MOST_MEMORY_MIB:.0f} MiB",
        met=scanned.memory_mib <= MOST_MEMORY_MIB,
    )
    return scanned.memory_mib


def again(table: Table, path: Path, runs: int) -> None:
    """Measure what `paddle.load` gains from memory that an earlier load of its process has left."""
    into_page_cache(path)
    loaded, scanned = in_turns(runs, lambda: run(LOAD, path, "again"), lambda: run(SCAN, path, "", "warm"))
    faster = loaded.seconds / scanned.seconds
    table.row(
        "1 GiB float32",
        "`paddle.load`, not the first of its process",
        f"{faster:.1f} times its speed",
        "none",
        met=True,
    )


def small(table: Table, path: Path, runs: int) -> None:
    """Measure a file in which the opcodes are what takes the time."""
    into_page_cache(path)
    loaded, scanned = in_turns(2 * runs, lambda: run(LOAD, path), lambda: run(SCAN, path, "", "warm"))
    faster = loaded.seconds / scanned.seconds
    table.row(
        "5,000 tensors of 1 KiB",
        "`paddle.load`",
        f"{faster:.2f} times its speed ({scanned.seconds * 1e3:.0f} ms)",
        f"≥ {LEAST_SPEED_UP_OF_SMALL:g} times",
        met=faster >= LEAST_SPEED_UP_OF_SMALL,
    )


def cold(table: Table, path: Path, runs: int) -> None:
    """Measure reading from the disk: the page cache is emptied of the file before each run."""
    cat, scanned = in_turns(runs, lambda: run(CAT, path), lambda: run(SCAN, path, "", "cold"))
    share = cat.seconds / scanned.seconds
    rate = f"{path.stat().st_size / scanned.seconds / 1e9:.2f} GB/s"
    table.row(
        "1 GiB, cold cache",
        "`cat` to nowhere",
        f"{share:.2f} of its speed ({rate})",
        f"≥ {LEAST_OF_CAT:.2f}",
        met=share >= LEAST_OF_CAT,
    )


def stopped(table: Table, path: Path) -> None:
    """Measure how far the scan reads into 1 GiB that is proved wrong at its beginning."""
    whole = path.read_bytes()[: 4 * MIB]
    damages = {
        "names `os.system` first": (b"\x80\x04cos\nsystem\n" + whole[2:], "unsafe_global"),
        "zeros first": (bytes(4 * MIB), "all_zero"),
        "a tensor longer than the file": (
            whole[: whole.index(b"\x89B") + 2] + (0xFFFFFFFF).to_bytes(4, "little"),
            "size_mismatch",
        ),
    }
    for name, (head, code) in damages.items():
        with path.open("r+b") as file:
            file.write(head)
        scanned = measured([run(SCAN, path, code, "warm")], 0.0)
        table.row(
            f"1 GiB, {name}",
            "the first proof",
            f"`{code}` after {scanned.read_bytes / MIB:.0f} MiB, {scanned.seconds * 1e3:.1f} ms",
            "not read on",
            met=scanned.read_bytes <= MOST_READ_BYTES,
        )


def curves(path: Path) -> tuple[Curve, Curve]:
    """Speed and memory of both readers over the file's size, float32, in the page cache."""
    sizes = [16 * MIB << shift for shift in range(0, 10, 1)]
    loads, scans = [], []
    for size in sizes:
        write_large(path, size, "float32")
        into_page_cache(path)
        loaded, scanned = in_turns(3, lambda: run(LOAD, path), lambda: run(SCAN, path, "", "warm"))
        loads.append((size, size / loaded.seconds, loaded.memory_mib))
        scans.append((size, size / scanned.seconds, scanned.memory_mib))
    return Curve("ckptd, full check", tuple(scans)), Curve("paddle.load", tuple(loads))


def in_turns(runs: int, *readers: Callable[[], list[str]]) -> list[Measured]:
    """Run each reader so often, one after the other, so that what else the machine does falls on all."""
    bare = peak_mib(run("pass"))
    results = [[reader() for reader in readers] for _ in range(runs)]
    return [measured(list(lines), bare) for lines in zip(*results, strict=True)]


def into_page_cache(path: Path) -> None:
    """Read the file once."""
    subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)


def run(program: str, *arguments: object) -> list[str]:
    """Run a Python program in a process of its own; returns what it printed, its peak memory last."""
    command = [sys.executable, "-W", "ignore", "-c", program + PEAK, *map(str, arguments)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return finished.stdout.splitlines()


def peak_mib(lines: list[str]) -> float:
    """The peak resident memory that a program reported."""
    return int(lines[-1]) / 1024


def measured(runs: list[list[str]], bare_mib: float) -> Measured:
    """The median time and the highest memory of several runs."""
    return Measured(
        statistics.median(float(lines[-2]) for lines in runs),
        max(map(peak_mib, runs)) - bare_mib,
        max(int(lines[-3]) if len(lines) > 2 else 0 for lines in runs),
    )


if __name__ == "__main__":
    sys.exit(main())
