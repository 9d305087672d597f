"""What stands on the stack of the symbolic pickle walk: plain Python values and these few nodes.

`None`, `bool`, `int`, `float`, `str`, `tuple` and `list` stand for themselves. Mappings and sets are lists of
what they hold, so that no hash of a hostile key is ever taken; of a long byte string nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from ckptd.core.payloads import element_type

if TYPE_CHECKING:
    from ckptd.core.payloads import ElementType, ValueCheck

# A scalar's bytes are needed as a value, and CPython shares one object between all equal strings of one byte,
# so a short payload can turn up again under another type. Longer ones are looked at once, as they pass.
KEPT_BYTES: Final = 64

MAX_KEY_ITEMS: Final = 64  # of a tuple that is a key, with those of the tuples in it


class Known(Enum):
    """The callables that a checkpoint may name. None of them is ever imported or called; each is emulated."""

    RECONSTRUCT = "numpy._core.multiarray._reconstruct"
    SCALAR = "numpy._core.multiarray.scalar"
    FROM_BUFFER = "numpy._core.numeric._frombuffer"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    TUPLE = "builtins.tuple"
    BYTES = "builtins.bytes"
    SET = "builtins.set"
    FROZENSET = "builtins.frozenset"
    EVAL = "builtins.eval"
    ORDERED_DICT = "collections.OrderedDict"
    GENERATOR_STATE = "paddle.base.libpaddle.GeneratorState"
    FLEX_METADATA = "paddle.distributed.flex_checkpoint.dcp.metadata.Metadata"
    FLEX_TENSOR = "paddle.distributed.flex_checkpoint.dcp.metadata.LocalTensorMetadata"
    FLEX_INDEX = "paddle.distributed.flex_checkpoint.dcp.metadata.LocalTensorIndex"


# Exact pairs only: a dotted name such as `ndarray.__reduce__` is another name, and so is not here.
KNOWN_GLOBALS: Final[dict[tuple[str, str], Known]] = {
    ("numpy.core.multiarray", "_reconstruct"): Known.RECONSTRUCT,  # numpy 1.x
    ("numpy._core.multiarray", "_reconstruct"): Known.RECONSTRUCT,  # numpy 2.x
    ("numpy.core.multiarray", "scalar"): Known.SCALAR,
    ("numpy._core.multiarray", "scalar"): Known.SCALAR,
    ("numpy.core.numeric", "_frombuffer"): Known.FROM_BUFFER,  # protocol 5
    ("numpy._core.numeric", "_frombuffer"): Known.FROM_BUFFER,
    ("numpy", "ndarray"): Known.NDARRAY,
    ("numpy", "dtype"): Known.DTYPE,
    ("_codecs", "encode"): Known.ENCODE,  # protocol 2 has no byte strings
    ("builtins", "tuple"): Known.TUPLE,  # how paddle.save reduces a tensor to (name, array)
    ("builtins", "bytes"): Known.BYTES,
    ("builtins", "set"): Known.SET,
    ("builtins", "frozenset"): Known.FROZENSET,
    ("builtins", "eval"): Known.EVAL,  # how paddle.save reduces a DenseTensor; one exact form
    ("__builtin__", "tuple"): Known.TUPLE,  # protocol 2
    ("__builtin__", "bytes"): Known.BYTES,
    ("__builtin__", "set"): Known.SET,
    ("__builtin__", "frozenset"): Known.FROZENSET,
    ("__builtin__", "eval"): Known.EVAL,
    ("collections", "OrderedDict"): Known.ORDERED_DICT,
    ("paddle.base.libpaddle", "GeneratorState"): Known.GENERATOR_STATE,
    ("paddle.distributed.flex_checkpoint.dcp.metadata", "Metadata"): Known.FLEX_METADATA,
    ("paddle.distributed.flex_checkpoint.dcp.metadata", "LocalTensorMetadata"): Known.FLEX_TENSOR,
    ("paddle.distributed.flex_checkpoint.dcp.metadata", "LocalTensorIndex"): Known.FLEX_INDEX,
    ("paddle.distributed.checkpoint.metadata", "Metadata"): Known.FLEX_METADATA,  # before 3.3
    ("paddle.distributed.checkpoint.metadata", "LocalTensorMetadata"): Known.FLEX_TENSOR,
    ("paddle.distributed.checkpoint.metadata", "LocalTensorIndex"): Known.FLEX_INDEX,
}


class Checked(Protocol):
    """What was seen of the elements of a byte string: a `ValueCheck`, or the array that they make."""

    @property
    def nonfinite(self) -> int:
        """How many are NaN or infinite."""
        ...

    @property
    def is_constant(self) -> bool:
        """Whether there are two or more, and all equal."""
        ...


@dataclass(slots=True, eq=False)
class Payload:
    """A byte string that passed by.

    `is_text` while it is the string that `_codecs.encode` will turn into bytes; `is_mutable` for a bytearray.
    """

    length: int
    head: bytes  # all of it up to KEPT_BYTES, nothing of a longer one
    checked_as: ElementType | None = None
    check: Checked | None = None  # of a longer one, for that element type
    guesses: dict[ElementType, ValueCheck] | None = None  # where the type comes later
    is_text: bool = False
    is_mutable: bool = False


@dataclass(slots=True, eq=False)
class Mapping:
    """A dict as its items in the order they were set; a key that was set twice is in it twice."""

    items: list[tuple[object, object]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Members:
    """A set as the values it was made of."""

    items: list[object] = field(default_factory=list)
    is_frozen: bool = False


@dataclass(slots=True, eq=False)
class DtypeNode:
    """A numpy dtype; sealed once its state was set or a tensor relies on it."""

    code: str
    byte_order: str = "="
    is_plain: bool = True  # neither fields nor sub-arrays
    is_sealed: bool = False

    def element(self) -> ElementType | None:
        """The element type, or None for one that cannot be checked."""
        return element_type(self.code, self.byte_order) if self.is_plain else None


@dataclass(slots=True, eq=False)
class ArrayNode:
    """A numpy array: empty after `_reconstruct`, complete after its state was set."""

    is_built: bool = False
    shape: tuple[int, ...] = ()
    dtype: str = ""
    bytes: int = 0
    nonfinite: int = 0  # elements that are NaN or infinite
    is_constant: bool = False  # of at least two elements, and all of them equal
    is_verified: bool = True
    value: str | int | float | None = None  # of an array with one element


@dataclass(slots=True, eq=False)
class Inert:
    """An object of an allowed class whose state carries neither tensors nor progress."""

    is_built: bool = False


@dataclass(slots=True, eq=False)
class Record:
    """An object of one of the dataclasses in `core.flex_records`; its fields are set once."""

    cls: Known
    is_built: bool = False
    fields: dict[str, object] = field(default_factory=dict)


def is_hashable(value: object) -> bool:
    """Whether a value can be a key of a dict or a member of a set, as far as checkpoints have such."""
    todo = [value]
    for _ in range(MAX_KEY_ITEMS):
        if not todo:
            return True
        item = todo.pop()
        if isinstance(item, tuple):
            todo.extend(item[:MAX_KEY_ITEMS])
        elif isinstance(item, Record):
            if item.cls is not Known.FLEX_INDEX or not item.is_built:
                return False
        elif not isinstance(item, _HASHABLE) or (isinstance(item, Payload) and item.is_mutable):
            return False
    return not todo


_HASHABLE: Final = (str, int, float, bool, type(None), Payload)
