"""Runs every benchmark, one after the other; exits with 1 if any of them misses a target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("scan.py", "idle.py")


def main() -> int:
    """Run them all, whatever the first ones say."""
    failed = False
    for name in BENCHMARKS:
        print(f"## {name}\n", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(name))]
        failed |= subprocess.run(command, check=False).returncode != 0
        print(flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
