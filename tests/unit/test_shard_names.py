from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.shard_names import Part, index_of, needs_index, part_of, whole_of


@pytest.mark.parametrize(
    ("name", "part", "index", "is_needed"),
    [
        (
            "model-00001-of-00004.safetensors",
            Part("model.safetensors", 1, 4),
            "model.safetensors.index.json",
            True,
        ),
        (
            "model_state-00002-of-00002.pdparams",
            Part("model_state.pdparams", 2, 2),
            "model_state.pdparams.index.json",
            False,
        ),
        ("model.safetensors", None, None, False),
        ("3_0.distcp", None, "0.metadata", True),
        ("3_0.safetensors", None, "0.metadata", False),
        ("part.distcp", None, None, True),
        ("model-1-of-.safetensors", None, None, False),
    ],
)
def test_shard_name_says_its_whole_and_its_index(name, part, index, is_needed):
    """A shard's name leads to the index, and says how many others there are."""
    assert (part, index, is_needed) == (part_of(name), index_of(name), needs_index(name))
    assert whole_of(name) == (part.whole if part else name)


@given(st.integers(1, 99999), st.integers(1, 99999), st.sampled_from(["model", "a-b.c", "1-of-2"]))
def test_part_of_a_numbered_name_reads_back_what_was_written(number, count, base):
    """Whatever stands before the numbers, they are read as they were written."""
    name = f"{base}-{number:05}-of-{count:05}.safetensors"

    assert Part(f"{base}.safetensors", number, count) == part_of(name)
