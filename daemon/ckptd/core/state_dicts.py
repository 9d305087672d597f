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
from ckptd.core.pickle_values import KEPT_BYTES, ArrayNode, Inert, Known, Mapping, Members, Payload, Record
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptd.core.model import ExpectedTensor, KeyPath, Scalar

NAME_TABLE: Final = "StructuredToParameterName@@"
SPLIT_TABLE: Final = "UnpackBigParamInfor@@"  # Paddle's spelling

NOTHING: Final = ""
"""Stands for the keys of a nested dict that has none: the optimizer state of plain SGD is empty."""

MAX_DEPTH: Final = 100  # deeper than any trainer nests, shallower than Python's recursion limit
MAX_VISITS: Final = (
    1_000_000  # a few bytes can describe 2**100 leaves, by using one list twice at every level
)
MAX_TENSORS: Final = 100_000  # more than any Paddle model has
MAX_BYTES: Final = 1 << 25  # of all key paths and texts together, about
MAX_VALUES: Final = 20_000
MAX_VALUE_CHARACTERS: Final = 1_024  # of one text; a longer one is no metric and is left out

_TABLES: Final = frozenset((NAME_TABLE, SPLIT_TABLE))
_ENTRY_BYTES: Final = 8  # what one more entry adds to a tuple


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors, the plain values, and what is odd: tensors not checked, values nobody can load."""

    tensors: tuple[TensorFacts, ...] = ()
    values: tuple[tuple[KeyPath, Scalar], ...] = ()
    unverified: tuple[TensorFacts, ...] = ()
    unloadable: tuple[KeyPath, ...] = ()
    visits: int = 0  # what it took to collect them
    expected: tuple[ExpectedTensor, ...] = ()  # of an index


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
    has_names = False
    if isinstance(tree, Mapping):
        entries = _entries(tree)
        splits = _split_table(entries.get(SPLIT_TABLE))
        if any(key in entries for key in splits):
            raise ScanStopped("malformed", f"{SPLIT_TABLE} has slices of what is there as a whole")
        has_names = NAME_TABLE in entries
        if has_names:
            names = _name_table(entries, splits)
        tree = Mapping([item for item in tree.items if not (isinstance(item[0], str) and item[0] in _TABLES)])
    collected = _Collected(names)
    _collect(collected, (), 0, tree)
    tensors = _merge(collected.tensors, splits, names)
    collected.drop_innermost()
    return Contents(
        tuple(facts for facts, _ in tensors),
        tuple(collected.values),
        tuple(facts for facts, verified in tensors if not verified),
        # With a table of names, paddle.load does not look at values that are no tensors.
        () if has_names else tuple(collected.bytes_keys),
        visits=collected.visits,
    )


@dataclass(slots=True)
class _Collected:
    names: dict[str, str]
    tensors: list[tuple[TensorFacts, bool]] = field(default_factory=list)  # with whether it was checked
    values: list[tuple[KeyPath, Scalar]] = field(default_factory=list)
    bytes_keys: list[KeyPath] = field(default_factory=list)
    visits: int = 0
    size: int = 0

    def add_value(self, key: KeyPath, value: Scalar) -> None:
        self.values.append((key, value))
        if len(self.values) > 3 * MAX_VALUES:  # seldom, and before they fill the memory
            self.drop_innermost()

    def drop_innermost(self) -> None:
        if len(self.values) > MAX_VALUES:
            self.values = sorted(self.values, key=lambda item: len(item[0]))[:MAX_VALUES]

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
    if isinstance(node, ArrayNode):  # most are
        _collect_tensor(collected, key, node, None)
    elif node is None or isinstance(node, bool | int | float):
        collected.add_value(key, node)
    elif isinstance(node, str):
        if len(node) <= MAX_VALUE_CHARACTERS:
            collected.size += len(node)
            collected.add_value(key, _printable(node))
    elif (
        isinstance(node, tuple)
        and len(node) == 2
        and isinstance(node[0], str)
        and isinstance(node[1], ArrayNode)
    ):
        # paddle.load makes a tensor of every such pair.
        _collect_tensor(collected, key, node[1], _printable(node[0]))
    elif isinstance(node, Inert) and not node.is_built:
        raise ScanStopped("malformed", "the state of a random generator without its numbers")
    elif isinstance(node, Record):
        raise ScanStopped("malformed", f"{node.cls.value} stands where a value should")
    elif isinstance(node, Known):
        raise ScanStopped("malformed", f"{node.value} stands where a value should")
    else:
        if isinstance(node, Payload) or (isinstance(node, Members) and node.is_frozen):
            collected.bytes_keys.append(key)
        is_empty = True
        for name, child in _children(node):
            is_empty = False
            grown = size + _ENTRY_BYTES + (len(name) if isinstance(name, str) else 0)
            _collect(collected, (*key, name), grown, child)
        if is_empty and key and isinstance(node, Mapping | dict) and key[-1] not in _TABLES:
            collected.add_value((*key, NOTHING), None)


def _children(node: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(node, Mapping):
        _entries(node)
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
    collected.size += len(parameter or "")  # one long name can be that of many tensors
    facts = TensorFacts(
        key, array.shape, array.dtype, array.bytes, array.nonfinite, parameter, array.is_constant
    )
    if len(collected.tensors) >= MAX_TENSORS:
        raise ScanStopped("limit_exceeded", f"more than {MAX_TENSORS} tensors")
    collected.tensors.append((facts, array.is_verified))
    if array.value is not None:  # a tensor-valued metric, a GradScaler's scale
        collected.add_value(key, array.value)


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


def _identity(key: object) -> str:
    """What two keys have in common that a dict takes for one.

    A string stands for itself: its hash is a secret of the process. That of a number is none, and a hostile
    file could choose thousands with the same one, so a number becomes a string.
    """
    if isinstance(key, str):
        return key
    if isinstance(key, int | float):
        return f"\0{int(key) if isinstance(key, int) or key.is_integer() else key}"
    if isinstance(key, tuple):
        return "\0(" + "".join(f"{len(part)}:{part}" for part in map(_identity, key))
    if isinstance(key, Payload):
        return f"\0{key.head!r}" if key.length <= KEPT_BYTES else f"\0bytes {id(key)}"
    return f"\0{key}"


def _entries(mapping: Mapping) -> dict[str, object]:
    """The values by the identity of their keys.

    Raises:
        ScanStopped: A key is there twice; what it held first would be lost in a load.
    """
    entries: dict[str, object] = {}
    for key, value in mapping.items:
        identity = _identity(key)
        if identity in entries:
            raise ScanStopped("malformed", f"a dict has the key {shown(str(_component(key))):.200} twice")
        entries[identity] = value
    return entries


def _name_table(entries: dict[str, object], splits: dict[str, _Split]) -> dict[str, str]:
    """Structured names to Paddle's internal ones."""
    table = entries[NAME_TABLE]
    if not isinstance(table, Mapping):
        raise ScanStopped("malformed", f"{NAME_TABLE} is no table")
    parts = {part for split in splits.values() for part in split.parts}
    names = {}
    for key, name in table.items:
        if not isinstance(name, str):
            raise ScanStopped("malformed", f"{NAME_TABLE} holds something other than names")
        identity = _identity(key)
        if identity in parts or (identity not in entries and identity not in splits):
            shown_key = shown(str(_component(key)))
            raise ScanStopped("malformed", f"{NAME_TABLE} names what is not there: {shown_key:.200}")
        names[str(_component(key))] = _printable(name)
    return names


