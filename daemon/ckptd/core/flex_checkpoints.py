"""A flex checkpoint's `.metadata`: which part of which tensor is in which file beside it.

Format: `save_state_dict` of `paddle/distributed/flex_checkpoint/dcp/save_state_dict.py`. The files beside it,
`<rank>_<id>.distcp`, are state dicts as `paddle.save` writes them, keyed by the flattened names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptd.core.indexes import MAX_EXPECTED, checked_file
from ckptd.core.model import ExpectedTensor
from ckptd.core.names import shown
from ckptd.core.pickle_values import Known, Mapping, Record
from ckptd.core.state_dicts import Contents
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_RANK: Final = 64

_Part = tuple[str, tuple[int, ...], tuple[int, ...] | None]  # name, offset, range of a flattened part


def is_metadata(tree: object) -> bool:
    """Whether a walked pickle is the metadata of a flex checkpoint."""
    return isinstance(tree, Record) and tree.cls is Known.FLEX_METADATA


def read(tree: object) -> Contents:
    """What the metadata expects of the files beside it; of an empty state dict that is nothing.

    Raises:
        ScanStopped: `invalid_index` for metadata that contradict themselves, `uncovered_tensor` for a tensor
            whose parts do not reach its end, `limit_exceeded` for too many parts.
    """
    root = _record(tree, Known.FLEX_METADATA)
    names: set[str] = set()
    parts: dict[_Part, Record] = {}
    for name, records in _items(root.fields["state_dict_metadata"]):
        if not isinstance(name, str) or name in names or not isinstance(records, list) or not records:
            raise _invalid("a tensor without parts, or twice")
        names.add(name)
        checked = [_record(item, Known.FLEX_TENSOR) for item in records]
        _check_ends(name, checked)
        for record in checked:
            parts[_part(name, record)] = record
            if len(parts) > MAX_EXPECTED:
                raise ScanStopped("limit_exceeded", f"more than {MAX_EXPECTED} parts of tensors")
    expected: list[ExpectedTensor] = []
    stored = set()
    for key, file in _items(root.fields["storage_metadata"]):
        index = _record(key, Known.FLEX_INDEX)
        name = index.fields["tensor_key"]
        if not isinstance(name, str) or not isinstance(file, str):
            raise _invalid("a file or a tensor without a name")
        part = _part(name, index)
        if part not in parts:
            raise _invalid(f"a part of {shown(name[:100])} is in a file, and nothing says what it is")
        stored.add(part)
        if len(expected) == MAX_EXPECTED:  # each part may be there several times
            raise ScanStopped("limit_exceeded", f"more than {MAX_EXPECTED} stored parts of tensors")
        expected.append(_expected(name, checked_file(file), parts[part]))
    if missing := parts.keys() - stored:
        raise _invalid(f"a part of {shown(min(missing)[0][:100])} is in no file")
    return Contents(expected=tuple(expected))


def _expected(name: str, file: str, record: Record) -> ExpectedTensor:
    dtype = record.fields.get("dtype")
    if dtype is not None and not isinstance(dtype, str):
        raise _invalid(f"the type of {shown(name[:100])} is no name")
    if span := _range(record):  # a stretch of the part's elements, in one dimension
        return ExpectedTensor(name, file, (span[1] - span[0],), None, dtype)
    return ExpectedTensor(
        name, file, _sizes(record.fields["local_shape"]), _sizes(record.fields["global_offset"]), dtype
    )


def _check_ends(name: str, records: list[Record]) -> None:
    """Stop if no part reaches the end of the whole; whether they leave gaps is seen where all files are."""
    whole: tuple[int, ...] | None = None
    reached: tuple[int, ...] = ()
    for record in records:
        offset, shape = _sizes(record.fields["global_offset"]), _sizes(record.fields["local_shape"])
        total = record.fields.get("global_shape")
        if len(offset) != len(shape) or (whole is not None and total != whole):
            raise _invalid(f"the parts of {shown(name[:100])} are of different wholes")
        whole = None if total is None else _sizes(total)
        ends = tuple(start + size for start, size in zip(offset, shape, strict=True))
        reached = tuple(map(max, reached, ends)) if reached else ends
    if whole is not None and (len(whole) != len(reached) or whole != reached):
        raise ScanStopped(
            "uncovered_tensor", f"the parts of {shown(name[:100])} reach {reached} of its shape {whole}"
        )


def _part(name: str, record: Record) -> _Part:
    return name, _sizes(record.fields["global_offset"]), _range(record)


def _range(record: Record) -> tuple[int, ...] | None:
    value = record.fields.get("flattened_range")
    if value is None:
        return None
    span = _sizes(value)
    if len(span) != 2 or span[0] > span[1]:
        raise _invalid("a flattened part without a begin and an end")
    return span


def _sizes(value: object) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) <= _MAX_RANK:
        for size in value:
            if type(size) is not int or not 0 <= size < 1 << 63:
                break
        else:
            return value
    raise _invalid("an offset or a shape that is no tuple of sizes")


def _record(value: object, cls: Known) -> Record:
    if isinstance(value, Record) and value.cls is cls and value.is_built:
        return value
    raise _invalid(f"something else where {cls.value} has to be")


def _items(value: object) -> Iterator[tuple[object, object]]:
    if not isinstance(value, Mapping):
        raise _invalid("a table that is none")
    yield from value.items


def _invalid(what: str) -> ScanStopped:
    return ScanStopped("invalid_index", what)
