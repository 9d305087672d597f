from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.findings import FINDINGS, worst_verdict
from ckptd.core.metrics import MISSING, find_value
from ckptd.core.model import (
    ExpectedTensor,
    FileScan,
    Finding,
    Metric,
    MetricRule,
    Order,
    ProgressKeys,
    Role,
    Severity,
    TensorFacts,
    Verdict,
)
from ckptd.core.set_contents import NOT_READ, contents_of
from ckptd.core.verdict import judge
from making import stem_set

ACC = MetricRule("acc", Order.MAX)
SCALER_STATE = {
    "scale": 32768.0,
    "incr_ratio": 2.0,
    "decr_ratio": 0.5,
    "incr_every_n_steps": 1000,
    "decr_every_n_nan_or_inf": 2,
    "incr_count": 0,
    "decr_count": 0,
    "use_dynamic_loss_scaling": True,
}
SUFFIXES = {
    Role.PARAMS: ".pdparams",
    Role.OPT: ".pdopt",
    Role.SCALER: ".pdscaler",
    Role.META: ".pdstates",
    Role.EMA: ".pdema",
    Role.RNG: ".pth",
    Role.SCHEDULER: ".sched",
    Role.OPAQUE: ".bin",
    Role.EXTRA: ".txt",
    Role.MARKER: ".done",
    Role.INDEX: ".index.json",
    Role.PROGRAM: ".pdmodel",
    Role.SHARD: ".safetensors",
}


def tensor(*key, shape=(4, 3), parameter=None):
    """One tensor of a file."""
    return TensorFacts(key, shape, "float32", 48, 0, parameter)


def scan(*tensors, values=(), findings=()):
    """A file that was read; values are `key=value` pairs of a flat dict, or key paths with values."""
    pairs = values.items() if isinstance(values, dict) else values
    leaves = tuple((key if isinstance(key, tuple) else (key,), value) for key, value in pairs)
    found = tuple(Finding(code, "run/file", "as told") for code in findings)
    return FileScan("pickle", 1, "0" * 32, found, tensors, leaves)


WEIGHTS = scan(
    tensor("fc.weight", parameter="linear_0.w_0"),
    tensor("fc.bias", shape=(3,), parameter="linear_0.b_0"),
)
ADAM = scan(
    tensor("linear_0.w_0_moment1_0"),
    tensor("linear_0.w_0_beta1_pow_acc_0", shape=(1,)),
    tensor("linear_0.b_0_moment1_0", shape=(3,)),
    values=[(("LR_Scheduler", "last_epoch"), 9)],
)
META = scan(values={"epoch": 5, "global_step": 500, "acc": 0.9})


def judged(scans, *, rule=None, required=(Role.PARAMS, Role.OPT), name="epoch_5"):
    """The judgement of a set that has one file of each role given, with these scans."""
    checkpoint = stem_set(
        "run", name, *((SUFFIXES[role], role) for role in scans), required=frozenset(required)
    )
    by_path = {f"run/{name}{SUFFIXES[role]}": one for role, one in scans.items() if one is not None}
    return judge(checkpoint, by_path, contents_of(checkpoint, by_path), rule=rule, keys=ProgressKeys())


def codes(judgement):
    """The codes of the findings, in their order."""
    return [finding.code for finding in judgement.findings]


def test_judge_a_whole_set_is_valid_and_tells_its_progress():
    """Weights, optimizer and progress that belong together make a valid set with step, epoch and metric."""
    judgement = judged({Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.META: META}, rule=ACC)

    assert Verdict.VALID is judgement.verdict
    assert () == judgement.findings
    assert (500, 5, Metric("acc", 0.9, Order.MAX)) == (judgement.step, judgement.epoch, judgement.metric)
    assert {Role.PARAMS, Role.OPT, Role.META} == judgement.roles


@pytest.mark.parametrize("code", sorted(FINDINGS))
@pytest.mark.parametrize("role", [Role.PARAMS, Role.OPT, Role.SCALER, Role.EMA, Role.INDEX, Role.PROGRAM])
def test_judge_a_set_with_a_finding_in_any_state_file_is_no_better_than_it(role, code):
    """Whatever is wrong with a file of training state is wrong with the set."""
    scans = {Role.PARAMS: WEIGHTS, Role.OPT: ADAM}
    scans[role] = scan(*scans.get(role, scan()).tensors, findings=[code])

    judgement = judged(scans)

    assert code in codes(judgement)
    assert worst_verdict([Finding(code, "", "")]) is judgement.verdict


