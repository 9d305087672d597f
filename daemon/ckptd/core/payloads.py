"""The bytes of tensors: which element types there are, and how many elements are NaN or infinite."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.model import Scalar

    Array = np.ndarray[Any, np.dtype[Any]]

# numpy's type codes in `dtype('f4', False, True)`. Extended precision and objects are left out on purpose:
# they cannot be checked, and a tensor of an unknown type is reported, never passed.
_NAMES = {
    "b1": "bool",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
}
# numpy has no such types, so the containers that name them are read as these bits.
_WITHOUT_NUMPY = {"bfloat16": "<u2", "float8_e4m3fn": "u1", "float8_e5m2": "u1"}
_TEXT_CODE = re.compile(r"([SU])([1-9][0-9]{0,5})")
_BYTE_ORDERS: Final[dict[str, Literal["<", ">", "=", "|"]]] = {"<": "<", ">": ">", "=": "=", "|": "|"}


@dataclass(frozen=True, slots=True)
class ElementType:
    """What one element of a tensor is."""

    name: str  # numpy name
    numpy: np.dtype[Any]
    itemsize: int  # bytes
    count_nonfinite: Callable[[Array], int] | None = field(compare=False, repr=False)  # None for integers

    @property
    def may_be_nonfinite(self) -> bool:
        """Whether an element can be NaN or infinite at all."""
        return self.count_nonfinite is not None

    @property
    def pickled_state(self) -> tuple[int, int, int]:
        """Size, alignment and flags as numpy pickles them: they say something only for strings."""
        if self.numpy.kind in "US":
            return self.itemsize, self.numpy.alignment, self.numpy.flags
        return -1, -1, 0


@lru_cache(maxsize=256)  # asked for every tensor, for the same few types
def element_type(code: str, byte_order: str) -> ElementType | None:
    """The element type of a numpy type code such as `f4`, or None for one that cannot be checked."""
    order = _BYTE_ORDERS.get(byte_order)
    if order is None:
        return None
    if code in _NAMES:
        return _element(_NAMES[code], np.dtype(code).newbyteorder(order))
    if match := _TEXT_CODE.fullmatch(code):
        kind = "str" if match[1] == "U" else "bytes"
        return _element(f"{kind}{match[2]}", np.dtype(code).newbyteorder(order))
    return None


@lru_cache(maxsize=64)
def named_type(name: str) -> ElementType | None:
    """The element type of a name such as `bfloat16`, little-endian; None for one that cannot be checked."""
    if name in _WITHOUT_NUMPY:
        return _element(name, np.dtype(_WITHOUT_NUMPY[name]))
    code = next((code for code, known in _NAMES.items() if known == name), None)
    return None if code is None else element_type(code, "<")


def _element(name: str, numpy: np.dtype[Any]) -> ElementType:
    return ElementType(name, numpy, numpy.itemsize, _COUNTERS.get(name))


def look_at(element: ElementType, elements: bytes) -> tuple[int, bool]:
    """What `ValueCheck` says of a tensor whose bytes, of two elements or more, are all there.

    Returns:
        How many elements are NaN or infinite, and whether all are the same.
    """
    itemsize = element.itemsize
    count = element.count_nonfinite
    is_constant = elements[:itemsize] == elements[-itemsize:] and _repeats(elements, itemsize)
    return (0 if count is None else count(np.frombuffer(elements, element.numpy))), is_constant


class ValueCheck:
    """Looks at the elements of one tensor over consecutive blocks, which may split an element.

    Without an element type there is nothing to count. A rest at the very end that is no element is ignored.
    """

    __slots__ = ("_counter", "_element", "_first", "_is_constant", "_itemsize", "_rest", "_seen", "nonfinite")

    def __init__(self, element: ElementType | None) -> None:
        self._element = element
        self._counter = None if element is None else element.count_nonfinite
        self._itemsize = 1 if element is None else element.itemsize
        self._rest = b""
        self._first = b""
        self._is_constant = element is not None
        self._seen = 0  # whole elements
        self.nonfinite = 0

    @property
    def is_constant(self) -> bool:
        """Whether there were two elements or more, and all of the same bits."""
        return self._is_constant and self._seen > 1

    def feed(self, block: memoryview | bytes) -> None:
        """Look at the next block."""
        itemsize = self._itemsize
        if self._rest:  # only the split element is put together, not the block behind it
            missing = itemsize - len(self._rest)
            if len(block) < missing:
                self._rest += bytes(block)
                return
            self._look(self._rest + bytes(block[:missing]))
            self._rest = b""
            block = block[missing:]
        if over := len(block) % itemsize:
            self._rest = bytes(block[-over:])
            block = block[:-over]
        if len(block):
            self._look(block)

    def _look(self, elements: memoryview | bytes) -> None:
        itemsize = self._itemsize
        self._seen += len(elements) // itemsize
        if self._is_constant:
            first = self._first = self._first or bytes(elements[:itemsize])
            # The ends settle it for nearly every tensor; only what may be constant is compared throughout.
            self._is_constant = (
                elements[:itemsize] == first
                and elements[-itemsize:] == first
                and _repeats(elements, itemsize)
            )
        if self._counter is not None and self._element is not None:
            self.nonfinite += self._counter(np.frombuffer(elements, self._element.numpy))


def _repeats(elements: memoryview | bytes, itemsize: int) -> bool:
    """Whether every element is like the one before it."""
    octets = np.frombuffer(elements, np.uint8)
    return np.array_equal(octets[itemsize:], octets[:-itemsize])


def plain_value(element: ElementType, data: bytes) -> Scalar:
    """The one element that `data` holds as a plain value; None for complex numbers and byte strings.

    Raises:
        ValueError: The bytes are no text of their type.
    """
    if element.name == "uint16":
        return float(_as_float32(np.frombuffer(data, element.numpy))[0])
    if element.numpy.kind == "U":  # numpy itself fails on a code point that is none
        encoding = "utf-32-be" if element.numpy.str.startswith(">") else "utf-32-le"
        return data.decode(encoding, "surrogatepass").rstrip("\0")
    value = np.frombuffer(data, element.numpy)[0].item()
    return value if isinstance(value, int | float) else None


def _as_float32(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _count_floats(numbers: Array) -> int:
    # A sum is finite only if every summand is, and taking it is one fast pass. The exact count is for the
    # rare block whose sum is not finite, which also huge but finite numbers can cause.
    # einsum sums at memory speed and without numpy's floating-point warnings; `sum` does neither.
    if math.isfinite(np.einsum("i->", numbers)):
        return 0
    return int(np.count_nonzero(~np.isfinite(numbers)))


def _count_complex(numbers: Array) -> int:
    return int(np.count_nonzero(~np.isfinite(numbers)))


def _count_halves(exponent: int) -> Callable[[Array], int]:
    """A counter for 16-bit floats whose exponent bits, all set, are `exponent`."""

    def count(numbers: Array) -> int:
        order = numbers.dtype.byteorder
        bits = numbers.view(np.dtype(np.uint16).newbyteorder(order))
        signed = numbers.view(np.dtype(np.int16).newbyteorder(order))
        # Infinity and NaN are the largest patterns of either sign: the negative ones are the largest unsigned
        # numbers, the positive ones the largest signed numbers.
        if bits.max() < exponent | 0x8000 and signed.max() < exponent:
            return 0
        return int(np.count_nonzero(bits & exponent == exponent))

    return count


def _count_octets(exponent: int) -> Callable[[Array], int]:
    """A counter for 8-bit floats that are not finite from this pattern on, whatever their sign."""

    def count(numbers: Array) -> int:
        return int(np.count_nonzero(numbers & 0x7F >= exponent))

    return count


_COUNTERS: dict[str, Callable[[Array], int]] = {
    "float16": _count_halves(0x7C00),
    "float32": _count_floats,
    "float64": _count_floats,
    "complex64": _count_complex,
    "complex128": _count_complex,
    # Paddle stores bfloat16 as uint16 and leaves no mark of it; real uint16 tensors do not occur in training,
    # so every uint16 is read as bfloat16 bits.
    "uint16": _count_halves(0x7F80),
    "bfloat16": _count_halves(0x7F80),
    "float8_e4m3fn": _count_octets(0x7F),  # no infinity, and one NaN of either sign
    "float8_e5m2": _count_octets(0x7C),
}
