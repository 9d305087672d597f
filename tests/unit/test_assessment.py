from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.assessment import Rules, RunFacts, assess, saved_at, scans_of
from ckptd.core.model import (
    Action,
    EntryKind,
    FileScan,
    Finding,
    MetricRule,
    Order,
    Policy,
    ProgressKeys,
    Role,
    SetKey,
    SetShape,
    TensorFacts,
    Verdict,
)
from making import stem_set

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHT = TensorFacts(("w",), (2,), "float32", 8, 0, "linear_0.w_0")
MOMENT = TensorFacts(("linear_0.w_0_moment1_0",), (2,), "float32", 8, 0)
SCANS = {
    Role.PARAMS: FileScan("pickle", 10, "aa", tensors=(WEIGHT,)),
    Role.OPT: FileScan("pickle", 10, "bb", tensors=(MOMENT,)),
    Role.SCALER: FileScan("pickle", 10, "cc"),
    Role.META: FileScan("pickle", 10, "dd", values=((("epoch",), 1), (("acc",), 0.5))),
}
POLICY = Policy(
    enforce=True,
    min_valid=1,
    min_age=timedelta(0),
    trash_for=timedelta(hours=1),
    idle_after=timedelta(hours=6),
    keep_last=1,
)
RULES = Rules(MetricRule("acc", Order.MAX), ProgressKeys(), POLICY)
SUFFIXES = {Role.PARAMS: ".pdparams", Role.OPT: ".pdopt", Role.SCALER: ".pdscaler", Role.META: ".pdmeta"}


def one_set(epoch: int, *roles: Role, **facts):
    """A set of the given epoch, written as many seconds after the others."""
    found = stem_set(
        "run", f"epoch_{epoch}", *((SUFFIXES[role], role) for role in roles), epoch=epoch, **facts
    )
    members = tuple(
        replace(member, entry=replace(member.entry, mtime_ns=epoch * 10**9)) for member in found.members
    )
    return replace(found, members=members)


def scanned(*sets):
    """Good scans for every member of the sets."""
    return {member.entry.fingerprint: SCANS[member.role] for one in sets for member in one.members}


def facts_of(*sets, **more):
    """Everything settled and scanned."""
    return RunFacts(tuple(sets), frozenset(one.key for one in sets), scanned(*sets), **more)


def verdicts_of(assessment):
    """The verdicts by set name."""
    return {one.name: judgement.verdict for one, judgement in assessment.judged}


def test_assess_whole_sets_are_valid_and_the_older_ones_go():
    """From good scans follow valid verdicts, the best set, and a plan that keeps the newest."""
    sets = [one_set(epoch, Role.PARAMS, Role.OPT) for epoch in (1, 2)]

    found = assess(facts_of(*sets), RULES, NOW)

    assert {"epoch_1": Verdict.VALID, "epoch_2": Verdict.VALID} == verdicts_of(found)
    assert ["epoch_1"] == [one.key.name for one in found.plan.with_action(Action.REMOVE)]
    assert {Verdict.VALID: 2} == found.verdicts


def test_assess_unsettled_set_is_writing_and_not_read():
    """A set that somebody still writes is neither read nor removed."""
    one = one_set(1, Role.PARAMS, Role.OPT)

    found = assess(RunFacts((one,), frozenset(), {}), RULES, NOW)

    assert ({"epoch_1": Verdict.WRITING}, (), True) == (
        verdicts_of(found),
        found.unscanned,
        found.is_complete,
    )


def test_assess_settled_set_without_scans_is_pending_and_asks_for_them():
    """What nobody has read yet is asked for, member by member."""
    one = one_set(1, Role.PARAMS, Role.OPT)
    facts = RunFacts((one,), frozenset({one.key}), {one.members[0].entry.fingerprint: SCANS[Role.PARAMS]})

    found = assess(facts, RULES, NOW)

    assert {"epoch_1": Verdict.PENDING} == verdicts_of(found)
    assert (one.members[1],) == found.unscanned
    assert not found.is_complete
    assert {} == found.alone


def test_assess_scaler_that_was_there_before_is_missed():
    """Once a set of the series had a scaler, a set without one is incomplete."""
    sets = [one_set(1, Role.PARAMS, Role.OPT, Role.SCALER), one_set(2, Role.PARAMS, Role.OPT)]

    found = assess(facts_of(*sets), replace(RULES, rule=None), NOW)

    _, judgement = found.judged[1]
    assert (Verdict.INCOMPLETE, "missing_scaler") == (judgement.verdict, judgement.findings[-1].code)
    assert Verdict.VALID is found.alone[sets[1].key].judgement.verdict


def test_assess_progress_that_was_there_before_is_missed():
    """Once a set of the series had a progress file, a set without one is incomplete."""
    sets = [one_set(1, Role.PARAMS, Role.OPT, Role.META), one_set(2, Role.PARAMS, Role.OPT)]

    assert Verdict.INCOMPLETE is verdicts_of(assess(facts_of(*sets), RULES, NOW))["epoch_2"]


