from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.core.best import select
from ckptd.core.model import Action, Candidate, Metric, MetricRule, Order, Policy, SetKey, Verdict
from ckptd.core.retention import plan
from ckptd.core.series import position

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ACC = MetricRule("acc", Order.MAX)
LOSS = MetricRule("loss", Order.MIN)
NOTHING = timedelta(0)

metrics = st.builds(
    Metric,
    st.sampled_from(["acc", "acc", "acc", "loss"]),
    st.sampled_from([0.1, 0.5, 0.5, 0.9, -math.inf, math.nan]),
    st.sampled_from([Order.MAX, Order.MAX, Order.MIN]),
)
counters = st.none() | st.integers(0, 30)
candidates = st.builds(
    Candidate,
    key=st.integers(0, 10**6).map(lambda number: SetKey("run", f"epoch_{number}")),
    verdict=st.sampled_from([Verdict.VALID] * 12 + list(Verdict)),
    saved_at=st.integers(-20, 200).map(lambda minutes: NOW - timedelta(minutes=minutes)),
    bytes=st.integers(0, 100),
    step=counters,
    epoch=counters,
    metric=st.none() | metrics,
    is_alias=st.sampled_from([False] * 7 + [True]),
    is_pinned=st.sampled_from([False] * 9 + [True]),
    is_released=st.sampled_from([False] * 9 + [True]),
    trainer_prunes=st.sampled_from([False] * 5 + [True]),
)
runs = st.lists(candidates, max_size=14, unique_by=lambda one: one.key)
slots = st.none() | st.integers(1, 5)
spans = st.integers(0, 60).map(lambda minutes: timedelta(minutes=minutes))
policies = st.builds(
    Policy,
    enforce=st.booleans(),
    min_valid=st.integers(1, 4),
    min_age=spans,
    trash_for=spans,
    idle_after=spans,
    keep_last=slots,
    keep_best=slots,
    keep_every_steps=slots,
)
rules = st.sampled_from([None, ACC, LOSS])


def policy(**changes) -> Policy:
    """A policy that protects as little as it can."""
    least = Policy(enforce=True, min_valid=1, min_age=NOTHING, trash_for=NOTHING, idle_after=NOTHING)
    return replace(least, **changes)


def one(number: int, minutes: float | None = None, acc: float | None = None, **facts) -> Candidate:
    """A valid set; `epoch_3` of step 300 is older than `epoch_4` if no age is given."""
    age = 10_000 - number if minutes is None else minutes
    facts = {
        "verdict": Verdict.VALID,
        "bytes": 1,
        "step": number * 100,
        "metric": None if acc is None else Metric("acc", acc, Order.MAX),
    } | facts
    return Candidate(SetKey("run", f"epoch_{number}"), saved_at=NOW - timedelta(minutes=age), **facts)


def removed(run, a_policy, rule=ACC, now=NOW):
    """The names of the sets that may go."""
    return {decision.key.name for decision in plan(run, a_policy, rule, now).with_action(Action.REMOVE)}


def survivors(run, a_policy, rule=ACC):
    """What is left when the plan is carried out."""
    gone = removed(run, a_policy, rule)
    return [candidate for candidate in run if candidate.key.name not in gone]


def counts(candidate: Candidate) -> bool:
    """Whether a set may fill a slot."""
    return candidate.verdict is Verdict.VALID and not candidate.is_alias and candidate.saved_at <= NOW


def reasons(decisions, number: int):
    """Why `epoch_<number>` is treated as it is."""
    return next(made.reasons for made in decisions.decisions if made.key.name == f"epoch_{number}")


@given(runs, st.none() | policies, rules)
def test_plan_of_any_run_decides_each_set_once_and_says_why(run, a_policy, rule):
    """Every set gets exactly one decision with at least one reason and no reason twice, oldest first."""
    decisions = plan(run, a_policy, rule, NOW).decisions

    assert [made.key for made in decisions] == [
        found.key for found in sorted(run, key=lambda c: position(c).rank)
    ]
    for made in decisions:
        assert made.reasons
        assert max(Counter(made.reasons).values()) == 1


