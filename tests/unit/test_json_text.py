from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import json_text
from ckptd.core.json_text import MAX_DEPTH, JsonText
from ckptd.core.stream import ScanStopped

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def reading(data):
    """A reader of these bytes."""
    return JsonText(data, code="malformed")


def over(data):
    """The code of what is wrong with a whole JSON text, or None."""
    text = reading(data)
    try:
        text.pass_over()
        text.end()
    except ScanStopped as stopped:
        return stopped.code
    return None


def table(text, most):
    """An object of at most so many strings."""
    return {key: text.string() for key in text.members(most)}


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_whatever_json_writes_is_passed_over(value, indent, ascii_only):
    """Every JSON text that the standard library writes is taken whole."""
    assert over(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()) is None


@given(VALUES, st.integers(0, 200), st.binary(max_size=2))
def test_what_json_refuses_is_refused(value, place, piece):
    """A damaged text that the standard library does not parse is not passed over either."""
    data = json.dumps(value, ensure_ascii=False).encode()
    data = data[:place] + piece + data[place + 1 :]
    try:
        json.loads(data.decode())
    except ValueError:
        assert over(data) is not None


@given(st.dictionaries(st.text(), st.text()), st.booleans())
def test_members_are_those_of_json(value, ascii_only):
    """Keys and strings come back as they were written, whatever the escapes."""
    text = reading(json.dumps(value, ensure_ascii=ascii_only).encode())

    assert value == table(text, 1000)
    text.end()


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=5))
def test_sizes_are_those_of_json(sizes):
    """Unsigned integers of 64 bits come back as they were written."""
    assert tuple(sizes) == reading(json.dumps(sizes).encode()).sizes(5)


SIZES = {
    "no array": b"3",
    "nothing": b"",
    "negative": b"[-1]",
    "a fraction": b"[1.5]",
    "a leading zero": b"[01]",
    "65 bits": b"[18446744073709551616]",
    "too long": b"[123456789012345678901234567890]",
    "text": b'["1"]',
    "too many": b"[1,1,1]",
    "a comma at the end": b"[1,]",
    "no comma": b"[1 1]",
    "no end": b"[1",
    "another end": b"[1}",
}


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
def test_what_are_no_sizes_stops(data):
    """Anything but an array of up to so many sizes stops."""
    with pytest.raises(ScanStopped) as stopped:
        reading(data).sizes(2)
    assert stopped.value.code == "malformed"


MEMBERS = {
    "a key twice": (b'{"a":"","a":""}', "malformed"),
    "a key twice, once escaped": (b'{"a":"","\\u0061":""}', "malformed"),
    "a key that is no text": (b'{1:""}', "malformed"),
    "a key without a value": (b'{"a"}', "malformed"),
    "a comma at the end": (b'{"a":"",}', "malformed"),
    "too many": (b'{"a":"","b":"","c":""}', "limit_exceeded"),
    "half a surrogate pair": (b'{"\\ud800":""}', "malformed"),
    "no UTF-8": (b'{"\xff":""}', "malformed"),
    "an escape that is none": (b'{"\\x":""}', "malformed"),
    "a line break": (b'{"\n":""}', "malformed"),
}


@pytest.mark.parametrize(("data", "code"), MEMBERS.values(), ids=MEMBERS)
def test_what_is_no_table_of_texts_stops(data, code):
    """Keys are unique texts, each with a value, and not too many."""
    with pytest.raises(ScanStopped) as stopped:
        table(reading(data), 2)
    assert stopped.value.code == code


PASSED = {
    "nesting at the limit": (b"[" * MAX_DEPTH + b"0" + b"]" * MAX_DEPTH, None),
    "endless nesting": (b"[" * 100_000, "limit_exceeded"),
    "an object without a value": (b'{"a"}', "malformed"),
    "nothing": (b"", "malformed"),
    "a word": (b"nan", "malformed"),
    "something behind it": (b"1 2", "malformed"),
    "space around it": (b" \t\r\n1 \t\r\n", None),
}


@pytest.mark.parametrize(("data", "code"), PASSED.values(), ids=PASSED)
def test_a_value_is_passed_over_or_stops(data, code):
    """What is passed over is JSON, and not deeper than any index."""
    assert code == over(data)


@given(VALUES)
def test_a_short_value_comes_back(value):
    """A value comes back as it was written, and a longer one is only passed over."""
    data = json.dumps([value, 1]).encode()

    assert [value, 1] == reading(data).value(len(data))
    assert reading(data).value(len(data) - 1) is None


def test_a_number_of_too_many_digits_stops():
    """What Python refuses to make a number of is no value."""
    with pytest.raises(ScanStopped) as stopped:
        reading(b"9" * 10_000).value(10_000)
    assert stopped.value.code == "malformed"


def test_an_array_is_gone_through_up_to_its_limit():
    """The caller takes each item, and there are not too many."""
    text = reading(b'["a", "b"]')
    assert ["a", "b"] == [text.string() for _ in text.items(2)]

    text = reading(b'["a", "b", "c"]')
    with pytest.raises(ScanStopped) as stopped:
        [text.string() for _ in text.items(2)]
    assert stopped.value.code == "limit_exceeded"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"[0, 0, [0]]", None),
        (b"[0, 0, [0, 0]]", "limit_exceeded"),
        (b"[[], [], [], [], []]", "limit_exceeded"),
    ],
)
def test_a_text_of_endless_values_is_refused(data, code, monkeypatch):
    """All values of a text count together, wherever they are."""
    monkeypatch.setattr(json_text, "MAX_ITEMS", 4)

    assert code == over(data)
