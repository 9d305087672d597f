"""Calls in every form that the pickle machine has, and listed names put to another use.

Sources: picklescan#14 (memo), modelscan#85 (slot states), picklescan GHSA-9gvj-pp9x-gcfr, fickling
GHSA-cffv-grgg-g429 and GHSA-6ggj-6f2q-f7mx (OBJ, BUILD), CVE-2025-32434, Paddle#79057 and #79764.
"""

from __future__ import annotations

import pickle
import struct
from pickle import (
    BINGET,
    BINPUT,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    MARK,
    MEMOIZE,
    NEWOBJ,
    NONE,
    POP,
    REDUCE,
    TUPLE1,
    TUPLE2,
)

from hostile.rows import CALL, CANARY, EXPRESSION, EXTENSION, MKDIR, Hostile, short, stack_global
from pickling import (
    array,
    dtype,
    encoded,
    float_array,
    group,
    mapping,
    name,
    number,
    pickled,
    raw_bytes,
    reduce,
    text,
)

ARGUMENTS = text(CANARY) + TUPLE1
ORDERED = reduce(name("collections", "OrderedDict"))
GENERATOR = name("paddle.base.libpaddle", "GeneratorState")
EVAL = name("builtins", "eval")
RECONSTRUCT = name("numpy._core.multiarray", "_reconstruct")
NDARRAY = name("numpy", "ndarray")


def put(index):
    """Put the top of the stack into the memo."""
    return BINPUT + bytes([index])


def get(index):
    """Push what the memo holds."""
    return BINGET + bytes([index])


def long_put(index):
    """The same as `put`, for large indices."""
    return pickle.LONG_BINPUT + struct.pack("<I", index)


def long_get(index):
    """The same as `get`, for large indices."""
    return pickle.LONG_BINGET + struct.pack("<I", index)


def rot13(value):
    """A string that is only known once the codec has run."""
    return reduce(name("_codecs", "encode"), text(value), text("rot13"))


def lazily():
    """An iterator that makes the canary when it is asked for its first value; NEWOBJ makes it."""
    return name("builtins", "map") + group(MKDIR, EMPTY_LIST + text(CANARY) + pickle.APPEND) + NEWOBJ


