"""What a checkpoint's tree holds: its tensors by key path, and its plain values.

Format: `_build_saved_state_dict` and `_pickle_save` of `paddle/framework/io.py`, `_unpack_saved_dict` of its
`io_utils.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ckptd.core.model import TensorFacts
from ckptd.core.names import shown
from ckptd.core.pickle_calls import checked_shape
from ckptd.core.pickle_values import ArrayNode, Known, Mapping, Members, Payload
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptd.core.model import KeyPath, Scalar

NAME_TABLE: Final = "StructuredToParameterName@@"
SPLIT_TABLE: Final = "UnpackBigParamInfor@@"  # Paddle's spelling

NOTHING: Final = ""
"""Stands for the keys of a nested dict that has none: the optimizer state of plain SGD is empty."""

MAX_DEPTH: Final = 100  # deeper than any trainer nests, shallower than Python's recursion limit
MAX_VISITS: Final = (
    1_000_000  # a few bytes can describe 2**100 leaves, by using one list twice at every level
)
MAX_BYTES: Final = 1 << 25  # of all key paths and texts together, about
MAX_VALUES: Final = 20_000
MAX_VALUE_CHARACTERS: Final = 1_024  # of one text; a longer one is no metric and is left out

_TABLES: Final = frozenset((NAME_TABLE, SPLIT_TABLE))
_ENTRY_BYTES: Final = 8  # what one more entry adds to a tuple


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors, the plain values, and which of the tensors could not be checked."""

    tensors: tuple[TensorFacts, ...] = ()
    values: tuple[tuple[KeyPath, Scalar], ...] = ()
    unverified: tuple[TensorFacts, ...] = ()


def contents(tree: object) -> Contents:
    """Sort a tree of pickle or JSON values into tensors and plain values.

    Byte strings, dtypes, generator states, complex numbers and long texts are left out. Of more
    than `MAX_VALUES` values the outermost stay: what ranks a checkpoint is not at the bottom of a history.

    Raises:
        ScanStopped: `limit_exceeded` for a tree that is too deep or too large, `malformed` or `size_mismatch`
            for one that contradicts itself.
    """
    names: dict[str, str] = {}
    splits: dict[str, _Split] = {}
    if isinstance(tree, Mapping):
        names, splits = _name_table(tree), _split_table(tree)
        tables = {NAME_TABLE for _ in names} | {SPLIT_TABLE for _ in splits}
        tree = Mapping([item for item in tree.items if not (isinstance(item[0], str) and item[0] in tables)])
    collected = _Collected(names)
    _collect(collected, (), 0, tree)
    tensors = _merge(collected.tensors, splits, names)
    values = collected.values
    if len(values) > MAX_VALUES:
        values = sorted(values, key=lambda item: len(item[0]))[:MAX_VALUES]
    return Contents(
        tuple(facts for facts, _ in tensors),
        tuple(values),
        tuple(facts for facts, verified in tensors if not verified),
    )


@dataclass(slots=True)
class _Collected:
    names: dict[str, str]
    tensors: list[tuple[TensorFacts, bool]] = field(default_factory=list)  # with whether it was checked
    values: list[tuple[KeyPath, Scalar]] = field(default_factory=list)
    visits: int = 0
    size: int = 0

    def spend(self, depth: int, size: int) -> None:
        self.visits += 1
        self.size += size
        if depth > MAX_DEPTH:
            raise ScanStopped(
                "limit_exceeded", f"values nested more than {MAX_DEPTH} deep, or within themselves"
            )
        if self.visits > MAX_VISITS or self.size > MAX_BYTES:
            raise ScanStopped(
                "limit_exceeded", f"a tree of more than {MAX_VISITS} values, or with endless key paths"
            )


def _collect(collected: _Collected, key: KeyPath, size: int, node: object) -> None:
    """Visit one node; `size` is about how many bytes its key path takes."""
    collected.spend(len(key), size)
    if node is None or isinstance(node, bool | int | float):
        collected.values.append((key, node))
    elif isinstance(node, str):
        if len(node) <= MAX_VALUE_CHARACTERS:
            collected.size += len(node)
            collected.values.append((key, _printable(node)))
    elif isinstance(node, ArrayNode):
        _collect_tensor(collected, key, node, None)
    elif (
        isinstance(node, tuple)
        and len(node) == 2
        and isinstance(node[0], str)
        and isinstance(node[1], ArrayNode)
    ):
        # paddle.load makes a tensor of every such pair.
        _collect_tensor(collected, key, node[1], _printable(node[0]))
    elif isinstance(node, Known):
        raise ScanStopped("malformed", f"{node.value} stands where a value should")
    else:
        children = list(_children(node))
        if not children and key and isinstance(node, Mapping | dict) and key[-1] not in _TABLES:
            collected.values.append(((*key, NOTHING), None))
        for name, child in children:
            grown = size + _ENTRY_BYTES + (len(name) if isinstance(name, str) else 0)
            _collect(collected, (*key, name), grown, child)


