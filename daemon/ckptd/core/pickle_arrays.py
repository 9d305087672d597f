"""Small arrays of a pickle, taken in one step each: in a file of many, the opcodes are what takes the time.

From the second array on, protocol 4 has the same thirty opcodes for each, with the shape, the type and the
bytes in between. What they do here is what `core.pickle_steps` does one by one; what looks different in
anything, or is wrong, is left to those.
Format: `array.__reduce__` of numpy, `save_reduce` of `pickle`.
"""

from __future__ import annotations

import math
import pickle
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from ckptd.core.payloads import look_at
from ckptd.core.pickle_machine import (
    CALL_BYTES,
    MAX_MARKS,
    MAX_MEMO,
    PAYLOAD_BYTES,
    TEXT_BYTES,
    UNFRAMED_BYTES,
)
from ckptd.core.pickle_values import KEPT_BYTES, ArrayNode, DtypeNode, Known, Payload

if TYPE_CHECKING:
    from ckptd.core.payloads import ElementType
    from ckptd.core.pickle_machine import Machine

_GET: Final = rb"(?:h(.)|j(.{4}))"
_SIZE: Final = rb"(?:K.|M..|J.{4})"

# What comes between BINGET of `_reconstruct` and the bytes. Every repetition takes all it can: it begins and
# ends with different opcodes.
_HEAD: Final = re.compile(
    _GET  # ndarray
    + rb"K\x00\x85\x94"  # (0,)
    + _GET  # b"b"
    + rb"\x87\x94R\x94\(K\x01"
    + rb"((?:" + _SIZE + rb"){1,3}+[\x85-\x87]|\((?:" + _SIZE + rb"){4,32}+t|\))(\x94?)"
    + _GET  # the dtype
    + rb"[\x88\x89](?:C(.)|B(.{4}))",
    re.DOTALL,
)  # fmt: skip
_SHORT_BINUNICODE: Final = pickle.SHORT_BINUNICODE[0]
_MEMOIZE: Final = pickle.MEMOIZE[0]
_BINGET: Final = pickle.BINGET[0]
_TAIL: Final = b"\x94t\x94b"
_TAIL_BYTES: Final = len(_TAIL)
_ONE_ZERO: Final = (0,)

_OTHER_OPCODES: Final = 19  # of one array, beside those of its shape: its sizes, a mark, a memo entry
_MEMO_ENTRIES: Final = 6  # at most, of one array


class _Kind(NamedTuple):
    """What every array with the same head is."""

    shape: tuple[int, ...]
    dtype: DtypeNode
    element: ElementType
    bytes: int
    made_from: tuple[object, ...]  # the arguments of `_reconstruct`
    opcodes: int


def take_arrays(machine: Machine) -> None:
    """Take the array of which `_reconstruct` is on the stack, and those that follow it as a dict's items do.

    Leaves what is not exactly that to the single steps.
    """
    stream, memo, stack = machine.stream, machine.memo, machine.stack
    kinds: dict[bytes, _Kind | None] = {}  # by head: nothing that one refers to is replaced meanwhile
    buffer, view, position, end = stream.in_window()
    begin = position
    while (found := _HEAD.match(buffer, position, end)) is not None:
        head = found[0]
        kind = kinds[head] if head in kinds else kinds.setdefault(head, _kind(machine, found))
        if kind is None or len(memo) + _MEMO_ENTRIES > MAX_MEMO:
            break
        shape, dtype, element, count, made_from, opcodes = kind
        start = found.end()
        stop = start + count
        if stop + _TAIL_BYTES > end or buffer[stop : stop + _TAIL_BYTES] != _TAIL:
            break
        body = bytes(view[start:stop])  # aligned in memory, which numpy works faster on than on what is not
        machine.take_up(CALL_BYTES + PAYLOAD_BYTES)
        array = ArrayNode(True, shape, element.name, count, *look_at(element, body))  # noqa: FBT003
        is_short = count <= KEPT_BYTES
        payload = Payload(count, body) if is_short else Payload(count, b"", element, array)
        dtype.is_sealed = True
        stack.pop()
        machine.push_container(array)
        state = (1, shape, dtype, False, payload)
        entries = (_ONE_ZERO, made_from, array, shape, payload, state)
        index = len(memo)
        for entry in entries if shape else (_ONE_ZERO, made_from, array, payload, state):
            memo[index] = entry
            index += 1
        stream.opcodes += opcodes
        position = stop + _TAIL_BYTES

        # The next item's key, and the `_reconstruct` of its array.
        if position + 2 > end or buffer[position] != _SHORT_BINUNICODE:
            break
        stop = position + 2 + buffer[position + 1]
        if stop + 3 > end or buffer[stop] != _MEMOIZE or buffer[stop + 1] != _BINGET:
            break
        text = bytes(view[position + 2 : stop])
        if memo.get(buffer[stop + 2]) is not Known.RECONSTRUCT or not text.isascii():
            break
        machine.take_up(TEXT_BYTES + len(text))
        key = text.decode()
        memo[len(memo)] = key
        stack += (key, Known.RECONSTRUCT)
        stream.opcodes += 3
        position = stop + 3
    stream.skip(position - begin)


def _kind(machine: Machine, found: re.Match[bytes]) -> _Kind | None:
    """What the array with this head is; None if it is for single steps to say."""
    ndarray, far_ndarray, marker, far_marker, sizes, memoized, dtype, far_dtype, *lengths = found.groups()
    short, length = lengths
    count = short[0] if short else int.from_bytes(length, "little")
    memo = machine.memo
    node = memo.get(_index(dtype, far_dtype))
    filler = memo.get(_index(marker, far_marker))
    shape = _shape(sizes)
    if (
        memo.get(_index(ndarray, far_ndarray)) is not Known.NDARRAY
        or not isinstance(filler, Payload)
        or filler.head != b"b"
        or filler.is_text
        or filler.is_mutable
        or not isinstance(node, DtypeNode)
        or (element := node.element()) is None
        or shape is None
        or bool(memoized) != bool(shape)
        or not element.itemsize < count < UNFRAMED_BYTES
        or math.prod(shape) * element.itemsize != count
        or len(machine.below) + 2 > MAX_MARKS
    ):
        return None
    opcodes = _OTHER_OPCODES + len(shape) + (len(shape) > 3) + bool(shape)
    return _Kind(shape, node, element, count, (Known.NDARRAY, _ONE_ZERO, filler), opcodes)


def _index(near: bytes | None, far: bytes | None) -> int:
    return near[0] if near else int.from_bytes(far or b"", "little")


@lru_cache(maxsize=1024)  # many tensors have few shapes
def _shape(code: bytes) -> tuple[int, ...] | None:
    """The shape that these opcodes push, or None if they push something else."""
    sizes: list[int] = []
    position = int(code.startswith(b"("))
    while position < len(code) - 1:
        width = {b"K": 1, b"M": 2, b"J": 4}[code[position : position + 1]]
        end = position + 1 + width
        sizes.append(int.from_bytes(code[position + 1 : end], "little", signed=width == 4))
        position = end
    counts = {b"\x85": 1, b"\x86": 2, b"\x87": 3, b"t": len(sizes), b")": 0}
    is_one = counts[code[-1:]] == len(sizes) and min(sizes, default=0) >= 0
    return tuple(sizes) if is_one else None
