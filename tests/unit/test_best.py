from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.best import ranked, select
from ckptd.core.model import Candidate, Metric, MetricRule, Order, SetKey, Verdict

START = datetime(2026, 11, 24, tzinfo=UTC)
ACC = MetricRule("acc", Order.MAX, min_delta=0.5)
LOSS = MetricRule("loss", Order.MIN)


def measured(number: int, value: float | None, *, name: str = "acc", order: Order = Order.MAX, **facts):
    """A valid set, the number minutes after the start."""
    facts = {"verdict": Verdict.VALID, "bytes": 1, "step": number} | facts
    metric = None if value is None else Metric(name, value, order)
    at = START + timedelta(minutes=number)
    return Candidate(SetKey("run", f"set_{number}"), saved_at=at, metric=metric, **facts)


values = st.none() | st.floats() | st.sampled_from([0.5, 0.9])
runs = st.lists(
    st.tuples(values, st.sampled_from([Verdict.VALID, Verdict.VALID, *Verdict])), max_size=10
).map(
    lambda facts: [measured(number, value, verdict=verdict) for number, (value, verdict) in enumerate(facts)]
)


@given(runs.flatmap(lambda run: st.tuples(st.just(run), st.permutations(run))), st.sampled_from(Order))
def test_select_of_any_run_is_the_extreme_of_what_ranks(pair, order):
    """The best set is valid and finite, no other is better, and among equals it is the newest."""
    run, shuffled = pair
    run = [with_order(one, order) for one in run]
    rule = MetricRule("acc", order)
    comparable = [
        one for one in run if one.verdict is Verdict.VALID and one.metric and math.isfinite(one.metric.value)
    ]
    best = select(run, rule)

    assert select([with_order(one, order) for one in shuffled], rule) == best
    assert (best is None) == (not comparable)
    if best:
        extreme = max if order is Order.MAX else min
        assert best.metric.value == extreme(one.metric.value for one in comparable)
        assert best.step == max(one.step for one in comparable if one.metric.value == best.metric.value)


def with_order(candidate, order):
    """The same set, measured by a metric with the other good end."""
    value = candidate.metric.value if candidate.metric else None
    return measured(candidate.step, value, order=order, verdict=candidate.verdict)


@pytest.mark.parametrize(
    ("run", "rule", "expected"),
    [
        ([], ACC, []),
        ([measured(1, 0.5), measured(2, 0.9), measured(3, 0.7)], ACC, [2, 3, 1]),
        ([measured(1, 0.9), measured(2, 0.9), measured(3, 0.1)], ACC, [2, 1, 3]),
        ([measured(1, 0.5), measured(2, 0.51)], ACC, [2, 1]),  # min_delta is not for choosing
        (
            [measured(1, 0.5, name="loss", order=Order.MIN), measured(2, 0.9, name="loss", order=Order.MIN)],
            LOSS,
            [1, 2],
        ),
        ([measured(1, math.nan), measured(2, math.inf), measured(3, -math.inf), measured(4, None)], ACC, []),
        ([measured(1, 0.5, verdict=Verdict.SUSPECT), measured(2, 0.1)], ACC, [2]),
        ([measured(1, 0.5, name="f1"), measured(2, 0.5, order=Order.MIN), measured(3, 0.1)], ACC, [3]),
        ([measured(1, 0.5), measured(2, 0.6, is_alias=True)], ACC, [2, 1]),
        ([measured(1, 0.0), measured(2, -0.0)], ACC, [2, 1]),
    ],
)
def test_ranked_of_known_runs_is_best_first(run, rule, expected):
    """Better before worse, newer before older, and nothing that cannot be compared."""
    assert expected == [one.step for one in ranked(run, rule)]
