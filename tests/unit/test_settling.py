from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.model import Role
from ckptd.core.settling import settle
from making import stem_set

SECOND = 1_000_000_000
ONE = stem_set("run", "epoch_1", (".pdparams", Role.PARAMS))  # written at second 1


def test_settle_old_set_is_settled_at_the_first_look():
    """A set whose files are old enough needs no waiting, so a restart judges at once."""
    result = settle([ONE], {}, settle_seconds=5, now_ns=6 * SECOND, monotonic=0)

    assert (frozenset({ONE.key}), None) == (result.keys, result.wait_seconds)


def test_settle_young_set_says_how_long_to_wait():
    """A set that is still young is to be looked at again exactly when it could be settled."""
    result = settle([ONE], {}, settle_seconds=5, now_ns=4 * SECOND, monotonic=0)

    assert (frozenset(), 2.0) == (result.keys, result.wait_seconds)


def test_settle_set_from_the_future_is_settled_by_observation():
    """A file time ahead of the clock does not block the set for ever."""
    first = settle([ONE], {}, settle_seconds=5, now_ns=0, monotonic=100)
    second = settle([ONE], first.looks, settle_seconds=5, now_ns=0, monotonic=105)

    assert (frozenset(), frozenset({ONE.key})) == (first.keys, second.keys)


def test_settle_change_starts_the_wait_again():
    """A set that changed between two looks is being written, however long the first look is past."""
    first = settle([ONE], {}, settle_seconds=5, now_ns=0, monotonic=100)
    member = replace(ONE.members[0], entry=replace(ONE.members[0].entry, bytes=11))
    second = settle([replace(ONE, members=(member,))], first.looks, settle_seconds=5, now_ns=0, monotonic=105)

    assert (frozenset(), 5.0) == (second.keys, second.wait_seconds)


def test_settle_forgets_sets_that_are_gone():
    """Looks are kept for present sets only, so memory does not grow with history."""
    first = settle([ONE], {}, settle_seconds=5, now_ns=0, monotonic=0)

    assert {} == settle([], first.looks, settle_seconds=5, now_ns=0, monotonic=1).looks


@given(st.floats(0.001, 1000), st.integers(0, 10**12), st.floats(0, 1000))
def test_settle_waiting_as_told_settles(seconds, now_ns, monotonic):
    """Whoever waits as long as told finds the set settled, if it did not change."""
    first = settle([ONE], {}, settle_seconds=seconds, now_ns=now_ns, monotonic=monotonic)
    wait = (first.wait_seconds or 0) + 0.001
    later = settle(
        [ONE],
        first.looks,
        settle_seconds=seconds,
        now_ns=now_ns + round(wait * SECOND),
        monotonic=monotonic + wait,
    )

    assert frozenset({ONE.key}) == later.keys
