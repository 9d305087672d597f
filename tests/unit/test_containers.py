from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import json_documents
from ckptd.core.findings import FINDINGS
from ckptd.core.model import Role
from pickling import codes, scan_bytes

PARAMS = pickle.dumps({"w": np.ones((3, 4), "f4")}, 4)

NO_CHECKPOINT = {
    "nothing": (b"", "empty_file"),
    "a git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        "git_lfs_pointer",
    ),
    "an HTML page": (b"\n  <!DOCTYPE html><html></html>", "html_page"),
    "an HTML page without a doctype": (b"<HTML>", "html_page"),
    "an XML error of an object store": (b"<?xml version='1.0'?><Error/>", "html_page"),
    "zeros": (bytes(100), "all_zero"),
    "many zeros": (bytes(5_000_000), "all_zero"),
    "many zeros and something": (bytes(5_000_000) + b"x", "all_zero"),
    "zeros and something": (bytes(5_000) + b"x", "unknown_container"),
    "text": (b"hello", "unknown_container"),
    "JSON": (b'{"w": 1}', "unknown_container"),
    "a zip": (b"PK\x03\x04", "unknown_container"),
    "a pickle of protocol 0": (pickle.dumps({"w": 1}, 0), "unknown_container"),
    "a pickle of protocol 1": (pickle.dumps({"w": 1}, 1), "unknown_container"),
    "a pickle of the future": (b"\x80\x63}.", "unknown_container"),
    "a pickle's first byte": (b"\x80", "truncated"),
    "a pickle's header": (b"\x80\x04", "truncated"),
}


@pytest.mark.parametrize("role", [Role.PARAMS, Role.OPT, Role.SCALER, Role.EMA])
@pytest.mark.parametrize(("data", "code"), NO_CHECKPOINT.values(), ids=NO_CHECKPOINT)
def test_what_is_no_checkpoint_is_named(data, code, role):
    """Each thing that turns up in place of a checkpoint has its own finding, and never none."""
    found = scan_bytes(data, role=role)

    assert codes(found) == [code]
    assert FINDINGS[code].verdict is not None


@given(st.binary(max_size=50), st.sampled_from([Role.PARAMS, Role.OPT, Role.META]))
def test_random_bytes_are_judged(data, role):
    """No content makes the scan fail, and no random content is a clean set of weights."""
    found = scan_bytes(data, role=role)

    assert len(data) == found.bytes
    assert found.findings or role is Role.META


@given(st.binary(max_size=50), st.sampled_from([Role.EXTRA, Role.MARKER]))
def test_file_that_is_not_ours_to_read_has_a_digest_only(data, role):
    """Open-ended files are digested and not judged."""
    found = scan_bytes(data, role=role)

    assert (found.findings, found.tensors, found.values) == ((), (), ())
    assert xxhash.xxh3_128_hexdigest(data) == found.digest


def test_digest_covers_the_whole_file():
    """The digest is that of all bytes, also those after the end."""
    assert xxhash.xxh3_128_hexdigest(PARAMS) == scan_bytes(PARAMS).digest
    assert xxhash.xxh3_128_hexdigest(PARAMS + b"tail") == scan_bytes(PARAMS + b"tail").digest


def test_findings_show_the_path_printably():
    """A file name forges no log line."""
    assert scan_bytes(b"", path="a\nb").findings[0].path == r"a\x0ab"


def test_nonfinite_values_are_one_finding_that_names_a_few_tensors():
    """A diverged model is one finding, however many tensors it has."""
    tree = {f"w{index}\n": np.full((2,), math.nan, "f4") for index in range(5)} | {"ok": np.ones(2)}
    found = scan_bytes(pickle.dumps(tree))

    assert codes(found) == ["nonfinite_values"]
    assert (
        r"10 NaN or infinite in 5 tensors: w0\x0a (2), w1\x0a (2), w2\x0a (2) and 2 more"
        == found.findings[0].detail
    )


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
        ),
    ).map(lambda inner: [inner])
)
def test_json_gives_the_same_leaves_as_its_pickle(tree):
    """A progress file says the same in either format."""
    found = scan_bytes(json.dumps(tree).encode(), path="info", role=Role.META)

    assert (found.container, found.findings) == ("json", ())
    assert repr(scan_bytes(pickle.dumps(tree)).values) == repr(found.values)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a": ', "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": 1} {"b": 2}', "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
        (b"hello", "invalid_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b"[" * 200_000, "limit_exceeded"),
        (b"[" * 150 + b"]" * 150, "limit_exceeded"),
    ],
)
def test_bad_json_is_named(data, code):
    """Each way in which JSON is no use has its code."""
    found = scan_bytes(data, path="trainer_state.json", role=Role.META)

    assert (found.container, codes(found)) == ("json", [code])


@pytest.mark.parametrize("limit", ["MAX_JSON_BYTES", "MAX_JSON_ITEMS"])
def test_json_that_is_too_long_is_not_parsed(monkeypatch, limit):
    """Parsing takes memory in proportion to bytes and values, so both have a limit."""
    monkeypatch.setattr(json_documents, limit, 0)
    assert codes(scan_bytes(b'{"metric": 0.5}', path="a.json", role=Role.META)) == ["limit_exceeded"]


@pytest.mark.parametrize(
    "data", [b'\xef\xbb\xbf {"loss": NaN, "\\ud800": 1}', b'\n{"loss": NaN, "\\ud800": 1}']
)
def test_json_of_careless_writers_is_read(data):
    """A byte order mark, leading space, NaN and lone surrogates are what trainers write."""
    found = scan_bytes(data, path="a.states", role=Role.META)

    assert found.findings == ()
    assert repr(((("loss",), math.nan), (("\\ud800",), 1))) == repr(found.values)


def test_progress_that_is_neither_pickle_nor_json_is_unknown():
    """Text under a progress file's name proves nothing."""
    assert codes(scan_bytes(b"epoch 3", path="a.pdstates", role=Role.META)) == ["unknown_container"]