# Names. With protocol 4 and later; before it, a dotted name is looked up as it stands.
NAMES = {
    "GLOBAL": Hostile(pickled(CALL), "unsafe_global"),
    "GLOBAL under protocol 5": Hostile(pickled(CALL, protocol=5), "unsafe_global"),
    "GLOBAL whose lines end in CR LF": Hostile(
        pickled(pickle.GLOBAL + b"posix\r\nmkdir\r\n"), "unsafe_global", works=False
    ),
    "GLOBAL with nothing for a name": Hostile(pickled(pickle.GLOBAL + b"\n\n"), "unsafe_global", works=False),
    "GLOBAL with a NUL in a listed name": Hostile(
        pickled(name("numpy", "ndarray\0")), "unsafe_global", works=False
    ),
    "GLOBAL with a space behind a listed name": Hostile(
        pickled(name("numpy ", "ndarray")), "unsafe_global", works=False
    ),
    "GLOBAL in another case": Hostile(pickled(name("Numpy", "ndarray")), "unsafe_global", works=False),
    "STACK_GLOBAL": Hostile(
        pickled(stack_global("posix", "mkdir"), ARGUMENTS, REDUCE, protocol=4), "unsafe_global"
    ),
    "STACK_GLOBAL under protocol 2": Hostile(
        pickled(stack_global("posix", "mkdir"), ARGUMENTS, REDUCE), "unsafe_global"
    ),
    "STACK_GLOBAL of long strings": Hostile(
        pickled(text("posix"), text("mkdir"), pickle.STACK_GLOBAL, ARGUMENTS, REDUCE, protocol=4),
        "unsafe_global",
    ),
    "STACK_GLOBAL of memoised strings": Hostile(
        pickled(
            short("posix"),
            MEMOIZE,
            POP,
            short("mkdir"),
            MEMOIZE,
            POP,
            get(0),
            get(1),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "STACK_GLOBAL of strings from a dict, in the other order": Hostile(
        pickled(
            EMPTY_DICT,
            short("mkdir"),
            put(1),
            short("posix"),
            put(0),
            pickle.SETITEM,
            POP,
            get(0),
            get(1),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "STACK_GLOBAL with PROTO between the strings": Hostile(
        pickled(
            short("posix"),
            pickle.PROTO + b"\4",
            short("mkdir"),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "malformed",  # no pickler writes PROTO within
    ),
    "STACK_GLOBAL with values between the strings": Hostile(
        pickled(
            short("posix"),
            NONE,
            POP,
            MARK,
            NONE,
            pickle.POP_MARK,
            short("mkdir"),
            NONE,
            POP,
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "STACK_GLOBAL of computed strings": Hostile(
        pickled(rot13("cbfvk"), rot13("zxqve"), pickle.STACK_GLOBAL, ARGUMENTS, REDUCE, protocol=4),
        "unsafe_opcode",
    ),
    "STACK_GLOBAL of numpy's strings": Hostile(
        pickled(
            *[
                reduce(
                    name("numpy._core.multiarray", "scalar"),
                    dtype(f"U{len(word)}"),
                    raw_bytes(word.encode("utf-32-le")),
                )
                for word in ("numpy", "ndarray")
            ],
            pickle.STACK_GLOBAL,
            protocol=4,
        ),
        "unsafe_global",
        works=False,  # listed names, but Python's loader refuses them in this form
    ),
    "a listed name overwritten in the memo": Hostile(
        pickled(NDARRAY, put(0), POP, MKDIR, put(0), POP, get(0), ARGUMENTS, REDUCE),
        "unsafe_global",
    ),
    "listed strings overwritten in the memo": Hostile(
        pickled(
            short("numpy"),
            put(0),
            short("ndarray"),
            put(1),
            short("posix"),
            put(0),
            short("mkdir"),
            put(1),
            get(0),
            get(1),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "MEMOIZE and BINPUT mixed, so that counts differ": Hostile(
        pickled(
            short("posix"),
            put(0),
            short("mkdir"),
            put(1),
            short("collections"),
            MEMOIZE,
            short("OrderedDict"),
            MEMOIZE,
            get(0),
            get(1),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "MEMOIZE after a gap, which overwrites": Hostile(
        pickled(
            short("numpy"),
            put(2),
            short("x"),
            put(7),
            short("posix"),
            MEMOIZE,
            short("mkdir"),
            put(3),
            get(2),
            get(3),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "names at huge memo indices": Hostile(
        pickled(
            short("posix"),
            long_put(1 << 19),
            short("mkdir"),
            long_put((1 << 19) + 1),
            long_get(1 << 19),
            long_get((1 << 19) + 1),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_global",
    ),
    "a name at a memo index that fills the memory": Hostile(
        pickled(MKDIR, long_put((1 << 32) - 1), POP, long_get((1 << 32) - 1), ARGUMENTS, REDUCE),
        "unsafe_global",
        works=False,
    ),
    "a string at a memo index that fills the memory": Hostile(
        pickled(short("posix"), long_put((1 << 32) - 1)), "limit_exceeded", works=False
    ),
    "a name that is there only as it is thrown away": Hostile(
        pickled(CALL, POP, mapping(w=float_array([1]))), "unsafe_global"
    ),
    "a call whose outcome is a key": Hostile(
        pickled(EMPTY_DICT, CALL, NONE, pickle.SETITEM), "unsafe_global"
    ),
    "a call below a mark that is popped": Hostile(
        pickled(MARK, CALL, pickle.POP_MARK, mapping(w=float_array([1]))), "unsafe_global"
    ),
    "a dotted name from a listed module": Hostile(
        pickled(stack_global("numpy", "testing._private.utils.os.mkdir"), ARGUMENTS, REDUCE, protocol=4),
        "unsafe_global",
    ),
    "a dotted name through a listed class": Hostile(
        pickled(reduce(stack_global("numpy", "ndarray.tofile"), float_array([1]), text(CANARY)), protocol=4),
        "unsafe_global",
    ),
    "a listed class and its __reduce__": Hostile(
        pickled(stack_global("numpy", "ndarray.__reduce__"), protocol=4), "unsafe_global", works=False
    ),
    "a listed name split at another dot": Hostile(
        pickled(stack_global("numpy", "core.multiarray._reconstruct"), protocol=4),
        "unsafe_global",
        works=False,
    ),
    "a module where a callable is listed": Hostile(
        pickled(stack_global("numpy.core", "multiarray"), protocol=4), "unsafe_global", works=False
    ),
    "a module below a listed one": Hostile(
        pickled(reduce(stack_global("numpy.f2py.crackfortran", "myeval"), text(EXPRESSION)), protocol=4),
        "unsafe_global",
    ),
    "an unlisted name of a listed module": Hostile(
        pickled(reduce(name("builtins", "exec"), text(EXPRESSION))), "unsafe_global"
    ),
    "an inherited hook of a listed class": Hostile(
        pickled(stack_global("collections", "OrderedDict.__init_subclass__"), protocol=4),
        "unsafe_global",
        works=False,
    ),
    "EXT1": Hostile(pickled(pickle.EXT1 + bytes([EXTENSION]), ARGUMENTS, REDUCE), "unsafe_opcode"),
    "EXT2": Hostile(pickled(pickle.EXT2 + struct.pack("<H", EXTENSION), ARGUMENTS, REDUCE), "unsafe_opcode"),
    "EXT4": Hostile(pickled(pickle.EXT4 + struct.pack("<i", EXTENSION), ARGUMENTS, REDUCE), "unsafe_opcode"),
    "PERSID": Hostile(pickled(pickle.PERSID + EXPRESSION.encode() + b"\n"), "unsafe_opcode", works=False),
    "BINPERSID": Hostile(pickled(text(EXPRESSION), pickle.BINPERSID), "unsafe_opcode", works=False),
}

# Calls.
CALLS = {
    "INST": Hostile(pickled(MARK, text(CANARY), pickle.INST + b"posix\nmkdir\n"), "unsafe_opcode"),
    "INST of a listed name": Hostile(
        pickled(MARK, text(EXPRESSION), pickle.INST + b"builtins\neval\n"), "unsafe_opcode"
    ),
    "OBJ": Hostile(pickled(MARK, MKDIR, text(CANARY), pickle.OBJ), "unsafe_global"),
    "OBJ of a listed name": Hostile(pickled(MARK, EVAL, text(EXPRESSION), pickle.OBJ), "unsafe_opcode"),
    "NEWOBJ of an iterator that a listed callable runs": Hostile(
        pickled(reduce(name("builtins", "tuple"), lazily())), "unsafe_global"
    ),
    "NEWOBJ_EX": Hostile(
        pickled(
            reduce(
                name("builtins", "tuple"),
                name("builtins", "map")
                + group(MKDIR, EMPTY_LIST + text(CANARY) + pickle.APPEND)
                + EMPTY_DICT
                + pickle.NEWOBJ_EX,
            ),
            protocol=4,
        ),
        "unsafe_global",
    ),
    "NEWOBJ_EX of a listed class": Hostile(
        pickled(name("collections", "OrderedDict"), group(), EMPTY_DICT, pickle.NEWOBJ_EX, protocol=4),
        "unsafe_opcode",
        works=False,
    ),
    "NEWOBJ of a listed class that is none to be made": Hostile(
        pickled(NDARRAY, group(group(number(1 << 30))), NEWOBJ), "unsafe_opcode", works=False
    ),
    "REDUCE of what a call gave": Hostile(
        pickled(reduce(reduce(EVAL, text("__import__('os').mkdir")), text(CANARY))), "unsafe_opcode"
    ),
    "REDUCE of an array": Hostile(pickled(reduce(float_array([1]), text("x"))), "unsafe_opcode", works=False),
    "REDUCE of a string": Hostile(
        pickled(reduce(text("os.system"), text("x"))), "unsafe_opcode", works=False
    ),
    "REDUCE of None, as a class's reconstructor": Hostile(
        pickled(reduce(NONE, text("x"))), "unsafe_opcode", works=False
    ),
    "BUILD with a hook from a state": Hostile(
        pickled(ORDERED, mapping(__setstate__=EVAL), BUILD, text(EXPRESSION), BUILD), "unsafe_opcode"
    ),
    "BUILD with a hook from a slots state": Hostile(
        pickled(ORDERED, NONE, mapping(__setstate__=EVAL), TUPLE2, BUILD, text(EXPRESSION), BUILD),
        "unsafe_opcode",
    ),
    "BUILD of a generator with a hook": Hostile(
        pickled(
            GENERATOR,
            group(),
            NEWOBJ,
            NONE,
            mapping(__setstate__=EVAL),
            TUPLE2,
            BUILD,
            text(EXPRESSION),
            BUILD,
        ),
        "malformed",
        works=False,
    ),
    "BUILD of a listed class": Hostile(
        pickled(name("collections", "OrderedDict"), NONE, mapping(x=EVAL), TUPLE2, BUILD),
        "unsafe_opcode",
        works=False,
    ),
    "BUILD of a listed function, to hide names in it": Hostile(
        pickled(
            name("numpy._core.numeric", "_frombuffer"),
            NONE,
            mapping(a=text("posix"), b=text("mkdir")),
            TUPLE2,
            BUILD,
            POP,
            stack_global("numpy._core.numeric", "_frombuffer.a"),
            stack_global("numpy._core.numeric", "_frombuffer.b"),
            pickle.STACK_GLOBAL,
            ARGUMENTS,
            REDUCE,
            protocol=4,
        ),
        "unsafe_opcode",
    ),
    "BUILD of a call's outcome": Hostile(
        pickled(
            reduce(name("types", "SimpleNamespace")), mapping(__setstate__=MKDIR), BUILD, text(CANARY), BUILD
        ),
        "unsafe_global",
    ),
    "APPENDS to what has an extend of its own": Hostile(
        pickled(ORDERED, mapping(extend=EVAL), BUILD, MARK, text(EXPRESSION), pickle.APPENDS),
        "unsafe_opcode",
        works=False,
    ),
    "APPEND to what has an append of its own": Hostile(
        pickled(ORDERED, mapping(append=EVAL), BUILD, text(EXPRESSION), pickle.APPEND), "unsafe_opcode"
    ),
    "ADDITEMS to what has an add of its own": Hostile(
        pickled(ORDERED, mapping(add=EVAL), BUILD, MARK, text(EXPRESSION), pickle.ADDITEMS, protocol=4),
        "unsafe_opcode",
    ),
    "SETITEMS of an array": Hostile(
        pickled(float_array([1, 2]), MARK, number(0), number(1), pickle.SETITEMS),
        "unsafe_opcode",
        works=False,
    ),
}

# Listed callables, with arguments that Paddle never writes.
ARGUMENTS_OF_LISTED = {
    "eval of code": Hostile(pickled(reduce(EVAL, text(EXPRESSION))), "unsafe_opcode"),
    "eval of code with names": Hostile(pickled(reduce(EVAL, text(EXPRESSION), EMPTY_DICT)), "unsafe_opcode"),
    "eval of code beside the data": Hostile(
        pickled(reduce(EVAL, text(EXPRESSION), mapping(data=float_array([1])))), "unsafe_opcode"
    ),
    "eval of bytes": Hostile(pickled(reduce(EVAL, raw_bytes(EXPRESSION.encode()))), "unsafe_opcode"),
    "eval of encoded bytes": Hostile(pickled(reduce(EVAL, encoded(EXPRESSION))), "unsafe_opcode"),
    "eval of data, with builtins": Hostile(
        pickled(reduce(EVAL, text("data"), mapping(data=float_array([1]), __builtins__=EMPTY_DICT))),
        "unsafe_opcode",
        works=False,
    ),
    "eval of data, with locals": Hostile(
        pickled(reduce(EVAL, text("data"), mapping(data=float_array([1])), EMPTY_DICT)),
        "unsafe_opcode",
        works=False,
    ),
    "eval of data that is a callable": Hostile(
        pickled(reduce(reduce(EVAL, text("data"), mapping(data=EVAL)), text(EXPRESSION))), "unsafe_opcode"
    ),
    "eval of data that is set twice": Hostile(
        pickled(
            reduce(
                reduce(
                    EVAL,
                    text("data"),
                    mapping(data=float_array([1])) + put(9) + text("data") + EVAL + pickle.SETITEM,
                ),
                text(EXPRESSION),
            )
        ),
        "unsafe_opcode",
    ),
    "eval of data that changes once it was looked at": Hostile(
        pickled(
            mapping(data=float_array([1])),
            put(9),
            POP,
            reduce(EVAL, text("data"), get(9)),
            POP,
            get(9),
            text("data"),
            EVAL,
            pickle.SETITEM,
            POP,
            reduce(reduce(EVAL, text("data"), get(9)), text(EXPRESSION)),
        ),
        "unsafe_opcode",
    ),
    "_reconstruct of another class": Hostile(
        pickled(reduce(RECONSTRUCT, name("numpy", "memmap"), group(number(0)), raw_bytes(b"b"))),
        "unsafe_global",
        works=False,
    ),
    "_reconstruct of a listed class that is no array": Hostile(
        pickled(reduce(RECONSTRUCT, name("collections", "OrderedDict"), group(number(0)), raw_bytes(b"b"))),
        "unsafe_opcode",
        works=False,
    ),
    "_reconstruct of a large array": Hostile(
        pickled(reduce(RECONSTRUCT, NDARRAY, group(number(1 << 30)), raw_bytes(b"d"))),
        "unsafe_opcode",
        works=False,
    ),
    "_reconstruct of an array of objects": Hostile(
        pickled(reduce(RECONSTRUCT, NDARRAY, group(number(0)), raw_bytes(b"O"))), "unsafe_opcode", works=False
    ),
    "scalar of an object": Hostile(
        pickled(reduce(name("numpy._core.multiarray", "scalar"), dtype("O8", "|"), MKDIR)),
        "unsafe_global",
        works=False,
    ),
    "dtype of a dict": Hostile(
        pickled(reduce(name("numpy", "dtype"), mapping(names=EMPTY_LIST), number(0), number(1))),
        "unsafe_opcode",
        works=False,
    ),
    "encode to another codec": Hostile(
        pickled(reduce(name("_codecs", "encode"), text("x"), text("zlib_codec"))),
        "unsafe_opcode",
        works=False,
    ),
    "encode to a codec that has to be imported": Hostile(
        pickled(reduce(name("_codecs", "encode"), text("x"), text("../ckptd_decoy"))),
        "unsafe_opcode",
        works=False,
    ),
    "encode with an error handler": Hostile(
        pickled(reduce(name("_codecs", "encode"), text("x"), text("latin1"), text("ignore"))),
        "unsafe_opcode",
        works=False,
    ),
    "OrderedDict of an iterator": Hostile(
        pickled(reduce(name("collections", "OrderedDict"), lazily())), "unsafe_global"
    ),
    "OrderedDict of a dict": Hostile(
        pickled(reduce(name("collections", "OrderedDict"), EMPTY_DICT)), "unsafe_opcode", works=False
    ),
    "set of an iterator": Hostile(pickled(reduce(name("builtins", "set"), lazily())), "unsafe_global"),
    "tuple of a dict": Hostile(
        pickled(reduce(name("builtins", "tuple"), mapping(a=NONE))), "unsafe_opcode", works=False
    ),
    "bytes of a size": Hostile(
        pickled(reduce(name("builtins", "bytes"), number((1 << 31) - 1))), "unsafe_opcode", works=False
    ),
    "frombuffer of an array": Hostile(
        pickled(
            reduce(
                name("numpy._core.numeric", "_frombuffer"),
                float_array([1]),
                dtype("O8", "|"),
                group(number(1)),
                text("C"),
            )
        ),
        "unsafe_opcode",
        works=False,
    ),
    "an array of objects that are callables": Hostile(
        pickled(mapping(w=array((1,), dtype("O8", "|"), EMPTY_LIST + CALL + pickle.APPEND))),
        "unsafe_global",
    ),
    "an array's state that is a name": Hostile(
        pickled(reduce(RECONSTRUCT, NDARRAY, group(number(0)), raw_bytes(b"b")), MKDIR, BUILD),
        "unsafe_global",
        works=False,
    ),
    "a dtype with a callable for metadata": Hostile(
        pickled(
            reduce(name("numpy", "dtype"), text("f4"), number(0), number(1)),
            group(number(4), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0), mapping(x=CALL)),
            BUILD,
        ),
        "unsafe_global",
    ),
}

OPCODE_FORMS = NAMES | CALLS | ARGUMENTS_OF_LISTED