@pytest.mark.parametrize(
    ("code", "optional", "required"),
    [
        ("truncated", Verdict.VALID, Verdict.CORRUPT),
        ("invalid_json", Verdict.VALID, Verdict.CORRUPT),
        ("permission_denied", Verdict.VALID, Verdict.UNREADABLE),
        ("trailing_bytes", Verdict.VALID, Verdict.SUSPECT),
        ("unsafe_global", Verdict.UNSAFE, Verdict.UNSAFE),
        ("unsafe_opcode", Verdict.UNSAFE, Verdict.UNSAFE),
        ("nonfinite_values", Verdict.VALID, Verdict.VALID),
        ("member_not_read", Verdict.VALID, Verdict.VALID),
    ],
)
def test_judge_a_set_with_a_bad_progress_file_weighs_it_by_its_need(code, optional, required):
    """A side file condemns weights only where the layout needs it, or if it would run code."""
    scans = {Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.META: scan(values={"epoch": 5}, findings=[code])}

    alone = judged(scans)
    needed = judged(scans, required=(Role.PARAMS, Role.OPT, Role.META))

    assert optional is alone.verdict
    assert required is needed.verdict
    assert alone.findings
    assert "missing_role" not in codes(needed)


def test_judge_a_set_with_an_unread_progress_file_takes_nothing_from_it():
    """What stood in a damaged file is neither a metric nor a role of the set."""
    broken = scan(values={"epoch": 5, "acc": 0.9}, findings=["truncated"])
    judgement = judged({Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.META: broken}, rule=ACC)

    assert ["member_not_read", "metric_missing"] == codes(judgement)
    assert "truncated: as told" == judgement.findings[0].detail
    assert (None, None) == (judgement.epoch, judgement.metric)
    assert Role.META not in judgement.roles


@pytest.mark.parametrize(
    ("scans", "required", "expected"),
    [
        ({Role.PARAMS: WEIGHTS}, (Role.PARAMS, Role.OPT), "no opt is there"),
        ({Role.OPT: ADAM}, (Role.PARAMS, Role.OPT), "no params is there"),
        ({Role.PARAMS: WEIGHTS}, (Role.PARAMS, Role.META), "no meta is there"),
        ({Role.PARAMS: WEIGHTS}, (Role.PARAMS, Role.SCALER), "no scaler is there"),
    ],
)
def test_judge_a_set_without_a_required_member_is_incomplete(scans, required, expected):
    """What the layout or the configuration requires has to be there."""
    judgement = judged(scans, required=required)

    assert Verdict.INCOMPLETE is judgement.verdict
    assert (Finding("missing_role", "run/epoch_5", expected),) == judgement.findings


def test_judge_a_set_with_an_empty_optimizer_is_valid():
    """SGD has no state, and the file that holds none is there."""
    assert Verdict.VALID is judged({Role.PARAMS: WEIGHTS, Role.OPT: scan()}).verdict


@pytest.mark.parametrize(
    "empty", [scan(), scan(values={"epoch": 3}), scan(tensor("optimizer", "w_moment1_0"))]
)
def test_judge_weights_without_a_tensor_is_suspect(empty):
    """A weights file that holds no weights is no checkpoint, whatever else is in it."""
    judgement = judged({Role.PARAMS: empty, Role.OPT: scan()})

    assert Verdict.SUSPECT is judgement.verdict
    assert ["no_tensors"] == codes(judgement)


def test_judge_a_set_with_another_models_optimizer_is_suspect():
    """Optimizer state of another network is found by its names."""
    other = scan(tensor("conv2d_0.w_0_moment1_0", shape=(8, 3, 3, 3)))
    judgement = judged({Role.PARAMS: WEIGHTS, Role.OPT: other})

    assert Verdict.SUSPECT is judgement.verdict
    detail = "conv2d_0.w_0_moment1_0 belongs to no parameter of this set"
    assert (Finding("foreign_optimizer", "run/epoch_5", detail),) == judgement.findings


