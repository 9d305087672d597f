"""Tensors in Paddle's binary form, one after the other and without names, walked to the exact end.

`paddle.save(tensor, path, use_binary_format=True)`, `.pdiparams` and `static.save_vars` write them. Nothing
says how many there are: a file that was cut off right between two tensors looks whole, and only the program
beside it can tell (`core.programs.parameter_differences`).

Format: `SerializeToStream` of `paddle/phi/core/framework/dense_tensor_serialize.cc` and
`selected_rows_serialize.cc`, `VarType.TensorDesc` of `paddle/phi/core/framework/framework.proto`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ckptd.core.model import TensorFacts
from ckptd.core.payloads import ValueCheck, named_type
from ckptd.core.program_schema import TENSOR
from ckptd.core.protobuf import Reader
from ckptd.core.state_dicts import MAX_TENSORS, Contents
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.payloads import ElementType
    from ckptd.core.stream import ByteStream

MAX_DIMENSIONS: Final = 9  # `DDim::kMaxRank`
MAX_DESCRIPTION_BYTES: Final = 256  # nine dimensions take 101
MAX_LEVELS: Final = 16  # of sequences within sequences
MAX_LEVEL_BYTES: Final = 1 << 27
SNIFFED_BYTES: Final = 1 << 20  # how far the first description may be from the beginning

# `VarType.Type` of `framework.proto`, as far as elements have a size and Paddle can hand them out: it stores
# unsigned integers of more than a byte, and refuses to load them.
DTYPES: Final = {
    0: "bool",
    1: "int16",
    2: "int32",
    3: "int64",
    4: "float16",
    5: "float32",
    6: "float64",
    20: "uint8",
    21: "int8",
    22: "bfloat16",
    23: "complex64",
    24: "complex128",
    32: "float8_e4m3fn",
    33: "float8_e5m2",
}

_U32: Final = 4
_U64: Final = 8
_ZERO: Final = bytes(_U32)  # the only version there is, of the container and of the tensor
_PLAIN_BYTES: Final = 21  # up to and with the first byte of the description of a tensor without sequences
_FIRST_TAG: Final = 0x08  # of a description: field 1, the type


def container_of(stream: ByteStream, head: bytes) -> str | None:
    """Which of the two binary forms begins here, if any: `tensors` or `selected_rows`."""
    if len(head) < _PLAIN_BYTES or head[:_U32] != _ZERO:
        return None
    if _is_plain(head):
        return "tensors"
    count = _unsigned(head, _U32)
    if not 0 < count <= SNIFFED_BYTES // _U64:
        return None
    longer = stream.peek(SNIFFED_BYTES)
    if count <= MAX_LEVELS and _has_tensor_behind_levels(longer, count):
        return "tensors"
    rows_end = 2 * _U64 + _U32 + count * _U64
    return "selected_rows" if _is_tensor(longer, rows_end) else None


def read(stream: ByteStream) -> Contents:
    """Read tensors up to the end of the file, or to where no tensor begins; the caller judges what is there.

    Raises:
        ScanStopped: The file is cut off, contradicts itself or is beyond the limits.
    """
    tensors: list[TensorFacts] = []
    while not tensors or _goes_on(stream):
        if len(tensors) == MAX_TENSORS:
            raise ScanStopped("limit_exceeded", f"more than {MAX_TENSORS} tensors")
        tensors.append(_tensor(stream, len(tensors)))
    return Contents(tensors=tuple(tensors))


def read_selected_rows(stream: ByteStream) -> Contents:
    """Read some rows of a taller tensor, which is what one file of this form holds.

    Raises:
        ScanStopped: The file is cut off, contradicts itself or is beyond the limits.
    """
    stream.take(_U32)
    count = stream.unsigned(_U64)
    stream.require(count * _U64, "the numbers of the rows")
    rows = [stream.unsigned(_U64) for _ in range(count)]
    height = stream.unsigned(_U64)
    if height >> 63 or any(row >= height for row in rows):
        raise ScanStopped("malformed", f"rows beyond the height of {height}")
    facts = _content(stream, 0)
    if facts.shape[:1] != (count,):
        raise ScanStopped("malformed", f"{count} rows are named, and the tensor is of shape {facts.shape}")
    return Contents(tensors=(facts,))


def _goes_on(stream: ByteStream) -> bool:
    """Whether another tensor begins here, or would if the file were longer."""
    head = stream.peek(_PLAIN_BYTES)
    if not head:
        return False
    if len(head) < _PLAIN_BYTES:
        return head[:_U32] == _ZERO[: len(head)]
    return head[:_U32] == _ZERO and (_is_plain(head) or 0 < _unsigned(head, _U32) <= MAX_LEVELS)


def _is_plain(head: bytes) -> bool:
    """Whether a tensor without sequences begins here."""
    return _is_tensor(head, _U32 + _U64) and not any(head[: _U32 + _U64])


def _is_tensor(head: bytes, start: int) -> bool:
    """Whether a tensor's version and description begin at `start`."""
    tag = start + 2 * _U32
    return (
        len(head) > tag
        and head[start : start + _U32] == _ZERO
        and head[tag] == _FIRST_TAG
        and int.from_bytes(head[start + _U32 : tag], "little") <= MAX_DESCRIPTION_BYTES
    )


