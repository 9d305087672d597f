r"""Names as people, JSON and logs may see them.

A file name is any bytes but `/` and NUL. `shown` maps it to printable text that cannot forge a log line, and
`from_shown` maps it back: a backslash is doubled, control characters become `\xNN` or `\uNNNN`, and bytes
that are no UTF-8 become `\dNN`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMED: Final = 3  # of many names
_CHARACTERS: Final = 100  # of each of them

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|d[0-9a-f]{2})")


def shown(name: str) -> str:
    """Make a file name printable; two different names never look alike afterwards."""
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(_shown_character(character) for character in name)


def listed(names: Sequence[str]) -> str:
    """The first names, printable and not too long, and how many more there are."""
    some = ", ".join(shown(name[:_CHARACTERS]) for name in names[:_NAMED])
    return some + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _shown_character(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode smuggles it
        return f"\\d{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    return f"\\U{code:08x}"


def from_shown(text: str) -> str:
    """Undo `shown`."""

    def character(match: re.Match[str]) -> str:
        escape = match[1]
        if escape == "\\":
            return "\\"
        offset = 0xDC00 if escape[0] == "d" else 0
        return chr(int(escape[1:], 16) + offset)

    return _ESCAPE.sub(character, text)
