from __future__ import annotations

import io
import math
import pickle
import struct
from pickle import BINGET, BINPUT

import numpy as np
import pytest

from ckptd.core import state_dicts
from ckptd.core.pickles import walk
from ckptd.core.stream import ByteStream, ScanStopped, windows
from pickling import array, codes, dtype, group, mapping, number, pickled, raw_bytes, scan_bytes, text


def named(found):
    """What is known of each tensor, by its key path."""
    return {tensor.key: (tensor.shape, tensor.dtype, tensor.parameter) for tensor in found.tensors}


def test_name_table_gives_tensors_their_parameter_and_is_no_value():
    """Paddle's internal names come from the table beside the tensors, which itself is none of the values."""
    tree = {
        "fc.weight": np.zeros((2, 3), "f4"),
        "fc.bias": np.zeros(3, "f4"),
        "step": 3,
        "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"},
    }
    found = scan_bytes(pickle.dumps(tree))

    assert found.findings == ()
    assert named(found) == {
        ("fc.weight",): ((2, 3), "float32", "linear_0.w_0"),
        ("fc.bias",): ((3,), "float32", None),
    }
    assert ((("step",), 3),) == found.values


def test_pair_of_name_and_array_is_a_tensor_with_that_parameter():
    """paddle.save writes tensors within nested data as pairs; their path is the pair's own."""
    tree = {"model": {"w": ("linear_0.w_0", np.zeros(2, "f4"))}, "list": [("moment", np.zeros(3, "f4"))]}
    found = scan_bytes(pickle.dumps(tree))

    assert named(found) == {
        ("model", "w"): ((2,), "float32", "linear_0.w_0"),
        ("list", 0): ((3,), "float32", "moment"),
    }
    assert found.values == ()


def test_pair_of_array_and_name_is_two_things():
    """Only a name before an array makes a pair."""
    found = scan_bytes(pickle.dumps([(np.zeros(2, "f4"), "w"), ("a", 1)]))

    assert [(0, 0)] == [tensor.key for tensor in found.tensors]
    assert (((0, 1), "w"), ((1, 0), "a"), ((1, 1), 1)) == found.values


def test_tensor_at_the_root_has_an_empty_path():
    """A file may hold one tensor and nothing around it."""
    assert named(scan_bytes(pickle.dumps(np.zeros((1, 2), "i8")))) == {(): ((1, 2), "int64", None)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([65536.0], "f4"), 65536.0),
        (np.array(0.25), 0.25),
        (np.array([[7]]), 7),
        (np.array([True]), True),
        (np.array([0x3F80], "u2"), 1.0),
        (np.array(math.inf), math.inf),
    ],
)
def test_tensor_of_one_element_is_a_value_too(value, expected):
    """A loss scale or a metric that was saved as a tensor can be read like any other number."""
    found = scan_bytes(pickle.dumps({"x": value}))

    assert ((("x",), expected),) == found.values
    assert value.shape == found.tensors[0].shape


def test_complex_tensor_of_one_element_is_no_value():
    """Complex numbers do not rank."""
    assert scan_bytes(pickle.dumps({"x": np.array(1j)})).values == ()


def split_checkpoint(shape, slices, info=None):
    """What protocols 2 and 3 make of a large tensor."""
    whole = {"w@@.0": np.zeros(4, "f4"), "w@@.1": np.array([1, math.nan], "f4")}
    info = {"w": {"OriginShape": shape, "slices": slices}} if info is None else info
    table = {"w": "linear_0.w_0"}
    return pickle.dumps(
        {"b": np.zeros(1), **whole, "StructuredToParameterName@@": table, "UnpackBigParamInfor@@": info}, 2
    )


def test_slices_of_a_large_tensor_are_merged():
    """The slices become the tensor that they were, with its name, its bytes and all its NaN."""
    found = scan_bytes(split_checkpoint((2, 3), ["w@@.0", "w@@.1"]))

    assert codes(found) == ["nonfinite_values"]
    assert named(found) == {("b",): ((1,), "float64", None), ("w",): ((2, 3), "float32", "linear_0.w_0")}
    assert [(8, 0), (24, 1)] == [(tensor.bytes, tensor.nonfinite) for tensor in found.tensors]
    assert ((("b",), 0.0),) == found.values


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("size_mismatch", ((2, 4), ["w@@.0", "w@@.1"])),
        ("malformed", ((2, 3), ["w@@.0", "w@@.2"])),
        ("malformed", ((2, 3), ["w@@.0", "b"])),
        ("malformed", ((2, 3), ["w@@.0", "w@@.0"])),
        ("malformed", ((2, 3), [])),
        ("malformed", ((2, 3), None)),
        ("malformed", ([2, 3], ["w@@.0", "w@@.1"])),
        ("malformed", (None, None, {"w": 1})),
    ],
)
def test_slices_that_do_not_make_the_tensor_are_wrong(code, arguments):
    """A slice that is missing, foreign or too short is found before paddle.load trips over it."""
    assert codes(scan_bytes(split_checkpoint(*arguments))) == [code]


