"""The two forms of a saved program, as far as they tell which parameters it needs. Nothing of it is run.

Formats: `ProgramDesc` of `paddle/phi/core/framework/framework.proto` (`.pdmodel`); `ProgramWriter` and
`schema.h` of `paddle/fluid/pir/serialize_deserialize` (PIR, `.json`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ckptd.core.json_text import JsonText
from ckptd.core.model import ExpectedTensor
from ckptd.core.names import shown
from ckptd.core.program_schema import (
    BLOCK,
    DENSE_TENSOR,
    OPERATOR,
    OPERATOR_VERSIONS,
    PROGRAM,
    TENSOR,
    TYPE,
    VARIABLE,
    VERSION,
)
from ckptd.core.protobuf import Reader
from ckptd.core.state_dicts import Contents
from ckptd.core.stream import ScanStopped
from ckptd.core.tensor_streams import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptd.core.model import TensorFacts
    from ckptd.core.protobuf import Span
    from ckptd.core.stream import ByteStream

MAX_PROGRAM_BYTES: Final = 1 << 26
MAX_PARAMETERS: Final = 100_000
MAX_PIR_VERSION: Final = 4  # of Paddle 3.3
MAX_PIR_ITEMS: Final = 500_000  # operators of a block
MAX_OPERATOR_BYTES: Final = 1 << 16  # of one that declares a parameter
PIR_PREFIX: Final = b'{"base_code":'

_BLOCK_BEGINS: Final = b"\x08\x00\x10"  # its index, 0, and then that of its parent
_DENSE_TENSOR: Final = 7  # of `VarType.Type`
_PIR_DTYPES: Final = {
    "t_bool": "bool",
    "t_i8": "int8",
    "t_i16": "int16",
    "t_i32": "int32",
    "t_i64": "int64",
    "t_ui8": "uint8",
    "t_f16": "float16",
    "t_bf16": "bfloat16",
    "t_f32": "float32",
    "t_f64": "float64",
    "t_c64": "complex64",
    "t_c128": "complex128",
    "t_f8e4m3fn": "float8_e4m3fn",
    "t_f8e5m2": "float8_e5m2",
}


def is_program(head: bytes) -> bool:
    """Whether a file that begins like this is meant to be a ProgramDesc: its first block comes first."""
    if head[:1] != b"\x0a":
        return False
    length_end = next((index for index, byte in enumerate(head[1:11], 1) if byte < 0x80), len(head))
    return head[length_end + 1 : length_end + 4] == _BLOCK_BEGINS


def is_pir(text: bytes) -> bool:
    """Whether a JSON text that begins like this is a PIR program: its writer puts no space anywhere."""
    return text.startswith(PIR_PREFIX)


def read_program(stream: ByteStream) -> Contents:
    """Read a ProgramDesc to its last byte.

    Raises:
        ScanStopped: The file is cut off, is no ProgramDesc, or is beyond the limits.
    """
    reader = Reader(_taken(stream))
    program = reader.read(PROGRAM, reader.whole)
    found: list[ExpectedTensor] = []
    for number, span in enumerate(program.spans[1]):
        block = reader.read(BLOCK, span)
        for variable in block.spans[3]:
            one = _variable(reader, variable)
            if one is not None and number == 0:  # those of inner blocks are not saved
                found.append(one)
        for operator in block.spans[4]:
            reader.check(OPERATOR, operator)
    reader.check(VERSION, program.spans[4][0])
    reader.check(OPERATOR_VERSIONS, program.spans[5][0])
    return Contents(expected=_checked(found))


def read_pir(stream: ByteStream) -> Contents:
    """Read a PIR program to its last byte.

    Raises:
        ScanStopped: The file is no JSON, no PIR program of a known version, or is beyond the limits.
    """
    data = _taken(stream)
    text = JsonText(data, code="invalid_json")
    found: list[ExpectedTensor] = []
    seen = set()
    for key in text.members(10):
        seen.add(key)
        if key == "base_code":
            _check_base(text)
        elif key == "program":
            found += _pir_parameters(text)
        else:
            text.pass_over()
    text.end()
    if missing := {"base_code", "program"} - seen:
        raise ScanStopped("malformed", f"a PIR program without {min(missing)}")
    return Contents(expected=_checked(found))


def parameter_differences(
    expected: Iterable[ExpectedTensor], tensors: Iterable[TensorFacts]
) -> Iterator[str]:
    """How the tensors of a `.pdiparams` differ from the parameters that its program needs.

    The stream has no names: it is in the order of the parameters' names. Empty if they agree.

    Args:
        expected: The parameters, in any order.
        tensors: The tensors of the stream, in its order.
    """
    wanted = sorted(expected, key=lambda one: one.name.encode())
    there = list(tensors)
    if len(wanted) != len(there):
        yield f"{len(there)} tensors, and the program needs {len(wanted)}"
        return
    for one, facts in zip(wanted, there, strict=True):
        if (one.shape, one.dtype) != (facts.shape, facts.dtype):
            yield f"{shown(one.name)} is {facts.dtype} {facts.shape} instead of {one.dtype} {one.shape}"


def _taken(stream: ByteStream) -> bytes:
    if stream.size > MAX_PROGRAM_BYTES:
        raise ScanStopped(
            "limit_exceeded", f"a program of {stream.size} bytes, at most {MAX_PROGRAM_BYTES} are read"
        )
    return stream.take(stream.size)


def _checked(found: list[ExpectedTensor]) -> tuple[ExpectedTensor, ...]:
    if len({one.name for one in found}) != len(found):
        raise ScanStopped("malformed", "a program that names a parameter twice")
    return tuple(found)


def _variable(reader: Reader, span: Span) -> ExpectedTensor | None:
    """The variable if it is saved with the parameters; None for one that is not."""
    reader.check(VARIABLE, span)
    fields = reader.read(VARIABLE, span)
    kind = reader.read(TYPE, fields.spans[2][0])
    if fields.integers[3] != [1] or kind.integers[1] != [_DENSE_TENSOR] or not kind.spans[3]:
        return None
    (outer,) = kind.spans[3]
    tensor = reader.read(TENSOR, reader.read(DENSE_TENSOR, outer).spans[1][0])
    return ExpectedTensor(
        name=reader.text(fields.spans[1][0]),
        file="",
        shape=tuple(tensor.integers[2]),
        dtype=DTYPES.get(tensor.integers[1][0]),
    )


def _check_base(text: JsonText) -> None:
    base = text.value(MAX_OPERATOR_BYTES)
    match base:
        case {"magic": "pir", "version": int(version)}:
            if 0 < version <= MAX_PIR_VERSION:
                return
            raise ScanStopped(
                "unknown_container", f"a PIR program of version {version}, at most {MAX_PIR_VERSION} is known"
            )
    raise ScanStopped("malformed", "a PIR program that does not say its version")


def _pir_parameters(text: JsonText) -> Iterator[ExpectedTensor]:
    """The parameters of the outermost block."""
    for _ in _below(text, "regions", "blocks"):
        for _ in text.items(MAX_PIR_ITEMS):
            operator = text.value(MAX_OPERATOR_BYTES)
            if isinstance(operator, dict) and operator.get("#") == "p":
                yield _pir_parameter(operator)


def _below(text: JsonText, *names: str) -> Iterator[None]:
    """Stop in front of the operators of each block."""
    for key in text.members(100):
        if names and key == names[0]:
            for _ in text.items(MAX_PIR_ITEMS):
                yield from _below(text, *names[1:])
        elif not names and key == "ops":
            yield
        else:
            text.pass_over()


def _pir_parameter(operator: dict[str, object]) -> ExpectedTensor:
    match operator:
        case {
            "A": [_, _, _, str(name)],
            "O": {"TT": {"D": [{"#": str(dtype)}, [*sizes], *_]}},
        } if all(type(size) is int for size in sizes):
            return ExpectedTensor(
                name=name, file="", shape=tuple(sizes), dtype=_PIR_DTYPES.get(dtype.rpartition(".")[2])
            )
    raise ScanStopped("malformed", f"a parameter without name, shape and type: {json.dumps(operator):.200}")
