"""safetensors files: the header is held to the library's own rules, and every byte belongs to a tensor.

Format: `safetensors/src/tensor.rs`: a header length of 8 bytes, that much JSON padded with spaces, the bytes
of the tensors without gaps. `paddle.save(..., safetensors=True)` and PaddleNLP's unified checkpoints have it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptd.core.json_text import JsonText
from ckptd.core.model import TensorFacts
from ckptd.core.names import shown
from ckptd.core.payloads import ElementType, ValueCheck, named_type
from ckptd.core.polyglots import LOST, follow
from ckptd.core.state_dicts import MAX_TENSORS, Contents
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.stream import ByteStream

LENGTH_BYTES: Final = 8
# Below what the library takes. A tensor's entry has some 100 bytes, so this is room for 300,000 of them.
MAX_HEADER_BYTES: Final = 1 << 25
LIBRARY_HEADER_BYTES: Final = 100_000_000
MAX_METADATA: Final = 100_000  # entries
MAX_DIMENSIONS: Final = 64
LOOK_BYTES: Final = 1 << 16  # at a place where the file goes on if it is a pickle as well
MAX_LOOKS: Final = 16

_METADATA: Final = "__metadata__"
_COUNTABLE: Final = 1 << 64

# By the name in the header: numpy's name, and bits per element. What has no numpy name cannot be checked.
_TYPES: Final = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("", 8),
    "F6_E2M3": ("", 6),
    "F6_E3M2": ("", 6),
    "F4": ("", 4),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: str
    element: ElementType | None
    shape: tuple[int, ...]
    begin: int  # behind the header, in bytes
    end: int


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins like this is meant to be one: no text has the zeros of a sensible length."""
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    return head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and length <= LIBRARY_HEADER_BYTES


def read(stream: ByteStream) -> Contents:
    """Read a file from its first byte to the end of the last tensor; what follows is the caller's to judge.

    Raises:
        ScanStopped: The file is cut off, contradicts itself, has bytes that belong to no tensor or to two, or
            is beyond the limits.
    """
    stream.require(LENGTH_BYTES, "the length of the header")
    length = stream.unsigned(LENGTH_BYTES)
    stream.require(length, "the header")
    if length > MAX_HEADER_BYTES:
        raise ScanStopped(
            "limit_exceeded", f"a header of {length} bytes, at most {MAX_HEADER_BYTES} are read"
        )
    header = stream.take(length)
    entries = _entries(header)
    _check_coverage(entries)
    if entries:  # before any tensor is read: a file that was cut off needs no long look
        stream.require(entries[-1].end, "the content of the tensors")
    disguise = _Disguise()
    disguise.look(length.to_bytes(LENGTH_BYTES, "little") + header, 0)
    del header
    tensors: list[TensorFacts] = []
    unverified: list[TensorFacts] = []
    for entry in entries:
        check = ValueCheck(entry.element)
        end = stream.offset + entry.end - entry.begin
        while disguise.place is not None and disguise.place < end:
            stream.pass_by(disguise.place - stream.offset, check.feed)
            disguise.look(stream.peek(LOOK_BYTES), stream.offset)
        stream.pass_by(end - stream.offset, check.feed)
        facts = TensorFacts(
            key=(entry.name,),
            shape=entry.shape,
            dtype=entry.dtype,
            bytes=entry.end - entry.begin,
            nonfinite=check.nonfinite,
            is_constant=check.is_constant,
        )
        tensors.append(facts)
        if entry.element is None:
            unverified.append(facts)
    return Contents(tensors=tuple(tensors), unverified=tuple(unverified))


class _Disguise:
    """The pickle that this file may be as well: paddle.load does not look at what it loads."""

    __slots__ = ("_looks", "place")

    def __init__(self) -> None:
        self._looks = 0
        self.place: int | None = None  # where the pickle would go on; None where it has ended or failed

    def look(self, data: bytes, begin: int) -> None:
        """Follow the pickle through the bytes that begin at this place in the file.

        Raises:
            ScanStopped: It imports something, or hides well.
        """
        found = follow(data)
        self._looks += 1
        if found == LOST or self._looks > MAX_LOOKS:
            found = f"what comes after byte {begin}"
        if isinstance(found, str):
            raise ScanStopped("unsafe_global", f"{found}, in a safetensors file that is a pickle as well")
        self.place = None if found is None else begin + found


def _entries(header: bytes) -> list[_Entry]:
    """What the header says, in the order of the file."""
    if not header.startswith(b"{"):
        raise ScanStopped("malformed", "the header does not begin with {")
    text = JsonText(header, code="malformed")
    entries = []
    for name in text.members(MAX_TENSORS + 1):
        if name == _METADATA:
            for _ in text.members(MAX_METADATA):
                text.string()
        else:
            entries.append(_entry(name, text))
    text.end()
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    return entries


def _entry(name: str, text: JsonText) -> _Entry:
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] = ()
    for field in text.members(3):
        if field == "dtype":
            dtype = text.string()
        elif field == "shape":
            shape = text.sizes(MAX_DIMENSIONS)
        elif field == "data_offsets":
            offsets = text.sizes(2)
        else:
            raise text.fail(f"a tensor has no {shown(field[:100])}")
    known = _TYPES.get(dtype or "")
    if dtype is None or known is None or shape is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise text.fail(
            f"{shown(name[:100])} lacks a known type, a shape, or a begin that is not behind its end"
        )
    known_as, bits = known
    for index in range(len(shape) + 1):  # as the library multiplies, also if there is a 0 further on
        if math.prod(shape[:index]) * bits >= _COUNTABLE:
            raise text.fail(f"the tensor {shown(name[:100])} is too large for any file")
    begin, end = offsets
    if math.prod(shape) * bits != (end - begin) * 8:
        raise ScanStopped(
            "size_mismatch",
            f"{shown(name[:100])}: {dtype} of shape {shape} has {math.prod(shape) * bits // 8} bytes, the"
            f" header gives it {end - begin}",
        )
    return _Entry(name, known_as or dtype, named_type(known_as), shape, begin, end)


def _check_coverage(entries: list[_Entry]) -> None:
    expected = 0
    for entry in entries:
        if entry.begin != expected:
            what = "belong to no tensor" if entry.begin > expected else "belong to two tensors"
            first, last = sorted((entry.begin, expected))
            raise ScanStopped(
                "not_covered", f"bytes {first} to {last} behind the header {what}: {shown(entry.name[:100])}"
            )
        expected = entry.end
