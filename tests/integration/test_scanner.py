from __future__ import annotations

import os
import pickle

import pytest

from ckptd.core.ledger_codec import encode_scan
from ckptd.core.model import FileScan, Finding
from ckptd.shell import scanner
from ckptd.shell.scanner import ScanFailed


class Canary:
    """What, unpickled, would make a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_answer_is_read_as_data(tmp_path):
    """A scan process that was taken over and answers with a pickle is not listened to, and nothing runs."""
    canary = str(tmp_path / "canary")
    with pytest.raises(ScanFailed, match="its answer is no scan"):
        scanner._understood(b"s" + pickle.dumps(Canary(canary)))
    assert not os.path.exists(canary)


@pytest.mark.parametrize(
    "answer", [b"", b"s", b"?", b"s" + b"x" * 100, encode_scan(FileScan("pickle", 1, None))]
)
def test_answer_that_is_none_fails_the_scan(answer):
    """Whatever else a process sends, there is no scan of its file."""
    with pytest.raises(ScanFailed):
        scanner._understood(answer)


def test_answer_with_findings_of_its_own_fails_the_scan():
    """A code that is not in the table would stop the daemon where it judges."""
    scan = FileScan("pickle", 1, None, (Finding("all_is_well", "a", ""),))
    with pytest.raises(ScanFailed, match="findings that do not exist: all_is_well"):
        scanner._understood(b"s" + encode_scan(scan))


def test_reason_of_a_failure_is_told():
    """What the process could not do is what the finding says."""
    with pytest.raises(ScanFailed, match="no memory"):
        scanner._understood(b"fno memory")
