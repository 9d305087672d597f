"""Whether the members of a set tell the same epoch and step, where both surely mean the same.

To say that they disagree condemns the set, so only this is compared:

- the `epoch`, `global_step`, `iter` or `iteration` of a pickled progress file with the same key of a dict
  that holds everything: both are the training's own, and written together;
- the epoch in the names of PaddleOCR (`iter_epoch_3`) and PaddleClas (`epoch_3`) with the `epoch` in
  `.states` and `.pdstates`, the iteration in those of PaddleSeg (`iter_100`) with `iter`;
- the step in the names of PaddleNLP (`checkpoint-100`) with the `global_step` of `trainer_state.json`;
- the `last_epoch` that PaddleDetection adds to `.pdopt` with the `epoch` in its `.pdstates`.

The first two may differ by one, since loops that people write themselves count before or after the step, and
some are named as those suites do. Not compared: other JSON files, which may describe the best set instead;
the `last_epoch` of schedulers, which counts epochs or steps; the numbers in PaddleDetection's names, which
are one less than its epochs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckptd.core.layouts import basename
from ckptd.core.metrics import step_of
from ckptd.core.model import Finding, ProgressKeys, Role
from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptd.core.model import CheckpointSet, FileScan, Member

    Sound = Sequence[tuple[Member, FileScan]]

_KEYS: Final = ("epoch", "global_step", "iter", "iteration")
_EPOCH_IN_NAME: Final = frozenset({"paddleocr", "paddleclas"})


class _Pair(NamedTuple):
    """Two tellings of the same number."""

    path: str
    told: str
    first: int | None
    second: int | None
    tolerance: int


def progress_findings(checkpoint: CheckpointSet, sound: Sound) -> Iterator[Finding]:
    """Compare what the members of a set tell.

    Args:
        checkpoint: the set.
        sound: its members that were understood to their end.
    """
    for pair in _pairs(checkpoint, sound):
        if None not in {pair.first, pair.second} and _distance(pair) > pair.tolerance:
            yield Finding("progress_disagrees", shown(pair.path), pair.told.format(pair.first, pair.second))


def _distance(pair: _Pair) -> int:
    return abs((pair.first or 0) - (pair.second or 0))


def _pairs(checkpoint: CheckpointSet, sound: Sound) -> Iterator[_Pair]:
    for member, scan in sound:
        if member.role is Role.META and scan.container == "pickle":
            yield from _with_dicts(member, scan, sound)
            yield from _with_name(checkpoint, member, scan)
            if checkpoint.layout == "paddledetection":
                yield from _with_optimizer(member, scan, sound)
        elif checkpoint.layout == "paddlenlp" and basename(member.entry.path) == "trainer_state.json":
            told = "the global_step is {}, the name says {}"
            yield _Pair(member.entry.path, told, _count(scan, "global_step"), checkpoint.step, 0)


def _with_dicts(member: Member, scan: FileScan, sound: Sound) -> Iterator[_Pair]:
    for other, weights in _in_role(Role.PARAMS, sound):
        name = shown(basename(other.entry.path)).replace("{", "{{").replace("}", "}}")
        for key in _KEYS:
            told = f"the {key} is {{}}, {name} says {{}}"
            yield _Pair(member.entry.path, told, _count(scan, key), _count(weights, key), 1)


def _with_name(checkpoint: CheckpointSet, member: Member, scan: FileScan) -> Iterator[_Pair]:
    path = member.entry.path
    if checkpoint.layout in _EPOCH_IN_NAME:
        told = "the epoch is {}, the name says {}"
        yield _Pair(path, told, _count(scan, "epoch"), checkpoint.epoch, 1)
    elif checkpoint.layout == "paddleseg":
        yield _Pair(path, "the iter is {}, the name says {}", _count(scan, "iter"), checkpoint.step, 1)


def _with_optimizer(member: Member, scan: FileScan, sound: Sound) -> Iterator[_Pair]:
    for _, optimizer in _in_role(Role.OPT, sound):
        told = "the epoch is {}, the optimizer's last_epoch is {}"
        yield _Pair(member.entry.path, told, _count(scan, "epoch"), _count(optimizer, "last_epoch"), 0)


def _in_role(role: Role, sound: Sound) -> Iterable[tuple[Member, FileScan]]:
    return (pair for pair in sound if pair[0].role is role)


def _count(scan: FileScan, key: str) -> int | None:
    return step_of([scan], ProgressKeys(step=(key,)))
