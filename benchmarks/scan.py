"""How fast and in how much memory a checkpoint is scanned, against `paddle.load` on the same file.

Run as `python benchmarks/scan.py [--size MIB]`; prints a Markdown table; exits with 1 if a target is missed.
Both read from the page cache. Each measurement is a process of its own, in turns; memory is its peak above a
bare interpreter's. The scan is the daemon's, with digest and value checks, but does not give the page cache
back, which would leave nothing to measure from.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LEAST_SPEED_UP = 8.0
MOST_MEMORY_MIB = 64.0

SMALL_TENSORS = 5_000

MAKE = """
import sys, paddle
path, tensors, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
paddle.save({f"layer{i}.weight": paddle.randn([rows, rows]) for i in range(tensors)}, path)
"""
LOAD = """
import sys, time, paddle
start = time.perf_counter()
paddle.load(sys.argv[1])
print(time.perf_counter() - start)
"""
SCAN = """
import os, sys, time
from ckptd.core.model import Role
from ckptd.shell.scanning import scan_file
root, name = os.path.split(sys.argv[1])
start = time.perf_counter()
found = scan_file(root, name, Role.PARAMS, give_cache_back=False)
print(time.perf_counter() - start)
assert not found.findings and len(found.tensors) == int(sys.argv[2])
"""
# Not ru_maxrss: that one starts with what the parent had when it forked.
PEAK = """
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Measured:
    """What one way of reading the file took."""

    seconds: float  # median
    memory_mib: float  # peak resident memory above a bare interpreter, highest of the runs


def main() -> int:
    """Make the files, read them in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="of the large file, in MiB")
    parser.add_argument("--runs", type=int, default=5, help="processes per measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ckptd-bench-") as directory:
        large, small = Path(directory, "large.pdparams"), Path(directory, "small.pdparams")
        tensors = max(1, arguments.size // 16)  # 16 MiB each
        run(MAKE, large, tensors, 2048)
        run(MAKE, small, SMALL_TENSORS, 16)
        os.sync()
        print("| file | reader | seconds | GB/s | times paddle.load | memory above a bare interpreter |")
        print("|---|---|--:|--:|--:|--:|")
        speed_up, memory = report("large", large, tensors, arguments.runs)
        report("5,000 small tensors", small, SMALL_TENSORS, arguments.runs)  # no target, but good to know
    missed = [
        text
        for text, met in (
            (
                f"the scan is {speed_up:.1f} times as fast as paddle.load, not {LEAST_SPEED_UP:g}",
                speed_up >= LEAST_SPEED_UP,
            ),
            (f"the scan takes {memory:.0f} MiB, more than {MOST_MEMORY_MIB:g}", memory <= MOST_MEMORY_MIB),
        )
        if not met
    ]
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if missed else 0


def report(name: str, path: Path, tensors: int, runs: int) -> tuple[float, float]:
    """Print the rows of one file; returns how many times faster the scan is, and its memory in MiB."""
    bare = peak_mib(run("pass"))
    loads, scans = [], []
    subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)  # into the page cache
    for _ in range(runs):  # in turns, so that whatever else the machine does falls on both
        loads.append(run(LOAD, path))
        scans.append(run(SCAN, path, tensors))
    loaded, scanned = measured(loads, bare), measured(scans, bare)
    size = path.stat().st_size
    for reader, result in (("paddle.load", loaded), ("ckptd scan", scanned)):
        cells = (
            f"{name}, {size / 2**20:.0f} MiB",
            reader,
            f"{result.seconds:.3f}",
            f"{size / result.seconds / 1e9:.2f}",
            f"{loaded.seconds / result.seconds:.1f}",
            f"{result.memory_mib:.0f} MiB",
        )
        print("|", " | ".join(cells), "|")
    return loaded.seconds / scanned.seconds, scanned.memory_mib


def run(program: str, *arguments: object) -> list[str]:
    """Run a Python program in a process of its own; returns what it printed, its peak memory last."""
    command = [sys.executable, "-W", "ignore", "-c", program + PEAK, *map(str, arguments)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return finished.stdout.splitlines()


def peak_mib(lines: list[str]) -> float:
    """The peak resident memory that a program reported."""
    return int(lines[-1]) / 1024


def measured(runs: list[list[str]], bare_mib: float) -> Measured:
    """The median time and the highest memory of several runs."""
    return Measured(
        statistics.median(float(lines[-2]) for lines in runs), max(map(peak_mib, runs)) - bare_mib
    )


if __name__ == "__main__":
    sys.exit(main())
