"""Protocol buffers, read level by level against a known schema: bounded, and stricter than parsers are.

A field that the schema does not know, one that is there twice and should not be, a required one that is
missing: each ends the reading, as what Paddle writes has none of it.
Format: "Encoding" of the protocol buffers documentation.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    Span = tuple[int, int]

MAX_CHILDREN: Final = 500_000  # fields of one message
MAX_FIELDS: Final = 2_000_000  # of all messages together
MAX_VARINT_BYTES: Final = 10
MAX_DEPTH: Final = 50

INT, FLOAT, DOUBLE, BYTES = "int", "float", "double", "bytes"
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # the wire types
_WIRE_TYPES: Final = {INT: _VARINT, FLOAT: _FIXED32, DOUBLE: _FIXED64, BYTES: _DELIMITED}


@dataclass(frozen=True, slots=True)
class Field:
    """What one field of a message may be; without a message it is a plain value of this kind."""

    kind: str
    message: Message | None = None
    is_required: bool = False
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """The schema of a message: its fields by number."""

    name: str
    fields: Mapping[int, Field]

    @property
    def required(self) -> frozenset[int]:
        """The fields that must be there."""
        return frozenset(number for number, one in self.fields.items() if one.is_required)


@dataclass(slots=True)
class Fields:
    """What one message holds: integers as they are, everything else as its place in the data."""

    integers: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    spans: dict[int, list[Span]] = field(default_factory=lambda: defaultdict(list))


class Reader:
    """Reads messages of one file, and counts what they hold."""

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_FIELDS

    @property
    def whole(self) -> Span:
        """The place of the outermost message."""
        return 0, len(self._data)

    def text(self, span: Span) -> str:
        """A string."""
        try:
            return self._data[span[0] : span[1]].decode()
        except UnicodeDecodeError:
            raise ScanStopped("malformed", f"the string at byte {span[0]} is no UTF-8") from None

    def read(self, message: Message, span: Span) -> Fields:
        """Read one level of a message; what is nested in it is left as places.

        Raises:
            ScanStopped: `truncated` where the data ends within a field of the outermost message, `malformed`
                where it contradicts the schema, `limit_exceeded` beyond the limits.
        """
        place, end = span
        found = Fields()
        seen: set[int] = set()
        children = 0
        while place < end:
            children += 1
            self._left -= 1
            if children > MAX_CHILDREN or self._left < 0:
                raise ScanStopped("limit_exceeded", f"more fields than any {message.name} has")
            start = place
            tag, place = self._varint(place, end)
            number, wire_type = tag >> 3, tag & 7
            spec = message.fields.get(number)
            if spec is None or _WIRE_TYPES[spec.kind] != wire_type:
                raise ScanStopped(
                    "malformed", f"{message.name} has no field {number} of this form, at byte {start}"
                )
            if number in seen and not spec.is_repeated:
                raise ScanStopped("malformed", f"field {number} of {message.name} twice, at byte {start}")
            seen.add(number)
            if wire_type == _VARINT:
                value, place = self._varint(place, end)
                found.integers[number].append(value - (1 << 64) if value >> 63 else value)
                continue
            length = 8 if wire_type == _FIXED64 else 4
            if wire_type == _DELIMITED:
                length, place = self._varint(place, end)
            if length > end - place:
                raise self._cut(f"field {number} of {message.name} needs {length} bytes", place, end)
            if wire_type == _DELIMITED:
                found.spans[number].append((place, place + length))
            place += length
        if missing := message.required - seen:
            raise ScanStopped("malformed", f"{message.name} before byte {end} lacks its field {min(missing)}")
        return found

    def check(self, message: Message, span: Span, depth: int = 0) -> None:
        """Read a message with all that is nested in it, and keep nothing."""
        if depth > MAX_DEPTH:
            raise ScanStopped("limit_exceeded", f"messages nested more than {MAX_DEPTH} deep")
        for number, spans in self.read(message, span).spans.items():
            if nested := message.fields[number].message:
                for inner in spans:
                    self.check(nested, inner, depth + 1)

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = shift = 0
        for index in range(place, min(end, place + MAX_VARINT_BYTES)):
            byte = self._data[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, index + 1
            shift += 7
        if end - place < MAX_VARINT_BYTES:
            raise self._cut("a number goes on", place, end)
        raise ScanStopped("malformed", f"a number of more than {MAX_VARINT_BYTES} bytes at byte {place}")

    def _cut(self, what: str, place: int, end: int) -> ScanStopped:
        code = "truncated" if end == len(self._data) else "malformed"
        return ScanStopped(code, f"{what} at byte {place}, where {end - place} are left")
