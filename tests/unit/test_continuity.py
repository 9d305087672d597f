from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.continuity import Traits, changes, traits_of
from ckptd.core.model import FileScan, Finding, Role, TensorFacts
from ckptd.core.set_contents import contents_of
from making import directory_set, stem_set


def tensor(*key, shape=(4, 3), dtype="float32", parameter=None):
    """One tensor of a file."""
    return TensorFacts(key, shape, dtype, 48, 0, parameter)


def scan(*tensors, values=(), findings=()):
    """A file that holds these."""
    return FileScan("pickle", 1, "0", findings, tensors, tuple(values))


def traits(*tensors, findings=()):
    """The traits of a set whose weights file holds these tensors."""
    checkpoint = stem_set("run", "epoch_1", (".pdparams", Role.PARAMS))
    scans = {"run/epoch_1.pdparams": scan(*tensors, findings=findings)}
    return traits_of(checkpoint, contents_of(checkpoint, scans))


def said(before, now):
    """What is said of weights that follow others, as pairs of code and detail."""
    found = changes("run/epoch_2", traits(*before), traits(*now), "epoch_1")
    return [(one.code, one.detail) for one in found]


W = tensor("w", parameter="linear_0.w_0")
B = tensor("b", shape=(3,), parameter="linear_0.b_0")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([W, B], [B, W], []),
        ([W, B], [W], [("tensors_lost", "1 tensors are gone since epoch_1: b (3,) float32")]),
        ([W], [W, B], [("tensors_added", "1 tensors are new since epoch_1: b (3,) float32")]),
        (
            [W],
            [W._replace(shape=(4, 5))],
            [
                (
                    "shapes_changed",
                    "1 tensors have other shapes since epoch_1: w (4, 3) float32 to (4, 5) float32",
                )
            ],
        ),
        (
            [W],
            [W._replace(dtype="uint16")],
            [
                (
                    "dtypes_changed",
                    "1 tensors are of another type since epoch_1: w (4, 3) float32 to (4, 3) uint16",
                )
            ],
        ),
        ([W._replace(shape=())], [W._replace(shape=(1,))], []),  # one number, as two versions write it
        ([tensor("losses", shape=(7,))], [tensor("losses", shape=(8,))], []),
        ([W, tensor("best", parameter="eager_tmp_3")], [W], []),  # no parameter, as others are
        ([tensor("net", "w"), tensor("best")], [tensor("net", "w")], []),
        ([tensor("net", "w", shape=(2**63,))], [tensor("net", "w", shape=(2**63 + 1,))], []),
    ],
)
def test_changes_between_two_sets_are_named(before, now, expected):
    """Lost, reshaped, retyped and new weights are told apart; what loops save beside them does not count."""
    assert expected == said(before, now)


def test_changes_of_weights_that_are_not_known_are_none():
    """Of a set that was cut off nothing is said, and nothing follows from it."""
    cut_off = traits(W, findings=(Finding("truncated", "run/epoch_1.pdparams", ""),))

    assert Traits() == cut_off
    assert [] == list(changes("run/epoch_2", cut_off, traits(W), "epoch_1"))
    assert [] == list(changes("run/epoch_2", traits(W), cut_off, "epoch_1"))


names = st.text(max_size=5)
shapes = st.lists(st.integers(0, 5), min_size=2, max_size=3).map(tuple)
weights = st.dictionaries(names, shapes, max_size=6).map(
    lambda found: [tensor(name, shape=shape, parameter="w") for name, shape in found.items()]
)


@given(weights, weights)
def test_changes_one_way_are_the_reverse_of_the_other_way(before, now):
    """A set follows itself without a word, and what is lost one way is new the other way."""
    there, back = said(before, now), said(now, before)

    assert [] == said(before, before)
    reshaped = [one for one in before for other in now if one.key == other.key and one.shape != other.shape]
    assert ("tensors_lost" in dict(there)) == ("tensors_added" in dict(back))
    assert "shapes_changed" not in dict(there) or reshaped


def test_traits_of_shards_do_not_depend_on_how_they_are_cut():
    """The same weights in another number of files are the same weights."""
    name = "model-0000{}-of-0000{}.safetensors"
    cut = {
        count: directory_set(
            "run",
            "checkpoint-5",
            *((name.format(number, count), Role.SHARD) for number in range(1, count + 1)),
            ("model.safetensors.index.json", Role.INDEX),
        )
        for count in (1, 2)
    }
    scans = {
        1: {"run/checkpoint-5/" + name.format(1, 1): scan(W, B)},
        2: {
            "run/checkpoint-5/" + name.format(1, 2): scan(W),
            "run/checkpoint-5/" + name.format(2, 2): scan(B),
        },
    }
    one, two = (traits_of(cut[count], contents_of(cut[count], scans[count])) for count in (1, 2))

    assert one == two
    assert one.weights is not None


def test_traits_of_a_flex_checkpoint_leave_out_its_weights():
    """Parts may be cut otherwise each time, so that their shapes say nothing."""
    checkpoint = directory_set("run", "step_5", ("0_0.distcp", Role.SHARD), ("0.metadata", Role.INDEX))
    scans = {"run/step_5/0_0.distcp": scan(W)}

    assert Traits() == traits_of(checkpoint, contents_of(checkpoint, scans))


@pytest.mark.parametrize(
    ("role", "one", "expected"),
    [
        (Role.SCALER, scan(), False),
        (Role.SCALER, scan(values=[(("scale",), 1.0)]), True),
        (Role.PARAMS, scan(W), None),
        (Role.PARAMS, scan(W, values=[(("scaler", ""), None)]), False),
        (Role.PARAMS, scan(W, values=[(("scaler", "scale"), 1.0)]), True),
        (Role.META, scan(values=[(("scaler", "scale"), 1.0)]), None),
    ],
)
def test_traits_tell_a_scaler_from_an_empty_one_and_none(role, one, expected):
    """A disabled GradScaler saves an empty dict; that is no state, but there is a place for one."""
    checkpoint = stem_set("run", "epoch_1", (".x", role))

    assert expected is traits_of(checkpoint, contents_of(checkpoint, {"run/epoch_1.x": one})).has_scaler_state