@pytest.mark.parametrize("role", [Role.PARAMS, Role.OPT])
def test_judge_a_cut_off_file_says_nothing_of_the_optimizer(role):
    """Of a file that was not read to its end, nothing is concluded."""
    other = scan(tensor("conv2d_0.w_0_moment1_0"))
    scans = {Role.PARAMS: WEIGHTS, Role.OPT: other}
    scans[role] = scan(*scans[role].tensors[:1], findings=["truncated"])

    assert ["truncated"] == codes(judged(scans))


@pytest.mark.parametrize(
    ("scaler", "expected"),
    [
        (scan(values=SCALER_STATE), []),
        (scan(tensor("scale", shape=(1,)), values=list(SCALER_STATE.items())[1:]), []),
        (scan(), []),  # a disabled scaler
        (scan(values=list(SCALER_STATE.items())[:-1]), ["bad_scaler_state"]),
        (scan(values={"epoch": 3}), ["bad_scaler_state"]),
        (scan(values=[((), 3)]), []),  # a bare number has no keys
    ],
)
def test_judge_a_scaler_file_wants_all_of_the_state_or_none(scaler, expected):
    """A GradScaler's state has eight keys, or none if it is disabled."""
    judgement = judged({Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.SCALER: scaler})

    assert expected == codes(judgement)
    assert Role.SCALER in judgement.roles


def combined(model, optimizer, *more, progress=True):
    """One dict with everything, under the given keys."""
    values = [(("epoch",), 5), (("step",), 500), (("loss",), 0.5), (("acc",), 0.9)] if progress else []
    return scan(
        tensor(model, "fc.weight", parameter="linear_0.w_0"),
        tensor(optimizer, "linear_0.w_0_moment1_0", parameter="linear_0.w_0_moment1_0"),
        tensor(optimizer, "linear_0.w_0_beta1_pow_acc_0", shape=(1,)),
        *more,
        values=values,
    )


@pytest.mark.parametrize(
    "model", ["model", "model_state", "model_state_dict", "state_dict", "net", "params", "netG"]
)
@pytest.mark.parametrize(
    "optimizer",
    ["opt", "optimizer", "optimizer_state", "optimizer_state_dict", "optim", "optimG", "opts", "gOptimizer"],
)
def test_judge_a_combined_dict_finds_the_optimizer_under_its_key(model, optimizer):
    """One file with the weights, the optimizer and the progress is a whole set."""
    judgement = judged({Role.PARAMS: combined(model, optimizer)}, rule=ACC)

    assert Verdict.VALID is judgement.verdict
    assert {Role.PARAMS, Role.OPT, Role.META} == judgement.roles
    assert (500, 5, 0.9) == (judgement.step, judgement.epoch, judgement.metric.value)


@pytest.mark.parametrize(
    ("file", "roles"),
    [
        (WEIGHTS, {Role.PARAMS}),
        (scan(*WEIGHTS.tensors, values={"epoch": 3}), {Role.PARAMS, Role.META}),
        (scan(*WEIGHTS.tensors, values={"epoch": "three", "lr": 0.1}), {Role.PARAMS}),
        (scan(*WEIGHTS.tensors, values=[(("config", "epoch"), 3), ((0,), 3), ((), 3)]), {Role.PARAMS}),
        (scan(tensor("generator", "w"), tensor("discriminator", "w")), {Role.PARAMS}),
        (scan(tensor("optical_flow", "w"), tensor("adopt", "w")), {Role.PARAMS}),
        (scan(tensor("net", "velocity_0"), tensor("net", "u_velocity_0")), {Role.PARAMS}),
        (scan(tensor("net", "w"), values={"optimizer": "Adam"}), {Role.PARAMS}),
        (
            scan(tensor("net", "w"), values=[(("optimizer", "LR_Scheduler", "last_lr"), 0.1)]),
            {Role.PARAMS, Role.OPT},
        ),
        (scan(tensor("state", "net", "w"), tensor("state", "opt", "x")), {Role.PARAMS, Role.OPT}),
        (scan(tensor("net", "w"), tensor("second", "w_moment1_0")), {Role.PARAMS, Role.OPT}),
        (combined("m", "o", tensor("scaler", "scale"), progress=False), {Role.PARAMS, Role.OPT, Role.SCALER}),
        (scan(tensor("m", "w"), values=[(("GradScaler", "incr_count"), 1)]), {Role.PARAMS, Role.SCALER}),
        (scan(tensor("m", "w"), values=[(("loss_scaler", "incr_count"), 1)]), {Role.PARAMS, Role.SCALER}),
        (scan(tensor("m", "w"), values=[(("upscaler", "depth"), 1)]), {Role.PARAMS}),
    ],
)
def test_judge_a_single_file_provides_what_its_keys_say(file, roles):
    """Optimizer, scaler and progress within one file count; what merely resembles them does not."""
    assert roles == judged({Role.PARAMS: file}).roles


