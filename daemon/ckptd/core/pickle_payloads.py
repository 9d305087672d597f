"""Strings and byte strings of a pickle: texts are taken, the bytes of tensors pass by and are looked at."""

from __future__ import annotations

import codecs
import pickle
from typing import TYPE_CHECKING, Final

from ckptd.core.payloads import ValueCheck, element_type
from ckptd.core.pickle_calls import check_size, checked_shape
from ckptd.core.pickle_machine import MAX_TEXT_BYTES, PAYLOAD_BYTES, TEXT_BYTES, UNFRAMED_BYTES
from ckptd.core.pickle_values import KEPT_BYTES, DtypeNode, Known, Payload
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptd.core.payloads import ElementType
    from ckptd.core.pickle_machine import Machine
    from ckptd.core.stream import ByteStream

_MEMOIZE: Final = pickle.MEMOIZE[0]
_SHORT_BINUNICODE: Final = pickle.SHORT_BINUNICODE[0]

# BYTEARRAY8 comes before its dtype, so its bytes are looked at as each of these.
_GUESSES: Final = tuple(
    element for code in ("f2", "f4", "f8", "u2", "c8", "c16") if (element := element_type(code, "="))
)


def text(width: int) -> Callable[[Machine], None]:
    """The step of a string whose length has `width` bytes, or of the byte string for `_codecs.encode`."""

    def push(machine: Machine) -> None:
        stream = machine.stream
        length = _length(machine, width)
        stack = machine.stack
        if length > KEPT_BYTES and stack and stack[-1] is Known.ENCODE:
            machine.take_up(PAYLOAD_BYTES)
            stack.append(_encoded_payload(machine, length))
            return
        if length > MAX_TEXT_BYTES:
            stream.require(length, "a string")
            raise ScanStopped("limit_exceeded", f"a string of {length} bytes")
        try:
            value = str(stream.take(length), "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise ScanStopped("malformed", f"the string before byte {stream.offset} is no UTF-8") from None
        # One wide character makes all of them wide.
        machine.take_up(TEXT_BYTES + (length if value.isascii() else 4 * length))
        stack.append(value)

    return push


_text_of_any_length: Final = text(1)


def short_text(machine: Machine) -> None:
    """The step of a string of up to 255 bytes, with all that follow it as the names of a table do."""
    stream = machine.stream
    stack = machine.stack
    while True:
        if stack and stack[-1] is Known.ENCODE:
            _text_of_any_length(machine)
            return
        data = stream.counted()
        try:
            value = str(data, "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise ScanStopped("malformed", f"the string before byte {stream.offset} is no UTF-8") from None
        machine.take_up(TEXT_BYTES + (len(data) if value.isascii() else 4 * len(data)))
        stack.append(value)
        if not stream.begins_with(_MEMOIZE):
            return
        stream.opcodes += 1
        machine.memoize()
        if not stream.begins_with(_SHORT_BINUNICODE):
            return
        stream.opcodes += 1


def byte_string(width: int) -> Callable[[Machine], None]:
    """The step of a byte string whose length has `width` bytes."""

    def push(machine: Machine) -> None:
        length = _length(machine, width)
        machine.take_up(PAYLOAD_BYTES)
        element = _announced(machine.stack, 4, length, length)
        machine.stack.append(_payload(machine.stream, length, element))

    return push


def byte_array(machine: Machine) -> None:
    """The step of BYTEARRAY8, as which protocol 5 has the bytes of a tensor."""
    length = _length(machine, 8)
    machine.take_up(PAYLOAD_BYTES)
    if length <= KEPT_BYTES:
        machine.stack.append(Payload(length, machine.stream.take(length), is_mutable=True))
        return
    machine.take_up(len(_GUESSES) * PAYLOAD_BYTES)
    checks = {element: ValueCheck(element) for element in _GUESSES}

    def feed(block: memoryview | bytes) -> None:
        for check in checks.values():
            check.feed(block)

    machine.stream.pass_by(length, feed)
    machine.stack.append(Payload(length, b"", guesses=checks, is_mutable=True))


def _length(machine: Machine, width: int) -> int:
    stream = machine.stream
    length = stream.unsigned(width)
    if length >= UNFRAMED_BYTES:
        machine.leave_frame(stream.offset - width - 1, stream.offset + length)
    return length


def _announced(stack: list[object], depth: int, fewest: int, most: int) -> ElementType | None:
    """What the bytes that come next are elements of, if the stack holds an array's state so far.

    Raises:
        ScanStopped: The announced tensor does not have between `fewest` and `most` bytes.
    """
    if len(stack) != depth or stack[0] != 1:
        return None
    _, shape, dtype, fortran = stack[:4]
    if not isinstance(dtype, DtypeNode) or not isinstance(fortran, int):
        return None
    element = dtype.element()
    if element is not None:
        check_size(element, checked_shape(shape), fewest, most)
    return element


def _payload(stream: ByteStream, length: int, element: ElementType | None) -> Payload:
    if length <= KEPT_BYTES:
        return Payload(length, stream.take(length))
    check = ValueCheck(element)
    stream.pass_by(length, check.feed)
    return Payload(length, b"", element, check)


def _encoded_payload(machine: Machine, length: int) -> Payload:
    """Bytes as protocol 2 has them: as text, one character per byte, to be encoded as latin-1."""
    machine.stream.require(length, "a byte string")
    # In UTF-8 such a character takes one byte or two.
    element = _announced(machine.stack, 5, (length + 1) // 2, length)
    check = ValueCheck(element)
    total, head = 0, b""
    for block in _decoded(machine.stream.blocks(length)):
        check.feed(block)
        total += len(block)
        head = head + block if total <= KEPT_BYTES else b""
    return Payload(total, head, element, check, is_text=True)


def _decoded(blocks: Iterator[memoryview]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks:
            yield decoder.decode(block).encode("latin-1")
        decoder.decode(b"", final=True)
    except UnicodeError:
        raise ScanStopped("malformed", "a byte string holds characters that are no bytes") from None
