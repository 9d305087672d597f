from __future__ import annotations

import io
import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from ckptd.core import safetensors
from ckptd.core.model import Role
from ckptd.core.safetensors import MAX_HEADER_BYTES, MAX_METADATA
from ckptd.core.state_dicts import MAX_TENSORS
from pickling import codes, scan_bytes

DTYPES = ("bool", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8")
SMALL = save(
    {"w": np.arange(12, dtype="f4").reshape(3, 4), "b": np.ones(3, "f2"), "none": np.zeros((0, 2), "i8")},
    {"format": "np"},
)


def scanned(data):
    """The scan of a safetensors file, under whatever name."""
    return scan_bytes(data, path="model.pdparams")


def file_of(header, content=b""):
    """A file with this header, as text or as a value."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + content


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    """The header's entry of a tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)),
        max_size=4,
    )
)
def test_whatever_the_library_writes_is_read(tensors):
    """Names, shapes and types are those that were saved, and the file is clean."""
    arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in tensors.items()}
    found = scanned(save(arrays))

    assert {(name,): (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        one.key: (one.shape, one.dtype) for one in found.tensors
    }
    assert found.findings == ()
    assert found.container == "safetensors"
    assert found.digest


@given(st.data())
def test_what_the_library_rejects_is_never_clean(data):
    """Of a file that was damaged anywhere, whatever the library does not load has a finding."""
    place = data.draw(st.integers(0, len(SMALL) - 1))
    cut = data.draw(st.integers(0, 3))
    piece = data.draw(
        st.binary(max_size=3) | st.sampled_from([b"0", b"9", b'"', b",", b"{", b"}", b" ", b"\\"])
    )
    damaged = SMALL[:place] + piece + SMALL[place + cut :]
    try:
        deserialize(damaged)
    except SafetensorError:
        assert codes(scanned(damaged))


@pytest.mark.parametrize("length", range(len(SMALL)))
def test_a_prefix_is_never_clean(length):
    """A save that was cut off anywhere is noticed."""
    assert codes(scanned(SMALL[:length]))


def test_a_cut_off_file_is_noticed_without_reading_it():
    """How much content there has to be is in the header."""
    found = scanned(file_of({"a": tensor(shape=(1 << 40,), offsets=(0, 1 << 42))}, bytes(3_000_000)))

    assert codes(found) == ["truncated"]
    assert found.digest is None


BROKEN = {
    "a header longer than the file": (struct.pack("<Q", 99) + b"{}", "truncated"),
    "an entry that is no object": (file_of({"a": 1}), "malformed"),
    "no shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), "malformed"),
    "no dtype": (file_of({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "malformed"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [1]}}, bytes(4)), "malformed"),
    "one offset": (file_of({"a": tensor(offsets=(0,))}, bytes(4)), "malformed"),
    "an unknown type": (file_of({"a": tensor("F31")}, bytes(4)), "malformed"),
    "another field": (file_of({"a": {"x": 1}}), "malformed"),
    "an end before the begin": (file_of({"a": tensor(offsets=(4, 0))}, bytes(4)), "malformed"),
    "a size beyond counting": (
        file_of({"a": tensor(shape=(1 << 40, 1 << 40, 0), offsets=(0, 0))}),
        "malformed",
    ),
    "a tensor twice": (
        file_of(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'),
        "malformed",
    ),
    "metadata that are no text": (file_of({"__metadata__": {"a": 1}}), "malformed"),
    "metadata twice": (file_of(b'{"__metadata__":{},"__metadata__":{}}'), "malformed"),
    "something behind the header": (file_of(b"{}x"), "malformed"),
    "a shape for fewer bytes": (file_of({"a": tensor(shape=(2,))}, bytes(4)), "size_mismatch"),
    "half a byte": (file_of({"a": tensor("F4", (3,), (0, 1))}, bytes(1)), "size_mismatch"),
    "a hole at the beginning": (file_of({"a": tensor(offsets=(4, 8))}, bytes(8)), "not_covered"),
    "a hole": (file_of({"a": tensor(), "b": tensor(offsets=(8, 12))}, bytes(12)), "not_covered"),
    "an overlap": (file_of({"a": tensor(), "b": tensor(offsets=(0, 4))}, bytes(4)), "not_covered"),
    "content that ends early": (file_of({"a": tensor()}, bytes(3)), "truncated"),
    "content that goes on": (file_of({"a": tensor()}, bytes(5)), "trailing_bytes"),
    "content without tensors": (file_of({}, bytes(5)), "trailing_bytes"),
    "too long a header": (file_of(b"{}".ljust(MAX_HEADER_BYTES + 1)), "limit_exceeded"),
    "too many metadata": (
        file_of({"__metadata__": {str(number): "" for number in range(MAX_METADATA + 1)}}),
        "limit_exceeded",
    ),
    "too many tensors": (
        file_of({str(number): tensor("U8", (0,), (0, 0)) for number in range(MAX_TENSORS + 2)}),
        "limit_exceeded",
    ),
    "a type that cannot be checked": (file_of({"a": tensor("F8_E8M0", (4,))}, bytes(4)), "unverified_tensor"),
    "a length of no header": (b"\xff" * 8 + b"{}", "unknown_container"),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_each_way_of_being_wrong_has_its_finding(data, code):
    """The first thing that is wrong with a file is named."""
    assert codes(scanned(data)) == [code]


def test_a_header_without_a_brace_is_malformed(monkeypatch):
    """The reader itself holds the header to its first byte, whoever calls it."""
    monkeypatch.setattr(safetensors, "is_safetensors", lambda _: True)

    assert codes(scanned(file_of(b" {}"))) == ["malformed"]


VALUES = {
    "BF16": (np.array([0x7F80, 0x3F80], "<u2"), "bfloat16", 1),
    "F16": (np.array([np.nan, 1], "<f2"), "float16", 1),
    "F32": (np.array([np.inf, -np.inf], "<f4"), "float32", 2),
    "F64": (np.array([1, np.nan], "<f8"), "float64", 1),
    "F8_E4M3": (np.array([0x7F, 0x7E], "u1"), "float8_e4m3fn", 1),
    "F8_E5M2": (np.array([0x7C, 0x7D], "u1"), "float8_e5m2", 2),
    "I32": (np.array([-1, 1], "<i4"), "int32", 0),
}


@pytest.mark.parametrize("dtype", VALUES)
def test_numbers_are_looked_at(dtype):
    """What is not finite is counted in every type of floating-point numbers."""
    values, name, count = VALUES[dtype]
    found = scanned(file_of({"a": tensor(dtype, (2,), (0, values.nbytes))}, values.tobytes()))

    assert [(name, count, values.nbytes)] == [(one.dtype, one.nonfinite, one.bytes) for one in found.tensors]
    assert codes(found) == (["nonfinite_values"] if count else [])


def test_constant_tensors_are_marked():
    """Elements that are all equal are seen, tensor by tensor."""
    found = scanned(save({"a": np.full(5_000_000, 3, "f4"), "b": np.arange(4, dtype="f4")}))

    assert {("a",): True, ("b",): False} == {one.key: one.is_constant for one in found.tensors}


@pytest.mark.parametrize("role", [Role.PARAMS, Role.SHARD, Role.OPT])
def test_the_content_counts_and_not_the_role(role):
    """A safetensors file is one under any name."""
    assert scan_bytes(SMALL, role=role).container == "safetensors"


class Importing(pickle.Unpickler):
    """Stops where a load would import something."""

    def find_class(self, module, name):
        """Tell what would be imported."""
        raise ImportError(f"{module}.{name}")


def disguised(content):
    """A safetensors file that is read as a pickle up to its content, through strings in the tensor's name.

    The length of the header, 1368, is an X and the length of a string; each U with the DEL behind it skips
    127 bytes of the name, and the last one, with a J, goes to the end of the header.
    """
    name = "".join("U\x7f".ljust(129, "a") for _ in range(10)) + "UJ"
    entry = {name: tensor("U8", (len(content),), (0, len(content)))}
    header = json.dumps(entry, separators=(",", ":"), ensure_ascii=False)
    return file_of(header.encode().ljust(0x558), content)


@pytest.mark.parametrize("offset", [0, 1, 100, 70_000, 3_000_000])
def test_a_file_that_is_a_pickle_too_is_unsafe(offset):
    """paddle.load does not care what a file is meant to be; what it would import is found."""
    skipped = b"B" + struct.pack("<I", offset) + bytes(offset)
    data = disguised(skipped + b"cos\nsystem\n.")
    with pytest.raises(ImportError, match=r"os\.system"):
        Importing(io.BytesIO(data), encoding="latin1").load()

    found = scanned(data)
    assert codes(found) == ["unsafe_global"]
    assert "os.system" in found.findings[0].detail


def test_a_file_that_hides_well_is_unsafe():
    """Nobody skips so often but to hide something."""
    skip = b"B" + struct.pack("<I", 70_000) + bytes(70_000)

    assert codes(scanned(disguised(skip * 20))) == ["unsafe_global"]


def test_a_file_that_only_begins_like_a_pickle_is_clean():
    """What fails as a pickle does no harm, and its tensors are whole."""
    found = scanned(disguised(b"{" * 100_000))

    assert codes(found) == []
    assert [100_000] == [one.bytes for one in found.tensors]


def test_numbers_are_counted_across_a_look():
    """Where a tensor is looked at as a pickle, its numbers are seen once."""
    values = np.full(50_000, np.nan, "<f4")
    values.view("u1")[:] = np.where(np.arange(200_000) == 0, ord("B"), values.view("u1"))
    data = disguised(values.tobytes()).replace(b'"U8","shape":[200000]', b'"F32","shape":[50000]')

    assert 49_999 <= scanned(data).nonfinite <= 50_000
