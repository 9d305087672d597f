from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binary_tensors import varint
from ckptd.core import programs, protobuf
from ckptd.core.findings import FINDINGS
from ckptd.core.model import ExpectedTensor, Role, TensorFacts
from ckptd.core.programs import parameter_differences
from ckptd.core.tensor_streams import DTYPES
from pickling import codes, scan_bytes

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
PARAMETERS = st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(sorted(DTYPES))), max_size=4)


def number(field, value):
    """An integer field."""
    return varint(field << 3) + varint(value)


def part(field, data):
    """A nested message, or a string."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def variable(name, shape, code, *, kind=7, persistable=1):
    """A variable of a block."""
    tensor = number(1, code) + b"".join(number(2, size) for size in shape)
    inner = number(1, kind) + (part(3, part(1, tensor)) if kind == 7 else b"")
    return part(1, name.encode()) + part(2, inner) + number(3, persistable)


def block(*parts, index=0):
    """A block of variables and operators."""
    return part(1, number(1, index) + number(2, -1) + b"".join(parts))


OPERATOR = part(
    4,
    part(1, part(1, b"X") + part(2, b"x"))
    + part(3, b"scale")
    + part(4, part(1, b"s") + number(2, 1) + varint(4 << 3 | 5) + struct.pack("<f", 0.5))
    + part(4, part(1, b"d") + number(2, 1) + varint(19 << 3 | 1) + struct.pack("<d", 0.5)),
)
VERSIONS = part(4, number(1, 3003001)) + part(5, part(1, part(1, b"pow") + part(2, number(1, 1))))


def program(parameters, *more):
    """A ProgramDesc with these parameters, by name."""
    variables = [part(3, variable(name, *one)) for name, one in parameters.items()]
    return block(*variables, OPERATOR, *more) + VERSIONS


def pir(parameters, *, version=4, **more):
    """A PIR program with these parameters, by name."""
    ops = [
        {
            "#": "p",
            "A": [0, 1, 1, name],
            "O": {"%": 1, "TT": {"#": "0.t_dtensor", "D": [{"#": dtype}, shape, "NCHW", [], 0]}},
        }
        for name, (shape, dtype) in parameters.items()
    ]
    blocks = [{"#": "block_0", "args": [], "ops": [*ops, {"#": "1.matmul", "A": []}]}]
    tree = {
        "base_code": {"magic": "pir", "trainable": True, "version": version},
        "program": {"regions": [{"#": "region_0", "blocks": blocks}]},
    }
    return json.dumps(tree | more, separators=(",", ":")).encode()


def told(found):
    """What a scan says about the parameters."""
    return {one.name: (one.shape, one.dtype) for one in found.expected}


def scanned(data, path="inference.pdmodel"):
    """The scan of a program."""
    return scan_bytes(data, path=path, role=Role.PROGRAM)


@given(PARAMETERS)
def test_program_tells_its_parameters(parameters):
    """Name, shape and type of every parameter come back; what is not saved is left out."""
    others = [
        part(3, variable("feed", (), 5, kind=9)),
        part(3, variable("x", (1,), 5, persistable=0)),
        part(3, part(1, b"y") + part(2, number(1, 7)) + number(3, 1)),
    ]
    found = scanned(program(parameters, *others))

    assert (found.container, found.findings) == ("program", ())
    assert told(found) == {name: (shape, DTYPES[code]) for name, (shape, code) in parameters.items()}


@given(PARAMETERS, st.data())
def test_program_that_is_cut_off_is_never_clean(parameters, data):
    """A ProgramDesc is whole with its last field only."""
    whole = program(parameters)
    assert scanned(whole[: data.draw(st.integers(0, len(whole) - 1))]).findings


@given(PARAMETERS, st.binary(min_size=1, max_size=20))
def test_bytes_behind_a_program_are_found(parameters, tail):
    """Every byte must belong to a field that the schema knows."""
    assert scanned(program(parameters) + tail).findings


@given(st.integers(0, 300), st.binary(max_size=5))
def test_damaged_program_is_judged(place, damage):
    """No content makes the reader fail."""
    whole = program({"w": ((2, 3), 5)})
    scanned(whole[:place] + damage + whole[place + len(damage) :])


def test_parameters_of_inner_blocks_are_not_saved():
    """Only what the outermost block keeps is among the parameters."""
    inner = block(part(3, variable("v", (1,), 5)), index=1)
    assert set(told(scanned(block(part(3, variable("w", (1,), 5))) + inner + VERSIONS))) == {"w"}


DEEP = part(1, b"")
BAD_PROGRAMS = {
    "an unknown field": (block() + VERSIONS + number(99, 1), "malformed"),
    "another form of a field": (block() + part(4, number(1, 1)) + number(5, 1), "malformed"),
    "a version twice": (block() + VERSIONS + VERSIONS, "malformed"),
    "no version": (block(), "malformed"),
    "a variable without a type": (block(part(3, part(1, b"w"))) + VERSIONS, "malformed"),
    "a name that is no text": (
        block(part(3, variable("w", (), 5).replace(b"w", b"\xff"))) + VERSIONS,
        "malformed",
    ),
    "the same name twice": (block(*[part(3, variable("w", (), 5))] * 2) + VERSIONS, "malformed"),
    "a number without end": (block() + VERSIONS + b"\xff" * 12, "malformed"),
    "a field beyond its message": (block(b"\x1a\x50\x0a") + VERSIONS, "malformed"),
}


@pytest.mark.parametrize(("data", "code"), BAD_PROGRAMS.values(), ids=BAD_PROGRAMS)
def test_program_that_contradicts_its_format_is_named(data, code):
    """Each way of being wrong has its code."""
    assert codes(scanned(data)) == [code]


@pytest.mark.parametrize(
    ("module", "limit", "value"),
    [
        (programs, "MAX_PROGRAM_BYTES", 10),
        (protobuf, "MAX_CHILDREN", 2),
        (protobuf, "MAX_FIELDS", 5),
        (protobuf, "MAX_DEPTH", 0),
    ],
)
def test_limits_of_a_program_hold(monkeypatch, module, limit, value):
    """Size, number of fields and depth are bounded."""
    monkeypatch.setattr(module, limit, value)
    assert codes(scanned(program({"w": ((1,), 5), "v": ((1,), 5)}))) == ["limit_exceeded"]


@given(st.dictionaries(NAMES, st.tuples(SHAPES, st.sampled_from(["0.t_f32", "0.t_bf16"])), max_size=4))
def test_pir_tells_its_parameters(parameters):
    """The new form of a program tells the same."""
    found = scanned(pir(parameters), "inference.json")
    names = {"0.t_f32": "float32", "0.t_bf16": "bfloat16"}

    assert (found.container, found.findings) == ("pir", ())
    assert told(found) == {name: (shape, names[dtype]) for name, (shape, dtype) in parameters.items()}


@given(st.integers(0, len(pir({"w": ((2,), "0.t_f32")})) - 1))
def test_pir_that_is_cut_off_is_never_clean(length):
    """JSON is whole with its last bracket only."""
    assert scanned(pir({"w": ((2,), "0.t_f32")})[:length], "inference.json").findings


@given(st.binary(min_size=1, max_size=9).filter(lambda tail: tail.strip(b" \t\n\r")))
def test_bytes_behind_pir_are_found(tail):
    """Nothing but white space may follow."""
    assert codes(scanned(pir({}) + tail)) == ["invalid_json"]


NO_SHAPE = pir({"w": ((2,), "0.t_f32")}).replace(b"[2]", b"[2.5]")
BAD_PIR = {
    "a version of the future": (pir({}, version=99), "unknown_container"),
    "no version": (pir({}, version="4"), "malformed"),
    "no program": (b'{"base_code":{"magic":"pir","version":4}}', "malformed"),
    "a parameter without a shape": (NO_SHAPE, "malformed"),
    "the same name twice": (
        pir({"w": ((2,), "0.t_f32"), "v": ((2,), "0.t_f32")}).replace(b'"v"', b'"w"'),
        "malformed",
    ),
    "deep nesting": (b'{"base_code":' + b"[" * 100_000, "limit_exceeded"),
    "a number of very many digits": (b'{"base_code":' + b"9" * 5000 + b"}", "invalid_json"),
}


@pytest.mark.parametrize(("data", "code"), BAD_PIR.values(), ids=BAD_PIR)
def test_pir_that_is_not_as_it_should_be_is_named(data, code):
    """Each way of being wrong has its code."""
    assert codes(scanned(data, "inference.json")) == [code]
    assert FINDINGS[code].verdict is not None


def test_limits_of_pir_hold(monkeypatch):
    """The operators of a block are bounded; a long one is no parameter, and is passed over."""
    long = {"w" * 70_000: ((2,), "0.t_f32")}
    assert scanned(pir(long)).expected == ()
    assert scanned(pir({}, more=[1])).findings == ()
    monkeypatch.setattr(programs, "MAX_PIR_ITEMS", 1)
    assert codes(scanned(pir({}))) == []
    assert codes(scanned(pir({"w": ((2,), "0.t_f32")}))) == ["limit_exceeded"]


def facts(shape, dtype):
    """A tensor of a stream."""
    return TensorFacts((0,), shape, dtype, 0, 0)


@given(PARAMETERS)
def test_stream_in_the_order_of_names_agrees_with_its_program(parameters):
    """A stream has no names, so they are told by their order."""
    expected = [
        ExpectedTensor(name, "", shape, dtype=DTYPES[code]) for name, (shape, code) in parameters.items()
    ]
    tensors = [facts(one.shape, one.dtype) for one in sorted(expected, key=lambda one: one.name.encode())]

    assert list(parameter_differences(expected, tensors)) == []
    assert list(parameter_differences(expected, [*tensors, facts((), "bool")])) == [
        f"{len(tensors) + 1} tensors, and the program needs {len(tensors)}"
    ]


def test_stream_with_other_shapes_or_types_disagrees():
    """Each parameter that differs is named."""
    expected = [ExpectedTensor("b", "", (2,), dtype="float32"), ExpectedTensor("a", "", (3,), dtype="bool")]

    assert list(parameter_differences(expected, [facts((3,), "int8"), facts((4,), "float32")])) == [
        "a is int8 (3,) instead of bool (3,)",
        "b is float32 (4,) instead of float32 (2,)",
    ]
