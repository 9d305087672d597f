from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.model import SetKey
from ckptd.core.series import Position, split

START = datetime(2026, 11, 24, tzinfo=UTC)
counters = st.none() | st.integers(0, 9)
positions = st.builds(
    Position,
    saved_at=st.integers(0, 9).map(lambda minutes: START + timedelta(minutes=minutes)),
    step=counters,
    epoch=counters,
    key=st.integers(0, 999).map(lambda number: SetKey("run", f"epoch_{number}")),
)
runs = st.lists(positions, max_size=12, unique_by=lambda one: one.key)


def itself(position):
    """A position stands where it stands."""
    return position


def train(*progress):
    """Sets written one minute after the other; each is a step, or a pair of step and epoch."""
    pairs = (one if isinstance(one, tuple) else (one, None) for one in progress)
    return [
        Position(START + timedelta(minutes=minute), step, epoch, SetKey("run", f"set_{minute}"))
        for minute, (step, epoch) in enumerate(pairs)
    ]


@given(runs.flatmap(lambda run: st.tuples(st.just(run), st.permutations(run))))
def test_split_of_any_run_orders_all_sets_by_time(pair):
    """Every set is in exactly one series, oldest first, whatever the order they were listed in."""
    run, shuffled = pair
    series = split(run, itself)

    assert split(shuffled, itself) == series
    assert all(series)
    assert sorted(run, key=lambda one: one.rank) == [one for part in series for one in part]


@given(runs)
def test_split_of_any_run_yields_series_that_only_grow(run):
    """Within a series steps never go back; each new series begins with a set that went back."""
    series = split(run, itself)

    for part in series:
        steps = [one.step for one in part if one.step is not None]
        assert sorted(steps) == steps
    for before, after in pairwise(series):
        first = after[0]
        if first.step is None:
            assert any(one.step is None and (one.epoch or 0) > (first.epoch or 0) for one in before)
        else:
            assert any((one.step or 0) > first.step for one in before)


@given(runs, st.data())
def test_split_of_a_part_of_a_series_is_one_series(run, data):
    """A series stays one when some of its sets are gone."""
    for part in split(run, itself):
        left = data.draw(st.lists(st.sampled_from(part), min_size=1, unique=True))
        assert 1 == len(split(left, itself))


@pytest.mark.parametrize(
    ("run", "sizes"),
    [
        ([], []),
        (train(100, 200, 200, 300), [4]),
        (train(100, 200, 50, 100, 150, 0), [2, 3, 1]),
        (train((None, 1), (None, 2), (None, 1)), [2, 1]),
        (train((None, 3), (None, None), (None, 3)), [3]),
        (train((500, 5), (600, 1)), [2]),  # steps count where they are known
        (train((500, 5), (None, 1), (400, 2)), [2, 1]),  # and are compared with steps only
    ],
)
def test_split_of_known_runs_finds_the_restarts(run, sizes):
    """A step that goes back begins a new series, an equal one does not; epochs stand in for missing steps."""
    assert sizes == [len(part) for part in split(run, itself)]


def test_rank_of_sets_written_at_once_goes_by_progress_then_name():
    """Files copied within one tick of the clock are ordered by what they tell."""
    run = [
        Position(START, 200, 1, SetKey("run", "a")),
        Position(START, 100, 2, SetKey("run", "d")),
        Position(START, 100, 2, SetKey("run", "c")),
        Position(START, 100, None, SetKey("run", "b")),
        Position(START, None, 9, SetKey("run", "z")),
    ]

    assert ["z", "b", "c", "d", "a"] == [one.key.name for one in sorted(run, key=lambda one: one.rank)]