def _children(node: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(node, Mapping):
        for key, child in node.items:
            yield _component(key), child
    elif isinstance(node, dict):  # of JSON
        for key, child in node.items():
            yield _printable(key), child
    elif isinstance(node, Members):
        yield from enumerate(node.items)
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _collect_tensor(collected: _Collected, key: KeyPath, array: ArrayNode, parameter: str | None) -> None:
    if not array.is_built:
        raise ScanStopped("malformed", "a tensor without shape and bytes")
    if parameter is None and len(key) == 1:
        parameter = collected.names.get(str(key[0]))
    facts = TensorFacts(key, array.shape, array.dtype, array.bytes, array.nonfinite, parameter)
    collected.tensors.append((facts, array.is_verified))
    if array.value is not None:  # a tensor-valued metric, a GradScaler's scale
        collected.values.append((key, array.value))


def _component(key: object) -> str | int:
    if isinstance(key, str):
        return _printable(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    if isinstance(key, Payload):
        return repr(key.head)
    if isinstance(key, tuple):
        return str(tuple(_component(item) for item in key))
    return str(key)


def _printable(text: str) -> str:
    """The text, with lone surrogates escaped, so that whoever reads a scan can write it as UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _lookup(mapping: Mapping, key: str) -> object:
    return next((value for name, value in mapping.items if isinstance(name, str) and name == key), None)


def _name_table(tree: Mapping) -> dict[str, str]:
    """Structured names to Paddle's internal ones; empty where there is no such table."""
    table = _lookup(tree, NAME_TABLE)
    if not isinstance(table, Mapping):
        return {}
    return {
        _printable(key): _printable(name)
        for key, name in table.items
        if isinstance(key, str) and isinstance(name, str)
    }


@dataclass(frozen=True, slots=True)
class _Split:
    """One large tensor that protocols 2 and 3 keep in slices."""

    shape: tuple[int, ...]
    parts: tuple[str, ...]


def _split_table(tree: Mapping) -> dict[str, _Split]:
    table = _lookup(tree, SPLIT_TABLE)
    if not isinstance(table, Mapping):
        return {}
    return {_printable(key): _split(entry) for key, entry in table.items if isinstance(key, str)}


def _split(entry: object) -> _Split:
    if isinstance(entry, Mapping):
        parts = _lookup(entry, "slices")
        if isinstance(parts, list):
            names = tuple(_printable(part) for part in parts if isinstance(part, str))
            return _Split(checked_shape(_lookup(entry, "OriginShape")), names)
    raise ScanStopped("malformed", f"{SPLIT_TABLE} does not say which slices a tensor has")


def _merge(
    tensors: list[tuple[TensorFacts, bool]], splits: dict[str, _Split], names: dict[str, str]
) -> list[tuple[TensorFacts, bool]]:
    """Put the slices of split tensors together again, as `paddle.load` does."""
    if not splits:
        return tensors
    by_key = {facts.key: (facts, verified) for facts, verified in tensors}
    for name, split in splits.items():
        parts = [by_key.pop((part,), None) for part in split.parts]
        present = [part for part in parts if part is not None]
        if len(present) != len(parts) or len({facts.dtype for facts, _ in present}) != 1:
            raise ScanStopped(
                "malformed", f"a slice of a split tensor is missing, or of another type: {shown(name):.200}"
            )
        elements = sum(math.prod(facts.shape) for facts, _ in present)
        if elements != math.prod(split.shape):
            raise ScanStopped(
                "size_mismatch",
                f"the slices of a tensor of shape {split.shape} have {elements} elements: {shown(name):.200}",
            )
        whole = TensorFacts(
            (name,),
            split.shape,
            present[0][0].dtype,
            sum(facts.bytes for facts, _ in present),
            sum(facts.nonfinite for facts, _ in present),
            names.get(name),
        )
        by_key[whole.key] = (whole, all(verified for _, verified in present))
    return list(by_key.values())