@given(runs.flatmap(lambda run: st.tuples(st.just(run), st.permutations(run))), policies, rules)
def test_plan_of_a_shuffled_run_is_the_same(pair, a_policy, rule):
    """The order in which sets are listed does not matter."""
    run, shuffled = pair

    assert plan(run, a_policy, rule, NOW) == plan(shuffled, a_policy, rule, NOW)


@given(runs, policies, rules, st.booleans())
def test_plan_does_not_depend_on_the_mode(run, a_policy, rule, enforce):
    """What is only planned is what would be removed."""
    assert plan(run, a_policy, rule, NOW) == plan(run, replace(a_policy, enforce=enforce), rule, NOW)


@settings(max_examples=400)
@given(runs, policies, rules)
def test_plan_of_the_survivors_removes_nothing(run, a_policy, rule):
    """Carrying a plan out leaves nothing more to remove."""
    assert set() == removed(survivors(run, a_policy, rule), a_policy, rule)


@settings(max_examples=300)
@given(
    runs,
    policies,
    rules,
    st.sampled_from(["keep_last", "keep_best", "keep_every_steps", "min_valid", "min_age", "idle_after"]),
    st.integers(1, 5),
)
def test_plan_with_a_stricter_rule_never_removes_more(run, a_policy, rule, name, more):
    """To add a rule, or to raise a number, keeps at least what was kept before."""
    before = getattr(a_policy, name)
    if name == "keep_every_steps":
        stricter = replace(a_policy, keep_every_steps=more)
        a_policy = replace(a_policy, keep_every_steps=None)
    elif isinstance(before, timedelta):
        stricter = replace(a_policy, **{name: before + timedelta(minutes=more)})
    else:
        stricter = replace(a_policy, **{name: (before or 0) + more})

    assert removed(run, stricter, rule) <= removed(run, a_policy, rule)


@settings(max_examples=300)
@given(runs, policies, rules)
def test_plan_with_sets_that_do_not_count_treats_the_others_alike(run, a_policy, rule):
    """Broken sets, aliases and sets from the future neither fill a slot nor push a set out.

    They do show that a trainer is alive, which only ever keeps more.
    """
    run = [replace(candidate, trainer_prunes=False) for candidate in run]
    counting = [candidate for candidate in run if counts(candidate)]

    assert removed(run, a_policy, rule) == removed(counting, a_policy, rule)


@given(runs, policies, rules)
def test_plan_never_removes_what_is_not_valid_an_alias_or_from_the_future(run, a_policy, rule):
    """Only what counts can go; what is not valid or an alias is left, whatever the rules say."""
    for made in plan(run, a_policy, rule, NOW).decisions:
        candidate = next(found for found in run if found.key == made.key)
        is_ours = candidate.verdict is Verdict.VALID and not candidate.is_alias
        assert (made.action is Action.LEAVE) == (not is_ours)
        assert counts(candidate) or made.action is not Action.REMOVE


@settings(max_examples=300)
@given(runs, policies, rules)
def test_plan_keeps_the_floor(run, a_policy, rule):
    """The newest and the furthest `min_valid` sets, the best, the pinned and the released ones stay."""
    left = {candidate.key for candidate in survivors(run, a_policy, rule)}
    counting = sorted((found for found in run if counts(found)), key=lambda found: position(found).rank)
    by_step = sorted((found.step for found in counting if found.step is not None), reverse=True)

    assert {found.key for found in counting[-a_policy.min_valid :]} <= left
    assert (
        by_step[: a_policy.min_valid]
        == sorted(
            (found.step for found in counting if found.key in left and found.step is not None), reverse=True
        )[: a_policy.min_valid]
    )
    assert {found.key for found in run if found.is_pinned or found.is_released} <= left
    if rule:
        for group in (run, counting):
            best = select(group, rule)
            assert best is None or best.key in left


@given(runs, policies, rules)
def test_plan_removes_a_set_only_for_a_newer_valid_one(run, a_policy, rule):
    """Whatever goes, a set that counts and is newer stays."""
    left = survivors(run, a_policy, rule)
    for name in removed(run, a_policy, rule):
        gone = next(found for found in run if found.key.name == name)
        assert any(counts(found) and position(found).rank > position(gone).rank for found in left)


@given(runs, rules)
def test_plan_without_rules_removes_nothing(run, rule):
    """Without a policy every valid set is kept for that very reason."""
    for made in plan(run, None, rule, NOW).decisions:
        assert made.action is not Action.REMOVE
        assert made.action is not Action.KEEP or "no retention rules" in made.reasons


