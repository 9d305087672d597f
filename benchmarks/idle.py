"""What the idle daemon costs: memory of all its processes, and CPU time over a minute.

Run as `python benchmarks/idle.py`; prints a Markdown table and exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

MOST_RESIDENT_MIB = 120.0
MOST_CPU_PERCENT = 0.2

CONFIG = """\
[daemon]
state_dir = "state"
settle = "0.5s"

[log]
format = "json"

[[watch]]
path = "output"

[watch.retention]
mode = "plan"
keep_last = 3
"""


def main() -> int:
    """Measure, print, and compare with the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch the idle daemon")
    parser.add_argument("--runs", type=int, default=20, help="training runs, of ten sets each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        write_runs(base / "output", options.runs)
        (base / "config.toml").write_text(CONFIG, encoding="utf-8")
        log = base / "log"
        with log.open("wb") as stream:
            command = [sys.executable, "-m", "ckptd", "--config", str(base / "config.toml"), "run"]
            daemon = subprocess.Popen(command, stdout=stream)
            try:
                wait_until_idle(psutil.Process(daemon.pid), log, options.runs * 10)
                return measure(psutil.Process(daemon.pid), options.seconds, options.runs)
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(10)


def write_runs(root: Path, runs: int) -> None:
    """Write runs of ten small sets each."""
    weights = {"w": np.ones((64, 64), np.float32), "StructuredToParameterName@@": {"w": "linear_0.w_0"}}
    state = {"linear_0.w_0_moment1_0": np.ones((64, 64), np.float32)}
    for run in range(runs):
        directory = root / f"run_{run:03d}"
        directory.mkdir(parents=True)
        for epoch in range(10):
            stem = directory / f"epoch_{epoch}"
            stem.with_suffix(".pdparams").write_bytes(pickle.dumps(weights, 4))
            stem.with_suffix(".pdopt").write_bytes(pickle.dumps(state, 4))


def wait_until_idle(daemon: psutil.Process, log: Path, sets: int) -> None:
    """Return when every set is judged and the scan processes have been given back."""
    deadline = time.monotonic() + 300
    while log.read_bytes().count(b'"event":"set.validated"') < sets or scanners(daemon):
        if time.monotonic() > deadline:
            raise SystemExit("the daemon did not become idle within five minutes")
        time.sleep(0.5)


def scanners(daemon: psutil.Process) -> list[psutil.Process]:
    """The scan processes; beside them multiprocessing keeps a small process that tracks resources."""
    return [one for one in daemon.children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]


def measure(daemon: psutil.Process, seconds: float, runs: int) -> int:
    """Print what the daemon uses; 1 if that is too much."""
    before = daemon.cpu_times()
    time.sleep(seconds)
    after = daemon.cpu_times()
    cpu_percent = 100 * (after.user + after.system - before.user - before.system) / seconds
    processes = [daemon, *daemon.children(recursive=True)]
    resident_mib = sum(process.memory_info().rss for process in processes) / 2**20
    has_paddle = any("paddle" in Path(one.path).name.lower() for one in daemon.memory_maps())
    print(f"{runs} runs with {runs * 10} sets watched, {os.cpu_count()} cores, {seconds:.0f} s\n")
    print("| what | measured | target |")
    print("|---|---|---|")
    what = f"resident memory of {len(processes)} process(es)"
    print(f"| {what} | {resident_mib:.0f} MiB | ≤ {MOST_RESIDENT_MIB:.0f} MiB |")
    print(f"| CPU time | {cpu_percent:.3f} % of a core | < {MOST_CPU_PERCENT} % |")
    print(f"| Paddle loaded | {'yes' if has_paddle else 'no'} | no |")
    return int(resident_mib > MOST_RESIDENT_MIB or cpu_percent >= MOST_CPU_PERCENT or has_paddle)


if __name__ == "__main__":
    sys.exit(main())