@dataclass(frozen=True, slots=True)
class _Split:
    """One large tensor that protocols 2 and 3 keep in slices."""

    shape: tuple[int, ...]
    parts: tuple[str, ...]


def _split_table(table: object) -> dict[str, _Split]:
    """What the table says, which is None where there is none."""
    splits: dict[str, _Split] = {}
    if table is None:
        return splits
    if isinstance(table, Mapping):
        _entries(table)
        splits = {key: _split(entry) for key, entry in table.items if isinstance(key, str)}
        if len(splits) == len(table.items):
            return splits
    raise ScanStopped("malformed", f"{SPLIT_TABLE} is no table")


def _split(entry: object) -> _Split:
    if isinstance(entry, Mapping):
        match _entries(entry):
            case {"slices": list() as parts, "OriginShape": shape}:
                names = tuple(part for part in parts if isinstance(part, str))
                if len(names) == len(parts):
                    return _Split(checked_shape(shape), names)
    raise ScanStopped("malformed", f"{SPLIT_TABLE} does not say which slices a tensor has")


def _merge(
    tensors: list[tuple[TensorFacts, bool]], splits: dict[str, _Split], names: dict[str, str]
) -> list[tuple[TensorFacts, bool]]:
    """Put the slices of split tensors together again, as `paddle.load` does."""
    if not splits:
        return tensors
    by_key = {facts.key: (facts, verified) for facts, verified in tensors}
    if any(part in splits for split in splits.values() for part in split.parts):
        raise ScanStopped("malformed", f"{SPLIT_TABLE} takes a whole tensor for a slice")
    for key, split in splits.items():
        name = _printable(key)
        parts = [by_key.pop((_printable(part),), None) for part in split.parts]
        present = [part for part in parts if part is not None]
        if len(present) != len(parts) or {len(facts.shape) for facts, _ in present} != {1}:
            raise ScanStopped("malformed", f"a slice of a split tensor is missing: {shown(name):.200}")
        if len({facts.dtype for facts, _ in present}) != 1:
            raise ScanStopped(
                "malformed", f"the slices of a split tensor are of several types: {shown(name):.200}"
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
