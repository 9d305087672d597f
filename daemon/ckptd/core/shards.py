"""Whether a directory's shards are all there, and hold what the indexes beside them say.

A multi-card trainer writes one file per card, and one index for all of them. Each machine has the files of
its own cards only, unless the directory is shared: what is missing then is incomplete and not damaged. A
second save into a flex checkpoint's directory keeps the old index, so an index is never taken at its word.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product
from typing import TYPE_CHECKING, Final

from ckptd.core.layouts import basename, joined, parent
from ckptd.core.model import Finding, Role, SetShape
from ckptd.core.names import listed, shown
from ckptd.core.shard_names import index_of, needs_index, part_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptd.core.model import CheckpointSet, ExpectedTensor, FileScan, Member, TensorFacts

    Box = tuple[tuple[int, ...], tuple[int, ...]]  # offset and shape

_MAX_RANK: Final = 9  # of Paddle's tensors
_MAX_CORNERS: Final = (
    1 << 23
)  # of all parts together: a thousand tensors on a thousand cards have half of that

# A pickle keeps bfloat16 as uint16, as numpy has no such type.
_SAME_TYPE: Final = {"bfloat16": "uint16"}


def shard_findings(
    checkpoint: CheckpointSet, sound: Iterable[tuple[Member, FileScan]]
) -> tuple[Finding, ...]:
    """Hold a directory's shards against its indexes and against the counts in their names.

    Args:
        checkpoint: the set; of one that is no directory nothing is said, as its neighbours are not known.
        sound: its members that were understood to their end.
    """
    if checkpoint.shape is not SetShape.DIRECTORY:
        return ()
    there = {member.entry.path for member in checkpoint.members if member.role is not Role.EXTRA}
    indexes = [(member.entry.path, scan) for member, scan in sound if member.role is Role.INDEX]
    scans = {member.entry.path: scan for member, scan in sound if member.role is not Role.INDEX}
    indexed: dict[str, set[str]] = defaultdict(set)
    findings: list[Finding] = []
    for path, scan in indexes:
        by_file: dict[str, list[ExpectedTensor]] = defaultdict(list)
        for one in scan.expected:
            by_file[joined(parent(path), one.file)].append(one)
        findings += _missing(path, by_file, there)
        for file, expected in by_file.items():
            indexed[file].update(one.name for one in expected)
            if file in scans:
                findings += _differences(file, expected, _by_name(scans[file]))
        findings += _uncovered(path, scan.expected)
    known = {path for path, _ in indexes}
    findings += _unindexed(scans, indexed, known)
    findings += _uncounted(there)
    return tuple(findings)


def _missing(index: str, by_file: Iterable[str], there: set[str]) -> Iterator[Finding]:
    named = set(by_file)
    if missing := sorted(basename(file) for file in named - there):
        detail = f"{len(missing)} of the {len(named)} files that it names are not here: {listed(missing)}"
        yield Finding("missing_shard", shown(index), detail)


def _by_name(scan: FileScan) -> dict[str, TensorFacts]:
    """The tensors of a shard, which are not nested."""
    return {key: one for one in scan.tensors if len(one.key) == 1 and isinstance(key := one.key[0], str)}


def _differences(
    file: str, expected: Iterable[ExpectedTensor], found: Mapping[str, TensorFacts]
) -> Iterator[Finding]:
    """What the shard has not, and what it has otherwise than the index says."""
    missing = sorted({one.name for one in expected if one.name not in found})
    if missing:
        detail = f"{len(missing)} tensors that the index names are not in it: {listed(missing)}"
        yield Finding("missing_shard_tensor", shown(file), detail)
    differences = [
        f"{one.name} {difference}"
        for one in expected
        if one.name in found and (difference := _difference(one, found[one.name]))
    ]
    if differences:
        detail = f"{len(differences)} tensors are not as the index says: {listed(differences)}"
        yield Finding("shard_mismatch", shown(file), detail)


def _difference(expected: ExpectedTensor, found: TensorFacts) -> str:
    if expected.shape is not None and expected.shape != found.shape:
        return f"has the shape {found.shape} instead of {expected.shape}"
    if expected.dtype is not None and _type(expected.dtype) != _type(found.dtype):
        return f"is {found.dtype} instead of {expected.dtype}"
    return ""


def _type(dtype: str) -> str:
    return _SAME_TYPE.get(dtype, dtype)


def _uncovered(index: str, expected: Iterable[ExpectedTensor]) -> Iterator[Finding]:
    boxes: dict[str, set[Box]] = defaultdict(set)  # replicas of a part are one part
    for one in expected:
        if one.offset is not None and one.shape is not None:
            boxes[one.name].add((one.offset, one.shape))
    if sum(1 << min(len(box[0]), _MAX_RANK) for parts in boxes.values() for box in parts) > _MAX_CORNERS:
        yield Finding("uncovered_tensor", shown(index), "it has more parts than can be put together")
        return
    if names := sorted(name for name, parts in boxes.items() if not _tile(parts)):
        detail = f"the parts of {len(names)} tensors do not make a whole: {listed(names)}"
        yield Finding("uncovered_tensor", shown(index), detail)


def _tile(boxes: Iterable[Box]) -> bool:
    """Whether the boxes fill the smallest box around them and the origin, without gap or overlap.

    They do if their volumes add up to its volume, and if all of their corners but its own are shared by an
    even number of them: then every point is covered an odd number of times, and so at least once.
    """
    solid = [(offset, shape) for offset, shape in boxes if math.prod(shape)]
    ranks = {len(numbers) for box in solid for numbers in box}
    if len(ranks) > 1 or max(ranks, default=0) > _MAX_RANK:
        return False
    ends = [[start + size for start, size in zip(*box, strict=True)] for box in solid]
    whole = [max(along) for along in zip(*ends, strict=True)]
    corners: set[tuple[int, ...]] = set()
    for (offset, _), end in zip(solid, ends, strict=True):
        corners ^= set(product(*zip(offset, end, strict=True)))
    volume = sum(math.prod(shape) for _, shape in solid)
    outer = set(product(*((0, end) for end in whole)))
    return not solid or (corners == outer and volume == math.prod(whole))


def _unindexed(
    scans: Mapping[str, FileScan], indexed: Mapping[str, set[str]], known: set[str]
) -> Iterator[Finding]:
    """Tensors in shards that have an index, and are not named in any."""
    for path, scan in sorted(scans.items()):
        index = index_of(basename(path))
        if path in indexed or (index and joined(parent(path), index) in known):
            names = sorted(_by_name(scan).keys() - indexed.get(path, set()))
            if names:
                detail = f"{len(names)} of {len(scan.tensors)} tensors are in no index: {listed(names)}"
                yield Finding("unindexed_tensor", shown(path), detail)


def _uncounted(there: Iterable[str]) -> Iterator[Finding]:
    """What the names of shards that have no index say."""
    counted: dict[tuple[str, int], set[int]] = defaultdict(set)
    without: dict[str, list[str]] = defaultdict(list)
    for path in sorted(there):
        name = basename(path)
        index = index_of(name)
        if index is None or joined(parent(path), index) in there:
            continue
        if part := part_of(name):
            counted[joined(parent(path), part.whole), part.of].add(part.number)
        if needs_index(name):
            without[joined(parent(path), index)].append(name)
    for (whole, count), numbers in sorted(counted.items()):
        absent = count - sum(1 <= number <= count for number in numbers)
        if absent:
            yield Finding("missing_shard", shown(whole), f"{absent} of {count} shards are not here")
    for index_path, names in sorted(without.items()):
        yield Finding("missing_index", shown(index_path), f"it is not here; needed by {listed(names)}")
