from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptd.core.findings import FINDINGS
from ckptd.core.model import Verdict
from hostile.bombs import BOMBS
from hostile.container_bombs import CONTAINER_BOMBS

PROGRAM = Path(__file__).with_name("judging.py")

ALL = BOMBS | CONTAINER_BOMBS

CPU_SECONDS = 5  # of the processor rather than the clock, so that a busy machine is no failure
PEAK_BYTES = 256 << 20
ADDRESS_SPACE = 4 << 30  # what nothing of this should come near to; spares the machine if something does


def judge(directory, asked):
    """Have files scanned, each in a process of its own."""
    done = subprocess.run(
        ["prlimit", f"--as={ADDRESS_SPACE}", sys.executable, str(PROGRAM), "apart", str(directory)],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What came of every bomb."""
    directory = tmp_path_factory.mktemp("bombs")
    asked = []
    for number, bomb in enumerate(ALL.values()):
        name = f"{number:03}{bomb.name}"
        with open(directory / name, "wb") as file:
            file.write(bomb.make())
            file.truncate(bomb.size or file.tell())
        asked.append((name, bomb.role))
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(judge, [directory] * 2, [asked[::2], asked[1::2]]))
    for file in directory.iterdir():
        file.unlink()
    names = list(ALL)
    return dict(zip(names[::2] + names[1::2], halves[0] + halves[1], strict=True))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ALL)
def test_bomb_goes_off_harmlessly(judged, name):
    """Each is refused with its finding, by a scanner that lives, within 5 seconds and 256 MiB."""
    outcome = judged[name]

    assert (outcome["died_of"], [ALL[name].code]) == (0, outcome["codes"]), outcome["details"]
    assert outcome["cpu_seconds"] < CPU_SECONDS
    assert outcome["peak_bytes"] < PEAK_BYTES


def test_bomb_is_corrupt_or_unsafe():
    """All bombs are condemned but for holes, whose zeros may be meant, and what nothing takes for data."""
    sound = {Verdict.CORRUPT, Verdict.UNSAFE}
    spared = {name for name, bomb in ALL.items() if FINDINGS[bomb.code].verdict not in sound}

    assert {ALL[name].code for name in spared} == {"sparse_file", "trailing_bytes", "unknown_container"}
    assert len(spared) < len(ALL) // 10
