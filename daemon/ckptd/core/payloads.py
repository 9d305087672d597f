"""The bytes of tensors: which element types there are, and how many elements are NaN or infinite."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
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
_TEXT_CODE = re.compile(r"([SU])([1-9][0-9]{0,5})")
_BYTE_ORDERS: Final[dict[str, Literal["<", ">", "=", "|"]]] = {"<": "<", ">": ">", "=": "=", "|": "|"}


@dataclass(frozen=True, slots=True)
class ElementType:
    """What one element of a tensor is."""

    name: str  # numpy name
    numpy: np.dtype[Any]
    itemsize: int  # bytes

    @property
    def may_be_nonfinite(self) -> bool:
        """Whether an element can be NaN or infinite at all."""
        return self.name in _COUNTERS

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
        return ElementType(_NAMES[code], np.dtype(code).newbyteorder(order), np.dtype(code).itemsize)
    if match := _TEXT_CODE.fullmatch(code):
        kind = "str" if match[1] == "U" else "bytes"
        return ElementType(f"{kind}{match[2]}", np.dtype(code).newbyteorder(order), np.dtype(code).itemsize)
    return None


def count_nonfinite(element: ElementType, data: memoryview | bytes) -> int:
    """How many elements of `data`, a whole number of them, are NaN or infinite."""
    counter = _COUNTERS.get(element.name)
    return 0 if counter is None or not len(data) else counter(np.frombuffer(data, element.numpy))


class NonfiniteCounter:
    """Counts over consecutive blocks, which may split an element.

    Without an element type there is nothing to count. A rest at the very end that is no element is ignored.
    """

    __slots__ = ("_element", "_rest", "count")

    def __init__(self, element: ElementType | None) -> None:
        self._element = element if element is not None and element.may_be_nonfinite else None
        self._rest = b""
        self.count = 0

    def feed(self, block: memoryview | bytes) -> None:
        """Count in the next block."""
        element = self._element
        if element is None:
            return
        if not self._rest and not len(block) % element.itemsize:
            self.count += count_nonfinite(element, block)
            return
        data: memoryview | bytes = self._rest + bytes(block) if self._rest else block
        whole = len(data) - len(data) % element.itemsize
        self._rest = bytes(data[whole:])
        self.count += count_nonfinite(element, data[:whole])


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


_COUNTERS: dict[str, Callable[[Array], int]] = {
    "float16": _count_halves(0x7C00),
    "float32": _count_floats,
    "float64": _count_floats,
    "complex64": _count_complex,
    "complex128": _count_complex,
    # Paddle stores bfloat16 as uint16 and leaves no mark of it; real uint16 tensors do not occur in training,
    # so every uint16 is read as bfloat16 bits.
    "uint16": _count_halves(0x7F80),
}
