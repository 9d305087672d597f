from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.layouts import (
    DEFAULT_REQUIRED,
    LAYOUT_NAMES,
    find_runs,
    is_set_directory,
    lone_directory,
    lone_file,
    may_be_set_directory,
    owning_run,
    parent,
    recognise,
)
from ckptd.core.model import EntryKind, Role, SetShape
from making import entry, tree_of

PARAMS_AND_OPT = frozenset({Role.PARAMS, Role.OPT})


def only_set(*paths: str, run: str = "run", layout: str = "auto"):
    """The one set that a listing holds."""
    (found,) = recognise(tree_of(*paths), run, layout=layout)
    return found


@pytest.mark.parametrize(
    ("files", "layout", "name", "step", "epoch"),
    [
        (
            ("iter_epoch_5.pdparams", "iter_epoch_5.pdopt", "iter_epoch_5.states"),
            "paddleocr",
            "iter_epoch_5",
            None,
            5,
        ),
        (("epoch_7.pdparams", "epoch_7.pdopt", "epoch_7.pdstates"), "paddleclas", "epoch_7", None, 7),
        (("5.pdparams", "5.pdopt", "5.pdstates"), "paddledetection", "5", None, 5),
        (("0.pdparams", "0.pdopt", "0.pdscaler"), "hapi", "0", None, 0),
        (("net_epoch_12.pdparams", "net_epoch_12.pdopt"), "plain", "net_epoch_12", None, 12),
        (("epoch-3.pdparams",), "plain", "epoch-3", None, 3),
        (("model_iter_200.pdparams",), "plain", "model_iter_200", 200, None),
        (("step100.pdparams",), "plain", "step100", 100, None),
        (("ckpt-40.pdparams",), "plain", "ckpt-40", 40, None),
        (("model_9.pdparams", "model_9.pdopt"), "plain", "model_9", 9, None),
    ],
)
def test_recognise_numbered_stem_gives_layout_and_number(files, layout, name, step, epoch):
    """A stem with a number is one set, with the number as its suite means it."""
    found = only_set(*(f"run/{file}" for file in files))

    assert (layout, name, step, epoch) == (found.layout, found.name, found.step, found.epoch)
    assert found.shape is SetShape.STEM
    assert not found.is_alias
    assert len(files) == len(found.members)


@pytest.mark.parametrize(
    ("files", "layout", "name", "step", "epoch", "prunes"),
    [
        (("iter_1000/model.pdparams", "iter_1000/model.pdopt"), "paddleseg", "iter_1000", 1000, None, True),
        (
            (
                "checkpoint-500/model_state.pdparams",
                "checkpoint-500/optimizer.pdopt",
                "checkpoint-500/trainer_state.json",
            ),
            "paddlenlp",
            "checkpoint-500",
            500,
            None,
            True,
        ),
        (("epoch_3/net.pdparams", "epoch_3/opt.pdopt"), "plain", "epoch_3", None, 3, False),
        (("step_20/net.pdparams",), "plain", "step_20", 20, None, False),
        (("my_ckpt_7/net.pdparams",), "plain", "my_ckpt_7", 7, None, False),
    ],
)
def test_recognise_numbered_directory_gives_layout_and_number(files, layout, name, step, epoch, prunes):
    """A directory named like a set is one set, with all that it holds."""
    found = only_set(*(f"run/{file}" for file in files))

    assert (layout, name, step, epoch) == (found.layout, found.name, found.step, found.epoch)
    assert (SetShape.DIRECTORY, f"run/{name}", prunes) == (found.shape, found.directory, found.trainer_prunes)


@pytest.mark.parametrize(
    "stem",
    ["latest", "best_accuracy", "best_model", "final", "model_final", "model", "fold_3", "seed_7", "v2"],
)
def test_recognise_stem_without_step_is_alias(stem):
    """A name that counts no step may be rewritten in place, so it is an alias."""
    assert only_set(f"run/{stem}.pdparams").is_alias


def test_recognise_plain_loop_names_each_role():
    """The four files of a hand-written loop get their roles by suffix."""
    found = only_set("run/model.pdparams", "run/model.pdopt", "run/model.pdscaler", "run/model.pdmeta")

    roles = {member.entry.path: member.role for member in found.members}
    assert {
        "run/model.pdparams": Role.PARAMS,
        "run/model.pdopt": Role.OPT,
        "run/model.pdscaler": Role.SCALER,
        "run/model.pdmeta": Role.META,
    } == roles


def test_recognise_sidecars_belong_to_the_stem():
    """JSON beside the weights is progress of the same set, whatever its second suffix."""
    found = only_set(
        "run/epoch_1.pdparams", "run/epoch_1.json", "run/epoch_1.info.json", "run/epoch_1.metrics.json"
    )

    assert [Role.META, Role.META, Role.META, Role.PARAMS] == sorted(member.role for member in found.members)


