from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.metrics import CONTAINER, MISSING, epoch_of, find_value, metric_of, step_of
from ckptd.core.model import FileScan, Finding, Metric, MetricRule, Order, ProgressKeys, TensorFacts

keys = st.text("ab.1 ", min_size=1, max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(keys, inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


def leaves(tree, path=()):
    """The plain values of a tree, as the scanner lists them."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [leaf for key, value in items for leaf in leaves(value, (*path, key))]
    return [(path, tree)]


def scan(tree=None, tensors=()):
    """A sound file that holds the tree."""
    values = () if tree is None else tuple(leaves(tree))
    facts = tuple(TensorFacts(key, (2,), "float32", 8, 0) for key in tensors)
    return FileScan("pickle", 1, "0" * 32, tensors=facts, values=values)


def text_of(path):
    """A key path as one writes it."""
    return ".".join(map(str, path))


@given(trees)
def test_find_value_of_every_leaf_finds_one_of_its_path(tree):
    """Whatever a leaf's path is, its text leads to a leaf with that text."""
    found = leaves(tree)
    for path, _ in found:
        if path:
            same = [value for other, value in found if text_of(other) == text_of(path)]
            value = find_value(found, text_of(path))
            assert value is CONTAINER or any(value is one for one in same)


@given(trees, st.text("ab.-1 ", max_size=8) | st.text(max_size=8))
def test_find_value_of_any_text_finds_a_leaf_or_says_why_not(tree, path):
    """Nothing that a user may write raises."""
    found = leaves(tree)
    value = find_value(found, path)

    assert value in (MISSING, CONTAINER) or any(value is one for _, one in found)


@given(st.lists(st.integers(), min_size=1, max_size=9), st.data())
def test_find_value_of_a_negative_index_counts_from_the_end(numbers, data):
    """An index from the end finds what the same index finds in Python."""
    index = data.draw(st.integers(-len(numbers), len(numbers) - 1))

    assert numbers[index] == find_value(leaves({"log": numbers}), f"log.{index}")


@pytest.mark.parametrize(
    ("tree", "path", "expected"),
    [
        ({"acc": 0.9}, "acc", 0.9),
        ({"best_model_dict": {"hmean": 0.7}}, "best_model_dict.hmean", 0.7),
        ({"log_history": [{"eval_loss": 2.0}, {"eval_loss": 1.0}]}, "log_history.-1.eval_loss", 1.0),
        ({"log_history": [{"eval_loss": 2.0}, {"loss": 1.0}]}, "log_history.-1.eval_loss", MISSING),
        ({"eval/top.1": 0.5}, "eval/top.1", 0.5),
        ({"m": {"eval.acc.1": 0.5}}, "m.eval.acc.1", 0.5),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 2),
        ({"a": {"c": 1}, "a.b": {"c": 2}}, "a.b.c", 2),
        ({"a": [1, 2]}, "a", CONTAINER),
        ({"a": [1, 2]}, "a.2", MISSING),
        ({"a": [1, 2]}, "a.-3", MISSING),
        ({"a": {"-1": 5}}, "a.-1", 5),
        ({"a": {5: "x", 7: "y"}}, "a.7", "y"),
        ({"a": 1}, "a.b", MISSING),
        ({"a": 1}, "", MISSING),
        ({"": 1}, "", 1),
        ({"a": {"1": "text"}}, "a.1", "text"),
        ({"a": [1]}, "a." + "9" * 5000, MISSING),
    ],
)
def test_find_value_of_known_paths(tree, path, expected):
    """Dots separate keys, numbers index, keys with dots are found, the shortest first key wins."""
    assert expected == find_value(leaves(tree), path)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], "metric_missing"),
        ([scan({"loss": 1.0})], "metric_missing"),
        ([scan({"acc": "0.9"})], "metric_not_a_number"),
        ([scan({"acc": True})], "metric_not_a_number"),
        ([scan({"acc": None})], "metric_not_a_number"),
        ([scan({"acc": {"top1": 0.9}})], "metric_not_a_number"),
        ([scan(tensors=[("acc",)])], "metric_not_a_number"),
        ([scan({"acc": math.nan})], "metric_not_finite"),
        ([scan({"acc": -math.inf})], "metric_not_finite"),
        ([scan({"acc": 10**400})], "metric_not_finite"),
        ([scan({"acc": 0.9})], 0.9),
        ([scan({"acc": 1})], 1.0),
        ([scan({"loss": 2}), scan({"acc": 0.9})], 0.9),
        ([scan({"acc": 0.8}), scan({"acc": 0.9})], 0.8),
        ([scan({"acc": math.nan}), scan({"acc": 0.9})], "metric_not_finite"),
    ],
)
def test_metric_of_sources_is_a_finite_number_or_a_finding(sources, expected):
    """The first file that has anything under the path decides; only finite numbers are metrics."""
    rule = MetricRule("acc", Order.MAX)
    found = metric_of("run/set", [(f"run/{number}", one) for number, one in enumerate(sources)], rule)

    if isinstance(expected, str):
        assert isinstance(found, Finding)
        assert expected == found.code
    else:
        assert Metric("acc", expected, Order.MAX) == found


def test_metric_of_a_hostile_text_shows_it_short_and_printable():
    """What the file says cannot forge a log line or fill it."""
    found = metric_of("set", [("run/a\nb", scan({"acc": "x\n" * 1000}))], MetricRule("acc", Order.MAX))

    assert (r"run/a\x0ab", True) == (found.path, found.detail.isprintable())
    assert len(found.detail) < 150


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (3.0, 3),
        (0, 0),
        (3.5, None),
        (-1, None),
        (True, None),
        ("3", None),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        (1e300, None),
        ([3], None),
    ],
)
def test_step_and_epoch_of_a_value_are_whole_numbers(value, expected):
    """A count is a whole number that a database holds, however it is written down."""
    keys = ProgressKeys()

    assert expected == step_of([scan({"step": value})], keys)
    assert expected == epoch_of([scan({"epoch": value})], keys)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], None),
        ([scan({"step": 5, "global_step": 7})], 7),
        ([scan({"step": 5}), scan({"global_step": 7})], 5),
        ([scan({"step": "many", "iter": 6})], 6),
        ([scan({"loss": 1}), scan({"iteration": 8})], 8),
    ],
)
def test_step_of_several_sources_is_the_first_usable_one(sources, expected):
    """The preferred file comes first, then the order of the keys."""
    assert expected == step_of(sources, ProgressKeys())
