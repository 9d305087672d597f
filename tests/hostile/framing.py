"""Payloads before, behind and around what looks healthy, in old protocols and other containers.

Sources: picklescan CVE-2025-1889, -1944, -1945, -10155 and -10156 (extensions, zip members) and its fixes
for broken streams, modelscan#338 and #354, fickling#322 (protocol 0 behind an opcode that scanners lack).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib

import numpy as np

from hostile.rows import CALL, CANARY, COMMAND, EXPRESSION, MKDIR, Hostile
from pickling import float_array, group, mapping, number, pickled, text

HEALTHY = pickle.dumps({"w": np.ones((3, 4), "f4"), "b": np.zeros(90, "f4")}, 4)
EVIL = pickled(CALL)
PRINTABLE = f"cos\nsystem\n(S'{COMMAND}'\ntR.".encode()
TABLE = "StructuredToParameterName@@"
SPLITS = "UnpackBigParamInfor@@"

STREAMS = {
    "a payload, and then nothing": Hostile(EVIL[:-1], "unsafe_global"),
    "a payload before an opcode that is none": Hostile(EVIL[:-1] + b"\xff" * 9, "unsafe_global"),
    "a payload before a POP of nothing": Hostile(EVIL[:-1] + b"000000.", "unsafe_global"),
    "a payload before a text that is none": Hostile(
        EVIL[:-1] + b"X\4\0\0\0\xff\xff\xff\xff.", "unsafe_global"
    ),
    "a payload before a memo entry that is not set": Hostile(EVIL[:-1] + b"h\x99.", "unsafe_global"),
    "a payload before bytes that are missing": Hostile(EVIL[:-1] + b"B\xff\xff\xff\x7f", "unsafe_global"),
    "a payload behind a healthy dict, before STOP": Hostile(
        HEALTHY[:-1] + CALL + pickle.POP + pickle.STOP, "unsafe_global"
    ),
    "a payload within the healthy dict": Hostile(
        pickled(mapping(w=float_array([1]), b=CALL)), "unsafe_global"
    ),
    "a payload behind a frame that is a lie": Hostile(
        pickle.PROTO + b"\4" + pickle.FRAME + struct.pack("<Q", 1) + CALL + pickle.STOP,
        "unsafe_global",
        works=False,
    ),
    "a payload behind a frame of nothing": Hostile(
        pickle.PROTO + b"\4" + pickle.FRAME + struct.pack("<Q", 0) + CALL + pickle.STOP, "unsafe_global"
    ),
    "a payload behind a healthy pickle": Hostile(HEALTHY + EVIL, "unsafe_global", works=False),
    "a payload behind many healthy pickles": Hostile(HEALTHY * 50 + EVIL, "unsafe_global", works=False),
    "a payload in protocol 0 behind a healthy pickle": Hostile(
        HEALTHY + PRINTABLE, "unsafe_global", works=False
    ),
    "a healthy pickle behind a payload": Hostile(EVIL + HEALTHY, "unsafe_global"),
    "a payload behind a pickle header": Hostile(b"\x80\2\x80\2" + EVIL, "malformed"),
    "a payload that says it is of protocol 0": Hostile(b"\x80\0" + CALL + b".", "unsafe_global"),
    "a payload that says it is of protocol 1": Hostile(b"\x80\1" + CALL + b".", "unsafe_global"),
    "a payload that says it is of protocol 6": Hostile(b"\x80\6" + CALL + b".", "unsafe_global", works=False),
    "two tables of internal names": Hostile(
        pickled(
            pickle.EMPTY_DICT,
            *[
                part + pickle.SETITEM
                for part in (
                    text("w") + float_array([1]),
                    text(TABLE) + mapping(w=text("linear_0.w_0")),
                    text(TABLE) + mapping(w=text("linear_1.w_0")),
                )
            ],
        ),
        "malformed",
        works=False,
    ),
    "a table of internal names that hides a dict": Hostile(
        pickled(
            pickle.EMPTY_DICT,
            *[
                part + pickle.SETITEM
                for part in (
                    text(TABLE) + mapping(w=text("linear_0.w_0")),
                    text(TABLE) + mapping(w=float_array([1])),
                )
            ],
        ),
        "malformed",
        works=False,
    ),
    "two tables of slices": Hostile(
        pickled(
            pickle.EMPTY_DICT,
            *[
                part + pickle.SETITEM
                for part in (
                    text("w@@.0") + float_array([1, 2]),
                    text(SPLITS)
                    + mapping(
                        w=mapping(
                            OriginShape=group(number(2)),
                            slices=pickle.EMPTY_LIST + text("w@@.0") + pickle.APPEND,
                        )
                    ),
                    text(SPLITS) + mapping(),
                )
            ],
        ),
        "malformed",
        works=False,
    ),
    "a tensor twice under one name": Hostile(
        pickled(mapping(w=float_array([1, 2]))[:-1] + text("w") + float_array([3]) + pickle.SETITEMS),
        "malformed",
        works=False,
    ),
}


def old(*parts):
    """A pickle as protocols 0 and 1 have it: it begins with its first opcode."""
    return b"".join(parts) + pickle.STOP


LINES = f"S'{CANARY}'\n".encode()
OLD_PROTOCOLS = {
    "printable": Hostile(PRINTABLE, "unsafe_global"),
    "printable, INST": Hostile(f"(S'{COMMAND}'\nios\nsystem\n.".encode(), "unsafe_global"),
    "printable, INST of a listed name": Hostile(
        f'(S"{EXPRESSION}"\nibuiltins\neval\n.'.encode(), "unsafe_global"
    ),
    "printable, within a dict": Hostile(
        b"(dp0\nVw\np1\n" + MKDIR + b"p2\n(" + LINES + b"tp3\nRp4\ns.", "unsafe_global"
    ),
    "printable, behind a number that is a lie": Hostile(b"}F1.0\n0" + PRINTABLE, "unsafe_global"),
    "printable, behind a long integer": Hostile(b"I99\n0L123L\n0I01\n0" + PRINTABLE, "unsafe_global"),
    "printable, after a payload that is no text": Hostile(PRINTABLE[:-1] + b"\xff\xff\xff", "unsafe_global"),
    "printable, OBJ": Hostile(b"(" + MKDIR + LINES + b"o.", "unsafe_global"),
    "printable, a name from the memo": Hostile(MKDIR + b"p5\n0g5\n(" + LINES + b"tR.", "unsafe_global"),
    "protocol 1": Hostile(old(MKDIR, b"q\0(U\6", CANARY.encode(), b"q\1tq\2Rq\3"), "unsafe_global"),
    "protocol 1, empty tuple and list first": Hostile(old(b")0]0}0", CALL), "unsafe_global"),
    "protocol 2 without its header": Hostile(EVIL[2:], "unsafe_global"),
    "protocol 4 without its header": Hostile(
        b"\x8c\5posix\x8c\5mkdir\x93\x8c\6canary\x85R.", "unsafe_global"
    ),
    "protocol 2 with old opcodes before the payload": Hostile(
        pickled(b"I1\n0K\1" + b"20" + b"0", PRINTABLE[:-1]), "unsafe_global"
    ),
}


def _zip(*members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return buffer.getvalue()


def _patched(data, offset, value):
    patched = bytearray(data)
    patched[offset : offset + len(value)] = value
    return bytes(patched)


def _numpy(value):
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


class _Evil:
    def __reduce__(self):
        return eval, (EXPRESSION,)


_TORCH = _zip(("archive/data.pkl", EVIL), ("archive/version", b"3\n"))
_CENTRAL = _TORCH.index(b"PK\1\2")

# Nothing reads these, and so nothing is proved by them; Paddle itself takes none of them for weights.
CONTAINERS = {
    "a zip as torch writes it": Hostile(_TORCH, "unknown_container", works=False),
    "a compressed zip": Hostile(
        _zip(("data.pkl", EVIL), compression=zipfile.ZIP_DEFLATED), "unknown_container", works=False
    ),
    "a zip whose members are said to be encrypted": Hostile(
        _patched(_TORCH, _CENTRAL + 8, b"\1\0"), "unknown_container", works=False
    ),
    "a zip with a wrong checksum": Hostile(
        _patched(_TORCH, _CENTRAL + 16, b"\0\0\0\0"), "unknown_container", works=False
    ),
    "a zip with another name in its directory": Hostile(
        _TORCH.replace(b"data.pkl", b"data.txt", 1), "unknown_container", works=False
    ),
    "a zip cut off": Hostile(_TORCH[:-30], "unknown_container", works=False),
    "a zip behind a healthy pickle": Hostile(HEALTHY + _TORCH, "trailing_bytes", works=False),
    "a payload before a zip": Hostile(EVIL + _TORCH, "unsafe_global"),
    "gzip": Hostile(gzip.compress(EVIL), "unknown_container", works=False),
    "bzip2": Hostile(bz2.compress(EVIL), "unknown_container", works=False),
    "xz": Hostile(lzma.compress(EVIL), "unknown_container", works=False),
    "zlib, as joblib writes it": Hostile(zlib.compress(EVIL), "unknown_container", works=False),
    "npy with objects": Hostile(_numpy(np.array([_Evil()], object)), "unknown_container", works=False),
    "npz with objects": Hostile(
        _zip(("w.npy", _numpy(np.array([_Evil()], object)))), "unsafe_global", works=False
    ),
    "HDF5": Hostile(b"\x89HDF\r\n\x1a\n" + bytes(500), "unknown_container", works=False),
    "an ELF program": Hostile(b"\x7fELF\2\1\1" + bytes(500), "unknown_container", works=False),
    "a shell script": Hostile(b"#!/bin/sh\n" + COMMAND.encode() + b"\n", "unknown_container", works=False),
    "a Python script": Hostile(b"import os\nos.mkdir('canary')\n", "unknown_container", works=False),
    "Python byte code": Hostile(b"\xa7\r\r\n" + bytes(12) + b"\xe3", "unknown_container", works=False),
    "YAML with a tag": Hostile(
        b"!!python/object/apply:os.system ['mkdir canary']\n", "unknown_container", works=False
    ),
    "a persistent id in protocol 0, which looks like any text": Hostile(
        b"Pos.system\n.", "unknown_container", works=False
    ),
    "text that begins like a name": Hostile(b"config\nversion\nlatest\n", "unknown_container", works=False),
    "text that begins like a mark": Hostile(b"(in German)\n", "unknown_container", works=False),
}


FRAMING = (
    {f"stream: {key}": row for key, row in STREAMS.items()}
    | {f"old protocol: {key}": row for key, row in OLD_PROTOCOLS.items()}
    | {f"container: {key}": row for key, row in CONTAINERS.items()}
)