def test_assess_restarted_training_need_not_have_what_the_old_one_had():
    """A new series begins without expectations: mixed precision may have been switched off."""
    old = one_set(5, Role.PARAMS, Role.OPT, Role.SCALER)
    new = one_set(1, Role.PARAMS, Role.OPT)
    later = replace(new.members[0].entry, mtime_ns=9 * 10**9)
    new = replace(new, members=(replace(new.members[0], entry=later), new.members[1]))

    assert Verdict.VALID is verdicts_of(assess(facts_of(old, new), RULES, NOW))["epoch_1"]


def test_assess_alias_is_not_held_to_what_the_others_have():
    """Suites write less beside their aliases, and nothing is missed there."""
    sets = [
        one_set(1, Role.PARAMS, Role.OPT, Role.SCALER),
        replace(one_set(2, Role.PARAMS, Role.OPT), name="latest", is_alias=True),
    ]

    assert Verdict.VALID is verdicts_of(assess(facts_of(*sets), RULES, NOW))["latest"]


def test_assess_known_judgement_needs_no_scan():
    """A set that did not change keeps its verdict without being read again."""
    one = one_set(1, Role.PARAMS, Role.OPT)
    before = assess(facts_of(one), RULES, NOW)

    after = assess(RunFacts((one,), frozenset({one.key}), {}, before.alone), RULES, NOW)

    assert (before.judged, ()) == (after.judged, after.unscanned)


def test_assess_what_is_no_file_is_judged_unopened():
    """A link, a FIFO or a directory in a file's place gets its finding without a scan."""
    kinds = {
        EntryKind.SYMLINK: "symbolic_link",
        EntryKind.OTHER: "not_a_regular_file",
        EntryKind.DIRECTORY: "not_a_regular_file",
    }
    for kind, code in kinds.items():
        one = one_set(1, Role.PARAMS, Role.OPT)
        entry = replace(one.members[0].entry, kind=kind)
        one = replace(one, members=(replace(one.members[0], entry=entry), one.members[1]))

        found = assess(facts_of(one), replace(RULES, rule=None), NOW)

        assert [(Verdict.UNREADABLE, code)] == [(j.verdict, j.findings[0].code) for _, j in found.judged]


def test_assess_families_do_not_push_each_other_out():
    """Two networks that are saved side by side each keep their newest set."""
    sets = [
        replace(one_set(epoch, Role.PARAMS, Role.OPT), name=f"{family}epoch_{epoch}", family=family)
        for family in ("gen_", "disc_")
        for epoch in (1, 2)
    ]

    removed = assess(facts_of(*sets), RULES, NOW).plan.with_action(Action.REMOVE)

    assert {"gen_epoch_1", "disc_epoch_1"} == {one.key.name for one in removed}


def test_assess_best_is_chosen_from_the_progress_file():
    """The metric in the progress file makes the choice, and marks what is pinned and released stay."""
    sets = [one_set(1, Role.PARAMS, Role.OPT, Role.META), one_set(2, Role.PARAMS, Role.OPT, Role.META)]

    found = assess(facts_of(*sets, pinned=frozenset({sets[0].key})), RULES, NOW)

    assert found.choice is not None
    assert SetKey("run", "epoch_2") == found.choice.key  # equal metrics: the newer one
    assert () == found.plan.with_action(Action.REMOVE)


def test_scans_of_leaves_out_what_is_not_read():
    """Members that no verdict needs have no scans."""
    one = one_set(1, Role.PARAMS)
    extra = replace(one.members[0], role=Role.EXTRA)

    assert {} == scans_of(replace(one, members=(extra,)), scanned(one))


def scan_with(one, **scans):
    """The scans of a set, with others for the roles given."""
    return {
        member.entry.fingerprint: scans.get(member.role.value, SCANS[member.role]) for member in one.members
    }


def in_company(*pairs, known=()):
    """The codes by set name of sets that are assessed together, each with its own scans by role."""
    scans = {key: one for checkpoint, own in pairs for key, one in scan_with(checkpoint, **own).items()}
    sets = tuple(checkpoint for checkpoint, _ in pairs)
    settled = frozenset(one.key for one in sets)
    rules = replace(RULES, rule=None)
    alone = assess(RunFacts(sets, settled, scans), rules, NOW).alone
    kept = {key: one for key, one in alone.items() if key.name in known}
    unknown = {member.entry.fingerprint for one in sets if one.key not in kept for member in one.members}
    facts = RunFacts(sets, settled, {key: one for key, one in scans.items() if key in unknown}, kept)
    judged = assess(facts, rules, NOW).judged
    return {
        one.name: [(found.code, found.detail) for found in judgement.findings] for one, judgement in judged
    }


