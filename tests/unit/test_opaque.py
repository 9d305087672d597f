from __future__ import annotations

import argparse
import pickle

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import opaque
from ckptd.core.model import Role
from pickling import codes, scan_bytes

ARGUMENTS = pickle.dumps(argparse.Namespace(lr=0.1, name="run", steps=[1, 2]), 4)


def scanned(data):
    """The scan of pickled arguments."""
    return scan_bytes(data, path="training_args.bin", role=Role.OPAQUE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_object_is_whole(protocol):
    """Whatever classes it names, it is only passed over."""
    data = pickle.dumps(argparse.Namespace(lr=0.1, name="x" * 300, blob=bytes(300), big=1 << 99), protocol)
    found = scanned(data)

    assert (found.container, found.findings, found.tensors, found.values) == ("opaque", (), (), ())
    assert found.digest == xxhash.xxh3_128_hexdigest(data)


@given(st.integers(1, len(ARGUMENTS) - 1))
def test_pickled_object_that_is_cut_off_is_not_whole(length):
    """Every cut is found."""
    assert codes(scanned(ARGUMENTS[:length])) == ["truncated"]


@given(st.binary(min_size=1, max_size=50))
def test_bytes_behind_the_end_are_found(tail):
    """Any number of bytes behind STOP is a finding, and the digest is of all of them."""
    found = scanned(ARGUMENTS + tail)

    assert codes(found) == ["trailing_bytes"]
    assert found.digest == xxhash.xxh3_128_hexdigest(ARGUMENTS + tail)


@given(st.binary(max_size=100))
def test_opaque_file_is_never_unsafe(tail):
    """Nothing is said of what loading it would do."""
    assert {"unsafe_global", "unsafe_opcode"}.isdisjoint(codes(scanned(b"\x80\x04" + tail)))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x80\x02cos\nsystem\n.", None),
        (b"\x80\x02(ios\nsystem\n.", None),
        (b"\x80\x02I1\n.", None),
        (b"\x80\x02\xff.", "malformed"),
        (b"\x80\x02I" + b"1" * 70_000, "limit_exceeded"),
        (b"\x80\x02\x8e" + b"\xff" * 8, "truncated"),
    ],
)
def test_each_form_of_argument_is_passed_over(data, code):
    """Opcodes tell their own lengths."""
    assert codes(scanned(data)) == ([] if code is None else [code])


def test_more_opcodes_than_allowed_are_refused(monkeypatch):
    """The walk has an end."""
    monkeypatch.setattr(opaque, "MAX_OPCODES", 3)
    assert codes(scanned(b"\x80\x02NNNN.")) == ["limit_exceeded"]
