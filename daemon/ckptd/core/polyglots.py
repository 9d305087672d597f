"""Bytes that are a sound file of another kind and, read from their first byte on, a pickle too.

A tar archive begins with a name that its writer chooses, a safetensors file with a length, and whoever loads
such a file as a pickle would run it. Only what imports something can do harm, so that is what is looked for.
Format: `pickletools`.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from typing import Final

LOOK_BYTES: Final = 1 << 20
MAX_OPCODES: Final = 1 << 20  # followed in one go
LOST: Final = -1

_STOP: Final = pickle.STOP[0]
_STACK_GLOBAL: Final = pickle.STACK_GLOBAL[0]
_NAMED: Final = frozenset((pickle.GLOBAL[0], pickle.INST[0]))
_EXTENSIONS: Final = frozenset((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]))
_TEXTS: Final = frozenset((pickle.STRING[0], pickle.UNICODE[0]))  # lines that may hold anything
_IDENTIFIER: Final = re.compile(rb"[A-Za-z_\x80-\xff][\w.\x80-\xff]*")
_ARGUMENTS: Final = {ord(spec.code): spec.arg.n if spec.arg else 0 for spec in pickletools.opcodes}
_LENGTH_BYTES: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def pickled_import(head: bytes, size: int) -> str | None:
    """What loading the file as a pickle would import; None if it would end or fail before.

    Args:
        head: The first `LOOK_BYTES` of the file, or all of it.
        size: Of the file. A pickle that goes on behind the head counts as one that imports.
    """
    found = follow(head)
    if not isinstance(found, int):
        return found
    return None if found > size or len(head) == size else f"what is behind byte {len(head)}"


def follow(head: bytes) -> str | int | None:
    """What a pickle that begins here would import, or where it goes on behind these bytes.

    Returns:
        The import; None if the pickle would end or fail before; else the place of its next opcode, or `LOST`
        where an opcode is not in these bytes as a whole, or there are very many.
    """
    place: str | int | None = 0
    for _ in range(MAX_OPCODES):
        if not isinstance(place, int) or place >= len(head) or place == LOST:
            return place
        place = _step(head, place)
    return LOST


def _step(head: bytes, place: int) -> str | int | None:
    """What the opcode at this place imports; None if nothing follows it, else the next place, or `LOST`."""
    opcode = head[place]
    width = _ARGUMENTS.get(opcode)
    place += 1
    if width is None or opcode == _STOP:
        return None
    if opcode == _STACK_GLOBAL or opcode in _EXTENSIONS:
        return f"what opcode {opcode:#04x} at byte {place - 1} says"
    if width == pickletools.UP_TO_NEWLINE:
        return _behind_lines(head, place, opcode)
    if width >= 0:
        return place + width
    start = place + _LENGTH_BYTES[width]
    return LOST if start > len(head) else start + int.from_bytes(head[place:start], "little")


def _behind_lines(head: bytes, place: int, opcode: int) -> str | int | None:
    """The same for an opcode whose argument ends with its line, behind which `place` is."""
    if opcode in _NAMED:
        lines = head[place:].split(b"\n", 2)[:2]
        if not all(map(_IDENTIFIER.fullmatch, lines)):
            return None
        return b".".join(lines).decode("utf-8", "backslashreplace")
    end = head.find(b"\n", place)
    line = head[place:] if end < 0 else head[place:end]
    if opcode not in _TEXTS and b"\0" in line:
        return None
    return LOST if end < 0 else end + 1
