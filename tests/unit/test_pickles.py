from __future__ import annotations

import io
import math
import os
import pickle
import struct
from collections import OrderedDict
from pickle import (
    APPEND,
    APPENDS,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    MARK,
    NEWOBJ,
    NONE,
    REDUCE,
    SETITEMS,
    TUPLE,
    TUPLE2,
)

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptd.core import pickle_machine, pickles
from ckptd.core.containers import scan
from ckptd.core.model import Role
from ckptd.core.stream import WINDOW_BYTES
from pickling import (
    array,
    codes,
    dtype,
    empty_array,
    encoded,
    float_array,
    group,
    mapping,
    name,
    number,
    pickled,
    raw_bytes,
    reduce,
    scan_bytes,
    text,
)

CHECKPOINT = {
    "weight": np.arange(600, dtype=np.float32).reshape(20, 30),
    "bias": np.zeros(3, np.float32),
    "big": np.asfortranarray(np.ones((50, 40))),
    "steps": np.array(7, np.int64),
    "half": np.ones(100, np.float16),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 5), np.float32),
    "swapped": np.ones(100, ">f4"),
    "metric": np.float64(0.75),
    "best": np.float32(1.5),
    "names": ["a", "b", "ünïcödé", "x" * 300],
    "nested": OrderedDict(a=(1, 2.5, None, True), b={"c": {1, 2}, "d": frozenset("x")}),
    "raw": b"\x00\x80\xff" * 100,
    "keys": {True: 1, None: 2, 1.5: 3, (1, "a"): 4, b"k": 5},
    "nothing": b"",
    "large": 1 << 70,
    3: -1,
    "StructuredToParameterName@@": {},  # without it, paddle.load refuses bytes and frozen sets
}
PROTOCOLS = [2, 3, 4, 5]
WHOLE = [pickle.dumps(CHECKPOINT, protocol) for protocol in PROTOCOLS]

keys = st.text(max_size=5) | st.integers()
leaves = st.none() | st.booleans() | st.integers(-(1 << 900), 1 << 900) | st.floats() | st.text(max_size=50)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=20,
)


def printable(value):
    """Lone surrogates escaped, as a scan has them."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def leaves_of(tree, path=()):
    """The leaves of plain data with their key paths, as a scan is to give them."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves_of(value, (*path, printable(key)))
        if path and not tree:
            yield (*path, ""), None
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from leaves_of(value, (*path, index))
    else:
        yield path, printable(tree)


@given(trees, st.sampled_from(PROTOCOLS))
@example([[]] * 3, 2)
@example("\ud800", 4)
def test_walk_of_plain_data_gives_its_leaves(tree, protocol):
    """Whatever plain data is pickled comes back, leaf by leaf, with nothing to say against it."""
    found = scan_bytes(pickle.dumps(tree, protocol))

    assert found.findings == ()
    assert repr(tuple(leaves_of(tree))) == repr(found.values)


@pytest.mark.parametrize("whole", WHOLE[:3])
def test_walk_of_a_checkpoint_gives_every_tensor_and_value(whole):
    """Names, shapes, types and bytes of all tensors are numpy's, and the values are Python's."""
    found = scan_bytes(whole)

    assert found.findings == ()
    arrays = {(key,): value for key, value in CHECKPOINT.items() if isinstance(value, np.ndarray)}
    assert {key: (a.shape, a.dtype.name, a.nbytes) for key, a in arrays.items()} == {
        tensor.key: (tensor.shape, tensor.dtype, tensor.bytes) for tensor in found.tensors
    }
    values = dict(found.values)
    assert (7, 0.75, 1.5) == (values["steps",], values["metric",], values["best",])
    assert ("ünïcödé", 1 << 70, -1) == (values["names", 2], values["large",], values[3,])
    assert (1, True, "x") == (
        values["nested", "a", 0],
        values["nested", "a", 3],
        values["nested", "b", "d", 0],
    )


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_prefix_of_a_checkpoint_is_never_clean(protocol):
    """Wherever a save was cut off, it is noticed."""
    small = {
        "w": np.ones((4, 5), "f4"),
        "acc": np.float64(0.5),
        "b": np.zeros(90, "u1"),
        "n": [1, "é", 2.5, {"x"}],
    }
    whole = pickle.dumps(small, protocol)

    assert codes(scan_bytes(whole)) == []
    for length in range(1, len(whole)):
        assert codes(scan_bytes(whole[:length])) == ["truncated"]


@given(st.sampled_from(WHOLE), st.data())
def test_cut_anywhere_in_a_larger_checkpoint_is_noticed(whole, data):
    """The same where payloads are long enough to be streamed."""
    assert codes(scan_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])) == ["truncated"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "c8", ">f4"])
