from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.names import from_shown, shown

names = st.text(st.characters(min_codepoint=1, exclude_categories=[])) | st.binary().map(os.fsdecode)


@given(names)
def test_shown_of_any_name_is_printable_and_can_be_undone(name):
    """What is shown holds no control character, can be encoded, and leads back to the very name."""
    text = shown(name)

    assert text.isprintable()
    assert text.encode().decode() == text
    assert name == from_shown(text)


@given(st.binary())
def test_shown_of_any_bytes_leads_back_to_the_bytes(raw):
    """A file name that is no UTF-8 survives."""
    assert raw == os.fsencode(from_shown(shown(os.fsdecode(raw))))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epoch_5.pdparams", "epoch_5.pdparams"),
        ("with space", "with space"),
        ("最佳模型", "最佳模型"),
        ("a\nb", r"a\x0ab"),
        ("\x1b[31m", r"\x1b[31m"),
        (os.fsdecode(b"\xe9poque"), r"\de9poque"),
        ("a\\x0ab", r"a\\x0ab"),
        ("right\u202eleft", r"right\u202eleft"),
        ("tag\U000e0001", r"tag\U000e0001"),
    ],
)
def test_shown_of_names_reads_as_expected(name, expected):
    """Ordinary names stay as they are; what could forge a line or hide is escaped."""
    assert expected == shown(name)
