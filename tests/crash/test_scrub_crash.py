from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ckptd.core.model import FileScan, Fingerprint
from ckptd.shell.ledger import open_ledger

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
ROOT = "/data/out"
FILE = Fingerprint("run/a.pdparams", 100, 1, 7)
FIRST = FileScan("pickle", 100, "ab" * 16)
NOW_READ = replace(FIRST, digest="cd" * 16)

# Records another content, and dies at the n-th of the steps that this takes.
DYING = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from ckptd.core.model import FileScan, Fingerprint
from ckptd.shell import ledger
from ckptd.shell.ledger_rows import replace

left = int(sys.argv[2])

def dying(*arguments):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*arguments)

opened, _ = ledger.open_ledger(Path(sys.argv[1]), datetime.now(UTC))
ledger.replace = dying
file = Fingerprint("run/a.pdparams", 100, 1, 7)
opened.record_scans("/data/out", {file: FileScan("pickle", 100, "cd" * 16)}, datetime.now(UTC))
"""


@pytest.mark.parametrize("step", [0, 1, 2])
def test_kill_while_rot_is_recorded_costs_only_another_reading(tmp_path, step):
    """A kill at any step leaves the file as known before or as rotted, and the next reading finds the rot."""
    with open_ledger(tmp_path, NOW)[0] as ledger:
        ledger.record_scans(ROOT, {FILE: FIRST}, NOW)
    child = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), str(step)], env=os.environ, check=False
    )
    assert (-signal.SIGKILL if step < 2 else 0) == child.returncode
    with open_ledger(tmp_path, NOW)[0] as ledger:
        is_rotted = ledger.readings(ROOT, [FILE])[FILE].is_rotted
        assert is_rotted is (step == 2)
        assert is_rotted is bool(ledger.scans(ROOT, [FILE])[FILE].findings)
        found = ledger.record_scans(ROOT, {FILE: NOW_READ}, NOW)[FILE]
        assert ["content_rotted"] == [one.code for one in found.findings]