@pytest.mark.parametrize("size", [2, 300, 200_000])
def test_nonfinite_values_are_counted_wherever_they_are(protocol, kind, size):
    """NaN and infinities of either sign are found in small and large tensors of every protocol."""
    numbers = np.zeros(size, kind)
    numbers[0], numbers[size - 1] = math.nan, -math.inf

    found = scan_bytes(pickle.dumps({"w": numbers, "ok": np.ones(500, "f4")}, protocol))

    if protocol == 5 and kind == ">f4" and size > 2:  # the bytes come before anything says what they are
        assert codes(found) == ["unverified_tensor"]
    else:
        assert codes(found) == ["nonfinite_values"]
        assert found.findings[0].detail == "2 NaN or infinite in 1 tensors: w (2)"
        assert found.nonfinite == 2


@given(st.sampled_from(WHOLE), st.data())
def test_mutated_checkpoint_is_judged_and_never_raises(whole, data):
    """Any bytes in any place lead to a scan, not to an exception."""
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(whole) - 1))
        damaged[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    assert scan_bytes(bytes(damaged)).bytes == len(damaged)


@given(st.binary(max_size=300))
def test_any_bytes_after_a_pickle_header_are_judged(raw):
    """Random opcodes lead to a scan, not to an exception."""
    assert scan_bytes(b"\x80\x04" + raw).container == "pickle"


@given(st.sampled_from(WHOLE[:3]), st.binary(min_size=1, max_size=20))
def test_bytes_after_the_end_are_found(whole, rest):
    """What follows STOP is reported, with the tensors of what comes before it."""
    found = scan_bytes(whole + rest)

    assert codes(found) == ["trailing_bytes"]
    assert found.tensors
    assert found.digest is not None


def test_second_pickle_after_the_first_is_found():
    """paddle.load reads the first one only, so the rest of the file is not what it seems to be."""
    found = scan_bytes(WHOLE[2] * 2)

    assert f"{len(WHOLE[2])} bytes after byte {len(WHOLE[2])}, another pickle" == found.findings[0].detail


class Evil:
    """An object that says itself what loading it calls."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


PLAIN_DTYPE = dtype("f4")
ENCODE = name("_codecs", "encode")
GENERATOR = name("paddle.base.libpaddle", "GeneratorState")
STATE = group(number(-1), number(7), number(0), EMPTY_LIST + number(0x33) + pickle.APPEND)

UNSAFE_GLOBALS = {
    "os.system, protocol 4": pickle.dumps({"w": Evil(os.system, ("true",))}, 4),
    "os.system, protocol 2": pickle.dumps({"w": Evil(os.system, ("true",))}, 2),
    "builtins.exec": pickle.dumps(Evil(exec, ("1",)), 4),
    "builtins.getattr": pickle.dumps(Evil(getattr, ("x", "upper")), 4),
    "a name through an allowed one": pickled(name("numpy.core.multiarray", "_reconstruct.__globals__")),
    "a module through an allowed one": pickled(name("numpy.core", "multiarray._reconstruct")),
    "an allowed name of another module": pickled(name("posix", "scalar")),
    "numpy.load": pickled(name("numpy", "load")),
    "a name that is too long": pickled(name("numpy", "n" * 400)),
    "a name that is no UTF-8": pickled(pickle.GLOBAL + b"os\n\xff\n"),
    "a name put together on the stack": pickled(text("os"), text("system"), pickle.STACK_GLOBAL, protocol=4),
    "a name from the memo": pickled(
        text("os"),
        pickle.MEMOIZE,
        pickle.POP,
        pickle.BINGET,
        b"\0",
        text("system"),
        pickle.STACK_GLOBAL,
        protocol=4,
    ),
    "a name that is a number": pickled(number(1), text("system"), pickle.STACK_GLOBAL, protocol=4),
    "a name that is a list": pickled(text("os"), EMPTY_LIST, pickle.STACK_GLOBAL, protocol=4),
    "a name that is a byte string": pickled(
        raw_bytes(b"os"), raw_bytes(b"system"), pickle.STACK_GLOBAL, protocol=4
    ),
}

UNSAFE_OPCODES = {
    "INST": pickled(MARK, pickle.INST + b"os\nsystem\n"),
    "OBJ": pickled(MARK, number(1), pickle.OBJ),
    "PERSID": pickled(pickle.PERSID + b"1\n"),
    "BINPERSID": pickled(number(1), pickle.BINPERSID),
    "EXT1": pickled(pickle.EXT1 + b"\1"),
    "EXT2": pickled(pickle.EXT2 + b"\1\0"),
    "EXT4": pickled(pickle.EXT4 + b"\1\0\0\0"),
    "NEWOBJ_EX": pickled(GENERATOR, group(), EMPTY_DICT, pickle.NEWOBJ_EX, protocol=4),
    "NEXT_BUFFER": pickled(pickle.NEXT_BUFFER, protocol=5),
    "READONLY_BUFFER": pickled(number(1), pickle.READONLY_BUFFER, protocol=5),
    "eval of an expression": pickled(reduce(name("builtins", "eval"), text("1"))),
    "eval of other names": pickled(
        reduce(name("builtins", "eval"), text("x"), mapping(data=float_array([1])))
    ),
    "eval with more names": pickled(
        reduce(name("builtins", "eval"), text("data"), mapping(data=float_array([1]), more=NONE))
    ),
    "eval of something else": pickled(
        reduce(name("builtins", "eval"), text("data"), mapping(data=text("1")))
    ),
    "a call of a number": pickled(reduce(number(1), number(2))),
    "a call of a call's outcome": pickled(reduce(reduce(name("builtins", "bytes")))),
    "a call with a list of arguments": pickled(name("builtins", "tuple"), EMPTY_LIST, REDUCE),
    "tuple of a string": pickled(reduce(name("builtins", "tuple"), text("ab"))),
    "bytes of a number": pickled(reduce(name("builtins", "bytes"), number(1 << 30))),
    "set of a string": pickled(reduce(name("builtins", "set"), text("ab"))),
    "frozenset of a string": pickled(reduce(name("builtins", "frozenset"), text("ab"))),
    "OrderedDict of something": pickled(reduce(name("collections", "OrderedDict"), number(1))),
    "encode to another encoding": pickled(reduce(ENCODE, text("a"), text("rot13"))),
    "encode of a long string that came before": pickled(
        text("a" * 100),
        pickle.BINPUT,
        b"\0",
        ENCODE,
        pickle.BINGET,
        b"\0",
        text("latin1"),
        TUPLE2,
        REDUCE,
        TUPLE2,
    ),
    "dtype of a long name": pickled(dtype("f" * 1000)),
    "dtype of a name that forges a line": pickled(dtype("f4\n")),
    "dtype of an object": pickled(reduce(name("numpy", "dtype"), EMPTY_DICT, NONE, NONE)),
    "reconstruct of another class": pickled(
        reduce(name("numpy.core.multiarray", "_reconstruct"), GENERATOR, group(number(0)), raw_bytes(b"b"))
    ),
    "scalar of no dtype": pickled(
        reduce(name("numpy.core.multiarray", "scalar"), text("f4"), raw_bytes(b"1234"))
    ),
    "frombuffer of text": pickled(
        reduce(name("numpy.core.numeric", "_frombuffer"), text("x"), PLAIN_DTYPE, group(), text("C"))
    ),
    "ndarray called": pickled(reduce(name("numpy", "ndarray"), group(number(1)))),
    "NEWOBJ of a dtype": pickled(name("numpy", "dtype"), group(text("f4")), NEWOBJ),
    "NEWOBJ with arguments": pickled(GENERATOR, group(number(1)), NEWOBJ),
    "BUILD on a dict": pickled(EMPTY_DICT, EMPTY_DICT, BUILD),
    "BUILD on an OrderedDict": pickled(reduce(name("collections", "OrderedDict")), EMPTY_DICT, BUILD),
    "BUILD on a callable": pickled(name("numpy", "ndarray"), EMPTY_DICT, BUILD),
    "BUILD twice on an array": pickled(float_array([1]), group(), BUILD),
    "BUILD twice on a dtype": pickled(PLAIN_DTYPE, group(), BUILD),
    "BUILD twice on a generator": pickled(GENERATOR, group(), NEWOBJ, STATE, BUILD, STATE, BUILD),
    "APPENDS to a dict": pickled(EMPTY_DICT, MARK, number(1), APPENDS),
    "APPEND to an array": pickled(float_array([1]), number(1), APPEND),
    "SETITEMS of a list": pickled(EMPTY_LIST, MARK, number(1), number(1), SETITEMS),
    "SETITEM of an array": pickled(float_array([1]), number(0), number(1), pickle.SETITEM),
    "ADDITEMS to a list": pickled(EMPTY_LIST, MARK, number(1), pickle.ADDITEMS, protocol=4),
}

DEEP = EMPTY_LIST * 200 + APPEND * 199


def doubled(levels):
    """A list of the same list twice, so many times over: 2**levels leaves in a few bytes."""
    parts = [EMPTY_LIST, pickle.BINPUT, b"\0"]
    for level in range(levels):
        below = pickle.BINGET + bytes([level])
        parts += [EMPTY_LIST, pickle.BINPUT, bytes([level + 1]), MARK, below, below, APPENDS]
    return pickled(MARK, *parts, TUPLE)


WRONG = {
    ("malformed", "nothing on the stack"): pickled(pickle.POP),
    ("malformed", "a mark that was never set"): pickled(TUPLE),
    ("malformed", "no mark to pop"): pickled(pickle.POP_MARK),
    ("malformed", "STOP on an empty stack"): pickled(),
    ("malformed", "values left over"): pickled(NONE, NONE),
    ("malformed", "a mark left over"): pickled(MARK, NONE),
    ("malformed", "too few for a tuple"): pickled(NONE, pickle.TUPLE3),
    ("malformed", "no opcode"): pickled(b"\xff"),
    ("malformed", "a header within"): pickled(pickle.PROTO + b"\2", NONE),
    ("malformed", "memo entry that is not set"): pickled(pickle.BINGET + b"\7"),
    ("malformed", "long memo entry that is not set"): pickled(pickle.LONG_BINGET + bytes(4)),
    ("malformed", "memo of nothing"): pickled(pickle.MEMOIZE, protocol=4),
    ("malformed", "text that is no UTF-8"): pickled(pickle.BINUNICODE + struct.pack("<I", 2) + b"\xff\xff"),
    ("malformed", "a list as a key"): pickled(EMPTY_DICT, EMPTY_LIST, NONE, pickle.SETITEM),
    ("malformed", "a list within a key"): pickled(EMPTY_DICT, group(EMPTY_LIST), NONE, pickle.SETITEM),
    ("malformed", "a key without a value"): pickled(EMPTY_DICT, MARK, NONE, SETITEMS),
    ("malformed", "a callable as a value"): pickled(mapping(w=name("numpy", "ndarray"))),
    ("malformed", "an array without state"): pickled(mapping(w=empty_array())),
    ("malformed", "an array with a short state"): pickled(empty_array(), group(number(1)), BUILD),
    ("malformed", "an array of text"): pickled(
        empty_array(), group(number(1), group(number(1)), PLAIN_DTYPE, NONE, text("abcd")), BUILD
    ),
    ("malformed", "a shape that is a list"): pickled(
        empty_array(), group(number(1), EMPTY_LIST, PLAIN_DTYPE, pickle.NEWFALSE, raw_bytes(b"")), BUILD
    ),
    ("malformed", "a negative size"): pickled(array((-1,), PLAIN_DTYPE, raw_bytes(b""))),
    ("malformed", "more dimensions than numpy has"): pickled(
        array((1,) * 65, PLAIN_DTYPE, raw_bytes(b"1234"))
    ),
    ("malformed", "a dtype with a short state"): pickled(
        reduce(name("numpy", "dtype"), text("f4"), number(0), number(1)), group(), BUILD
    ),
    ("malformed", "bytes beyond latin-1"): pickled(reduce(ENCODE, text("€"), text("latin1"))),
    ("malformed", "many bytes beyond latin-1"): pickled(encoded("€" * 50)),
    ("malformed", "a text scalar that is no text"): pickled(
        reduce(
            name("numpy.core.multiarray", "scalar"),
            dtype("U1", numbers=(4, 4, 8)),
            raw_bytes(b"\xff\xff\xff\xff"),
        )
    ),
    ("size_mismatch", "a tensor with too few bytes"): pickled(array((3,), PLAIN_DTYPE, raw_bytes(bytes(8)))),
    ("size_mismatch", "a tensor with too many bytes"): pickled(
        array((3,), PLAIN_DTYPE, raw_bytes(bytes(400)))
    ),
    ("size_mismatch", "a shape beyond all memory"): pickled(
        empty_array(),
        group(
            number(1),
            group(*[pickle.LONG1 + b"\x08" + (1 << 62).to_bytes(8, "little")] * 8),
            PLAIN_DTYPE,
            pickle.NEWFALSE,
            raw_bytes(b"1234"),
        ),
        BUILD,
    ),
    ("size_mismatch", "a scalar with too few bytes"): pickled(
        reduce(name("numpy.core.multiarray", "scalar"), PLAIN_DTYPE, raw_bytes(b"1"))
    ),
    ("size_mismatch", "protocol 2 bytes"): pickled(array((3,), PLAIN_DTYPE, encoded("\0" * 100))),
    ("truncated", "a byte string longer than the file"): pickled(raw_bytes(b"", 1 << 31)),
    ("truncated", "a tensor longer than the file"): pickled(
        array((100,), PLAIN_DTYPE, raw_bytes(bytes(90), 400))
    ),
    ("truncated", "a text longer than the file"): pickled(pickle.BINUNICODE + struct.pack("<I", 1 << 31)),
    ("truncated", "a byte string of 8 EiB"): pickled(
        pickle.BINBYTES8 + struct.pack("<Q", 1 << 63), protocol=4
    ),
    ("truncated", "a frame longer than the file"): pickled(
        pickle.FRAME + struct.pack("<Q", 99), NONE, protocol=4
    ),
    ("truncated", "protocol 2 bytes longer than the file"): pickled(
        ENCODE, pickle.BINUNICODE + struct.pack("<I", 999)
    ),
    ("limit_exceeded", "nested too deeply"): pickled(DEEP),
    ("limit_exceeded", "marks nested too deeply"): pickled(MARK * 1100),
    ("limit_exceeded", "a list within itself"): pickled(
        EMPTY_LIST, pickle.BINPUT, b"\0", pickle.BINGET, b"\0", APPEND
    ),
    ("limit_exceeded", "more leaves than bytes"): doubled(60),
    ("limit_exceeded", "an integer of many bytes"): pickled(
        pickle.LONG4 + struct.pack("<i", 300) + bytes(300)
    ),
    ("limit_exceeded", "a text of many bytes"): pickled(text("x" * (pickle_machine.MAX_TEXT_BYTES + 1))),
    ("unknown_container", "INT"): pickled(pickle.INT + b"1\n"),
    ("unknown_container", "Python 2 string"): pickled(pickle.SHORT_BINSTRING + b"\1a"),
    ("unknown_container", "DUP"): pickled(NONE, pickle.DUP),
}


@pytest.mark.parametrize("data", UNSAFE_GLOBALS.values(), ids=UNSAFE_GLOBALS)
def test_callable_that_no_checkpoint_needs_is_unsafe_global(data):
    """Every name outside of the list is refused, however it gets onto the stack."""
    assert codes(scan_bytes(data)) == ["unsafe_global"]


@pytest.mark.parametrize("data", UNSAFE_OPCODES.values(), ids=UNSAFE_OPCODES)
def test_call_that_no_checkpoint_needs_is_unsafe_opcode(data):
    """Allowed callables are no way around: with other arguments, and for other objects, they are refused."""
    assert codes(scan_bytes(data)) == ["unsafe_opcode"]


@pytest.mark.parametrize(
    ("code", "data"), [(key[0], value) for key, value in WRONG.items()], ids=[key[1] for key in WRONG]
)
def test_file_that_contradicts_itself_has_one_finding(code, data):
    """Each way of being wrong has its code, and nothing of such a file is believed."""
    found = scan_bytes(data)

    assert codes(found) == [code]
    assert (found.tensors, found.values) == ((), ())


def test_call_behind_an_old_opcode_is_named():
    """An opcode that Paddle never writes does not hide what comes after it."""
    found = scan_bytes(pickled(pickle.INT + b"1\n", reduce(name("os", "system"), text("true"))))

    assert codes(found) == ["unsafe_global"]
    assert found.findings[0].detail == "os.system, behind pickle opcode b'I' at byte 2"


def test_finding_names_the_callable_printably():
    """A person sees at once what the file would have run, and a hostile name forges no log line."""
    assert scan_bytes(UNSAFE_GLOBALS["os.system, protocol 4"]).findings[0].detail == "posix.system"
    hostile = pickled(text("os\n\x1b[31m"), text("x"), pickle.STACK_GLOBAL, protocol=4)
    assert scan_bytes(hostile).findings[0].detail == r"os\x0a\x1b[31m.x"


def test_hostile_pickle_is_not_read_on():
    """The walk ends at the name: what comes after it is not even read."""
    data = UNSAFE_GLOBALS["os.system, protocol 2"] + bytes(10_000_000)
    file = io.BytesIO(data)
    found = scan(file.readinto, len(data), path="model.pdparams", role=Role.PARAMS)

    assert codes(found) == ["unsafe_global"]
    assert found.digest is None
    assert file.tell() <= WINDOW_BYTES


def test_hostile_pickle_runs_nothing(tmp_path):
    """The canary that loading would make does not exist after the scan."""
    canary = tmp_path / "canary"
    data = pickle.dumps({"w": Evil(os.mkdir, (str(canary),))}, 4)

    assert codes(scan_bytes(data)) == ["unsafe_global"]
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_numpy_1_and_2_are_read(module):
    """Both spellings of numpy's module are known."""
    data = np.array([1, math.inf, 3], "<f4").tobytes()
    scalar = reduce(name(module, "scalar"), dtype("f8"), raw_bytes(struct.pack("<d", 0.5)))
    found = scan_bytes(
        pickled(mapping(w=array((3,), dtype("f4"), raw_bytes(data), module=module), acc=scalar))
    )

    assert codes(found) == ["nonfinite_values"]
    assert (("acc",), 0.5) in found.values


def test_dense_tensor_of_paddle_is_the_array_within():
    """The one form of eval that paddle.save writes stands for its array."""
    found = scan_bytes(
        pickled(reduce(name("__builtin__", "eval"), text("data"), mapping(data=float_array([1, 2]))))
    )

    assert found.findings == ()
    assert [((), (2,))] == [(tensor.key, tensor.shape) for tensor in found.tensors]


def test_tensor_of_paddle_is_a_pair_of_name_and_array():
    """How paddle.save reduces a tensor within nested data: a call of tuple."""
    pair = reduce(name("builtins", "tuple"), group(text("linear_0.w_0"), float_array([1, 2])))
    found = scan_bytes(pickled(mapping(w=pair), protocol=4))

    assert [(("w",), "linear_0.w_0")] == [(tensor.key, tensor.parameter) for tensor in found.tensors]


def test_generator_state_is_inert():
    """A random generator's state is walked, and is neither a tensor nor a value."""
    found = scan_bytes(pickled(mapping(cpu=GENERATOR + group() + NEWOBJ + STATE + BUILD)))

    assert found.findings == ()
    assert (found.tensors, found.values) == ((), ())


def test_plain_tuple_that_begins_like_an_arrays_state_is_plain():
    """Bytes after four values are a tensor's only if the values are an array's state."""
    found = scan_bytes(pickle.dumps((1, 2, 3, 4, b"x" * 100)))

    assert codes(found) == ["unloadable_value"]
    assert [1, 2, 3, 4] == [value for _, value in found.values]


def test_tuple_that_holds_itself_is_beyond_the_limits():
    """The pickler writes such a tuple by way of POP; there is no end to its leaves."""
    own = ([],)
    own[0].append(own)

    for protocol in PROTOCOLS:
        assert codes(scan_bytes(pickle.dumps(own, protocol))) == ["limit_exceeded"]


@pytest.mark.parametrize(
    ("element", "size"),
    [
        (dtype("f4", ">"), 100),  # the payload was looked at as little-endian
        (dtype("f8"), 50),
        (dtype("f16"), 25),
        (dtype("f4", "?"), 100),
        (dtype("V4", "|"), 100),
        (dtype("f4", subarray=group(number(1))), 100),
    ],
)
def test_tensor_that_was_not_looked_at_is_unverified(element, size):
    """Bytes that pass for one type and are used as another, or as an unknown one, do not count as checked."""
    first = array((100,), dtype("f4"), raw_bytes(np.ones(100, "<f4").tobytes()) + pickle.BINPUT + b"\x09")
    second = array((size,), element, pickle.BINGET + b"\x09")
    found = scan_bytes(pickled(mapping(a=first, b=second)))

    assert codes(found) == ["unverified_tensor"]
    assert found.findings[0].detail.startswith("1 tensors: b (")


def test_payload_used_as_integers_needs_no_second_look():
    """Integers are always finite."""
    first = array((100,), dtype("f4"), raw_bytes(bytes(400)) + pickle.BINPUT + b"\x09")
    second = array((100,), dtype("i4"), pickle.BINGET + b"\x09")

    assert scan_bytes(pickled(mapping(a=first, b=second))).findings == ()


@pytest.mark.parametrize("value", [np.array([{}, None], object), np.array(1, "M8[s]"), np.longdouble(1)])
def test_values_of_types_that_cannot_be_checked_are_unverified(value):
    """An array of objects or of an exotic type is no proof of anything."""
    assert codes(scan_bytes(pickle.dumps({"x": value}, 4))) == ["unverified_tensor"]


def test_numpy_values_that_are_no_numbers_are_left_out():
    """Complex scalars, long texts and dtypes are no metric, and nothing is wrong with them."""
    plain = {"c": np.complex64(1j), "d": np.dtype("f4"), "long": np.str_("x" * 100)}
    found = scan_bytes(pickle.dumps(plain | {"s": np.str_("mAP")}, 4))

    assert found.findings == ()
    assert ((("s",), "mAP"),) == found.values


@pytest.mark.parametrize("size", [1, 30, 64, 65, 200, 5000])
def test_byte_strings_of_protocol_2_are_counted_and_checked(size):
    """Bytes written as text are decoded as they pass, whatever their length."""
    numbers = np.full(size, -math.inf, "f2")
    found = scan_bytes(pickle.dumps({"w": numbers}, 2))

    assert size == found.nonfinite
    assert numbers.nbytes == found.tensors[0].bytes


def test_bytes_that_arrive_as_text_are_no_tensor():
    """What _codecs.encode has not encoded is still a string."""
    unencoded = ENCODE + text("\0" * 400) + pickle.BINPUT + b"\x09" + text("latin1") + TUPLE2 + REDUCE
    state = group(number(1), group(number(100)), dtype("f4"), pickle.NEWFALSE, pickle.BINGET + b"\x09")

    assert codes(scan_bytes(pickled(unencoded, empty_array(), state, BUILD))) == ["malformed"]


@pytest.mark.parametrize(
    ("limit", "data"),
    [
        ("MAX_MEMO", pickled(NONE + (pickle.MEMOIZE) * 11, protocol=4)),
        ("MAX_MEMO", pickled(NONE + b"".join(pickle.BINPUT + bytes([index]) for index in range(11)))),
        ("MAX_CONTAINERS", pickled(EMPTY_LIST * 11 + APPEND * 10)),
        ("MAX_CONTAINERS", pickled(EMPTY_LIST, MARK, (MARK + pickle.FROZENSET) * 11, APPENDS, protocol=4)),
    ],
)
def test_structure_beyond_the_limits_ends_the_walk(monkeypatch, limit, data):
    """A small file that describes much is not followed for long."""
    monkeypatch.setattr(pickle_machine, limit, 10)
    assert codes(scan_bytes(data)) == ["limit_exceeded"]


def test_opcodes_without_end_end_the_walk(monkeypatch):
    """A file of instructions alone takes bounded time and memory."""
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
    assert codes(scan_bytes(pickled((NONE + pickle.POP) * 60))) == ["limit_exceeded"]


def test_texts_without_end_end_the_walk(monkeypatch):
    """Many strings of tolerable length are too much together."""
    monkeypatch.setattr(pickle_machine, "MAX_TAKEN_BYTES", 100)
    assert codes(scan_bytes(pickled(*[text("x" * 20) + pickle.POP] * 2))) == ["limit_exceeded"]


def plain_array(*state):
    """An array with a state of these opcodes."""
    return empty_array() + group(*state) + BUILD


ONE = raw_bytes(bytes(4))
ORDERED = name("collections", "OrderedDict")
SCALAR = name("numpy.core.multiarray", "scalar")
BYTEARRAY = pickle.BYTEARRAY8 + (4).to_bytes(8, "little") + bytes(4)
NUMPY_REFUSES = {
    "a dtype's state with something before it": (
        "malformed",
        array((1,), dtype("f4", state_head=[number(3)]), ONE),
    ),
    "a dtype with foreign flags": ("unverified_tensor", array((1,), dtype("f4", numbers=(-1, -1, 16)), ONE)),
    "a string dtype of another size": ("unverified_tensor", array((1,), dtype("U1", numbers=(8, 4, 8)), ONE)),
    "an order that is no flag": (
        "malformed",
        plain_array(number(1), group(number(1)), PLAIN_DTYPE, number(7), ONE),
    ),
    "a version that is no integer": (
        "malformed",
        plain_array(
            pickle.BINFLOAT + struct.pack(">d", 1.0), group(number(1)), PLAIN_DTYPE, pickle.NEWFALSE, ONE
        ),
    ),
    "a tensor made of a bytearray": ("malformed", array((1,), PLAIN_DTYPE, BYTEARRAY)),
    "a scalar made of a bytearray": ("unsafe_opcode", reduce(SCALAR, PLAIN_DTYPE, BYTEARRAY)),
    "an empty tensor of a vast shape": (
        "malformed",
        array((0, 1 << 30, 1 << 30, 1 << 30), PLAIN_DTYPE, raw_bytes(b"")),
    ),
    "a dtype that is no copy": (
        "unsafe_opcode",
        reduce(name("numpy", "dtype"), text("f4"), pickle.NEWFALSE, pickle.NEWFALSE),
    ),
    "a list in a set": (
        "malformed",
        reduce(name("builtins", "set"), EMPTY_LIST + EMPTY_LIST + pickle.APPEND),
    ),
    "a list in a frozen set": (
        "malformed",
        reduce(name("builtins", "frozenset"), EMPTY_LIST + EMPTY_LIST + pickle.APPEND),
    ),
    "a bytearray for a key": ("malformed", EMPTY_DICT + BYTEARRAY + pickle.NONE + pickle.SETITEM),
    "a list deep in a key": (
        "malformed",
        EMPTY_DICT + group(group(EMPTY_LIST)) + pickle.NONE + pickle.SETITEM,
    ),
    "an endless key": ("malformed", EMPTY_DICT + group(*[pickle.NONE] * 100) + pickle.NONE + pickle.SETITEM),
    "a generator without its state": ("malformed", GENERATOR + group() + NEWOBJ),
    "a generator with another state": ("malformed", GENERATOR + group() + NEWOBJ + number(3) + BUILD),
    "pairs that are no pairs": (
        "unsafe_opcode",
        reduce(ORDERED, EMPTY_LIST + group(number(1)) + pickle.APPEND),
    ),
    "pairs with a list for a key": (
        "unsafe_opcode",
        reduce(ORDERED, EMPTY_LIST + group(EMPTY_LIST, number(1)) + pickle.APPEND),
    ),
    "a memo entry far off": ("limit_exceeded", pickle.NONE + pickle.LONG_BINPUT + struct.pack("<I", 1 << 31)),
}


@pytest.mark.parametrize("what", NUMPY_REFUSES)
def test_value_that_a_loader_refuses_is_not_clean(what):
    """Each of these was accepted once, and paddle.load fails on it."""
    code, value = NUMPY_REFUSES[what]

    assert codes(scan_bytes(pickled(value))) == [code]


def test_name_of_python_2_is_known_to_protocol_2_alone():
    """Later protocols do not translate the names of Python 2's modules, so loading them fails."""
    pair = reduce(name("__builtin__", "tuple"), EMPTY_LIST + pickle.TUPLE1)

    assert codes(scan_bytes(pickled(name("__builtin__", "tuple"), group(group(number(1))), REDUCE))) == []
    assert codes(scan_bytes(pickled(pair, protocol=3))) == ["unsafe_global"]


def test_ordered_dict_of_pairs_is_a_mapping():
    """Python 2 writes an OrderedDict as a list of pairs."""
    pairs = EMPTY_LIST + pickle.MARK
    pairs += (
        text("a") + number(1) + TUPLE2 + EMPTY_LIST + text("b") + pickle.APPEND + number(2) + pickle.APPEND
    )
    found = scan_bytes(pickled(reduce(ORDERED, pairs + pickle.APPENDS)))

    assert found.findings == ()
    assert ((("a",), 1), (("b",), 2)) == found.values


def test_tuples_within_a_key_are_shown():
    """A key may be a tuple of tuples."""
    assert (((str((1, str((2, "b")))),), 3),) == scan_bytes(pickle.dumps({(1, (2, "b")): 3})).values


def test_long_bytes_as_key_are_no_plain_number():
    """Of long bytes nothing is kept, and two of them are two keys."""
    found = scan_bytes(pickle.dumps({b"a" * 100: 1, b"b" * 100: 2}))

    assert found.findings == ()
    assert [1, 2] == [value for _, value in found.values]


def frame(length):
    """The beginning of a frame."""
    return pickle.FRAME + struct.pack("<Q", length)


@pytest.mark.parametrize(
    "parts",
    [
        [frame(4), text("ab")],
        [frame(7), text("ab")],
        [frame(8) + text("abc") + pickle.POP + frame(2) + NONE],
        [NONE + pickle.POP + frame(2) + NONE],
        [frame(3) + NONE + pickle.POP + frame(1)],
        [frame(20) + text("a" * (1 << 16)) + pickle.POP + NONE],
        [text("a" * (1 << 16)) + pickle.POP + frame(2) + NONE],
    ],
)
def test_frame_that_ends_within_an_opcode_is_malformed(parts):
    """A loader takes frames as blocks: one that ends elsewhere than it says makes it read other values."""
    data = pickled(*parts, protocol=4)

    assert codes(scan_bytes(data)) == ["malformed"]


@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16, 1 << 17])
@pytest.mark.parametrize(("protocol", "kind"), [(4, str), (4, bytes), (5, str), (5, bytes), (5, bytearray)])
def test_frames_of_the_pickler_are_where_they_belong(size, protocol, kind):
    """Long strings stand outside of frames, and short rests between them in none."""
    long = "a" * size if kind is str else kind(size)
    many = [f"{number}" * 400 for number in range(100)]
    for tree in ([long, 1, long], long, [*many, long], [long, *many], [[long], [long[:-1]]]):
        content = {"v": tree, "StructuredToParameterName@@": {}}
        file = io.BytesIO()
        pickle._Pickler(file, protocol).dump(content)

        assert codes(scan_bytes(pickle.dumps(content, protocol))) == []
        assert codes(scan_bytes(file.getvalue())) == []