def _has_tensor_behind_levels(head: bytes, count: int) -> bool:
    """Whether so many levels of sequences begin here: each has two offsets or more, the first of them 0."""
    place = _U32 + _U64
    for _ in range(count):
        length = _unsigned(head, place)
        if length < 2 * _U64 or _unsigned(head, place + _U64):
            return False
        place += _U64 + length
    return _is_tensor(head, place)


def _unsigned(head: bytes, start: int) -> int:
    return int.from_bytes(head[start : start + _U64], "little")


def _tensor(stream: ByteStream, index: int) -> TensorFacts:
    start = stream.offset
    _version(stream)
    levels = stream.unsigned(_U64)
    if levels > MAX_LEVELS:
        raise ScanStopped("malformed", f"{levels} levels of sequences at byte {start}")
    for _ in range(levels):
        length = stream.unsigned(_U64)
        stream.require(length, "the offsets of sequences")
        if length % _U64 or length > MAX_LEVEL_BYTES:
            raise ScanStopped("malformed", f"offsets of sequences of {length} bytes at byte {stream.offset}")
        for _ in stream.blocks(length):
            pass
    return _content(stream, index)


def _content(stream: ByteStream, index: int) -> TensorFacts:
    """A tensor as it is behind its sequences."""
    _version(stream)
    element, shape = _description(stream)
    length = math.prod(shape) * element.itemsize
    stream.require(length, f"tensor {index} of shape {shape} and type {element.name}")
    # Here the types have names of their own, so that uint16 is no bfloat16.
    check = ValueCheck(named_type("int16") if element.name == "uint16" else element)
    stream.pass_by(length, check.feed)
    return TensorFacts(
        key=(index,),
        shape=shape,
        dtype=element.name,
        bytes=length,
        nonfinite=check.nonfinite,
        is_constant=check.is_constant,
    )


def _version(stream: ByteStream) -> None:
    version = stream.unsigned(_U32)
    if version:
        raise ScanStopped("malformed", f"version {version} of a tensor before byte {stream.offset}")


def _description(stream: ByteStream) -> tuple[ElementType, tuple[int, ...]]:
    """Type and shape of the tensor whose bytes come next."""
    length = stream.unsigned(_U32)
    if length > MAX_DESCRIPTION_BYTES:
        raise ScanStopped("malformed", f"a tensor's description of {length} bytes at byte {stream.offset}")
    stream.require(length, "a tensor's description")
    reader = Reader(stream.take(length))
    fields = reader.read(TENSOR, reader.whole)
    code, shape = fields.integers[1][0], tuple(fields.integers[2])
    element = named_type(DTYPES.get(code, ""))
    if element is None or len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise ScanStopped(
            "malformed", f"a tensor of type {code} and shape {shape} before byte {stream.offset}"
        )
    return element, shape
