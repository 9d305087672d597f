from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import ledger_codec
from ckptd.core.ledger_codec import (
    UnknownFormat,
    decode_judgement,
    decode_scan,
    encode_judgement,
    encode_scan,
)
from ckptd.core.model import (
    ExpectedTensor,
    FileScan,
    Finding,
    Judgement,
    Metric,
    Order,
    Role,
    TensorFacts,
    Verdict,
)

texts = st.text(
    st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=20
)  # "C" has the surrogates
integers = st.integers() | st.integers(min_value=2**63, max_value=2**70)
key_paths = st.lists(texts | integers, max_size=4).map(tuple)
findings = st.lists(st.builds(Finding, texts, texts, texts), max_size=3).map(tuple)
tensors = st.builds(
    TensorFacts,
    key_paths,
    st.lists(integers, max_size=4).map(tuple),
    texts,
    integers,
    integers,
    st.none() | texts,
    st.booleans(),
)
sizes = st.none() | st.lists(integers, max_size=4).map(tuple)
expected = st.builds(ExpectedTensor, texts, texts, sizes, sizes, st.none() | texts)
scalars = texts | integers | st.floats(allow_nan=False) | st.booleans() | st.none()
scans = st.builds(
    FileScan,
    texts,
    integers,
    st.none() | texts,
    findings,
    st.lists(tensors, max_size=3).map(tuple),
    st.lists(st.tuples(key_paths, scalars), max_size=3).map(tuple),
    st.lists(expected, max_size=3).map(tuple),
)
metrics = st.builds(
    Metric, texts, st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(list(Order))
)
judgements = st.builds(
    Judgement,
    st.sampled_from(list(Verdict)),
    findings,
    st.none() | integers,
    st.none() | integers,
    st.none() | metrics,
    st.frozensets(st.sampled_from(list(Role))),
)


@given(scans)
def test_scan_encoded_and_decoded_is_the_same(scan):
    """Decoding undoes encoding for every scan, with surrogates, huge integers and infinities."""
    assert decode_scan(encode_scan(scan)) == scan


@given(judgements)
def test_judgement_encoded_and_decoded_is_the_same(judgement):
    """Decoding undoes encoding for every judgement, and the enumerations come back as themselves."""
    decoded = decode_judgement(encode_judgement(judgement))
    assert decoded == judgement
    assert type(decoded.verdict) is Verdict


def test_scan_value_nan_survives():
    """A NaN in a progress file is a NaN after the round trip, not null."""
    scan = FileScan("pickle", 3, None, values=((("loss",), float("nan")),))
    assert str(decode_scan(encode_scan(scan)).values) == str(scan.values)


def test_integer_beyond_decimal_limit_survives():
    """An integer that Python refuses to print in decimal is stored all the same."""
    scan = FileScan("pickle", 3, None, values=((("step",), 1 << 20_000),))
    assert decode_scan(encode_scan(scan)) == scan


def test_equal_judgements_give_equal_bytes():
    """The order in which roles were put into the set does not show in the bytes."""
    roles = [Role.PARAMS, Role.OPT, Role.META, Role.SCALER]
    forward = Judgement(Verdict.VALID, roles=frozenset(roles))
    backward = Judgement(Verdict.VALID, roles=frozenset(reversed(roles)))
    assert encode_judgement(forward) == encode_judgement(backward)


_SCAN = encode_scan(FileScan("pickle", 3, "00"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        _SCAN[:-4],
        zlib.compress(b"[]"),
        zlib.compress(b"{}"),
        zlib.compress(b'{"hex": "zz"}'),
        zlib.compress(b"[1,2]"),
        zlib.compress(b"\xff"),
        zlib.compress(json.dumps([ledger_codec.FORMAT, "pickle", 3, None, 5, [], []]).encode()),
        zlib.compress(json.dumps([ledger_codec.FORMAT + 1, "pickle", 3, None, [], [], []]).encode()),
    ],
)
def test_damaged_scan_is_an_unknown_format(data):
    """Bytes that this version did not write raise one error, whatever is wrong with them."""
    with pytest.raises(UnknownFormat, match="no scan of format"):
        decode_scan(data)


@pytest.mark.parametrize("data", [b"", b"[1]", b'[1,"no such verdict",[],null,null,null,[]]', b"\xff", b"{}"])
def test_damaged_judgement_is_an_unknown_format(data):
    """Bytes that this version did not write raise one error, whatever is wrong with them."""
    with pytest.raises(UnknownFormat, match="no judgement of format"):
        decode_judgement(data)


def test_scan_that_inflates_without_end_is_no_scan(monkeypatch):
    """A scan process that was taken over cannot fill the daemon's memory with a few bytes."""
    monkeypatch.setattr(ledger_codec, "MAX_SCAN_BYTES", 1 << 20)
    with pytest.raises(UnknownFormat, match="1048576 bytes"):
        decode_scan(zlib.compress(bytes(2 << 20)))
