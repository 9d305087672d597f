"""Which set is the best one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptd.core.model import Order, Verdict
from ckptd.core.series import position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptd.core.model import Candidate, MetricRule


def ranked(candidates: Iterable[Candidate], rule: MetricRule) -> tuple[Candidate, ...]:
    """The sets that can be compared by the rule, best first; of equal ones the newer first.

    Only valid sets with a finite value of the rule's own metric count. `min_delta` does not matter here: it
    decides whether a better set is worth a release.
    """
    comparable = ((_value(one, rule), one) for one in candidates)
    pairs = [(value, one) for value, one in comparable if value is not None]
    pairs.sort(key=lambda pair: (pair[0], position(pair[1]).rank), reverse=True)
    return tuple(one for _, one in pairs)


def select(candidates: Iterable[Candidate], rule: MetricRule) -> Candidate | None:
    """The best set, or None where none can be compared."""
    return next(iter(ranked(candidates, rule)), None)


def _value(candidate: Candidate, rule: MetricRule) -> float | None:
    """The metric as a number of which more is better; None where it does not rank."""
    metric = candidate.metric
    if candidate.verdict is not Verdict.VALID or metric is None or not math.isfinite(metric.value):
        return None
    if (metric.name, metric.order) != (rule.name, rule.order):
        return None
    return metric.value if rule.order is Order.MAX else -metric.value
