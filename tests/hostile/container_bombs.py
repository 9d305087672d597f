"""The same for the other containers: binary tensors, programs, safetensors, indexes, archives."""

from __future__ import annotations

import json
import pickle
import struct

from binary_tensors import tensor, varint
from ckptd.core.model import Role
from hostile.archives import BLOCK, resealed, tarred
from hostile.bombs import MEBIBYTE, TEBIBYTE, Bomb
from pickling import text

NONES = pickle.PROTO + b"\4" + pickle.NONE + (pickle.NONE + pickle.POP) * 1_400_000 + pickle.STOP
EMPTY = pickle.dumps({}, 4)
VALUES = pickle.dumps([0] * 20_000, 4)
FLOAT = 5


def field(number, data):
    """A field of a protocol buffer that tells its length."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def program(block):
    """A program whose only block holds these fields."""
    return field(1, b"\x08\x00\x10" + varint(-1) + block)


def variable(count):
    """A variable with a shape of so many dimensions."""
    shape = b"\x08\x05" + b"\x10\x01" * count
    kind = b"\x08\x07" + field(3, field(1, shape))
    return field(3, field(1, b"w") + field(2, kind) + b"\x18\x01")


def nested(levels):
    """A message within a message, so many times over."""
    data = b""
    for _ in range(levels):
        data = field(4, data)
    return data


def safetensors(header, content=b""):
    """A file of this header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + content


def entry(shape=(1,), offsets=(0, 4)):
    """What a header says of a tensor."""
    return {"dtype": "F32", "shape": list(shape), "data_offsets": list(offsets)}


def many_entries(count):
    """A header of empty tensors."""
    one = '"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(one % index for index in range(count)) + "}").encode()


def index(count):
    """An index of many weights."""
    pairs = ",".join(f'"w{one}":"model-00001-of-00001.safetensors"' for one in range(count))
    return ('{"metadata":{},"weight_map":{' + pairs + "}}").encode()


def sized(archive, size):
    """An archive whose first member is said to be of this size."""
    return resealed(archive, 124, b"\x80" + size.to_bytes(11, "big"))


def whole(data, code, role=Role.PARAMS, name="", size=0):
    """A bomb of these bytes, or of what is made when it is asked for."""
    return Bomb(data if callable(data) else lambda: data, code, role, size, name)