@pytest.mark.parametrize("tables", [{"StructuredToParameterName@@": 3}, {"UnpackBigParamInfor@@": "x"}])
def test_something_else_under_a_tables_name_is_malformed(tables):
    """paddle.load takes whatever has a table's name for the table, and fails on what is none."""
    assert codes(scan_bytes(pickle.dumps(tables))) == ["malformed"]


def test_tables_without_entries_are_no_values():
    """An optimizer without state is saved with an empty table."""
    found = scan_bytes(pickle.dumps({"StructuredToParameterName@@": {}, "UnpackBigParamInfor@@": {}}))

    assert (found.findings, found.tensors, found.values) == ((), (), ())


def test_keys_of_any_type_become_text_or_number():
    """A key path holds texts and integers only, whatever the dict's keys were."""
    tree = {1: 0, True + 1: 0, None: 0, 1.5: 0, (1, "a", None): 0, b"k": 0, "\ud800": 0, "é": 0}
    found = scan_bytes(pickle.dumps(tree))

    assert [1, 2, "None", "1.5", "(1, 'a', 'None')", "b'k'", "\\ud800", "é"] == [
        key[0] for key, _ in found.values
    ]
    assert scan_bytes(pickle.dumps({True: 0})).values == ((("True",), 0),)


def test_of_too_many_values_the_outermost_are_kept(monkeypatch):
    """A long history does not push out the metric, and the file is not wrong for having one."""
    monkeypatch.setattr(state_dicts, "MAX_VALUES", 3)
    found = scan_bytes(pickle.dumps({"history": [1.0] * 10, "metric": 0.5, "epoch": 3}))

    assert found.findings == ()
    assert ((("metric",), 0.5), (("epoch",), 3), (("history", 0), 1.0)) == found.values


def test_tensors_without_end_are_beyond_the_limits(monkeypatch):
    """One tensor under many keys is many tensors."""
    monkeypatch.setattr(state_dicts, "MAX_TENSORS", 3)
    tensor = np.ones(2, "f4")

    assert codes(scan_bytes(pickle.dumps([tensor] * 3))) == []
    assert codes(scan_bytes(pickle.dumps([tensor] * 4))) == ["limit_exceeded"]


def test_text_that_is_too_long_for_a_value_is_left_out():
    """A whole configuration kept as text is no metric."""
    found = scan_bytes(pickle.dumps({"config": "x" * 2000, "epoch": 3}))

    assert ((("epoch",), 3),) == found.values


def test_names_of_parameters_without_end_are_beyond_the_limits():
    """One long name that is said to be that of many tensors would be copied into every one."""
    name, tensor = "n" * 500_000, np.ones(2, "f4")

    assert codes(scan_bytes(pickle.dumps([(name, tensor)] * 10))) == []
    assert codes(scan_bytes(pickle.dumps([(name, tensor)] * 100))) == ["limit_exceeded"]


def test_effort_is_told():
    """Whoever reads many pickles can add up what each of them took, also one that is wrong."""
    whole, broken = pickle.dumps([[1, 2], 3], 2), pickle.PROTO + b"\2NN0\xff"
    for data, opcodes in ((whole, 12), (broken, 4)):
        stream = ByteStream(windows(io.BytesIO(data).readinto, len(data)), len(data))
        if data is whole:
            assert 5 == state_dicts.contents(walk(stream)).visits
        else:
            with pytest.raises(ScanStopped):
                walk(stream)
        assert opcodes == stream.opcodes


def test_key_paths_without_end_are_beyond_the_limits():
    """Long keys over many leaves would be copied into every path."""
    tree = {"k" * 100_000: [None] * 1000}

    assert codes(scan_bytes(pickle.dumps(tree))) == ["limit_exceeded"]


