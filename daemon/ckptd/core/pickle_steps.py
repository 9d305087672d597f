"""What each opcode does to the symbolic machine: constants, containers, the memo, names and calls."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Final

from ckptd.core.names import shown
from ckptd.core.pickle_arrays import take_arrays
from ckptd.core.pickle_calls import build, call, checked_members, create
from ckptd.core.pickle_machine import (
    CALL_BYTES,
    INTEGER_BYTES,
    ITEM_BYTES,
    MAX_INTEGER_BYTES,
    MAX_MARKS,
    MAX_NAME_BYTES,
    NAME_BYTES,
    Machine,
)
from ckptd.core.pickle_payloads import byte_array, byte_string, short_text, text
from ckptd.core.pickle_values import KNOWN_GLOBALS, Known, Mapping, Members, is_hashable
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.stream import ByteStream

_FLOAT: Final = struct.Struct(">d")
_PYTHON_2: Final = "__builtin__"  # what only protocols 0 to 2 take for `builtins`


# Constants


def _constant(value: object) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        machine.stack.append(value)

    return push


def _binint1(machine: Machine) -> None:
    machine.stack.append(machine.stream.byte())


def _binint2(machine: Machine) -> None:
    machine.stack.append(machine.stream.unsigned(2))


def _binint(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.stream.take(4), "little", signed=True))


def _long(width: int) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        length = machine.stream.unsigned(width)
        if length > MAX_INTEGER_BYTES:
            raise ScanStopped("limit_exceeded", f"an integer of {length} bytes")
        machine.take_up(INTEGER_BYTES + length)
        machine.stack.append(int.from_bytes(machine.stream.take(length), "little", signed=True))

    return push


def _binfloat(machine: Machine) -> None:
    machine.stack.append(_FLOAT.unpack(machine.stream.take(8))[0])


# Containers


def _mark(machine: Machine) -> None:
    if len(machine.below) >= MAX_MARKS:
        raise ScanStopped("limit_exceeded", f"more than {MAX_MARKS} nested marks")
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    # The pickler writes it for a tuple that holds itself.
    machine.stack.pop()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _tuple(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(tuple(items))


def _tuple1(machine: Machine) -> None:
    stack = machine.stack
    stack[-1] = (stack[-1],)


def _tuple2(machine: Machine) -> None:
    stack = machine.stack
    last = stack.pop()
    stack[-1] = (stack[-1], last)


def _tuple3(machine: Machine) -> None:
    stack = machine.stack
    last = stack.pop()
    middle = stack.pop()
    stack[-1] = (stack[-1], middle, last)


def _empty(kind: Callable[[], object]) -> Callable[[Machine], None]:
    def push(machine: Machine) -> None:
        machine.push_container(kind())

    return push


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    _extend(machine, [item])


def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _extend(machine, items)


def _extend(machine: Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise ScanStopped("unsafe_opcode", f"APPENDS to a {type(target).__name__}")
    target.extend(items)


def _additems(machine: Machine) -> None:
    items = machine.pop_mark()
    target = machine.stack[-1]
    if not isinstance(target, Members):
        raise ScanStopped("unsafe_opcode", f"ADDITEMS to a {type(target).__name__}")
    target.items.extend(checked_members(items))


def _frozenset(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push_container(Members(checked_members(items), is_frozen=True))


def _setitem(machine: Machine) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    _set_items(machine, [key, value])


def _setitems(machine: Machine) -> None:
    items = machine.pop_mark()
    _set_items(machine, items)


def _set_items(machine: Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, Mapping):
        raise ScanStopped("unsafe_opcode", f"SETITEMS to a {type(target).__name__}")
    keys = items[::2]
    machine.take_up(len(keys) * ITEM_BYTES)
    if len(items) % 2 or not all(map(is_hashable, keys)):
        raise ScanStopped("malformed", "a dict has a key without a value, or one that can be no key")
    target.items.extend(zip(keys, items[1::2], strict=True))


# Memo, names and calls


def _put(width: int) -> Callable[[Machine], None]:
    def remember(machine: Machine) -> None:
        machine.remember(machine.stream.unsigned(width))

    return remember


def _binget(machine: Machine) -> None:
    _recall(machine, machine.stream.byte())


def _long_binget(machine: Machine) -> None:
    _recall(machine, machine.stream.unsigned(4))


def _recall(machine: Machine, index: int) -> None:
    machine.recall(index)
    if machine.stack[-1] is Known.RECONSTRUCT:
        take_arrays(machine)


def _frame(machine: Machine) -> None:
    length = machine.stream.unsigned(8)
    machine.stream.require(length, "a frame")
    machine.begin_frame(length)


def _global(machine: Machine) -> None:
    module, name = _line(machine.stream), _line(machine.stream)
    machine.stack.append(_known(machine, module, name))


def _stack_global(machine: Machine) -> None:
    name = machine.stack.pop()
    module = machine.stack.pop()
    machine.stack.append(_known(machine, module, name))


def _known(machine: Machine, module: object, name: object) -> Known:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ScanStopped("unsafe_global", "a name that is not written in the file as text")
    machine.take_up(NAME_BYTES)
    known = KNOWN_GLOBALS.get((module, name))
    if known is None or (module == _PYTHON_2 and machine.protocol > 2):
        raise ScanStopped("unsafe_global", f"{shown(module[:MAX_NAME_BYTES])}.{shown(name[:MAX_NAME_BYTES])}")
    return known


def _line(stream: ByteStream) -> str:
    line = bytearray()
    # What is cut off here is longer than any name on the list, so it is refused whatever follows.
    while len(line) < MAX_NAME_BYTES and (byte := stream.byte()) != 0x0A:
        line.append(byte)
    return line.decode("utf-8", "surrogateescape")


def _reduce(machine: Machine) -> None:
    arguments = machine.stack.pop()
    function = machine.stack.pop()
    machine.take_up(CALL_BYTES)
    machine.push_container(call(function, arguments))


def _newobj(machine: Machine) -> None:
    arguments = machine.stack.pop()
    cls = machine.stack.pop()
    machine.push_container(create(cls, arguments))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    build(machine.stack[-1], state)


STEPS: Final[dict[bytes, Callable[[Machine], None]]] = {
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),  # noqa: FBT003 - the value that is pushed
    pickle.NEWFALSE: _constant(False),  # noqa: FBT003
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.BININT: _binint,
    pickle.BININT1: _binint1,
    pickle.BININT2: _binint2,
    pickle.LONG1: _long(1),
    pickle.LONG4: _long(4),
    pickle.BINFLOAT: _binfloat,
    pickle.SHORT_BINUNICODE: short_text,
    pickle.BINUNICODE: text(4),
    pickle.BINUNICODE8: text(8),
    pickle.SHORT_BINBYTES: byte_string(1),
    pickle.BINBYTES: byte_string(4),
    pickle.BINBYTES8: byte_string(8),
    pickle.BYTEARRAY8: byte_array,
    pickle.MARK: _mark,
    pickle.POP: _pop,
    pickle.POP_MARK: _pop_mark,
    pickle.TUPLE: _tuple,
    pickle.TUPLE1: _tuple1,
    pickle.TUPLE2: _tuple2,
    pickle.TUPLE3: _tuple3,
    pickle.EMPTY_LIST: _empty(list),
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.EMPTY_SET: _empty(Members),
    pickle.ADDITEMS: _additems,
    pickle.FROZENSET: _frozenset,
    pickle.EMPTY_DICT: _empty(Mapping),
    pickle.SETITEM: _setitem,
    pickle.SETITEMS: _setitems,
    pickle.MEMOIZE: Machine.memoize,
    pickle.BINPUT: _put(1),
    pickle.LONG_BINPUT: _put(4),
    pickle.BINGET: _binget,
    pickle.LONG_BINGET: _long_binget,
    pickle.FRAME: _frame,
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _newobj,
    pickle.BUILD: _build,
}
"""By opcode, for all that are emulated."""
