from __future__ import annotations

from dataclasses import replace

import pytest

from ckptd.core.model import ExpectedTensor, FileScan, Finding, ProgressKeys, Role, TensorFacts, Verdict
from ckptd.core.set_contents import contents_of
from ckptd.core.verdict import judge
from making import directory_set, stem_set

PLACE = "run/checkpoint-5"
ROLES = {".json": Role.META, ".index.json": Role.INDEX, ".pdmodel": Role.PROGRAM, ".pdopt": Role.OPT}


def shard(**shapes):
    """A safetensors file of these tensors; two underscores stand for a dot and three for a slash."""
    names = {name.replace("___", "/").replace("__", "."): shape for name, shape in shapes.items()}
    tensors = (TensorFacts((name,), shape, "float32", 4, 0) for name, shape in names.items())
    return FileScan("safetensors", 1, "0", tensors=tuple(tensors))


def index(whole, *shards):
    """The index of such files, one after the other."""
    name = whole.removesuffix(".safetensors")
    expected = (
        ExpectedTensor(tensor.key[0], f"{name}-{number:05}-of-{len(shards):05}.safetensors")
        for number, one in enumerate(shards, 1)
        for tensor in one.tensors
    )
    return FileScan("index", 1, "0", expected=tuple(expected))


MODEL = shard(q__weight=(4, 3), norm__weight=(3,))
ADAM = shard(q__weight___moment1_0=(4, 3), q__weight___beta1_pow_acc_0=(1,), norm__weight___moment1_0=(3,))
MASTER = shard(q__weight=(4, 3))
STATE = FileScan("json", 1, "0", values=((("global_step",), 5),))
UNIFIED = {
    "model-00001-of-00001.safetensors": MODEL,
    "model.safetensors.index.json": index("model.safetensors", MODEL),
    "optimizer-00001-of-00001.safetensors": ADAM,
    "optimizer.safetensors.index.json": index("optimizer.safetensors", ADAM),
    "master_weights-00001-of-00001.safetensors": MASTER,
    "master_weights.safetensors.index.json": index("master_weights.safetensors", MASTER),
    "trainer_state.json": STATE,
}


def role_of(name):
    """The role of a file in a directory, as its name says it."""
    if name.endswith(".index.json"):
        return Role.INDEX
    return ROLES.get("." + name.rpartition(".")[2], Role.SHARD)


def judged(files, **facts):
    """The judgement of a directory of these files."""
    checkpoint = directory_set("run", "checkpoint-5", *((name, role_of(name)) for name in files), **facts)
    scans = {f"{PLACE}/{name}": one for name, one in files.items()}
    return judge(checkpoint, scans, contents_of(checkpoint, scans), rule=None, keys=ProgressKeys())


def codes(judgement):
    """The codes of the findings, in their order."""
    return [finding.code for finding in judgement.findings]


def test_unified_checkpoint_of_paddlenlp_is_a_whole_set():
    """Shards with their indexes fill the roles of weights and optimizer, and the progress file its own."""
    judgement = judged(UNIFIED, step=5)

    assert (Verdict.VALID, ()) == (judgement.verdict, judgement.findings)
    assert {Role.PARAMS, Role.OPT, Role.META, Role.SHARD, Role.INDEX} == judgement.roles


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"optimizer": shard(q__weight___moment1_0=(4, 4))}, "foreign_optimizer"),
        ({"master_weights": shard(q__weight=(2, 3))}, "foreign_optimizer"),
        ({"optimizer": shard(q__weight___moment1_0=(4, 3), k___moment1_0=(9, 9))}, "foreign_optimizer"),
        ({"model": shard()}, "missing_role"),
        ({"optimizer": shard()}, "missing_role"),
    ],
)
def test_unified_checkpoint_whose_files_do_not_agree_is_not_valid(changed, expected):
    """State of other shapes or for other keys is found across the files, and an empty shard fills no role."""
    files = dict(UNIFIED)
    for whole, one in changed.items():
        files[f"{whole}-00001-of-00001.safetensors"] = one
        files[f"{whole}.safetensors.index.json"] = index(f"{whole}.safetensors", one)

    assert [expected] == codes(judged(files, step=5))


