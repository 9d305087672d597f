"""The messages of a ProgramDesc. Format: `paddle/phi/core/framework/framework.proto` of Paddle 3.3."""

from __future__ import annotations

from typing import Final

from ckptd.core.protobuf import BYTES, DOUBLE, FLOAT, INT, Field, Message

_INT: Final = Field(INT)
_THE_INT: Final = Field(INT, is_required=True)
_INTS: Final = Field(INT, is_repeated=True)
_TEXT: Final = Field(BYTES)
_THE_TEXT: Final = Field(BYTES, is_required=True)
_TEXTS: Final = Field(BYTES, is_repeated=True)


def _one(message: Message) -> Field:
    return Field(BYTES, message)


def _the(message: Message) -> Field:
    return Field(BYTES, message, is_required=True)


def _many(message: Message) -> Field:
    return Field(BYTES, message, is_repeated=True)


TENSOR: Final = Message("TensorDesc", {1: _THE_INT, 2: _INTS})
DENSE_TENSOR: Final = Message("DenseTensorDesc", {1: _the(TENSOR), 2: _INT})
TYPE: Final = Message(
    "VarType",
    {
        1: _THE_INT,
        2: _one(TENSOR),
        3: _one(DENSE_TENSOR),
        4: _one(DENSE_TENSOR),
        5: _one(Message("ReaderDesc", {1: _many(DENSE_TENSOR)})),
        7: _one(Message("Tuple", {1: _INTS})),
        8: _one(TENSOR),
        9: _one(TENSOR),
        10: _one(TENSOR),
        11: _one(TENSOR),
        12: _one(TENSOR),
    },
)
VARIABLE: Final = Message(
    "VarDesc",
    {
        1: _THE_TEXT,
        2: _the(TYPE),
        3: _INT,
        4: _INT,
        5: _INT,
        6: _INT,
        7: _many(Message("VarDesc.Attr", {1: _THE_TEXT, 2: _THE_INT, 3: _INT, 4: _TEXT, 5: _INTS})),
    },
)
_SCALAR: Final = Message(
    "Scalar",
    {
        1: _THE_INT,
        2: _INT,
        3: _INT,
        4: Field(DOUBLE),
        5: _one(Message("Complex", {1: Field(DOUBLE, is_required=True), 2: Field(DOUBLE, is_required=True)})),
    },
)
_OPERANDS: Final = Message("OpDesc.Var", {1: _THE_TEXT, 2: _TEXTS})
OPERATOR: Final = Message(
    "OpDesc",
    {
        1: _many(_OPERANDS),
        2: _many(_OPERANDS),
        3: _THE_TEXT,
        4: _many(
            Message(
                "OpDesc.Attr",
                {
                    1: _THE_TEXT,
                    2: _THE_INT,
                    3: _INT,
                    4: Field(FLOAT),
                    5: _TEXT,
                    6: _INTS,
                    7: Field(FLOAT, is_repeated=True),
                    8: _TEXTS,
                    10: _INT,
                    11: _INTS,
                    12: _INT,
                    13: _INT,
                    14: _INTS,
                    15: _INTS,
                    16: Field(DOUBLE, is_repeated=True),
                    17: _TEXT,
                    18: _TEXTS,
                    19: Field(DOUBLE),
                    20: _one(_SCALAR),
                    21: _many(_SCALAR),
                },
            )
        ),
        5: _INT,
    },
)
BLOCK: Final = Message(
    "BlockDesc", {1: _THE_INT, 2: _THE_INT, 3: _many(VARIABLE), 4: _many(OPERATOR), 5: _INT}
)
VERSION: Final = Message("Version", {1: _INT})
OPERATOR_VERSIONS: Final = Message(
    "OpVersionMap",
    {1: _many(Message("OpVersionPair", {1: _THE_TEXT, 2: _the(Message("OpVersion", {1: _THE_INT}))}))},
)
# The format does not require the last two, but every writer since 2.0 leaves them, in this order: without
# requiring them, a file that was cut off in front of them would look whole.
PROGRAM: Final = Message(
    "ProgramDesc",
    {
        1: Field(BYTES, BLOCK, is_required=True, is_repeated=True),
        4: _the(VERSION),
        5: _the(OPERATOR_VERSIONS),
    },
)