def test_recognise_set_directory_takes_everything_in_it():
    """All that lies in a set's directory belongs to it, down to the last level."""
    found = only_set(
        "run/epoch_1/model.pdparams",
        "run/epoch_1/config.json",
        "run/epoch_1/inference/inference.json",
        "run/epoch_1/deep/er/x",
    )

    extras = [member.entry.path for member in found.members if member.role is Role.EXTRA]
    assert [
        "run/epoch_1/config.json",
        "run/epoch_1/deep",
        "run/epoch_1/deep/er",
        "run/epoch_1/deep/er/x",
        "run/epoch_1/inference",
        "run/epoch_1/inference/inference.json",
    ] == extras


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("scheduler.pdparams", Role.SCHEDULER),
        ("scaler.pdparams", Role.SCALER),
        ("rng_state_4.pth", Role.RNG),
        ("training_args.bin", Role.OPAQUE),
        ("model.safetensors", Role.SHARD),
        ("model.safetensors.index.json", Role.INDEX),
        ("trainer_state.json", Role.META),
        ("saved_signal_0", Role.MARKER),
        ("tokenizer.json", Role.EXTRA),
    ],
)
def test_recognise_member_of_directory_has_the_role_of_its_name(name, role):
    """Names that suites use inside a set directory mean what the suite means by them."""
    found = only_set("run/checkpoint-5/model_state.pdparams", f"run/checkpoint-5/{name}")

    assert role in {member.role for member in found.members if member.entry.path.endswith(f"/{name}")}


def test_recognise_stem_and_directory_of_one_name_are_two_sets():
    """PaddleOCR keeps `best_model/` beside `best_model.*`: neither hides the other."""
    found = recognise(tree_of("run/best_model.pdparams", "run/best_model/model.pdparams"), "run")

    assert ["best_model", "best_model/"] == [one.name for one in found]
    assert [SetShape.STEM, SetShape.DIRECTORY] == [one.shape for one in found]


def test_recognise_directory_of_numbered_sets_is_a_run():
    """A run that is called like a set but holds numbered sets stays a run."""
    tree = tree_of("step_1/0.pdparams", "step_1/1.pdparams")

    assert ["step_1"] == list(find_runs(tree))
    assert () == recognise(tree, ".")


def test_recognise_directory_in_a_members_place_is_a_member():
    """A directory that is named like a weights file is reported, not passed over."""
    tree = {"run": (entry("run/x.pdparams", kind=EntryKind.DIRECTORY),)}

    (found,) = recognise(tree, "run")
    assert EntryKind.DIRECTORY is found.members[0].entry.kind


@pytest.mark.parametrize(
    "file", ["notes.txt", "config.json", "log.pkl", ".pdparams", "x.pdparams.tar", "vdlrecords.1.log"]
)
def test_recognise_other_files_are_no_sets(file):
    """What holds no weights and no optimizer state is none of our business."""
    assert () == recognise(tree_of(f"run/{file}"), "run")


def test_recognise_pinned_layout_overrules_the_evidence():
    """A layout that the user names is taken, and what its trainer did not write is still found."""
    paths = ("run/5.pdparams", "run/5.pdstates", "run/other.pdparams")

    assert {"hapi", "plain"} == {one.layout for one in recognise(tree_of(*paths), "run", layout="hapi")} | {
        "plain"
    }
    assert {"paddledetection", "plain"} == {one.layout for one in recognise(tree_of(*paths), "run")}


def test_recognise_layout_is_chosen_for_the_whole_run():
    """One set without its progress file yet is read like its siblings that have theirs."""
    found = recognise(tree_of("run/0.pdparams", "run/0.pdstates", "run/1.pdparams"), "run")

    assert ["paddledetection", "paddledetection"] == [one.layout for one in found]


@pytest.mark.parametrize(
    ("files", "required"),
    [
        (("run/iter_epoch_5.pdparams", "run/iter_epoch_5.states"), PARAMS_AND_OPT | {Role.META}),
        (("run/0.pdparams",), PARAMS_AND_OPT),
        (("run/iter_5/model.pdparams",), PARAMS_AND_OPT),
    ],
)
def test_recognise_required_roles_follow_the_suite(files, required):
    """Progress is required where the suite always writes it, and only there."""
    assert required == only_set(*files).required


def test_recognise_best_model_of_seg_needs_no_optimizer():
    """PaddleSeg never writes an optimizer state beside its best weights, so none is missed."""
    found = recognise(tree_of("run/iter_5/model.pdparams", "run/best_model/model.pdparams"), "run")

    assert {"best_model": frozenset({Role.PARAMS}), "iter_5": PARAMS_AND_OPT} == {
        one.name: one.required for one in found
    }


