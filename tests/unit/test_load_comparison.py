from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.load_comparison import is_loadable, load_differences
from ckptd.core.model import FileScan, Finding, Member, Role, TensorFacts
from making import entry

facts = st.tuples(
    st.lists(st.one_of(st.text(max_size=3), st.integers(0, 3)), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["float32", "int64", "uint16"]),
)


def scan(*tensors, container="pickle", findings=()):
    """A scan that found these tensors and codes."""
    found = tuple(TensorFacts(key, shape, dtype, 0, 0) for key, shape, dtype in tensors)
    return FileScan(container, 1, "", tuple(Finding(code, "x", "") for code in findings), found)


@given(st.lists(facts, unique=True), st.randoms())
def test_load_differences_of_the_same_tensors_are_none(tensors, random):
    """The order in which Paddle gives the tensors does not matter."""
    shuffled = random.sample(tensors, len(tensors))
    assert () == load_differences("x", scan(*tensors), shuffled)


@given(st.lists(facts, unique=True, min_size=1), st.data())
def test_load_differences_of_a_tensor_more_or_less_are_one_finding(tensors, data):
    """A tensor that only one of the two sees is a finding, whoever it is."""
    left_out = data.draw(st.sampled_from(tensors))
    fewer = [one for one in tensors if one != left_out]
    for ours, theirs in ((tensors, fewer), (fewer, tensors)):
        (finding,) = load_differences("x", scan(*ours), theirs)
        assert "load_differs" == finding.code


@pytest.mark.parametrize(
    ("container", "ours", "theirs", "codes", "detail"),
    [
        ("safetensors", (("w",), (2,), "bfloat16"), (("w",), (2,), "uint16"), [], None),
        ("tensors", ((0,), (2,), "float32"), ((), (2,), "float32"), [], None),
        ("pickle", (("w",), (2,), "float32"), (("w",), (2,), "float32"), ["nonfinite_values"], None),
        ("pickle", (("w",), (2,), "float32"), (("v",), (2,), "float32"), ["trailing_bytes"], None),
        ("tensors", ((0,), (2,), "float32"), ((), (3,), "float32"), [], "a tensor of type float32"),
        ("pickle", (("n", 0), (2,), "int8"), (("n", 1), (2,), "int8"), [], "n.0 of type int8 and shape (2,)"),
    ],
)
def test_load_differences_in_names_types_and_what_is_known(container, ours, theirs, codes, detail):
    """The lack of bfloat16 in numpy, tensors without names and known findings are no differences."""
    findings = load_differences("x", scan(ours, container=container, findings=codes), [theirs])
    assert (detail is None) == (findings == ())
    assert detail is None or detail in findings[0].detail


@pytest.mark.parametrize(
    ("path", "role", "found", "expected"),
    [
        ("a.pdparams", Role.PARAMS, scan(), True),
        ("a.safetensors", Role.SHARD, scan(container="safetensors"), True),
        ("a.json", Role.META, scan(container="json"), False),
        ("a.pdz", Role.PARAMS, scan(findings=["unloadable_value"]), False),
        ("rng_state.pth", Role.RNG, scan(), False),
        ("0.metadata", Role.INDEX, scan(), False),
        ("fc_0.w_0", Role.PARAMS, scan(((0,), (2,), "int8"), container="tensors"), True),
        ("a.pdiparams", Role.PARAMS, scan(((0,), (2,), "int8"), container="tensors"), False),
        ("x", Role.PARAMS, scan(*[((index,), (2,), "int8") for index in (0, 1)], container="tensors"), False),
    ],
)
def test_is_loadable_is_what_paddle_load_reads_by_itself(path, role, found, expected):
    """Pickles, safetensors and single tensors are loaded; what needs another loader is not."""
    assert expected is is_loadable(Member(role, entry(path)), found)