def test_one_array_at_two_places_is_two_tensors():
    """Weights that are tied are listed wherever they are used."""
    shared = array((2,), dtype("f4"), raw_bytes(bytes(8))) + BINPUT + b"\x09"
    found = scan_bytes(pickled(mapping(a=shared, b=BINGET + b"\x09")))

    assert [("a",), ("b",)] == [tensor.key for tensor in found.tensors]


TABLE = "StructuredToParameterName@@"
SLICES = "UnpackBigParamInfor@@"


@pytest.mark.parametrize(
    "tree",
    [
        {"a": 1, TABLE: {"b": "linear_0.w_0"}},
        {"a": 1, TABLE: {"a": 2}},
        {
            "a@@.0": np.zeros(2, "f4"),
            SLICES: {"a": {"slices": ["a@@.0"], "OriginShape": (2,)}},
            TABLE: {"a@@.0": "x"},
        },
        {"a": np.zeros(2, "f4"), SLICES: {"a": {"slices": ["a"], "OriginShape": (2,)}}},
        {"p": np.zeros(2, "f4"), SLICES: {TABLE: {"slices": ["p"], "OriginShape": (2,)}}, TABLE: {}},
        {
            "p": np.zeros(2, "f4"),
            SLICES: {
                name: {"slices": [part], "OriginShape": (2,)} for name, part in [("a", "p"), ("b", "a")]
            },
        },
        {"p": np.zeros((1, 2), "f4"), SLICES: {"a": {"slices": ["p"], "OriginShape": (2,)}}},
        {"p": np.zeros(2, "f4"), SLICES: {"a": {"slices": ["p", 1], "OriginShape": (2,)}}},
        {"p": np.zeros(2, "f4"), SLICES: {1: {"slices": ["p"], "OriginShape": (2,)}}},
    ],
)
def test_table_that_paddle_load_trips_over_is_malformed(tree):
    """A table must name what is there, and slices must be slices."""
    assert codes(scan_bytes(pickle.dumps(tree))) == ["malformed"]


def test_slices_of_several_types_are_malformed():
    """The slices were one tensor, so they have one type."""
    split = {"a": {"slices": ["p", "q"], "OriginShape": (3,)}}
    tree = {"p": np.zeros(2, "f4"), "q": np.zeros(1, "f8"), SLICES: split}

    assert codes(scan_bytes(pickle.dumps(tree))) == ["malformed"]


def test_name_table_may_name_a_split_tensor_and_keys_that_are_no_text():
    """The names are looked up after the slices were put together."""
    split = {"a": {"slices": ["p"], "OriginShape": (2,)}}
    tree = {"p": np.zeros(2, "f4"), 3: np.zeros(1, "f4"), SLICES: split, TABLE: {"a": "x", 3: "y"}}
    found = scan_bytes(pickle.dumps(tree))

    assert found.findings == ()
    assert named(found) == {("a",): ((2,), "float32", "x"), (3,): ((1,), "float32", "y")}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (text("w"), text("w")),
        (number(1), pickle.NEWTRUE),
        (number(1), pickle.BINFLOAT + struct.pack(">d", 1.0)),
        (group(number(1), text("a")), group(pickle.NEWTRUE, text("a"))),
        (raw_bytes(b"k"), raw_bytes(b"k")),
        (pickle.NONE, pickle.NONE),
    ],
)
def test_key_that_is_there_twice_is_malformed(first, second):
    """A load keeps the last one only, and no pickler writes it."""
    items = pickle.MARK + first + number(1) + second + number(2) + pickle.SETITEMS

    assert codes(scan_bytes(pickled(pickle.EMPTY_DICT, items))) == ["malformed"]


def test_keys_that_only_look_alike_are_two():
    """Text, numbers, bytes and tuples of the same look are different keys."""
    tree = {"1": 1, 1: 2, 1.5: 3, b"1": 4, (1,): 5, (1, 1): 6, ("1", "1"): 7, "(1,)": 8, float("inf"): 9}

    assert codes(scan_bytes(pickle.dumps(tree))) == []


@pytest.mark.parametrize(
    "value", [b"x", bytearray(b"x"), frozenset("x"), [{"a": b"x" * 100}], np.bytes_(b"x")]
)
def test_value_that_paddle_load_refuses_is_reported_unless_there_is_a_name_table(value):
    """paddle.load walks the values of a file without a table, and raises on iterables it does not know."""
    assert codes(scan_bytes(pickle.dumps({"v": value}, 5))) == ["unloadable_value"]
    assert codes(scan_bytes(pickle.dumps({"v": value, TABLE: {}}, 5))) == []
