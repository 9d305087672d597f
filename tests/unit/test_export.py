from __future__ import annotations

import numpy as np
import pytest

from ckptd.worker.export import ExportRefusedError, _largest_difference, _samples, _some, _weights_in

STATE = {"w": 1, "b": 2}
OTHER = {"w_moment1_0": 3}


@pytest.mark.parametrize(
    ("tree", "key", "expected"),
    [
        (STATE, "", ""),
        (STATE | {"extra": 1}, "", ""),
        ({"epoch": 1, "model": STATE, "opt": OTHER}, "", "model"),
        ({"trainer": {"state": {"model": STATE}}}, "", "trainer.state.model"),
        ({"model": STATE, "ema": STATE}, "ema", "ema"),
        ({"model": {"w": 1}, "opt": OTHER}, "", "model"),
        ({"a.b": {"c": STATE}}, "a.b.c", "a.b.c"),
    ],
    ids=["bare", "bare with more", "combined", "deep", "told", "nearest", "dots in keys"],
)
def test_weights_in_a_file_are_found_where_they_are(tree, key, expected):
    """The one mapping that covers the network is taken, or the one that was asked for, or the nearest."""
    where, weights = _weights_in(tree, key, STATE)

    assert expected == where
    assert "w" in weights


@pytest.mark.parametrize(
    ("tree", "key", "reason"),
    [
        ({"model": STATE, "ema": STATE}, "", "several parts of the file fit the network: 'model', 'ema'"),
        ({"model": STATE}, "ema", "the file has no mapping 'ema'; it has 'model'"),
        ({"opt": OTHER}, "", "the file holds no weight of this network, but opt"),
        ([STATE], "", "the file holds no weight of this network, but list"),
        ({"1": {"2": {"3": {"4": {"5": STATE}}}}}, "", "the file holds no weight of this network, but 1"),
    ],
    ids=["ambiguous", "no such key", "only an optimizer", "a list", "too deep"],
)
def test_weights_in_a_file_that_cannot_be_told_are_refused(tree, key, reason):
    """Nothing is guessed: what there is, is named."""
    with pytest.raises(ExportRefusedError) as refusal:
        _weights_in(tree, key, STATE)

    assert reason == refusal.value.reason


def test_samples_are_repeatable_and_fit_the_spec():
    """Free batches are tried with 1 and 3, other free sizes with 64; integers stay inside any vocabulary."""
    spec = [
        {"shape": [-1, 3, -1], "dtype": "float32", "name": "image"},
        {"shape": [-1], "dtype": "int64", "name": ""},
        {"shape": [2], "dtype": "bool", "name": "mask"},
    ]

    first, again = _samples(spec), _samples(spec)

    assert [[(1, 3, 64), (1,), (2,)], [(3, 3, 64), (3,), (2,)]] == [
        [value.shape for value in sample.values()] for sample in first
    ]
    assert {"image": np.float32, "input_1": np.int64, "mask": np.bool_} == {
        name: value.dtype for name, value in first[0].items()
    }
    assert all(0 <= number < 2 for number in first[1]["input_1"])
    assert all(np.array_equal(first[1][name], again[1][name]) for name in first[1])


def test_samples_of_fixed_inputs_are_tried_once():
    """Where the batch is fixed there is one sample."""
    assert [(4, 2)] == [
        sample["x"].shape for sample in _samples([{"shape": [4, 2], "dtype": "float32", "name": "x"}])
    ]


def arrays(*values):
    """Outputs of one number each."""
    return [np.array([value], "float32") for value in values]


def test_largest_difference_within_tolerance_is_told():
    """The figure of the proof is the largest difference over all outputs; empty outputs agree."""
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    empty = np.zeros((0, 3), "float32")

    assert 0.5 == _largest_difference(arrays(1000.5, 1), arrays(1000, 1), tolerance)
    assert 0.0 == _largest_difference([empty], [empty], tolerance)


@pytest.mark.parametrize(
    ("found", "wanted", "reason"),
    [
        (
            arrays(1.1),
            arrays(1.0),
            "output 0 of the model differs from the network's by up to 0.1 (rtol 0, atol 0.01)",
        ),
        (arrays(1.0, np.nan), arrays(1.0, 1.0), "output 1 is not finite"),
        (arrays(np.nan), arrays(np.nan), "output 0 is not finite"),
        (arrays(np.inf), arrays(np.inf), "output 0 is not finite"),
        (arrays(1.0, 1.0), arrays(1.0), "the model's outputs are [[1], [1]], the network's [[1]]"),
        ([], [], "the network returns no tensor"),
    ],
    ids=["far", "nan", "nan in both", "infinite in both", "one more", "none"],
)
def test_largest_difference_beyond_tolerance_is_refused(found, wanted, reason):
    """What differs, or is not finite even where both agree, is never served."""
    with pytest.raises(ExportRefusedError) as refusal:
        _largest_difference(found, wanted, {"rtol": 0.0, "atol": 0.01})

    assert reason == refusal.value.reason


def test_some_names_are_listed_and_the_rest_counted():
    """A network of thousands of names does not make a reason of thousands of words."""
    assert "a, b" == _some(["a", "b"])
    assert "0, 1, 2, 3, 4, 5, 6, 7 and 92 more" == _some([str(number) for number in range(100)])
