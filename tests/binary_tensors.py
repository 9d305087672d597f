"""Tensors in Paddle's binary form, packed by hand, also such as Paddle never writes."""

from __future__ import annotations

import struct

import numpy as np

CODES = {
    "bool": 0,
    "int16": 1,
    "int32": 2,
    "int64": 3,
    "float16": 4,
    "float32": 5,
    "float64": 6,
    "uint8": 20,
    "int8": 21,
    "complex64": 23,
    "complex128": 24,
}


def varint(value):
    """A number as protocol buffers have it; a negative one takes ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def content(data, shape, code):
    """A tensor's version, description and bytes."""
    description = b"\x08" + varint(code) + b"".join(b"\x10" + varint(size) for size in shape)
    return struct.pack("<Ii", 0, len(description)) + description + data


def tensor(data, shape, code):
    """One tensor of a stream, whose description may be a lie."""
    return bytes(12) + content(data, shape, code)


def of_array(array):
    """The description and bytes of an array."""
    return content(np.ascontiguousarray(array).tobytes(), array.shape, CODES[array.dtype.name])


def stream_of(arrays):
    """A whole file."""
    return b"".join(bytes(12) + of_array(array) for array in arrays)


def ragged(array, levels):
    """A tensor whose first dimension is sequences of these lengths, and of sequences of those."""
    parts = [struct.pack("<IQ", 0, len(levels))]
    for lengths in levels:
        offsets = np.cumsum([0, *lengths]).astype("<u8").tobytes()
        parts.append(struct.pack("<Q", len(offsets)) + offsets)
    return b"".join(parts) + of_array(array)


def selected_rows(array, rows, height):
    """Some rows of a taller tensor."""
    return struct.pack(f"<IQ{len(rows)}QQ", 0, len(rows), *rows, height) + of_array(array)
