from __future__ import annotations

import pickle
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import flex_checkpoints
from ckptd.core.model import ExpectedTensor, Role
from pickling import array, codes, dtype, group, name, number, pickled, raw_bytes, scan_bytes, text

NEW = "paddle.distributed.flex_checkpoint.dcp.metadata"
OLD = "paddle.distributed.checkpoint.metadata"


def code(value):
    """Opcodes that make a value; bytes are opcodes already."""
    return OPCODES[type(value)](value)


def table(pairs):
    """A dict, also one with a key twice."""
    items = b"".join(code(item) for pair in pairs for item in pair)
    return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


OPCODES = {
    bytes: lambda value: value,
    type(None): lambda _: pickle.NONE,
    bool: lambda value: pickle.NEWTRUE if value else pickle.NEWFALSE,
    int: number,
    str: text,
    tuple: lambda value: group(*map(code, value)),
    list: lambda value: pickle.EMPTY_LIST + pickle.MARK + b"".join(map(code, value)) + pickle.APPENDS,
    dict: lambda value: table(value.items()),
}


def made(cls, state, module=NEW):
    """An object of one of Paddle's classes, with this state."""
    return name(module, cls) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + code(state) + pickle.BUILD


def tensor(offset=(0,), shape=(4,), **fields):
    """Where a part of a tensor lies within the whole."""
    fields = {"dtype": "float32", "is_flattened": False, "flattened_range": None} | fields
    return made("LocalTensorMetadata", {"global_offset": offset, "local_shape": shape} | fields)


def index(key="w", offset=(0,), **fields):
    """What identifies a part of a tensor."""
    fields = {
        "is_flattened": False,
        "flattened_range": None,
        "replica_id": None,
        "local_shape": None,
    } | fields
    return made("LocalTensorIndex", {"tensor_key": key, "global_offset": offset} | fields)


def metadata(tensors, places, mapping=None):
    """The whole file."""
    fields = {"state_dict_metadata": tensors, "storage_metadata": places, "flat_mapping": mapping or {}}
    return pickled(made("Metadata", fields))


def scanned(data):
    """The scan of the metadata."""
    return scan_bytes(data, path="0.metadata", role=Role.INDEX)


@st.composite
def grids(draw):
    """A tensor that was cut along each of its dimensions: its shape, and its parts."""
    cuts = draw(st.lists(st.lists(st.integers(1, 9), max_size=2, unique=True), max_size=3))
    edges = [[0, *sorted(cut), 10] for cut in cuts]
    parts = [
        (tuple(low for low, _ in box), tuple(high - low for low, high in box))
        for box in product(*(tuple(pairwise(one)) for one in edges))
    ]
    return (10,) * len(cuts), parts


@given(st.dictionaries(st.text(max_size=5), grids(), max_size=3))
def test_every_part_is_expected_in_its_file(tensors):
    """Names, files, shapes, offsets and types of all parts are what the metadata say."""
    places, expected = {}, set()
    for key, (_, parts) in tensors.items():
        for rank, (offset, shape) in enumerate(parts):
            places[index(key, offset)] = f"{rank}_0.distcp"
            expected.add(ExpectedTensor(key, f"{rank}_0.distcp", shape, offset, "float32"))
    described = {
        key: [tensor(offset, shape, global_shape=whole) for offset, shape in parts]
        for key, (whole, parts) in tensors.items()
    }
    found = scanned(metadata(described, places))

    assert expected == set(found.expected)
    assert found.findings == ()
    assert found.digest


def test_metadata_of_paddle_2_are_read():
    """The older classes are elsewhere, and know neither type nor whole."""
    part = made("LocalTensorMetadata", {"global_offset": (0,), "local_shape": (4,)}, OLD)
    place = made("LocalTensorIndex", {"tensor_key": "w", "global_offset": (0,)}, OLD)
    fields = {
        "state_dict_metadata": {"w": [part]},
        "storage_metadata": {place: "0_0.distcp"},
        "flat_mapping": {"w": ("w",)},
    }
    found = scanned(pickled(made("Metadata", fields, OLD)))

    assert found.expected == (ExpectedTensor("w", "0_0.distcp", (4,), (0,)),)
    assert found.findings == ()


def test_a_flattened_part_is_expected_in_one_dimension():
    """Of a flattened part the file has a stretch of its elements."""
    span = {"is_flattened": True, "flattened_range": (2, 5)}
    found = scanned(
        metadata({"w": [tensor((0, 0), (2, 4), **span)]}, {index("w", (0, 0), **span): "0_0.distcp"})
    )

    assert found.expected == (ExpectedTensor("w", "0_0.distcp", (3,), None, "float32"),)


def test_replicas_are_expected_in_all_their_files():
    """A part that is in two files has to be in both."""
    places = {index(replica_id=0): "0_0.distcp", index(replica_id=1): "1_0.distcp"}

    assert {"0_0.distcp", "1_0.distcp"} == {
        one.file for one in scanned(metadata({"w": [tensor()]}, places)).expected
    }


def test_metadata_of_nothing_expect_nothing():
    """An empty state dict is saved as metadata without any file."""
    found = scanned(metadata({}, {}))

    assert (found.expected, found.findings) == ((), ())