@given(runs, policies, rules)
def test_plan_at_an_earlier_time_never_removes_more(run, a_policy, rule):
    """A clock that was set back does not make anything old."""
    earlier = NOW - timedelta(minutes=30)
    past = [found for found in run if found.saved_at <= earlier]

    assert removed(past, a_policy, rule, earlier) <= removed(past, a_policy, rule)


growing = st.lists(
    st.tuples(
        st.integers(0, 9),  # how much further the step is
        st.integers(0, 3),  # how many minutes later
        st.none() | metrics,
        st.sampled_from([Verdict.VALID] * 4 + [Verdict.CORRUPT]),
        st.sampled_from([False] * 6 + [True]),
    ),
    max_size=25,
)


@settings(max_examples=400)
@given(growing, policies, rules, st.data())
def test_plan_step_by_step_ends_as_at_once(history, a_policy, rule, data):
    """Whenever removals happen while a run grows, the same sets survive: a kill changes nothing."""
    a_policy = replace(a_policy, min_age=NOTHING, idle_after=NOTHING)
    step, at, run = 0, NOW - timedelta(days=1), []
    for number, (further, later, metric, verdict, is_alias) in enumerate(history):
        step, at = step + further, at + timedelta(minutes=later)
        key = SetKey("run", f"epoch_{number:03}")
        run.append(Candidate(key, verdict, at, 1, step, number, metric, is_alias=is_alias))
    left: list[Candidate] = []
    for candidate in run:
        left.append(candidate)
        if data.draw(st.booleans()):
            left = survivors(left, a_policy, rule)

    assert survivors(run, a_policy, rule) == survivors(left, a_policy, rule)


@pytest.mark.parametrize(
    ("rules_of_policy", "expected"),
    [
        ({"keep_last": 2}, {1, 3}),
        ({"keep_last": 9}, set()),
        ({"keep_best": 1}, {1, 3, 4}),
        ({"keep_best": 2}, {1, 4}),
        ({"keep_last": 2, "keep_best": 2}, {1}),
        ({"keep_every_steps": 200}, {1, 3}),
        ({"keep_every_steps": 300}, {1, 4}),
        ({"min_valid": 3}, {1}),
    ],
)
def test_plan_of_five_sets_removes_what_no_rule_claims(rules_of_policy, expected):
    """Each rule keeps what its name says, and the best and the newest stay anyway."""
    run = [one(1, acc=0.1), one(2, acc=0.9), one(3, acc=0.5), one(4, acc=0.2), one(5, acc=0.3)]
    if "keep_every_steps" in rules_of_policy:
        run[0], run[3] = replace(run[0], step=90), replace(run[3], step=410)

    assert {f"epoch_{number}" for number in expected} == removed(run, policy(**rules_of_policy))


def test_plan_says_every_reason():
    """A set that several rules claim shows all of them, in stable words."""
    run = [
        one(1, acc=0.1),
        one(2, acc=0.93, is_pinned=True, is_released=True),
        one(3, minutes=3, acc=0.2, trainer_prunes=True),
        one(4, verdict=Verdict.CORRUPT),
        one(5, is_alias=True),
        one(6, minutes=-5),
    ]
    a_policy = policy(
        keep_last=2,
        keep_best=1,
        keep_every_steps=100,
        min_age=timedelta(minutes=10),
        idle_after=timedelta(hours=2),
    )
    decisions = plan([replace(run[0], step=None), *run[1:]], a_policy, ACC, NOW)

    assert ("no rule claims it: keep_last=2, keep_best=1, keep_every_steps=100, min_valid=1",) == reasons(
        decisions, 1
    )
    assert (
        "pinned: until it is unpinned",
        "released: the live release was made from it",
        "best: acc=0.93 (max)",
        "keep_last: 2nd newest of 2",
        "keep_best: rank 1 by acc=0.93 (max)",
        "keep_every_steps: closest to 200",
    ) == reasons(decisions, 2)
    assert (
        "newest: no newer set is proved valid",
        "keep_last: 1st newest of 2",
        "keep_every_steps: closest to 300",
        "min_valid: among the 1 newest valid",
        "min_valid: among the 1 valid of the highest step",
        "min_age: written 2026-11-24 11:57:00Z, younger than 10 min",
        "trainer_prunes: until nothing was saved for 2 h",
    ) == reasons(decisions, 3)
    assert ("corrupt: only valid sets are ever removed",) == reasons(decisions, 4)
    assert ("alias: the trainer rewrites it in place",) == reasons(decisions, 5)
    assert ("clock: dated in the future, so its age is unknown",) == reasons(decisions, 6)


