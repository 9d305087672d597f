from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from ckptd.core.payloads import NonfiniteCounter, count_nonfinite, element_type, plain_value

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
    counter = NonfiniteCounter(element_type("f4", "="))
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    for start, stop in pairwise(edges):
        counter.feed(memoryview(raw)[start:stop])

    assert np.count_nonzero(~np.isfinite(numbers)) == counter.count


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
