"""What is open-ended by nature, such as pickled arguments: only whether it is whole is looked at.

The opcodes of a pickle tell their own lengths. They are passed over one by one, up to STOP: nothing of what
they would do is followed, and nothing is ever said of it. Format: `pickletools` of the standard library.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import TYPE_CHECKING, Final

from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.stream import ByteStream

MAX_OPCODES: Final = 3_000_000
MAX_LINE_BYTES: Final = 1 << 16

_STOP: Final = pickle.STOP[0]
_NEWLINE: Final = 0x0A
_LENGTH_BYTES: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# The bytes of each opcode's argument, or a negative number of `pickletools` for one that tells its length.
_ARGUMENTS: Final = {ord(spec.code): spec.arg.n if spec.arg else 0 for spec in pickletools.opcodes}
_TWO_LINES: Final = frozenset((pickle.GLOBAL[0], pickle.INST[0]))


def read(stream: ByteStream) -> None:
    """Pass over a pickle; the stream then stands behind its STOP. What is no pickle is left alone.

    Raises:
        ScanStopped: The pickle is cut off, has no such opcode, or is beyond the limits.
    """
    if stream.peek(1) != pickle.PROTO:
        stream.drain()
        return
    for _ in range(MAX_OPCODES):
        opcode = stream.byte()
        if opcode == _STOP:
            return
        width = _ARGUMENTS.get(opcode)
        if width is None:
            raise ScanStopped("malformed", f"byte {stream.offset - 1} is {opcode:#04x}, which is no opcode")
        if width == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if opcode in _TWO_LINES else 1):
                _pass_line(stream)
            continue
        length = width if width >= 0 else stream.unsigned(_LENGTH_BYTES[width])
        for _ in stream.blocks(length):
            pass
    raise ScanStopped("limit_exceeded", f"more than {MAX_OPCODES} opcodes")


def _pass_line(stream: ByteStream) -> None:
    for _ in range(MAX_LINE_BYTES):
        if stream.byte() == _NEWLINE:
            return
    raise ScanStopped("limit_exceeded", f"a line of more than {MAX_LINE_BYTES} bytes")