def test_judge_a_combined_dict_with_an_empty_optimizer_is_whole():
    """Plain SGD has no state: its empty dict in a combined file is all there is to save."""
    without = scan(tensor("model", "w"), values={"epoch": 1})
    empty = scan(tensor("model", "w"), values={"epoch": 1, ("optimizer", ""): None})

    assert Role.OPT not in judged({Role.PARAMS: without}).roles
    assert Role.OPT in judged({Role.PARAMS: empty}).roles


def test_judge_a_combined_dict_with_a_foreign_optimizer_is_suspect():
    """The optimizer in the same file has to belong to the weights in it as well."""
    stranger = tensor("opt", "conv2d_0.w_0_moment1_0")
    loss = tensor("loss", shape=(), parameter="eager_tmp_3")

    assert ["foreign_optimizer"] == codes(judged({Role.PARAMS: combined("net", "opt", stranger, loss)}))


def test_judge_reads_the_metric_from_the_progress_file_before_the_weights():
    """Where both tell a metric, the file that is there for it wins."""
    scans = {Role.PARAMS: combined("net", "opt"), Role.META: scan(values={"acc": 0.7, "epoch": 6})}
    judgement = judged(scans, rule=ACC)

    assert (0.7, 6, 500) == (judgement.metric.value, judgement.epoch, judgement.step)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.9", "metric_not_a_number"), (math.nan, "metric_not_finite"), (None, "metric_not_a_number")],
)
def test_judge_a_set_with_an_unusable_metric_is_valid_without_one(value, expected):
    """A metric that cannot rank is told, and costs nothing else."""
    judgement = judged(
        {Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.META: scan(values={"acc": value})}, rule=ACC
    )

    assert (Verdict.VALID, None) == (judgement.verdict, judgement.metric)
    assert [expected] == codes(judgement)


def test_judge_members_that_are_not_read_never_counts_them():
    """Open-ended files and what merely lies in the directory prove nothing and spoil nothing."""
    bad = scan(findings=["unsafe_global"])
    scans = {Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.OPAQUE: bad, Role.EXTRA: bad, Role.MARKER: None}
    judgement = judged(scans)

    assert Verdict.VALID is judgement.verdict
    detail = "open-ended by nature: unsafe_global"
    assert (Finding("member_not_read", "run/epoch_5.bin", detail),) == judgement.findings


def test_judge_an_open_ended_member_without_anything_special_is_not_mentioned():
    """Every set of PaddleNLP has pickled arguments; what is said each time is not heard."""
    assert () == judged({Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.OPAQUE: scan()}).findings


@pytest.mark.parametrize("role", [Role.OPAQUE, Role.EXTRA, Role.MARKER])
def test_judge_a_lone_file_that_proves_nothing_is_not_valid(role):
    """What nobody understands is not called valid when it is all there is."""
    assert Verdict.UNREADABLE is judged({role: scan()}, required=(role,)).verdict


def test_not_read_leaves_out_what_only_lies_there():
    """Everything but markers and strange files is read."""
    assert {Role.EXTRA, Role.MARKER} == NOT_READ