HERE = {index(): "0_0.distcp"}
EMPTY = {"state_dict_metadata": {}, "storage_metadata": {}, "flat_mapping": {}}
BROKEN = {
    "tensors that are no table": (metadata(None, {}), "invalid_index"),
    "places that are no table": (metadata({}, ()), "invalid_index"),
    "a tensor without a name": (metadata({1: [tensor()]}, {}), "invalid_index"),
    "a tensor that is no list": (metadata({"w": tensor()}, HERE), "invalid_index"),
    "a tensor without parts": (metadata({"w": []}, {}), "invalid_index"),
    "a tensor twice": (metadata(table([("w", [tensor()])] * 2), HERE), "invalid_index"),
    "a part that is none": (metadata({"w": [1]}, HERE), "invalid_index"),
    "a part of another class": (metadata({"w": [index()]}, HERE), "invalid_index"),
    "a place of another kind": (metadata({"w": [tensor()]}, {"w": "0_0.distcp"}), "invalid_index"),
    "a place that nothing describes": (metadata({}, HERE), "invalid_index"),
    "a place at another offset": (metadata({"w": [tensor()]}, {index(offset=(1,)): "x"}), "invalid_index"),
    "a part in no file": (metadata({"w": [tensor()]}, {}), "invalid_index"),
    "a place without a key": (metadata({"w": [tensor()]}, {index(None): "x"}), "invalid_index"),
    "a file without a name": (metadata({"w": [tensor()]}, {index(): 1}), "invalid_index"),
    "a file elsewhere": (metadata({"w": [tensor()]}, {index(): "../0_0.distcp"}), "invalid_index"),
    "a type that is no name": (metadata({"w": [tensor(dtype=1)]}, HERE), "invalid_index"),
    "an offset that is none": (metadata({"w": [tensor(None)]}, HERE), "invalid_index"),
    "a negative offset": (metadata({"w": [tensor((-1,))]}, HERE), "invalid_index"),
    "a boolean offset": (metadata({"w": [tensor((False,))]}, HERE), "invalid_index"),
    "too many dimensions": (metadata({"w": [tensor((0,) * 65, (1,) * 65)]}, HERE), "invalid_index"),
    "an offset of other dimensions": (metadata({"w": [tensor((0, 0))]}, HERE), "invalid_index"),
    "two wholes": (
        metadata({"w": [tensor(global_shape=(4,)), tensor(global_shape=(5,))]}, HERE),
        "invalid_index",
    ),
    "a whole of other dimensions": (metadata({"w": [tensor(global_shape=(4, 1))]}, HERE), "uncovered_tensor"),
    "parts that do not reach the end": (
        metadata({"w": [tensor(global_shape=(5,))]}, HERE),
        "uncovered_tensor",
    ),
    "half a range": (metadata({"w": [tensor(flattened_range=(1,))]}, HERE), "invalid_index"),
    "a range backwards": (metadata({"w": [tensor(flattened_range=(2, 1))]}, HERE), "invalid_index"),
    "no state": (pickled(name(NEW, "Metadata"), pickle.EMPTY_TUPLE, pickle.NEWOBJ), "invalid_index"),
    "a state of another kind": (pickled(made("Metadata", ())), "malformed"),
    "a state without a field": (pickled(made("Metadata", {"flat_mapping": {}})), "malformed"),
    "a state with another field": (pickled(made("Metadata", EMPTY | {"__class__": 1})), "malformed"),
    "a field twice": (pickled(made("Metadata", table([*EMPTY.items(), ("flat_mapping", {})]))), "malformed"),
    "a field without a name": (pickled(made("Metadata", EMPTY | {1: 1})), "malformed"),
    "a key with a list in it": (metadata({}, {index("w", [0]): "x"}), "malformed"),
    "a key with nested tuples": (metadata({}, {index("w", ((0,),)): "x"}), "malformed"),
    "an unbuilt key": (
        metadata({}, {name(NEW, "LocalTensorIndex") + pickle.EMPTY_TUPLE + pickle.NEWOBJ: "x"}),
        "malformed",
    ),
    "a key of a class without a hash": (metadata({}, {tensor(): "x"}), "malformed"),
    "a second state": (pickled(made("Metadata", EMPTY), code(EMPTY), pickle.BUILD), "unsafe_opcode"),
    "arguments": (
        pickled(name(NEW, "Metadata"), group(number(1)), pickle.NEWOBJ, code(EMPTY), pickle.BUILD),
        "unsafe_opcode",
    ),
    "a call": (pickled(name(NEW, "Metadata"), pickle.EMPTY_TUPLE, pickle.REDUCE), "unsafe_opcode"),
    "another class of the module": (pickled(name(NEW, "dataclass")), "unsafe_global"),
    "a class of another module": (pickled(name("paddle.distributed", "Metadata")), "unsafe_global"),
    "a part in a state dict": (pickled(code({"w": tensor()})), "malformed"),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_what_contradicts_itself_is_named(data, code):
    """Each way of being no metadata has its finding, and nothing is expected then."""
    found = scanned(data)

    assert codes(found) == [code]
    assert found.expected == ()


@pytest.mark.parametrize(("tensors", "copies"), [(3, 1), (1, 3)])
def test_too_many_parts_are_refused(tensors, copies, monkeypatch):
    """There is a limit to how many parts there may be, and in how many files."""
    monkeypatch.setattr(flex_checkpoints, "MAX_EXPECTED", 2)
    described = {str(key): [tensor()] for key in range(tensors)}
    places = {index(str(key), replica_id=copy): "x" for key in range(tensors) for copy in range(copies)}

    assert codes(scanned(metadata(described, places))) == ["limit_exceeded"]


def test_a_shard_is_a_state_dict_like_any():
    """The tensors of a shard are looked up by their flattened names."""
    data = array((2,), dtype("f4"), raw_bytes(bytes(8)))
    found = scan_bytes(pickled(code({"model.w": data})), path="0_0.distcp", role=Role.SHARD)

    assert [("model.w",)] == [one.key for one in found.tensors]
    assert found.findings == ()