def test_recognise_families_are_told_apart():
    """Sets whose names differ in more than a number do not compete with each other."""
    found = recognise(tree_of("run/gen_epoch_1.pdparams", "run/disc_epoch_1.pdparams"), "run")

    assert ["disc_", "gen_"] == [one.family for one in found]


def test_find_runs_finds_nested_and_root_runs():
    """A run is a directory with sets in it, at any depth, the root included."""
    tree = tree_of(
        "model.pdparams", "a/b/epoch_1.pdparams", "a/c/iter_5/model.pdparams", "a/d/notes.txt", "e/"
    )

    assert [".", "a/b", "a/c"] == list(find_runs(tree))


@pytest.mark.parametrize(
    ("path", "run"),
    [
        (".", "."),
        ("run", "run"),
        ("run/iter_5", "run"),
        ("run/iter_5/inference", "run"),
        ("iter_6", "iter_6"),
        ("iter_6/epoch_1", "iter_6"),
    ],
)
def test_owning_run_of_anything_in_a_set_is_the_sets_run(path, run):
    """A change inside a set's directory concerns the run that holds it; a mere likeness of name does not."""
    tree = tree_of("run/iter_5/model.pdparams", "run/iter_5/inference/", "iter_6/epoch_1/model.pdparams")

    assert run == owning_run(path, lambda place: is_set_directory(tree, place))


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1))
def test_recognise_any_name_never_fails(name):
    """Whatever a file is called, recognition answers."""
    tree = {"run": (entry(f"run/{name}.pdparams"), entry(f"run/{name}", kind=EntryKind.DIRECTORY))}

    assert name in {one.name for one in recognise(tree, "run")}
    assert may_be_set_directory(name) in {True, False}


@given(
    st.lists(st.sampled_from(["1.pdparams", "1.pdopt", "best_model.pdparams", "epoch_2.pdparams", "x.json"]))
)
def test_recognise_ignores_the_order_of_the_listing(names):
    """The same files give the same sets, in whatever order they were listed."""
    entries = [entry(f"run/{name}") for name in dict.fromkeys(names)]

    forwards = recognise({"run": tuple(entries)}, "run")
    backwards = recognise({"run": tuple(reversed(entries))}, "run")
    assert [(one.key, one.layout, one.fingerprints) for one in forwards] == [
        (one.key, one.layout, one.fingerprints) for one in backwards
    ]


@pytest.mark.parametrize(
    ("name", "role"),
    [("x.pdopt", Role.OPT), ("x.json", Role.META), ("x", Role.PARAMS), ("x.pdparams", Role.PARAMS)],
)
def test_lone_file_requires_nothing_but_itself(name, role):
    """A file that is asked about by name is judged without what should lie beside it."""
    found = lone_file(entry(f"run/{name}"))

    assert ("run", name, frozenset({role})) == (found.run, found.name, found.required)
    assert [role] == [member.role for member in found.members]


def test_layout_names_hold_the_fallback():
    """The plain layout is always there, and can be asked for."""
    assert {"plain", "hapi", "paddleocr"} <= LAYOUT_NAMES
    assert PARAMS_AND_OPT == DEFAULT_REQUIRED
    assert "." == parent("x")


@pytest.mark.parametrize("files", [("0_0.distcp", "0.metadata"), ("inference.pdmodel",)])
@pytest.mark.parametrize("place", ["run", "run/step_5"])
def test_recognise_flex_checkpoints_and_programs_make_no_set(place, files):
    """Nobody asked for these to be watched; in a set's directory they are members that are read."""
    paths = [f"{place}/{file}" for file in files]

    assert () == recognise(tree_of(*paths), "run")
    if place == "run/step_5":
        roles = {member.role for member in only_set(*paths, f"{place}/model.pdparams").members}
        assert roles <= {Role.PARAMS, Role.SHARD, Role.INDEX, Role.PROGRAM}


def test_recognise_stem_leaves_programs_beside_it_alone():
    """What a trainer exports beside its weights is not moved with them."""
    assert 1 == len(only_set("run/epoch_1.pdparams", "run/epoch_1.pdmodel").members)


def test_lone_directory_takes_shards_of_any_name():
    """A model that was downloaded, or a flex checkpoint, is one set of its files."""
    found = lone_directory(tree_of("a/model/0_0.distcp", "a/model/0.metadata", "a/model/x.txt"), "a/model")

    assert ("a", "model", "a/model") == (found.run, found.name, found.directory)
    assert {Role.SHARD, Role.INDEX, Role.EXTRA} == {member.role for member in found.members}
    assert frozenset({Role.SHARD}) == found.required


def test_lone_directory_without_shards_is_none():
    """Files that need not be together are not judged together."""
    assert lone_directory(tree_of("a/model.pdparams"), "a") is None
