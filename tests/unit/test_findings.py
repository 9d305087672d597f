from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.findings import FINDINGS, worst_verdict
from ckptd.core.findings_page import render_markdown
from ckptd.core.model import Finding, Severity, Verdict

codes = st.sampled_from(sorted(FINDINGS))
findings = st.lists(codes.map(lambda code: Finding(code, "run/model.pdparams", "")), max_size=6)


@given(findings.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))), codes)
def test_worst_verdict_of_findings_never_improves_by_another_one(pair, code):
    """The order does not matter, and one more finding never makes a valid thing of one that is not."""
    found, shuffled = pair
    more = [*found, Finding(code, "", "")]

    assert worst_verdict(found) is worst_verdict(shuffled)
    assert worst_verdict(found) is Verdict.VALID or worst_verdict(more) is not Verdict.VALID


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((), Verdict.VALID),
        (("metric_missing", "member_not_read"), Verdict.VALID),
        (("nonfinite_values", "metric_missing"), Verdict.SUSPECT),
        (("nonfinite_values", "missing_role"), Verdict.INCOMPLETE),
        (("missing_role", "read_error"), Verdict.UNREADABLE),
        (("read_error", "truncated"), Verdict.CORRUPT),
        (("truncated", "unsafe_global", "missing_role"), Verdict.UNSAFE),
    ],
)
def test_worst_verdict_of_several_findings_is_the_heaviest(codes, expected):
    """Each verdict outweighs the ones above it in this table."""
    assert expected is worst_verdict(Finding(code, "", "") for code in codes)


@pytest.mark.parametrize("code", sorted(FINDINGS))
def test_finding_of_each_code_is_explained(code):
    """Every code goes by its own name, is explained, and is an error exactly if it costs validity."""
    spec = FINDINGS[code]

    assert code == spec.code
    assert spec.meaning
    assert spec.advice.endswith(".")
    expected = spec.verdict if spec.severity is Severity.ERROR else Verdict.VALID
    assert expected is worst_verdict([Finding(code, "", "")])


def test_findings_page_is_the_one_generated_from_the_table():
    """What people read about a code is what the program knows about it."""
    page = Path(__file__).parents[2] / "docs" / "findings.md"

    assert page.read_text("utf-8") == render_markdown(), "run: make docs"


def test_findings_page_has_one_row_for_each_code():
    """No code is left out, and each table row has as many cells as its head."""
    rows = [line for line in render_markdown().splitlines() if line.startswith("| `")]

    assert sorted(FINDINGS) == sorted(line.split("`")[1] for line in rows)
    assert {5} == {line.count("|") for line in rows}
