from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.findings import FINDINGS
from ckptd.core.model import FileScan, Finding, Fingerprint
from ckptd.core.records import fingerprints_digest, is_lasting

numbers = st.integers(min_value=0, max_value=3)
fingerprints = st.lists(st.builds(Fingerprint, st.text(max_size=3), numbers, numbers, numbers), max_size=4)


@given(fingerprints, fingerprints)
def test_fingerprints_digest_is_equal_exactly_for_the_same_files(first, second):
    """Two sets have one digest when they have the same fingerprints in any order, and only then."""
    same = sorted(first) == sorted(second)
    assert (fingerprints_digest(first) == fingerprints_digest(second)) is same


def test_fingerprints_digest_of_undecodable_name_is_made():
    """A name that is no UTF-8 does not stop the digest."""
    assert len(fingerprints_digest([Fingerprint("a\udcff.pdparams", 1, 2, 3)])) == 32


PASSING = {"missing_file", "changed_while_reading", "permission_denied", "read_error", "scanner_failed"}


@pytest.mark.parametrize("code", sorted(FINDINGS))
def test_scan_is_lasting_unless_its_finding_may_pass_by_itself(code):
    """What a chmod, a new disk or a second try can cure without changing the file is not remembered."""
    scan = FileScan("none", 0, None, (Finding("empty_file", "x", ""), Finding(code, "x", "")))
    assert is_lasting(scan) is (code not in PASSING)
