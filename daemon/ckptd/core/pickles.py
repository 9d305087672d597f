"""Pickles, walked opcode by opcode: what the file would build is worked out; nothing is imported or called.

Format: `pickletools` of the standard library; protocols 2 to 4, which `paddle.save` writes, and the opcodes
of 5 that numpy writes. What a checkpoint never needs is not emulated: it ends the walk.
"""

from __future__ import annotations

import pickle
from operator import length_hint
from typing import TYPE_CHECKING, Final

from ckptd.core.pickle_machine import MAX_OPCODES, Machine
from ckptd.core.pickle_outline import first_call
from ckptd.core.pickle_steps import STEPS
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.stream import ByteStream

PROTOCOLS: Final = range(2, 6)

_STOP: Final = pickle.STOP[0]


def walk(stream: ByteStream) -> object:
    """Walk one pickle and return what it describes, as `core.pickle_values` has it.

    Leaves the stream right behind STOP.

    Raises:
        ScanStopped: The file is cut off, malformed, unsafe or beyond the limits.
    """
    # PROTO and its version, which made the file a pickle
    machine = Machine(stream, stream.take(2)[1])
    opcodes = iter(stream.byte, _STOP)
    left = iter(range(MAX_OPCODES))
    try:
        for _, opcode in zip(left, opcodes, strict=False):
            step = _STEPS[opcode]
            step(machine)
    except IndexError:  # every pop that finds nothing: of a stack, or of a mark
        raise ScanStopped(
            "malformed", f"the opcode before byte {stream.offset} takes what is not there"
        ) from None
    finally:
        stream.opcodes += MAX_OPCODES - length_hint(left)
    if next(opcodes, None) is not None:
        raise ScanStopped("limit_exceeded", f"more than {MAX_OPCODES} opcodes")
    machine.leave_frame(stream.offset, stream.offset)
    if machine.below or len(machine.stack) != 1:
        raise ScanStopped("malformed", "the pickle ends with values left over")
    return machine.stack[0]


# They call code, name an object outside of the file, or take a buffer that is not in it.
_UNSAFE: Final = {
    pickle.INST: "INST",
    pickle.OBJ: "OBJ",
    pickle.PERSID: "PERSID",
    pickle.BINPERSID: "BINPERSID",
    pickle.EXT1: "EXT1",
    pickle.EXT2: "EXT2",
    pickle.EXT4: "EXT4",
    pickle.NEWOBJ_EX: "NEWOBJ_EX",
    pickle.NEXT_BUFFER: "NEXT_BUFFER",
    pickle.READONLY_BUFFER: "READONLY_BUFFER",
}

# Protocols 0 and 1, and the byte strings of Python 2.
_FOREIGN: Final = frozenset(
    (
        pickle.INT,
        pickle.LONG,
        pickle.FLOAT,
        pickle.STRING,
        pickle.BINSTRING,
        pickle.SHORT_BINSTRING,
        pickle.UNICODE,
        pickle.GET,
        pickle.PUT,
        pickle.DICT,
        pickle.LIST,
        pickle.DUP,
    )
)


def _refuse(opcode: int) -> Callable[[Machine], None]:
    """The step of an opcode that is not emulated."""
    code = bytes([opcode])

    def refuse(machine: Machine) -> None:
        offset = machine.stream.offset - 1
        if code in _UNSAFE:
            raise ScanStopped("unsafe_opcode", f"{_UNSAFE[code]} at byte {offset}")
        if code in _FOREIGN:
            if called := first_call(machine.stream, opcode):
                raise ScanStopped(
                    "unsafe_global", f"{called}, behind pickle opcode {code!r} at byte {offset}"
                )
            raise ScanStopped(
                "unknown_container", f"pickle opcode {code!r} at byte {offset}, which Paddle never writes"
            )
        raise ScanStopped("malformed", f"byte {offset} is {opcode:#04x}, which is no opcode")

    return refuse


_STEPS: Final = tuple(STEPS.get(bytes([opcode])) or _refuse(opcode) for opcode in range(256))