HUGE = safetensors({"a": entry((TEBIBYTE // 4,), (0, TEBIBYTE))})

BINARY = {
    "tensors: dimensions whose product overflows": whole(
        tensor(b"1234", (1 << 62, 1 << 62), FLOAT), "truncated"
    ),
    "tensors: dimensions whose product is a multiple of 2**64": whole(
        tensor(b"1234", (1 << 32, 1 << 32), FLOAT), "truncated"
    ),
    "tensors: a negative dimension": whole(tensor(b"1234", (-1,), FLOAT), "malformed"),
    "tensors: a million dimensions": whole(
        lambda: tensor(b"1234", (1,) * 1_000_000, FLOAT), "unknown_container"
    ),
    "tensors: 2**63 levels of sequences": whole(
        bytes(4) + struct.pack("<Q", 1 << 63) + bytes(100), "unknown_container"
    ),
    "tensors: sequences of 16 EiB": whole(
        bytes(4) + struct.pack("<QQ", 1, (1 << 64) - 8) + bytes(100), "unknown_container"
    ),
    "tensors: 300,000 of them": whole(lambda: tensor(b"1234", (1,), FLOAT) * 300_000, "limit_exceeded"),
    "tensors: a tebibyte that was never written": whole(
        tensor(b"", (TEBIBYTE // 4,), FLOAT), "sparse_file", size=TEBIBYTE + 4096
    ),
    "safetensors: a header of 2**63 bytes": whole(
        struct.pack("<Q", 1 << 63) + b'{"a":1}', "unknown_container", Role.SHARD
    ),
    "safetensors: a header longer than the file": whole(
        struct.pack("<Q", 1 << 24) + b'{"a":1}', "truncated", Role.SHARD
    ),
    "safetensors: a header of 450,000 tensors": whole(
        lambda: safetensors(many_entries(450_000)), "limit_exceeded", Role.SHARD
    ),
    "safetensors: a header of 99 MB of spaces": whole(
        lambda: safetensors(b"{" + b" " * 99_000_000), "limit_exceeded", Role.SHARD
    ),
    "safetensors: a header of a million tensors": whole(
        lambda: safetensors(many_entries(1_000_000)), "limit_exceeded", Role.SHARD
    ),
    "safetensors: a header of brackets": whole(
        lambda: safetensors(b'{"a":' + b"[" * MEBIBYTE), "malformed", Role.SHARD
    ),
    "safetensors: offsets that overflow": whole(
        safetensors({"a": entry((1 << 62, 1 << 62), (0, 4))}, b"1234"), "malformed", Role.SHARD
    ),
    "safetensors: one name twice": whole(
        safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
        "malformed",
        Role.SHARD,
    ),
    "safetensors: a tebibyte that was never written": whole(
        HUGE,
        "sparse_file",
        Role.SHARD,
        size=len(HUGE) + TEBIBYTE,
    ),
    "index: a million weights": whole(
        lambda: index(1_000_000), "limit_exceeded", Role.INDEX, "model.safetensors.index.json"
    ),
    "index: brackets": whole(
        b'{"weight_map":' + b"[" * MEBIBYTE, "invalid_index", Role.INDEX, "x.index.json"
    ),
    "program: messages within messages": whole(
        program(nested(10_000)), "malformed", Role.PROGRAM, "x.pdmodel"
    ),
    "program: a number without end": whole(
        lambda: program(b"\x18" + b"\xff" * MEBIBYTE), "malformed", Role.PROGRAM, "x.pdmodel"
    ),
    "program: a million blocks": whole(
        lambda: program(b"") + field(1, b"") * 1_000_000, "limit_exceeded", Role.PROGRAM, "x.pdmodel"
    ),
    "program: a million empty operators": whole(
        lambda: program(field(4, b"") * 1_000_000), "malformed", Role.PROGRAM, "x.pdmodel"
    ),
    "program: variables of many dimensions": whole(
        lambda: program(variable(400_000) * 20) + field(4, b"") + field(5, b""),
        "limit_exceeded",
        Role.PROGRAM,
        "x.pdmodel",
    ),
    "program: a field of 2**63 bytes": whole(
        program(b"\x1a" + varint(1 << 63) + bytes(100)), "malformed", Role.PROGRAM, "x.pdmodel"
    ),
    "program: brackets in its JSON": whole(
        b'{"base_code":{"magic":"pir","version":1,"trainable":true},"program":' + b"[" * MEBIBYTE,
        "invalid_json",
        Role.PROGRAM,
        "x.json",
    ),
}

ARCHIVE = {
    "tar: members that each take nearly all": whole(
        lambda: tarred(*[(f"{one}.pdparams", NONES) for one in range(8)]), "limit_exceeded"
    ),
    "tar: 20,000 members": whole(
        lambda: tarred(*[(f"{one}", EMPTY) for one in range(20_000)]), "limit_exceeded"
    ),
    "tar: many values in many members": whole(
        lambda: tarred(*[("m" * 90 + f"{one}", VALUES) for one in range(500)]), "limit_exceeded"
    ),
    "tar: a member of 2**63 bytes": whole(sized(tarred(("a", b"x")), 1 << 63), "truncated"),
    "tar: a member of a tebibyte that was never written": whole(
        sized(tarred(("a.pdparams", b"x")), TEBIBYTE)[:BLOCK], "all_zero", size=TEBIBYTE + (1 << 20)
    ),
    "tar: a tebibyte of padding": whole(tarred(("a", EMPTY)), "trailing_bytes", size=TEBIBYTE),
}

OPAQUE = {
    "opaque: a tebibyte that was never written": whole(b"\x80\4", "malformed", Role.OPAQUE, size=TEBIBYTE),
    "opaque: no pickle, and a tebibyte that was never written": whole(
        b"x", "sparse_file", Role.OPAQUE, size=TEBIBYTE
    ),
    "opaque: opcodes without end": whole(
        lambda: b"\x80\4" + pickle.NONE * 3_100_000, "limit_exceeded", Role.OPAQUE
    ),
    "opaque: texts without end": whole(
        lambda: b"\x80\4" + text("x" * 40) * 600_000, "truncated", Role.OPAQUE
    ),
    "opaque: a line without end": whole(b"\x80\4I" + b"1" * MEBIBYTE, "limit_exceeded", Role.OPAQUE),
}

CONTAINER_BOMBS = BINARY | ARCHIVE | OPAQUE
