"""Pickles put together by hand, opcode by opcode, also such as no pickler writes. They are never loaded."""

from __future__ import annotations

import io
import pickle
import struct

import numpy as np

from ckptd.core.containers import scan
from ckptd.core.model import Role


def scan_bytes(data, *, path="model.pdparams", role=Role.PARAMS):
    """Scan what a file would hold."""
    return scan(io.BytesIO(data).readinto, len(data), path=path, role=role)


def codes(found):
    """The codes of a scan's findings."""
    return [finding.code for finding in found.findings]


def pickled(*parts, protocol=2):
    """A whole pickle of these opcodes."""
    return pickle.PROTO + bytes([protocol]) + b"".join(parts) + pickle.STOP


def text(value):
    """A string, as protocol 2 has it."""
    raw = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def raw_bytes(data, length=None):
    """A byte string, whose length may be a lie."""
    return pickle.BINBYTES + struct.pack("<I", len(data) if length is None else length) + data


def number(value):
    """An integer."""
    return pickle.BININT + struct.pack("<i", value)


def long_integer(value):
    """An integer of up to 16 bytes."""
    return pickle.LONG1 + b"\x10" + value.to_bytes(16, "little", signed=True)


def name(module, attribute):
    """A GLOBAL."""
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def group(*items):
    """A tuple."""
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def reduce(function, *arguments):
    """A call."""
    return function + group(*arguments) + pickle.REDUCE


def encoded(value):
    """A byte string, as protocol 2 has it."""
    return name("_codecs", "encode") + text(value) + text("latin1") + pickle.TUPLE2 + pickle.REDUCE


def mapping(**items):
    """A dict with string keys."""
    pairs = b"".join(text(key) + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS


def dtype(code, order="<", *, subarray=pickle.NONE, numbers=(-1, -1, 0), state_head=()):
    """A numpy dtype; the numbers are size, alignment and flags, which only strings have."""
    state = group(
        *state_head,
        number(3),
        text(order),
        subarray,
        pickle.NONE,
        pickle.NONE,
        *(number(value) for value in numbers),
    )
    return reduce(name("numpy", "dtype"), text(code), pickle.NEWFALSE, pickle.NEWTRUE) + state + pickle.BUILD


def empty_array(module="numpy.core.multiarray"):
    """An array before its state is set; numpy 1.x by its module's name."""
    return reduce(name(module, "_reconstruct"), name("numpy", "ndarray"), group(number(0)), raw_bytes(b"b"))


def array(shape, element, payload, *, module="numpy.core.multiarray"):
    """An array of a shape, of a dtype as opcodes, and of bytes as opcodes."""
    state = group(number(1), group(*map(number, shape)), element, pickle.NEWFALSE, payload)
    return empty_array(module) + state + pickle.BUILD


def float_array(values):
    """A float32 array of one dimension."""
    data = np.array(values, "<f4").tobytes()
    return array((len(values),), dtype("f4"), raw_bytes(data))
