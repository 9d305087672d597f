from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from binary_tensors import ragged, selected_rows, stream_of, tensor
from ckptd.core import tensor_streams
from ckptd.core.model import Role
from ckptd.core.tensor_streams import DTYPES
from pickling import codes, scan_bytes

ARRAYS = hnp.arrays(
    st.sampled_from(["?", "i1", "<i2", "<i4", "<i8", "u1", "<f2", "<f4", "<f8", "<c8", "<c16"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)
NUMBERS = hnp.arrays(st.just("<i4"), hnp.array_shapes(max_dims=2, min_side=0, max_side=2))


@given(st.lists(ARRAYS, min_size=1, max_size=4))
def test_tensors_come_back_as_they_were_written(arrays):
    """Shape, type, bytes and the count of NaN and infinities of every tensor are those of the array."""
    found = scan_bytes(stream_of(arrays))

    assert found.container == "tensors"
    assert [(one.key, one.shape, one.dtype, one.bytes) for one in found.tensors] == [
        ((index,), array.shape, array.dtype.name, array.nbytes) for index, array in enumerate(arrays)
    ]
    assert [one.nonfinite for one in found.tensors] == [
        np.count_nonzero(~np.isfinite(array)) for array in arrays
    ]


@given(st.lists(ARRAYS, min_size=1, max_size=3), st.data())
def test_stream_that_is_cut_off_within_a_tensor_is_never_clean(arrays, data):
    """Every cut is found but one between two tensors, which only the program beside the file can tell."""
    whole = stream_of(arrays)
    ends = {len(stream_of(arrays[:count])) for count in range(1, len(arrays) + 1)}
    length = data.draw(st.integers(0, len(whole) - 1).filter(lambda length: length not in ends))

    assert scan_bytes(whole[:length]).findings


@given(ARRAYS, st.binary(min_size=1, max_size=60))
def test_bytes_behind_the_last_tensor_are_found(array, tail):
    """Any number of foreign bytes behind the end is a finding."""
    assert scan_bytes(stream_of([array]) + tail).findings


@given(st.binary(max_size=100))
def test_random_bytes_behind_a_version_are_judged(tail):
    """No content makes the reader fail."""
    scan_bytes(bytes(12) + tail)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3), NUMBERS)
def test_tensor_with_sequences_is_read(levels, array):
    """The offsets of sequences stand in front of a tensor and are passed by."""
    data = ragged(array, levels)
    found = scan_bytes(data)

    assert (found.container, found.findings) == ("tensors", ())
    assert [one.shape for one in found.tensors] == [array.shape]
    assert all(scan_bytes(data[:length]).findings for length in range(len(data)))


def test_second_tensor_may_have_sequences():
    """A stream may go on with a tensor of sequences."""
    array = np.ones(3, "f4")
    assert len(scan_bytes(stream_of([array]) + ragged(array, [[1, 2]])).tensors) == 2


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20))
def test_selected_rows_are_read(rows):
    """Some rows of a taller tensor: as many as it says, and none beyond its height."""
    data = selected_rows(np.ones((len(rows), 2), "f4"), rows, 100)
    found = scan_bytes(data)

    assert (found.container, found.findings) == ("selected_rows", ())
    assert [(one.shape, one.dtype) for one in found.tensors] == [((len(rows), 2), "float32")]
    assert all(scan_bytes(data[:length]).findings for length in range(len(data)))
    assert codes(scan_bytes(data + b"\0")) == ["trailing_bytes"]


@pytest.mark.parametrize("code", DTYPES)
def test_every_type_of_paddle_is_read(code):
    """Each element type has its name and its size."""
    itemsize = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}.get(DTYPES[code])
    size = itemsize or np.dtype(DTYPES[code]).itemsize
    found = scan_bytes(tensor(bytes(range(size * 3)), (3,), code))

    assert (found.findings, [one.dtype for one in found.tensors]) == ((), [DTYPES[code]])


def test_nan_and_constants_are_noticed():
    """Values are looked at as in every other container."""
    found = scan_bytes(stream_of([np.full(3, math.nan, "<f4"), np.ones(2, "<f4"), np.arange(3.0)]))

    assert codes(found) == ["nonfinite_values"]
    assert [one.is_constant for one in found.tensors] == [True, True, False]


PLAIN = tensor(bytes(8), (2,), 5)
U64 = struct.Struct("<Q").pack

WRONG = {
    "a shape of more bytes than there are": (tensor(bytes(8), (3,), 5), "truncated"),
    "a shape whose product is beyond any integer": (tensor(b"", (1 << 62,) * 9, 5), "truncated"),
    "a negative size": (tensor(b"", (-1,), 5), "malformed"),
    "ten dimensions": (tensor(bytes(4), (1,) * 10, 5), "malformed"),
    "an unknown type": (tensor(bytes(8), (2,), 99), "malformed"),
    "a type that Paddle stores but does not load": (tensor(bytes(8), (2,), 37), "malformed"),
    "a type that is no element": (tensor(bytes(8), (2,), 7), "malformed"),
    "another version of the second tensor": (
        PLAIN + bytes(4) + U64(1) + U64(8) + bytes(8) + b"\1\0\0\0" + PLAIN,
        "malformed",
    ),
    "a description of the second tensor that is too long": (
        PLAIN + bytes(4) + U64(1) + U64(8) + bytes(12) + b"\0\1\1\0" + bytes(70_000),
        "malformed",
    ),
    "very many levels of sequences": (PLAIN + bytes(4) + U64(99), "malformed"),
    "offsets that are no numbers": (PLAIN + bytes(4) + U64(1) + U64(9) + bytes(30), "malformed"),
    "offsets beyond the end": (PLAIN + bytes(4) + U64(1) + U64(1 << 60) + bytes(30), "truncated"),
    "another tag": (PLAIN[:20] + b"\x08\x05\x18\x02" + PLAIN[24:], "malformed"),
    "rows beyond the height": (selected_rows(np.ones((2, 1), "f4"), [0, 7], 7), "malformed"),
    "fewer rows than named": (selected_rows(np.ones((1, 1), "f4"), [0, 1], 7), "malformed"),
    "a negative height": (selected_rows(np.ones((1, 1), "f4"), [0], 1 << 63), "malformed"),
    "rows of a file without any": (bytes(4) + U64(1 << 40) + bytes(20) + b"x", "unknown_container"),
    "zeros behind a tensor": (PLAIN + bytes(1000), "trailing_bytes"),
    "text behind a tensor": (PLAIN + b"x", "trailing_bytes"),
}


@pytest.mark.parametrize(("data", "code"), WRONG.values(), ids=WRONG)
def test_stream_that_contradicts_itself_is_named(data, code):
    """Each way of being wrong ends the walk with its code."""
    assert codes(scan_bytes(data)) == [code]


def test_more_tensors_than_a_model_has_are_refused(monkeypatch):
    """What a stream takes in memory has a limit."""
    monkeypatch.setattr(tensor_streams, "MAX_TENSORS", 2)
    assert codes(scan_bytes(PLAIN * 2)) == []
    assert codes(scan_bytes(PLAIN * 3)) == ["limit_exceeded"]


@pytest.mark.parametrize("role", [Role.PARAMS, Role.OPT, Role.META, Role.PROGRAM])
def test_stream_is_known_by_its_content(role):
    """Name and role do not matter."""
    assert scan_bytes(PLAIN, path="fc_0.w_0", role=role).container == "tensors"