@pytest.mark.parametrize(
    ("idle_after", "newest", "expected"),
    [(60, Verdict.VALID, set()), (60, Verdict.CORRUPT, set()), (59, Verdict.VALID, {1, 2})],
)
def test_plan_of_a_run_whose_trainer_prunes_waits_until_it_is_idle(idle_after, newest, expected):
    """Any set that was just written, a broken one too, shows that the trainer still tracks its sets."""
    run = [one(number, 300 - number, trainer_prunes=True) for number in (1, 2, 3)]
    run.append(one(4, 60, trainer_prunes=True, verdict=newest))
    if newest is Verdict.VALID:
        run[2] = replace(run[2], is_pinned=True)

    gone = removed(run, policy(keep_last=1, idle_after=timedelta(minutes=idle_after)))

    assert {f"epoch_{number}" for number in expected} == gone


def test_plan_with_a_copied_run_keeps_what_may_be_newest():
    """A copy that lost its dates keeps the sets of the last dates and those of the highest steps."""
    alphabetical = [1, 10, 11, 2, 3, 4]
    run = [one(number, 100 - index) for index, number in enumerate(alphabetical)]

    assert {"epoch_1", "epoch_2"} == removed(run, policy(min_valid=2))


def test_plan_with_equally_good_sets_keeps_the_best_beside_its_alias():
    """An alias may be the best set; then its twin stays as well, because the alias will be overwritten."""
    run = [one(1, acc=0.9), one(2, acc=0.1), one(3, acc=0.9, is_alias=True), one(4, acc=0.2)]
    decisions = plan(run, policy(keep_last=1), ACC, NOW)

    assert {"epoch_2"} == removed(run, policy(keep_last=1))
    assert ("best: acc=0.9 (max)",) == reasons(decisions, 1)
    assert "best: acc=0.9 (max)" in reasons(decisions, 3)


def test_plan_of_a_restarted_run_keeps_milestones_of_each_series():
    """Every series has milestones of its own, and the sets at the border stay, so that it is found again."""
    steps = [950, 1000, 1050, 1800, 40, 1020, 1500]
    run = [one(number, step=step) for number, step in enumerate(steps, start=1)]
    decisions = plan(run, policy(keep_every_steps=1000), None, NOW)

    assert {"epoch_1", "epoch_3"} == removed(run, policy(keep_every_steps=1000), None)
    assert ("keep_every_steps: closest to 2000", "keep_every_steps: ends a series") == tuple(
        reason for reason in reasons(decisions, 4) if reason.startswith("keep_every_steps")
    )
    assert ("keep_every_steps: begins a series",) == reasons(decisions, 5)
    assert ("keep_every_steps: closest to 1000",) == reasons(decisions, 6)
    assert "keep_every_steps: closest to 2000" in reasons(decisions, 7)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
    ],
)
def test_plan_counts_in_english(number, expected):
    """Ranks are written as they are said."""
    run = [one(index) for index in range(1, number + 1)]

    assert f"keep_last: {expected} newest of {number}" in reasons(
        plan(run, policy(keep_last=number), None, NOW), 1
    )


@pytest.mark.parametrize(
    ("span", "expected"),
    [({"days": 2}, "2 d"), ({"hours": 36}, "36 h"), ({"minutes": 90}, "90 min"), ({"seconds": 1.5}, "1.5 s")],
)
def test_plan_writes_durations_in_the_largest_unit_that_fits(span, expected):
    """A duration reads as it was configured."""
    decisions = plan([one(1, minutes=0.01)], policy(min_age=timedelta(**span)), None, NOW)

    assert reasons(decisions, 1)[-1].endswith(f"younger than {expected}")


def test_plan_of_the_longest_min_age_does_not_overflow():
    """The largest duration there is keeps everything."""
    assert set() == removed([one(1), one(2)], policy(min_age=timedelta.max))
