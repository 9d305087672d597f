"""Values by key path in what the scanner read: metrics, steps and epochs.

A key path is text. Dots separate mapping keys; whole numbers index sequences, from the end if negative:
`best_model_dict.hmean`, `log_history.-1.eval_loss`. Keys that contain dots themselves are found as well.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from ckptd.core.model import Finding, Metric
from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptd.core.model import FileScan, KeyPath, MetricRule, ProgressKeys, Scalar

    Leaves = Sequence[tuple[KeyPath, Scalar]]
    Source = tuple[str, FileScan]  # a member's path and scan

_INDEX = re.compile(r"-?[0-9]{1,18}")
_LARGEST_COUNT = 2**63 - 1  # what a database column holds
_SHOWN_CHARACTERS = 60


class NoScalar(Enum):
    """Why there is no plain value under a key path."""

    MISSING = "nothing is there"
    CONTAINER = "a mapping, a sequence or a tensor"


MISSING: Final = NoScalar.MISSING
CONTAINER: Final = NoScalar.CONTAINER


def find_value(values: Leaves, path: str) -> Scalar | NoScalar:
    """Look up a key path among the leaves of a file.

    Where the dots can be read in several ways, the reading with the shortest first key wins.
    """
    return _descend(values, path.split("."))


def _descend(leaves: Leaves, parts: Sequence[str]) -> Scalar | NoScalar:
    if not parts:
        return next((value for key, value in leaves if not key), CONTAINER)
    for taken in range(1, len(parts) + 1):
        below = _below(leaves, ".".join(parts[:taken]))
        found = _descend(below, parts[taken:]) if below else MISSING
        if found is not MISSING:
            return found
    return MISSING


def _below(leaves: Leaves, name: str) -> Leaves:
    """The leaves below one key or index, with their paths from there."""
    heads: tuple[str | int, ...] = (name,)
    if _INDEX.fullmatch(name):
        index = int(name)
        if index < 0:
            index += 1 + max((key[0] for key, _ in leaves if key and isinstance(key[0], int)), default=-1)
        heads = (name, index)
    return [(key[1:], value) for key, value in leaves if key and key[0] in heads]


def metric_of(place: str, sources: Iterable[Source], rule: MetricRule) -> Metric | Finding:
    """Read the metric that ranks a set.

    Args:
        place: how to name the set in a finding.
        sources: what may hold the metric, preferred ones first; the first that has anything there decides.
        rule: which metric.

    Returns:
        The metric, or the finding that says why there is none.
    """
    for path, scan in sources:
        found = find_value(scan.values, rule.name)
        if (
            found is MISSING
            and find_value([(one.key, None) for one in scan.tensors], rule.name) is not MISSING
        ):
            found = CONTAINER
        if found is not MISSING:
            return _metric(found, shown(path), rule)
    return Finding("metric_missing", place, f"{rule.name} is in none of the files that are read for it")


def _metric(found: Scalar | NoScalar, path: str, rule: MetricRule) -> Metric | Finding:
    if isinstance(found, NoScalar):
        return Finding("metric_not_a_number", path, f"{rule.name} is {found.value}")
    if not isinstance(found, int | float) or isinstance(found, bool):
        text = shown(repr(found)[:_SHOWN_CHARACTERS])
        return Finding("metric_not_a_number", path, f"{rule.name} is {text}")
    try:
        value = float(found)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        return Finding("metric_not_finite", path, f"{rule.name} is {value}")
    return Metric(rule.name, value, rule.order)


def step_of(scans: Iterable[FileScan], keys: ProgressKeys) -> int | None:
    """The training step that a set tells itself, from the first scan that tells one."""
    return _count(scans, keys.step)


def epoch_of(scans: Iterable[FileScan], keys: ProgressKeys) -> int | None:
    """The epoch that a set tells itself, from the first scan that tells one."""
    return _count(scans, keys.epoch)


def _count(scans: Iterable[FileScan], paths: Iterable[str]) -> int | None:
    found = (find_value(scan.values, path) for scan in scans for path in paths)
    return next((count for count in map(_whole, found) if count is not None), None)


def _whole(value: Scalar | NoScalar) -> int | None:
    """The value as a count, where it is one: 3 and 3.0 are, 3.5, -1, True and "3" are not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST_COUNT:
        return None
    return int(value) if value == int(value) else None