@pytest.mark.parametrize(
    ("code", "optional", "required"),
    [
        ("truncated", Verdict.SUSPECT, Verdict.CORRUPT),
        ("unsafe_global", Verdict.UNSAFE, Verdict.UNSAFE),
        ("member_not_read", Verdict.VALID, Verdict.VALID),
    ],
)
def test_judge_a_set_with_a_broken_random_state_weighs_it_by_its_need(code, optional, required):
    """Without the random state training goes on, only not exactly as it would have."""
    scans = {Role.PARAMS: WEIGHTS, Role.OPT: ADAM, Role.RNG: scan(findings=[code])}

    assert optional is judged(scans).verdict
    assert required is judged(scans, required=(Role.PARAMS, Role.OPT, Role.RNG)).verdict


@pytest.mark.parametrize("role", [Role.OPT, Role.EMA, Role.SCALER, Role.SCHEDULER, Role.RNG])
@pytest.mark.parametrize(
    "other",
    [
        replace(scan(), container="program"),
        replace(scan(), container="pir"),
        replace(scan(), expected=(ExpectedTensor("w", "0_0.distcp"),)),
    ],
)
def test_judge_another_kind_of_file_does_not_pass_for_empty_state(role, other):
    """A program or an index holds no tensors, and is no optimizer without state for that."""
    judgement = judged({Role.PARAMS: WEIGHTS, Role.OPT: ADAM} | {role: other})

    assert Verdict.SUSPECT is judgement.verdict
    assert ["wrong_container"] == codes(judgement)


def test_judge_weights_that_are_constant_is_told_and_valid():
    """Weights of equal elements are named, and numbers of one element are not."""
    flat = tensor("fc.bias", shape=(3,))._replace(is_constant=True)
    judgement = judged({Role.PARAMS: scan(tensor("fc.weight"), flat), Role.OPT: scan()})

    assert Verdict.VALID is judgement.verdict
    detail = "the elements of 1 of 2 weights are all equal: fc.bias"
    assert (Finding("constant_tensors", "run/epoch_5.pdparams", detail),) == judgement.findings
    assert Severity.INFO is FINDINGS["constant_tensors"].severity


def test_judge_a_member_without_a_scan_is_unreadable():
    """A file that nobody read is not taken on trust."""
    judgement = judged({Role.PARAMS: WEIGHTS, Role.OPT: None})

    assert Verdict.UNREADABLE is judgement.verdict
    assert ["missing_file"] == codes(judgement)


def test_judge_a_set_of_any_name_shows_it_printable():
    """Findings about the set name it so that no log line can be forged."""
    assert r"run/a\x0ab" == judged({Role.PARAMS: WEIGHTS}, name="a\nb").findings[0].path


keys = st.lists(
    st.sampled_from(["model", "opt", "scaler", "epoch", "w_0", "w_0_moment1_0", "@", "", 0, 7]), max_size=3
)
files = st.builds(
    FileScan,
    container=st.just("pickle"),
    bytes=st.just(1),
    digest=st.none(),
    findings=st.lists(
        st.builds(Finding, st.sampled_from(sorted(FINDINGS)), st.just("run/x"), st.just("")), max_size=2
    ).map(tuple),
    tensors=st.lists(
        st.builds(
            TensorFacts,
            keys.map(tuple),
            st.lists(st.integers(0, 3), max_size=2).map(tuple),
            st.just("float32"),
            st.just(1),
            st.just(0),
            st.none() | st.sampled_from(["w_0", "eager_tmp_0", ""]),
        ),
        max_size=4,
    ).map(tuple),
    values=st.lists(
        st.tuples(
            keys.map(tuple), st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2)
        ),
        max_size=4,
    ).map(tuple),
)


@given(st.dictionaries(st.sampled_from(sorted(SUFFIXES)), files, min_size=1), st.none() | st.just(ACC))
def test_judge_any_scans_yields_a_verdict_that_its_findings_explain(scans, rule):
    """Nothing that a file may hold raises; a set is valid exactly if no finding is an error."""
    judgement = judged(scans, rule=rule)

    errors = [one for one in judgement.findings if FINDINGS[one.code].severity is Severity.ERROR]
    assert worst_verdict(judgement.findings) is judgement.verdict
    assert (judgement.verdict is Verdict.VALID) == (not errors)
    assert judgement.metric is None or math.isfinite(judgement.metric.value)
    if rule and judgement.metric:
        assert any(find_value(one.values, "acc") is not MISSING for one in scans.values())