def test_unified_checkpoint_of_another_step_than_its_name_is_suspect():
    """The trainer's state tells the step that the directory is called by."""
    assert ["progress_disagrees"] == codes(judged(UNIFIED, step=6))


def test_unified_checkpoint_without_the_shards_of_another_machine_is_incomplete():
    """Nothing is said of an optimizer whose parameters may be elsewhere."""
    first = replace(MODEL, tensors=MODEL.tensors[:1])
    second = replace(MODEL, tensors=MODEL.tensors[1:])
    files = {
        "model-00001-of-00002.safetensors": first,
        "model.safetensors.index.json": index("model.safetensors", first, second),
        "optimizer-00001-of-00001.safetensors": ADAM,
        "optimizer.safetensors.index.json": index("optimizer.safetensors", ADAM),
    }

    assert (Verdict.INCOMPLETE, ["missing_shard"]) == (judged(files).verdict, codes(judged(files)))


@pytest.mark.parametrize(
    ("name", "one", "roles"),
    [
        ("model.safetensors", MODEL, {Role.PARAMS}),
        ("model.safetensors", shard(), {Role.PARAMS}),
        ("peft_model.safetensors", MODEL, {Role.PARAMS}),
        ("unet.safetensors", MODEL, {Role.PARAMS}),
        ("optimizer.safetensors", shard(anything=(2, 2)), {Role.OPT}),
        ("optimizer.safetensors", shard(), {Role.OPT}),
        ("master_weights.safetensors", MODEL, set()),
        ("state.safetensors", ADAM, {Role.OPT}),
        (
            "everything.safetensors",
            replace(MODEL, tensors=MODEL.tensors + ADAM.tensors),
            {Role.PARAMS, Role.OPT},
        ),
        ("0_0.distcp", MODEL, {Role.PARAMS}),
        ("0_0.distcp", shard(), set()),
    ],
)
def test_shard_fills_roles_by_its_name_and_its_tensors(name, one, roles):
    """Optimizer state is known by its file or by its names; a file by itself is to hold something."""
    assert roles | {Role.SHARD} == judged({name: one}).roles


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("model-00001-of-00001.safetensors", {Role.PARAMS}),
        ("optimizer-00001-of-00001.safetensors", {Role.OPT}),
        ("master_weights-00001-of-00001.safetensors", set()),
    ],
)
def test_shard_that_was_not_understood_is_not_missing(name, roles):
    """What is wrong with a file is said once, and not again as a role that nothing fills."""
    broken = FileScan("unknown", 1, None, (Finding("truncated", f"{PLACE}/{name}", ""),))

    assert roles | {Role.SHARD} == judged({name: broken}).roles


@pytest.mark.parametrize(
    ("stem", "roles"), [("model", {Role.SHARD, Role.PARAMS}), ("model-00001-of-00002", {Role.SHARD})]
)
def test_shard_beside_others_is_no_set_of_its_own(stem, roles):
    """A part of a model that lies in no set's directory does not pass for the whole."""
    checkpoint = stem_set("run", stem, (".safetensors", Role.SHARD))

    assert roles == contents_of(checkpoint, {f"run/{stem}.safetensors": MODEL}).roles


def test_group_sharded_weights_go_by_the_name_of_a_program():
    """`save_group_sharded_model` writes the weights as `model.pdmodel`; a real program holds none."""
    weights = FileScan("pickle", 1, "0", tensors=MODEL.tensors)
    program = FileScan("program", 1, "0")

    assert Verdict.VALID is judged({"model.pdmodel": weights, "model.pdopt": shard()}).verdict
    assert Verdict.INCOMPLETE is judged({"model.pdmodel": program, "model.pdopt": shard()}).verdict


def test_program_with_the_name_of_a_progress_file_tells_no_progress():
    """`paddle.static.save` writes its program as JSON beside the weights."""
    program = FileScan("pir_program", 1, "0")
    files = {"model.safetensors": MODEL, "state.json": program}

    assert Role.META not in judged(files, required=frozenset({Role.PARAMS})).roles
