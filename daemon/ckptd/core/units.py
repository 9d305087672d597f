"""Durations and sizes as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction

DURATION_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,9})?(s|m|h|d|w|mo|y)$"
LONGEST = timedelta(days=36_500)
"""What may be added to or taken from any present date and still gives a date."""

SIZE_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,9})?(B|KiB|MiB|GiB|TiB)$"

_SECONDS = {
    "s": 1,
    "m": 60,
    "h": 3_600,
    "d": 86_400,
    "w": 7 * 86_400,
    "mo": 30 * 86_400,
    "y": 365 * 86_400,
}
_DURATION = re.compile(DURATION_PATTERN)
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(SIZE_PATTERN)
_SIZE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def parse_duration(text: str) -> timedelta:
    """Read a whole or decimal number with a unit: `90s`, `1.5h`, `2w`; a month has 30 days, a year 365.

    Raises:
        ValueError: it is something else, or longer than 100 years; the message says what was expected.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'a number with a unit ({", ".join(_SECONDS)}), such as "10m"')
    unit = match[2]
    microseconds = Fraction(text.removesuffix(unit)) * _SECONDS[unit] * 1_000_000
    if microseconds > LONGEST // timedelta(microseconds=1):
        raise ValueError("at most 100y")
    return timedelta(microseconds=round(microseconds))


def duration_text(duration: timedelta) -> str:
    """Write a duration so that `parse_duration` reads exactly the same; it must not be negative."""
    seconds = duration // timedelta(seconds=1)
    if duration.microseconds:
        return f"{seconds}.{duration.microseconds:06d}".rstrip("0") + "s"
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}" if seconds else "0s"


def shown_duration(duration: timedelta) -> str:
    """A duration for people, cut to its two largest units: `3d 4h`, `2m 5s`, `0.3s`."""
    if duration < timedelta(0):
        return f"-{shown_duration(-duration)}"
    seconds, rest = divmod(duration, timedelta(seconds=1))
    if seconds == 0 and rest:
        return f"{rest.total_seconds():.1g}s"
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, seconds = divmod(seconds, _SECONDS[unit])
        parts.append((count, unit))
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(
        f"{count}{unit}"
        for index, (count, unit) in enumerate(parts[first : first + 2])
        if count or index == 0
    )


def parse_size(text: str) -> int:
    """Read a whole or decimal number of bytes with a unit: `50MiB`, `1.5GiB`, `512B`.

    Raises:
        ValueError: it is something else; the message says what was expected.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'a number with a unit ({", ".join(_BYTES)}), such as "50MiB"')
    return round(Fraction(text.removesuffix(match[2])) * _BYTES[match[2]])


def size_text(count: int) -> str:
    """Write a number of bytes so that `parse_size` reads exactly the same; it must not be negative."""
    unit = next(unit for unit in reversed(_BYTES) if count % _BYTES[unit] == 0) if count else "B"
    return f"{count // _BYTES[unit]}{unit}"


def shown_bytes(count: int) -> str:
    """A size for people: `812 B`, `1.2 GiB`."""
    if count < 1024:
        return f"{count} B"
    size, unit = count / 1024, 0
    while round(size, 1) >= 1024 and unit < len(_SIZE_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_SIZE_UNITS[unit]}"
