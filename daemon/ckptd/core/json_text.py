"""JSON of a known form, read token by token: in memory that the caller bounds, and with no key given twice.

`json.loads` makes objects of whatever a hostile text describes, many times its size, before anybody can look
at them, and of two equal keys it keeps the last one in silence. Format: RFC 8259, in UTF-8.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from ckptd.core.names import shown
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH: Final = 100  # of a value that is passed over
MAX_ITEMS: Final = 2_000_000  # of all arrays and objects together; each takes a microsecond or two

_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"([^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"', re.DOTALL)
_SIZE: Final = re.compile(rb"0|[1-9][0-9]{0,19}+(?![0-9])")
_ATOM: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_SIZES_END: Final = 1 << 64  # what a reader in Rust can count to


class JsonText:
    """A place in a JSON text. Every method raises `ScanStopped` where the text is something else."""

    __slots__ = ("_code", "_left", "_position", "_text")

    def __init__(self, text: bytes, *, code: str) -> None:
        """Start at the first byte; `code` is the finding for a text that is not as it should be."""
        self._text = text
        self._code = code
        self._position = 0
        self._left = MAX_ITEMS

    def fail(self, what: str) -> ScanStopped:
        """The finding about the place that was reached."""
        return ScanStopped(self._code, f"JSON byte {self._position}: {what}")

    def end(self) -> None:
        """Stop unless nothing but white space is left."""
        if self._next():
            raise self.fail("something after the end of the JSON")

    def string(self) -> str:
        """Take a string."""
        self._next()
        match = _STRING.match(self._text, self._position)
        if match is None:
            raise self.fail("no string where one has to be")
        try:
            text = match[1].decode()
            if b"\\" in match[1]:
                text = str(json.loads(match[0]))
                text.encode()  # half of a surrogate pair is no text
        except ValueError:
            raise self.fail("a string that is no text") from None
        self._position = match.end()
        return text

    def sizes(self, most: int) -> tuple[int, ...]:
        """Take an array of at most `most` unsigned integers of 64 bits."""
        found: list[int] = []
        for _ in self._items(b"[", b"]"):
            match = _SIZE.match(self._text, self._position)
            if match is None or len(found) == most or (size := int(match[0])) >= _SIZES_END:
                raise self.fail(f"no size, or more than {most}")
            found.append(size)
            self._position = match.end()
        return tuple(found)

    def members(self, most: int) -> Iterator[str]:
        """Go through an object: each key, behind which the caller takes the value.

        Args:
            most: How many members there may be; more are `limit_exceeded`.
        """
        seen: set[str] = set()
        for _ in self._items(b"{", b"}"):
            key = self.string()
            if key in seen:
                raise self.fail(f"the key {shown(key[:100])} twice")
            if len(seen) == most:
                raise ScanStopped("limit_exceeded", f"a JSON object with more than {most} members")
            seen.add(key)
            if self._next() != b":":
                raise self.fail("a key without a value")
            self._position += 1
            yield key

    def items(self, most: int) -> Iterator[None]:
        """Stop in front of each item of an array, which the caller takes; more than `most` are too many."""
        for count, _ in enumerate(self._items(b"[", b"]")):
            if count == most:
                raise ScanStopped("limit_exceeded", f"a JSON array with more than {most} items")
            yield

    def value(self, most: int) -> object:
        """Take any value, as objects if its text is no longer than `most` bytes, else as None."""
        self._next()
        start = self._position
        self.pass_over()
        if self._position - start > most:
            return None
        try:
            return json.loads(self._text[start : self._position])
        except ValueError:  # of a number of very many digits
            raise self.fail("a value that is none") from None

    def pass_over(self, depth: int = 0) -> None:
        """Take any value and forget it."""
        if depth > MAX_DEPTH:
            raise ScanStopped("limit_exceeded", f"JSON nested more than {MAX_DEPTH} deep")
        first = self._next()
        if first == b'"':
            self.string()
        elif first == b"{":
            for _ in self._items(b"{", b"}"):
                self.string()
                if self._next() != b":":
                    raise self.fail("a key without a value")
                self._position += 1
                self.pass_over(depth + 1)
        elif first == b"[":
            for _ in self._items(b"[", b"]"):
                self.pass_over(depth + 1)
        elif match := _ATOM.match(self._text, self._position):
            self._position = match.end()
        else:
            raise self.fail("no value where one has to be")

    def _items(self, opening: bytes, closing: bytes) -> Iterator[None]:
        """Stop in front of each item of an array or object; the caller takes it."""
        if self._next() != opening:
            raise self.fail(f"no {opening.decode()} where one has to be")
        self._position += 1
        if self._next() == closing:
            self._position += 1
            return
        while True:
            self._next()
            self._left -= 1
            if self._left < 0:
                raise ScanStopped("limit_exceeded", f"JSON of more than {MAX_ITEMS} values")
            yield
            after = self._next()
            if after not in (b",", closing):
                raise self.fail(f"neither a comma nor {closing.decode()}")
            self._position += 1
            if after == closing:
                return

    def _next(self) -> bytes:
        """Skip white space; the byte that comes then, which is not taken, or nothing at the end."""
        space = _SPACE.match(self._text, self._position)
        assert space is not None  # noqa: S101 - an empty match always is
        self._position = space.end()
        return self._text[self._position : self._position + 1]
