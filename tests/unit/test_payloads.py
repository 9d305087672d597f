from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from ckptd.core.payloads import ValueCheck, element_type, named_type, plain_value


def count_nonfinite(element, data):
    """How many elements are NaN or infinite, looked at in one block."""
    check = ValueCheck(element)
    check.feed(data)
    return check.nonfinite


ALL = ("b1", "i1", "i2", "i4", "i8", "u1", "u4", "u8", "f2", "f4", "f8", "c8", "c16")


@given(st.data(), st.sampled_from(["f2", "f4", "f8", "c8", "c16"]), st.sampled_from("<>"))
def test_counting_agrees_with_numpy_for_any_bits(data, code, order):
    """Whatever bits a payload holds, as many are found to be NaN or infinite as numpy finds."""
    element = element_type(code, order)
    raw = data.draw(st.binary(max_size=200).map(lambda raw: raw[: len(raw) // 16 * 16]))
    numbers = np.frombuffer(raw, np.dtype(code).newbyteorder(order))

    assert np.count_nonzero(~np.isfinite(numbers)) == count_nonfinite(element, raw)


@given(hn.arrays(np.float32, st.integers(0, 50)), st.lists(st.integers(0, 200)))
def test_counting_in_blocks_agrees_with_counting_at_once(numbers, cuts):
    """Blocks may end in the middle of a number."""
    raw = numbers.tobytes()
    check = ValueCheck(element_type("f4", "="))
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    for start, stop in pairwise(edges):
        check.feed(memoryview(raw)[start:stop])

    assert np.count_nonzero(~np.isfinite(numbers)) == check.nonfinite


@given(st.data(), st.sampled_from(["f2", "f4", "f8", "c16", "u1"]), st.integers(0, 40))
def test_constant_is_what_repeats_its_first_element_however_it_is_cut(data, code, count):
    """A tensor is constant if it has two elements or more, all with the same bits, in whatever blocks."""
    element = element_type(code, "=")
    first = data.draw(st.binary(min_size=element.itemsize, max_size=element.itemsize))
    raw = bytearray(first * count)
    if raw and data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1
    cuts = data.draw(st.lists(st.integers(0, len(raw))))
    check = ValueCheck(element)
    for start, stop in pairwise([0, *sorted(cuts), len(raw)]):
        check.feed(memoryview(raw)[start:stop])

    assert (count > 1 and bytes(raw) == bytes(raw[: element.itemsize]) * count) == check.is_constant


@pytest.mark.parametrize(
    ("name", "finite", "others"),
    [
        ("bfloat16", [0x3F80, 0x7F7F, 0xFF7F], [0x7F80, 0xFF80, 0x7FC0, 0xFFFF]),
        ("float8_e4m3fn", [0x38, 0x7E, 0xFE], [0x7F, 0xFF]),
        ("float8_e5m2", [0x3C, 0x7B, 0xFB], [0x7C, 0xFC, 0x7D, 0xFF]),
        ("float32", [0x3F800000, 0x7F7FFFFF], [0x7F800000, 0xFFC00000]),
    ],
)
def test_types_by_name_are_counted_by_their_bits(name, finite, others):
    """Types that numpy does not have are finite up to the patterns that their formats reserve."""
    element = named_type(name)
    data = b"".join(number.to_bytes(element.itemsize, "little") for number in finite + others)

    assert name == element.name
    assert len(others) == count_nonfinite(element, data)


def test_type_of_an_unknown_name_is_none():
    """What is not in the table is not guessed."""
    assert named_type("float4") is None


@given(hn.arrays(np.float32, st.integers(0, 50)))
def test_counting_uint16_reads_bfloat16(numbers):
    """The upper half of a float32 is a bfloat16, which Paddle stores as uint16."""
    upper = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    kept = (upper.astype(np.uint32) << 16).view(np.float32)

    assert np.count_nonzero(~np.isfinite(kept)) == count_nonfinite(element_type("u2", "<"), upper.tobytes())


@pytest.mark.parametrize("code", ALL)
def test_element_type_knows_numpys_name_and_size(code):
    """The table says what numpy says."""
    element = element_type(code, "=")

    assert np.dtype(code).name == element.name
    assert np.dtype(code).itemsize == element.itemsize
    assert (np.dtype(code).kind in "fc") == element.may_be_nonfinite


def test_huge_finite_numbers_are_finite():
    """A sum that overflows is no proof of anything."""
    numbers = np.full(1000, np.finfo(np.float32).max, np.float32)

    assert count_nonfinite(element_type("f4", "="), numbers.tobytes()) == 0


@pytest.mark.parametrize(
    ("code", "order"), [("f16", "<"), ("O8", "|"), ("V8", "|"), ("M8", "<"), ("f4", "?"), ("U0", "<")]
)
def test_element_type_that_cannot_be_checked_is_none(code, order):
    """What is not in the table is not guessed."""
    assert element_type(code, order) is None


@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5),
        np.float64("inf"),
        np.int64(-3),
        np.bool_(1),
        np.float16(2),
        np.str_("mAP"),
        np.array(1, ">f8"),
    ],
)
def test_plain_value_is_what_numpy_gives(value):
    """A scalar's bytes become the plain value that Python would show."""
    kind = value.dtype.str
    assert value.item() == plain_value(element_type(kind[1:], kind[0]), value.tobytes())


def test_plain_value_of_bfloat16_is_its_number():
    """A loss scale kept as bfloat16 is read as the number it stands for."""
    assert plain_value(element_type("u2", "<"), b"\x80\x3f") == 1.0


@pytest.mark.parametrize("value", [np.complex64(1j), np.bytes_(b"raw")])
def test_plain_value_of_what_no_metric_is_is_none(value):
    """Complex numbers and byte strings are no values of a progress file."""
    assert plain_value(element_type(value.dtype.str[1:], "="), value.tobytes()) is None
