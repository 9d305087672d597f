from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.units import (
    LONGEST,
    duration_text,
    parse_duration,
    parse_size,
    shown_bytes,
    shown_duration,
    size_text,
)


@given(st.timedeltas(min_value=timedelta(0), max_value=LONGEST))
def test_duration_text_of_any_duration_reads_back_as_the_same(duration):
    """What is written is read as exactly the same duration, to the microsecond."""
    assert duration == parse_duration(duration_text(duration))


@given(st.text() | st.from_regex(r"[0-9]{0,14}(\.[0-9]{0,11})?[a-z]{0,3}\n?"))
def test_parse_duration_of_any_text_gives_a_duration_within_bounds_or_says_what_it_expected(text):
    """No text leads to anything but a duration from 0 to 100 years or a ValueError with words."""
    try:
        duration = parse_duration(text)
    except ValueError as error:
        said = str(error)
    else:
        said = "" if timedelta(0) <= duration <= LONGEST else f"out of bounds: {duration}"
    assert said in {"", 'a number with a unit (s, m, h, d, w, mo, y), such as "10m"', "at most 100y"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", timedelta(0)),
        ("5s", timedelta(seconds=5)),
        ("0.25s", timedelta(milliseconds=250)),
        ("10m", timedelta(minutes=10)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1w", timedelta(days=7)),
        ("1mo", timedelta(days=30)),
        ("1y", timedelta(days=365)),
        ("100y", LONGEST),
    ],
)
def test_parse_duration_of_each_unit_gives_its_length(text, expected):
    """Each unit has its fixed length; a month is 30 days, a year 365."""
    assert expected == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "-5s",
        "+5s",
        "5 s",
        "5S",
        "5min",
        "5M",
        "1h30m",
        ".5s",
        "5.s",
        "1e3s",
        "\u0665s",
        "5s\n",
        " 5s",
    ],
)
def test_parse_duration_of_anything_else_names_the_units(text):
    """A bare number, an unknown unit, a sign or blanks are refused with the units that there are."""
    with pytest.raises(ValueError, match=re.escape("a number with a unit (s, m, h, d, w, mo, y)")):
        parse_duration(text)


def test_parse_duration_beyond_a_hundred_years_says_so():
    """A duration that could carry a date off the calendar is refused."""
    with pytest.raises(ValueError, match="at most 100y"):
        parse_duration("100.1y")


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=10), "10m"),
        (timedelta(hours=6), "6h"),
        (timedelta(days=14), "14d"),
        (timedelta(microseconds=1), "0.000001s"),
        (timedelta(minutes=1, milliseconds=500), "60.5s"),
    ],
)
def test_duration_text_takes_the_largest_unit_that_divides(duration, expected):
    """A duration is written with one number and one unit."""
    assert expected == duration_text(duration)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (timedelta(0), "0s"),
        (timedelta(milliseconds=300), "0.3s"),
        (timedelta(seconds=5, milliseconds=900), "5s"),
        (timedelta(seconds=125), "2m 5s"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=1, seconds=5), "1h"),
        (timedelta(days=3, hours=4, minutes=59), "3d 4h"),
        (-timedelta(minutes=5), "-5m"),
    ],
)
def test_shown_duration_keeps_the_two_largest_units(duration, expected):
    """People see at most two units, cut and not rounded; a time ahead has a minus sign."""
    assert expected == shown_duration(duration)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1_288_490_189, "1.2 GiB"),
        (1024**4, "1.0 TiB"),
        (1024**7, "1024.0 EiB"),
    ],
)
def test_shown_bytes_has_one_decimal_and_a_binary_unit(count, expected):
    """A size never shows as 1024.0 of a unit while there is a larger one."""
    assert expected == shown_bytes(count)


@given(st.integers(min_value=0, max_value=10**12 - 1))
def test_size_text_of_any_size_reads_back_as_the_same(size):
    """What is written is read as exactly the same number of bytes."""
    assert size == parse_size(size_text(size))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0B", 0), ("512B", 512), ("1KiB", 1 << 10), ("1.5MiB", 3 << 19), ("2GiB", 2 << 30), ("1TiB", 1 << 40)],
)
def test_parse_size_of_each_unit_gives_its_bytes(text, expected):
    """Each unit is 1024 of the one before it."""
    assert expected == parse_size(text)


@pytest.mark.parametrize("text", ["", "5", "MiB", "-1MiB", "1 MiB", "1MB", "1mib", "1e3KiB", "1MiB\n"])
def test_parse_size_of_anything_else_says_what_was_expected(text):
    """A size without a binary unit is refused, as it would be read in two ways."""
    with pytest.raises(ValueError, match="a number with a unit"):
        parse_size(text)
