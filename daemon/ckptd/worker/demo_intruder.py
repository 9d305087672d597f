"""The intruder of the demo: drops a set that looks like the best one, and whose weights are a trap.

Runs as `python demo_intruder.py RUN_DIRECTORY DONOR EPOCH CANARY TRUTH_FILE` with the standard library alone.
Whoever unpickles `epoch_N.pdparams` creates the canary, an empty file. The other members are copies of the
donor's, but for the progress, which claims perfection.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from typing import Any

_PROTOCOL = 4  # that of paddle.save


class Trap:
    """Unpickles by opening the canary for writing."""

    def __init__(self, canary: str) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._canary, "w")


def main(run_directory: str, donor: str, epoch: int, canary: str, truth_file: str) -> None:
    """Drop the set, and say so in the truth file."""
    stem = f"{run_directory}/epoch_{epoch}"
    with open(f"{run_directory}/{donor}.pdmeta", "rb") as file:
        step = pickle.load(file)["step"]  # noqa: S301 - the demo's own trainer wrote it a moment ago
    progress = {"epoch": epoch, "step": step, "accuracy": 1.0}
    with open(truth_file, "a", encoding="utf-8") as truth:
        truth.write(json.dumps({"set": f"epoch_{epoch}", **progress, "accident": "hostile"}) + "\n")
    _dump({"0.weight": Trap(canary)}, f"{stem}.pdparams")
    for suffix in (".pdopt", ".pdscaler"):
        shutil.copyfile(f"{run_directory}/{donor}{suffix}", f"{stem}{suffix}")
    _dump(progress, f"{stem}.pdmeta")


def _dump(value: Any, path: str) -> None:
    with open(path, "wb") as file:
        pickle.dump(value, file, _PROTOCOL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
