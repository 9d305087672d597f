from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import indexes
from ckptd.core.model import ExpectedTensor, Role
from pickling import codes, scan_bytes

FILES = st.from_regex(r"model-0000[1-9]-of-00009\.safetensors", fullmatch=True)


def scanned(data, role=Role.INDEX):
    """The scan of an index, as bytes or as a value."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return scan_bytes(raw, path="model.safetensors.index.json", role=role)


@given(st.dictionaries(st.text(max_size=10), FILES), st.integers())
def test_an_index_says_what_is_where(weights, size):
    """Every tensor of the weight map is expected in its file, in the map's order."""
    found = scanned({"metadata": {"total_size": size}, "weight_map": weights})

    assert tuple(ExpectedTensor(name, file) for name, file in weights.items()) == found.expected
    assert found.findings == ()
    assert found.container == "index"
    assert found.digest


def test_an_index_after_a_byte_order_mark_is_read():
    """A mark that some editors leave is no reason to refuse an index."""
    assert codes(scanned(b'\xef\xbb\xbf{"weight_map": {}}')) == []


BROKEN = {
    "no weight map": {"metadata": {}},
    "a list": [1],
    "a weight map that is none": {"weight_map": []},
    "a file that is no text": {"weight_map": {"a": 1}},
    "no name": {"weight_map": {"a": ""}},
    "this directory": {"weight_map": {"a": "."}},
    "the directory above": {"weight_map": {"a": ".."}},
    "a file elsewhere": {"weight_map": {"a": "../b"}},
    "a file anywhere": {"weight_map": {"a": "/etc/passwd"}},
    "a file below": {"weight_map": {"a": "b/c"}},
    "a file on another system": {"weight_map": {"a": "b\\c"}},
    "a NUL": {"weight_map": {"a": "b\0"}},
    "too long a name": {"weight_map": {"a": "b" * 256}},
    "the weight map twice": b'{"weight_map":{},"weight_map":{}}',
    "a tensor twice": b'{"weight_map":{"a":"b","a":"c"}}',
    "another index behind it": b'{"weight_map":{}}{"weight_map":{}}',
    "half an index": b'{"weight_map":{"a":"b"',
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_index_is_named(data):
    """An index names files beside it, each tensor once, and nothing else."""
    found = scanned(data)

    assert codes(found) == ["invalid_index"]
    assert found.expected == ()


def test_an_endless_index_is_refused():
    """An index that is longer than any is not read."""
    assert codes(scanned(b'{"weight_map":{}}'.ljust(indexes.MAX_BYTES + 1))) == ["limit_exceeded"]


def test_an_index_of_too_many_tensors_is_refused(monkeypatch):
    """There is a limit to what an index may expect."""
    monkeypatch.setattr(indexes, "MAX_EXPECTED", 2)

    assert codes(scanned({"weight_map": dict.fromkeys("abc", "x")})) == ["limit_exceeded"]
