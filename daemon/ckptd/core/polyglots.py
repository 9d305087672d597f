"""Bytes that are a sound archive and, read from their first byte on, a pickle too.

A tar archive begins with a name that its writer chooses, and whoever loads the file as a pickle would run it.
Only what imports something can do harm, so that is what is looked for. Format: `pickletools`.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from typing import Final

LOOK_BYTES: Final = 1 << 20

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
    place = 0
    while place < len(head):
        opcode = head[place]
        width = _ARGUMENTS.get(opcode)
        place += 1
        if width is None or opcode == _STOP:
            return None
        if opcode == _STACK_GLOBAL or opcode in _EXTENSIONS:
            return f"what opcode {opcode:#04x} at byte {place - 1} says"
        if width == pickletools.UP_TO_NEWLINE:
            lines = head[place:].split(b"\n", 2)[: 2 if opcode in _NAMED else 1]
            if opcode in _NAMED:
                if not all(map(_IDENTIFIER.fullmatch, lines)):
                    return None
                return b".".join(lines).decode("utf-8", "backslashreplace")
            if opcode not in _TEXTS and b"\0" in lines[0]:
                return None
            place += len(lines[0]) + 1
        elif width < 0:
            start = place + _LENGTH_BYTES[width]
            place = start + int.from_bytes(head[place:start], "little")
        else:
            place += width
    return None if place > size or len(head) == size else f"what is behind byte {len(head)}"
