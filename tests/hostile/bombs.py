"""Small files that ask for much: time, memory, depth. Some have a hole behind what they begin with."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pickle import (
    APPEND,
    APPENDS,
    BINGET,
    BINPUT,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    MARK,
    MEMOIZE,
    NONE,
    POP,
    SETITEM,
    SETITEMS,
    TUPLE,
    TUPLE1,
    TUPLE2,
)
from typing import TYPE_CHECKING

from ckptd.core.model import Role
from pickling import (
    array,
    dtype,
    empty_array,
    float_array,
    group,
    long_integer,
    mapping,
    name,
    number,
    pickled,
    raw_bytes,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TEBIBYTE = 1 << 40
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Bomb:
    """How a file begins, how long it is with the hole behind that, its name, and the first finding it has."""

    make: Callable[[], bytes]
    code: str
    role: Role = Role.PARAMS
    size: int = 0
    name: str = ""


def deferred(*parts, protocol=4):
    """A pickle that is put together when it is asked for."""
    return lambda: pickled(*parts, protocol=protocol)


# Opcodes without end. Before them, the memo has what a call of each kind needs.
DTYPE_CALL = (
    name("numpy", "dtype") + BINPUT + b"\0" + group(text("f4"), number(0), number(1)) + BINPUT + b"\1"
)
BYTES_CALL = name("builtins", "bytes") + BINPUT + b"\2" + EMPTY_TUPLE + BINPUT + b"\3"
ARRAY_CALL = (
    name("numpy.core.multiarray", "_reconstruct")
    + BINPUT
    + b"\4"
    + group(name("numpy", "ndarray"), group(number(0)), raw_bytes(b"b"))
    + BINPUT
    + b"\5"
)
PREPARED = DTYPE_CALL + BYTES_CALL + ARRAY_CALL + EMPTY_LIST + BINPUT + b"\6" + NONE

ENDLESS = {
    "NONE": NONE,
    "NONE and POP": NONE + POP,
    "marks that are popped": MARK + pickle.POP_MARK,
    "marks": MARK,
    "empty tuples": MARK + TUPLE,
    "small integers": pickle.BININT + b"\xff\xff\xff\x7f",
    "floats": pickle.BINFLOAT + b"@\t!\xfbTD-\x18",
    "long integers": pickle.LONG1 + b"\xff" + b"\x7f" * 255,
    "integers of 8 bytes": pickle.LONG1 + b"\x08" + b"\x7f" * 8,
    "short texts": pickle.SHORT_BINUNICODE + b"\3abc",
    "texts": pickle.BINUNICODE + b"\x28\0\0\0" + b"x" * 40,
    "texts that are wide for one character": (
        pickle.BINUNICODE + struct.pack("<I", 500_004) + "\U0001f600".encode() + b"x" * 500_000
    ),
    "short byte strings": pickle.SHORT_BINBYTES + b"\3abc",
    "byte strings": pickle.SHORT_BINBYTES + b"\x40" + b"x" * 64,
    "longer byte strings": pickle.SHORT_BINBYTES + b"\x41" + b"x" * 65,
    "byte arrays": pickle.BYTEARRAY8 + b"\3\0\0\0\0\0\0\0abc",
    "longer byte arrays": pickle.BYTEARRAY8 + b"\x41\0\0\0\0\0\0\0" + b"x" * 65,
    "tuples of one": NONE + TUPLE1,
    "tuples within tuples": TUPLE1,
    "tuples of two": NONE + NONE + TUPLE2,
    "doubling tuples": BINPUT + b"\x09" + BINGET + b"\x09" + TUPLE2,
    "lists": EMPTY_LIST,
    "dicts": EMPTY_DICT,
    "sets": pickle.EMPTY_SET,
    "frozensets": MARK + pickle.FROZENSET,
    "growing one list": BINGET + b"\6" + NONE + APPEND + POP,
    "names": name("numpy", "ndarray"),
    "memo entries": NONE + MEMOIZE,
    "a memo entry over and over": BINPUT + b"\x09",
    "dtypes": BINGET + b"\0" + BINGET + b"\1" + pickle.REDUCE,
    "calls for nothing": BINGET + b"\2" + BINGET + b"\3" + pickle.REDUCE,
    "arrays": BINGET + b"\4" + BINGET + b"\5" + pickle.REDUCE,
}


def endless(opcodes):
    """More of the same opcodes than any limit allows; what is behind them does not matter."""
    times = min(3_100_000, (72 * MEBIBYTE) // len(opcodes))
    return lambda: pickle.PROTO + b"\4" + PREPARED + opcodes * times


# Structure that is small in the file and large when it is followed.


def laughs(levels, combine, seed=EMPTY_LIST):
    """Something that holds the one before it twice, so many times over."""
    parts = [seed, BINPUT, b"\0"]
    for level in range(levels):
        below = BINGET + bytes([level])
        parts += [combine(below), BINPUT, bytes([level + 1])]
    return deferred(EMPTY_LIST, MARK, *parts, APPENDS)


def nested(open_, close, levels):
    """Containers within containers."""
    return deferred(EMPTY_LIST, open_ * levels, NONE, close * levels, APPEND)


def numbered(count_, value):
    """A dict of many keys with one value from the memo."""
    keys = b"".join(pickle.BININT + struct.pack("<i", index) + BINGET + b"\x63" for index in range(count_))
    return lambda: pickled(value, BINPUT, b"\x63", POP, EMPTY_DICT, MARK, keys, SETITEMS, protocol=4)


def often(value, times):
    """A list of one value many times over."""
    return deferred(EMPTY_LIST, value, BINPUT, b"\x63", POP, MARK, (BINGET + b"\x63") * times, APPENDS)


def long_key_path(levels, length):
    """Dicts within dicts under long keys, with many values at the bottom."""
    opened = (EMPTY_DICT + text("k" * length)) * levels
    return deferred(opened, EMPTY_LIST, MARK, NONE * 100_000, APPENDS, SETITEM * levels)


def shaped(*sizes, length=4):
    """A small array that says it is a large one."""
    shape = group(*map(long_integer, sizes))
    state = group(number(1), shape, dtype("f4"), pickle.NEWFALSE, raw_bytes(bytes(length)))
    return deferred(mapping(w=empty_array() + state + BUILD))


def tiny_tensors(count_):
    """As many tensors as a file of some megabytes can hold."""
    state = group(
        number(1), EMPTY_TUPLE, BINGET + b"\x07", pickle.NEWFALSE, pickle.SHORT_BINBYTES + b"\4abcd"
    )
    tensor = BINGET + b"\4" + BINGET + b"\5" + pickle.REDUCE + state + BUILD
    items = b"".join(text(f"{index}") + tensor for index in range(count_))
    prepared = MARK + PREPARED + dtype("f4") + BINPUT + b"\x07" + pickle.POP_MARK
    return lambda: pickled(prepared, EMPTY_DICT, MARK, items, SETITEMS, protocol=4)


def name_table(count_):
    """A table of internal names that is larger than any model."""
    pairs = b"".join(text(f"k{index}") + text(f"n{index}") for index in range(count_))
    table = EMPTY_DICT + MARK + pairs + SETITEMS
    return lambda: pickled(EMPTY_DICT, text("StructuredToParameterName@@"), table, SETITEM, protocol=4)


STRUCTURES = {
    "lists within lists": Bomb(nested(EMPTY_LIST, APPEND, 300_000), "limit_exceeded"),
    "dicts within dicts": Bomb(nested(EMPTY_DICT + NONE, SETITEM, 300_000), "limit_exceeded"),
    "tuples within tuples": Bomb(nested(b"", TUPLE1, 2_000_000), "limit_exceeded"),
    "marks within marks": Bomb(nested(MARK, TUPLE, 300_000), "limit_exceeded"),
    "frozensets within frozensets": Bomb(nested(MARK, pickle.FROZENSET, 900), "malformed"),
    "a key of tuples within tuples": Bomb(
        deferred(EMPTY_DICT, NONE, TUPLE1 * 1_000_000, NONE, SETITEM), "malformed"
    ),
    "a list within itself": Bomb(
        deferred(EMPTY_LIST, BINPUT, b"\0", BINGET, b"\0", APPEND), "limit_exceeded"
    ),
    "a dict within itself": Bomb(
        deferred(EMPTY_DICT, BINPUT, b"\0", NONE, BINGET, b"\0", SETITEM), "limit_exceeded"
    ),
    "doubling lists": Bomb(
        laughs(90, lambda below: EMPTY_LIST + MARK + below + below + APPENDS), "limit_exceeded"
    ),
    "doubling tuples": Bomb(laughs(90, lambda below: below + below + TUPLE2), "limit_exceeded"),
    "doubling dicts": Bomb(
        laughs(90, lambda below: EMPTY_DICT + MARK + NONE + below + number(1) + below + SETITEMS),
        "limit_exceeded",
    ),
    "doubling sets": Bomb(
        laughs(90, lambda below: MARK + below + below + pickle.FROZENSET, seed=NONE + TUPLE1),
        "malformed",
    ),
    "doubling keys": Bomb(
        laughs(
            90,
            lambda below: (
                EMPTY_DICT
                + below
                + below
                + TUPLE2
                + BINPUT
                + b"\xff"
                + NONE
                + SETITEM
                + POP
                + BINGET
                + b"\xff"
            ),
            seed=NONE + TUPLE1,
        ),
        "malformed",
    ),
    "one list a million times": Bomb(
        often(EMPTY_LIST + MARK + NONE * 1000 + APPENDS, 1_000_000), "limit_exceeded"
    ),
    "one tensor a million times": Bomb(often(float_array([1] * 100), 1_000_000), "limit_exceeded"),
    "one long text a million times": Bomb(often(text("x" * 1_000), 1_000_000), "limit_exceeded"),
    "one tensor under many keys": Bomb(numbered(600_000, float_array([1] * 100)), "limit_exceeded"),
    "one value under many keys": Bomb(numbered(900_000, NONE), "limit_exceeded"),
    "long key paths": Bomb(long_key_path(90, 100_000), "limit_exceeded"),
    "300,000 tensors": Bomb(tiny_tensors(300_000), "limit_exceeded"),
    "one long internal name of many tensors": Bomb(
        often(text("n" * 1_000_000) + float_array([1] * 100) + TUPLE2, 90_000), "limit_exceeded"
    ),
    "100,000 tensors with many dimensions": Bomb(
        often(array((1,) * 64, dtype("f4"), raw_bytes(b"1234")), 100_001), "limit_exceeded"
    ),
    "a million internal names": Bomb(name_table(500_000), "limit_exceeded"),
    "dimensions whose product overflows": Bomb(shaped(1 << 62, 1 << 62), "size_mismatch"),
    "dimensions whose product is a multiple of 2**64": Bomb(shaped(1 << 32, 1 << 32), "size_mismatch"),
    "a dimension of 2**63": Bomb(shaped(1 << 63), "malformed"),
    "a dimension of 2**100": Bomb(shaped(1 << 100), "malformed"),
    "a negative dimension": Bomb(shaped(-1, -1), "malformed"),
    "a zero among huge dimensions": Bomb(shaped(0, 1 << 62, 1 << 62, length=0), "malformed"),
    "a rank of 1000": Bomb(shaped(*[1] * 1000), "malformed"),
    "a rank of 64 and sizes beyond all memory": Bomb(shaped(*[(1 << 63) - 1] * 64), "size_mismatch"),
}

LENGTHS = {
    "a byte string of 8 EiB": Bomb(deferred(pickle.BINBYTES8 + struct.pack("<Q", 1 << 63)), "truncated"),
    "a byte array of 8 EiB": Bomb(
        deferred(pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 63), protocol=5), "truncated"
    ),
    "a text of 16 EiB": Bomb(deferred(pickle.BINUNICODE8 + struct.pack("<Q", (1 << 64) - 1)), "truncated"),
    "an integer of 2 GiB": Bomb(deferred(pickle.LONG4 + struct.pack("<i", (1 << 31) - 1)), "limit_exceeded"),
    "an integer of a negative length": Bomb(deferred(pickle.LONG4 + struct.pack("<i", -1)), "limit_exceeded"),
    "a frame of 16 EiB": Bomb(deferred(pickle.FRAME + struct.pack("<Q", (1 << 64) - 1)), "truncated"),
    "a name without end": Bomb(
        lambda: pickle.PROTO + b"\2" + pickle.GLOBAL + b"x" * (32 * MEBIBYTE), "unsafe_global"
    ),
    "a long text": Bomb(deferred(text("x" * (32 * MEBIBYTE))), "limit_exceeded"),
}


def unwritten(length):
    """The beginning of a checkpoint up to the bytes of its only tensor."""
    state = MARK + number(1) + group(long_integer(length >> 2)) + dtype("f4") + pickle.NEWFALSE
    begun = EMPTY_DICT + text("w") + empty_array() + state
    return pickle.PROTO + b"\4" + begun + pickle.BINBYTES8 + struct.pack("<Q", length)


HOLES = {
    "a tebibyte of nothing": Bomb(lambda: b"", "all_zero", size=TEBIBYTE),
    "a tebibyte of nothing behind a healthy pickle": Bomb(
        deferred(mapping(w=float_array([1]))), "trailing_bytes", size=TEBIBYTE
    ),
    "a tensor of a tebibyte that was never written": Bomb(
        lambda: unwritten(TEBIBYTE), "sparse_file", size=TEBIBYTE + 4096
    ),
    "a byte string of a tebibyte that was never written": Bomb(
        lambda: pickle.PROTO + b"\4" + pickle.BINBYTES8 + struct.pack("<Q", TEBIBYTE),
        "sparse_file",
        size=TEBIBYTE + 4096,
    ),
    "opcodes before a tebibyte of nothing": Bomb(
        lambda: pickle.PROTO + b"\4" + EMPTY_LIST + NONE * 1000, "malformed", size=TEBIBYTE
    ),
    "JSON before a tebibyte of nothing": Bomb(
        lambda: b'{"a": 1}', "limit_exceeded", role=Role.META, size=TEBIBYTE
    ),
}


def json_bomb(data, code):
    """A JSON file beside the weights."""
    return Bomb(lambda: data if isinstance(data, bytes) else data(), code, Role.META)


JSON = {
    "brackets": json_bomb(b"[" * MEBIBYTE, "limit_exceeded"),
    "objects": json_bomb(b'{"a":' * MEBIBYTE, "limit_exceeded"),
    "brackets that are closed": json_bomb(b"[" * 200 + b"]" * 200, "limit_exceeded"),
    "a number of a million digits": json_bomb(b"[" + b"9" * MEBIBYTE + b"]", "invalid_json"),
    "a million keys": json_bomb(
        lambda: b"{" + b",".join(b'"k%d":0' % index for index in range(1_000_000)) + b"}", "limit_exceeded"
    ),
    "one key two million times": json_bomb(
        lambda: b"{" + b",".join([b'"k":0'] * 2_000_000) + b"}", "limit_exceeded"
    ),
    "empty lists": json_bomb(lambda: b"[" + b",".join([b"[]"] * 5_000_000) + b"]", "limit_exceeded"),
    "empty objects": json_bomb(lambda: b"[" + b",".join([b"{}"] * 5_000_000) + b"]", "limit_exceeded"),
    "lists of nothing within": json_bomb(
        lambda: b"[" + b",".join([b"[[[[]]]]"] * 1_500_000) + b"]", "limit_exceeded"
    ),
    "numbers": json_bomb(lambda: b"[" + b",".join([b"1.5"] * 4_000_000) + b"]", "limit_exceeded"),
    "a file that is too long": json_bomb(lambda: b'["' + b"x" * (80 * MEBIBYTE) + b'"]', "limit_exceeded"),
}

TABLES = {
    "endless": {key: Bomb(endless(opcodes), "limit_exceeded") for key, opcodes in ENDLESS.items()},
    "structure": STRUCTURES,
    "length": LENGTHS,
    "hole": HOLES,
    "JSON": JSON,
}
BOMBS = {f"{table}: {key}": bomb for table, bombs in TABLES.items() for key, bomb in bombs.items()}