WEIGHTS_ONLY = {"required": frozenset({Role.PARAMS})}
WIDER = FileScan(
    "pickle", 10, "ee", tensors=(WEIGHT, TensorFacts(("v",), (3, 3), "float32", 36, 0, "l_1.w_0"))
)
OTHER = FileScan("pickle", 10, "ff", tensors=(TensorFacts(("v",), (5, 3), "float32", 60, 0, "l_1.w_0"),))


@pytest.mark.parametrize(
    "known", [(), ("epoch_1",), ("epoch_1", "epoch_2"), ("epoch_1", "epoch_2", "epoch_3")]
)
def test_assess_changed_weights_are_told_once_with_or_without_the_scans(known):
    """The first set of another shape is suspect and the next is not, whether or not the earlier are read."""
    sets = [one_set(epoch, Role.PARAMS, **WEIGHTS_ONLY) for epoch in (1, 2, 3)]
    found = in_company(
        (sets[0], {"params": WIDER}), (sets[1], {"params": OTHER}), (sets[2], {"params": OTHER}), known=known
    )

    expected = [
        ("tensors_lost", "1 tensors are gone since epoch_1: w (2,) float32"),
        ("shapes_changed", "1 tensors have other shapes since epoch_1: v (3, 3) float32 to (5, 3) float32"),
    ]
    assert {"epoch_1": [], "epoch_2": expected, "epoch_3": []} == found


def test_assess_weights_are_compared_with_the_last_set_that_was_understood():
    """A set that is cut off in between neither changes nor hides anything."""
    cut_off = FileScan("pickle", 10, None, (Finding("truncated", "run/epoch_2.pdparams", "at byte 7"),))
    sets = [one_set(epoch, Role.PARAMS, **WEIGHTS_ONLY) for epoch in (1, 2, 3)]
    found = in_company((sets[0], {}), (sets[1], {"params": cut_off}), (sets[2], {"params": WIDER}))

    assert ["truncated"] == [code for code, _ in found["epoch_2"]]
    assert [("tensors_added", "1 tensors are new since epoch_1: v (3, 3) float32")] == found["epoch_3"]


@pytest.mark.parametrize(
    "facts", [{"is_alias": True}, {"layout": "hapi"}, {"family": "other"}, {"shape": SetShape.DIRECTORY}]
)
def test_assess_weights_of_another_kind_of_set_are_not_compared(facts):
    """What is written under other rules may hold other weights."""
    first, second = (one_set(epoch, Role.PARAMS, **WEIGHTS_ONLY) for epoch in (1, 2))

    assert [] == in_company((first, {"params": WIDER}), (replace(second, **facts), {}))["epoch_2"]


def test_assess_weights_that_are_the_same_are_kept_once():
    """A daemon remembers thousands of sets, and one copy of what is the same in them."""
    sets = [one_set(epoch, Role.PARAMS, Role.OPT) for epoch in (1, 2)]
    alone = assess(facts_of(*sets), RULES, NOW).alone

    first, second = (alone[one.key].traits.weights for one in sets)
    assert first is second
    assert first is not None


STATE = FileScan(
    "pickle",
    10,
    "cc",
    values=tuple(
        ((key,), 1)
        for key in (
            "scale",
            "incr_ratio",
            "decr_ratio",
            "incr_every_n_steps",
            "decr_every_n_nan_or_inf",
            "incr_count",
            "decr_count",
            "use_dynamic_loss_scaling",
        )
    ),
)


@pytest.mark.parametrize(
    ("before", "expected"),
    [(STATE, [("empty_scaler_state", "earlier sets of this run have a state")]), (SCANS[Role.SCALER], [])],
)
def test_assess_empty_scaler_is_suspect_only_if_there_was_a_state(before, expected):
    """A disabled scaler is empty from the beginning; one that has been emptied is not what it was."""
    sets = [one_set(epoch, Role.PARAMS, Role.OPT, Role.SCALER) for epoch in (1, 2)]

    assert expected == in_company((sets[0], {"scaler": before}), (sets[1], {}))["epoch_2"]


@given(st.integers(-(2**62), 2**63 - 1))
def test_saved_at_any_time_is_a_date(mtime_ns):
    """No file time, however wild, breaks the calendar."""
    one = one_set(1, Role.PARAMS)
    entry = replace(one.members[0].entry, mtime_ns=mtime_ns)

    assert saved_at(replace(one, members=(replace(one.members[0], entry=entry),))).tzinfo is UTC


def test_saved_at_beyond_the_calendar_is_its_last_day():
    """A file time after the year 9999 counts as the end of time, not as an error."""
    one = one_set(1, Role.PARAMS)
    entry = replace(one.members[0].entry, mtime_ns=10**21)

    assert 9999 == saved_at(replace(one, members=(replace(one.members[0], entry=entry),))).year
