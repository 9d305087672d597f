from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.shell.pacing import Brake

RATE = 1 << 20
steps = st.lists(
    st.tuples(st.integers(min_value=0, max_value=4 << 20), st.floats(min_value=0, max_value=30)), min_size=1
)


class Clock:
    """A clock that only goes on when somebody waits."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        """The time."""
        return self.now

    def sleep(self, seconds):
        """Let time pass."""
        self.now += seconds


@given(steps)
def test_brake_lets_no_window_have_more_than_its_rate(read):
    """Whatever the disk did before, between two pauses no more is read than the rate allows."""
    clock, total, ends = Clock(), 0, []
    brake = Brake(RATE, clock, clock.sleep)
    for size, seconds in read:
        start = clock.now
        clock.now += seconds
        total += size
        brake.hold(total)
        ends.append((start, clock.now, size))
    for first in range(len(ends)):
        for last in range(first, len(ends)):
            size = sum(one[2] for one in ends[first : last + 1])
            assert size <= (ends[last][1] - ends[first][0]) * RATE * (1 + 1e-9) + 1


def test_brake_does_not_hold_back_what_is_slower_anyway():
    """A disk that is slower than the rate is read without a pause of more than the last piece's."""
    clock = Clock()
    brake = Brake(RATE, clock, clock.sleep)
    for number in range(1, 11):
        clock.now += 1.0
        brake.hold(number * RATE // 4)
    assert 112.5 == pytest.approx(clock.now)
