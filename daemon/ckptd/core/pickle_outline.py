"""The outline of bytes that may be a pickle of any protocol: the first call that loading them would make.

This is for what is no checkpoint anyway: old protocols, and what stands behind the end of a pickle. Whether
such bytes are only rubbish or an attack is worth knowing. An outline without a call proves nothing.

Format: `pickletools` of the standard library.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from typing import TYPE_CHECKING, Final

from ckptd.core.pickle_machine import MAX_NAME_BYTES
from ckptd.core.pickle_values import KNOWN_GLOBALS, Known
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.stream import ByteStream

MAX_OPCODES: Final = 100_000
MAX_BYTES: Final = 1 << 24
MAX_LINE_BYTES: Final = 4096  # of one argument that ends with its line

_SPECS: Final = {ord(spec.code): spec for spec in pickletools.opcodes}
_NEWLINE: Final = 0x0A
_DUP, _MARK, _STACK_GLOBAL, _STOP = (
    code[0] for code in (pickle.DUP, pickle.MARK, pickle.STACK_GLOBAL, pickle.STOP)
)
_PUTS: Final = frozenset(code[0] for code in (pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE))
_GETS: Final = frozenset(code[0] for code in (pickle.GET, pickle.BINGET, pickle.LONG_BINGET))
_NAMED: Final = frozenset((pickle.GLOBAL[0], pickle.INST[0]))
_CALLS: Final = frozenset(
    code[0]
    for code in (pickle.REDUCE, pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.BUILD)
)
# Plain text can begin like a name, so only what reads like one counts.
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,200}")
_STRINGS: Final = frozenset(
    code[0] for code in (pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8, pickle.UNICODE)
)
_LENGTHS: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def first_call(stream: ByteStream, opcode: int | None = None) -> str | None:
    """The first callable off the list that loading the bytes would call, as `module.name`.

    Takes what it looks at from the stream.

    Args:
        stream: Stands where a pickle may begin; or within one, behind `opcode`.
        opcode: The first opcode, if the stream stands within a pickle.

    Returns:
        The name; None if the bytes are no pickle, or call nothing as far as was looked.
    """
    outline = _Outline(stream, is_within=opcode is not None)
    try:
        for _ in range(MAX_OPCODES):
            outline.step(stream.byte() if opcode is None else opcode)
            opcode = None
            if outline.called is not None:
                break
    except (ScanStopped, _NoPickle):
        pass
    return outline.called


class _NoPickle(Exception):  # noqa: N818 - an answer
    """These bytes are no pickle, or too much of one."""


class _Outline:
    """The pickle machine reduced to strings: all other values are None."""

    __slots__ = ("_below", "_is_within", "_memo", "_name", "_stack", "_stop", "_stream", "called")

    def __init__(self, stream: ByteStream, *, is_within: bool) -> None:
        self._stream = stream
        self._stop = stream.offset + MAX_BYTES
        self._is_within = is_within  # what was on the stack and in the memo before is not known
        self._stack: list[str | None] = []
        self._below: list[list[str | None]] = []
        self._memo: dict[int, str | None] = {}
        self._name: str | None = None
        self.called: str | None = None

    def step(self, code: int) -> None:
        """Follow one opcode."""
        spec = _SPECS.get(code)
        if spec is None or self._stream.offset > self._stop:
            raise _NoPickle
        argument = self._argument(spec)
        taken = self._take(spec)
        if code in _NAMED:
            module, _, name = argument.partition("\n")
            self._note(module, name)
        elif code == _STACK_GLOBAL:
            self._note(taken[0] or "", taken[1] or "")
        if code in _CALLS and self._name is not None:
            self.called = self._name
        elif code == _STOP:
            self._stack, self._below, self._memo = [], [], {}
        elif code == _MARK:
            self._below.append(self._stack)
            self._stack = []
        elif code in _PUTS:
            self._stack += taken  # the tables say that MEMOIZE takes its value and gives it back
            self._memo[_number(argument, len(self._memo))] = self._stack[-1] if self._stack else None
        elif code in _GETS:
            self._stack.append(self._memo.get(_number(argument, -1)))
        elif code == _DUP:
            self._stack += taken * 2
        else:
            self._stack += [argument if code in _STRINGS else None for _ in spec.stack_after]

    def _note(self, module: str, name: str) -> None:
        known = KNOWN_GLOBALS.get((module, name))
        # The one harmless call of eval is for the full walk to tell.
        if known in {None, Known.EVAL} and _IDENTIFIER.fullmatch(module) and _IDENTIFIER.fullmatch(name):
            self._name = f"{module}.{name}"

    def _argument(self, spec: pickletools.OpcodeInfo) -> str:
        """Take an opcode's argument: a string, a name or a number as text."""
        if spec.arg is None:
            return ""
        width = spec.arg.n
        if width == pickletools.UP_TO_NEWLINE:
            lines = 2 if ord(spec.code) in _NAMED else 1
            return "\n".join(self._line() for _ in range(lines))
        if width >= 0:
            return str(int.from_bytes(self._stream.take(width), "little"))
        length = self._stream.unsigned(_LENGTHS[width])
        if length <= MAX_NAME_BYTES:
            return self._stream.take(length).decode("utf-8", "replace")
        if length > MAX_BYTES:
            raise _NoPickle
        for _ in self._stream.blocks(length):
            pass  # longer than any name
        return ""

    def _line(self) -> str:
        line = bytearray()
        while (byte := self._stream.byte()) != _NEWLINE:
            line.append(byte)
            if len(line) > MAX_LINE_BYTES:
                raise _NoPickle
        return line.decode("utf-8", "replace")

    def _take(self, spec: pickletools.OpcodeInfo) -> list[str | None]:
        """Take from the stack what an opcode needs of it; without what goes up to a mark."""
        count = len(spec.stack_before)
        if pickletools.markobject in spec.stack_before:
            count = spec.stack_before.index(pickletools.markobject)
            if self._below:
                self._stack = self._below.pop()
            elif not self._is_within:
                raise _NoPickle
        if count > len(self._stack):
            if not self._is_within:
                raise _NoPickle
            self._stack[:0] = [None] * count
        start = len(self._stack) - count
        taken = self._stack[start:]
        del self._stack[start:]
        return taken


def _number(argument: str, otherwise: int) -> int:
    return int(argument) if argument.isascii() and argument.isdigit() else otherwise
