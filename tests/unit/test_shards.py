from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core import shards
from ckptd.core.model import ExpectedTensor, FileScan, Finding, Role, TensorFacts
from ckptd.core.shards import shard_findings
from making import directory_set, stem_set

PLACE = "run/checkpoint-5"


def shard(*names, shape=(4,), dtype="float32"):
    """A shard that holds these tensors."""
    return FileScan(
        "safetensors", 1, "0", tensors=tuple(TensorFacts((one,), shape, dtype, 4, 0) for one in names)
    )


def index(**files):
    """An index that says which tensors are in which of the two usual shards."""
    expected = [ExpectedTensor(name, FILES[key], None) for key, names in files.items() for name in names]
    return FileScan("index", 1, "0", expected=tuple(expected))


FILES = {"first": "model-00001-of-00002.safetensors", "second": "model-00002-of-00002.safetensors"}
INDEX = "model.safetensors.index.json"


def found_in(members):
    """What is said of a directory of these files, each with its scan or None if it was not understood."""
    roles = {name: Role.INDEX if name.endswith((".json", ".metadata")) else Role.SHARD for name in members}
    checkpoint = directory_set("run", "checkpoint-5", *roles.items())
    sound = [
        (member, members[member.entry.path.rpartition("/")[2]])
        for member in checkpoint.members
        if members[member.entry.path.rpartition("/")[2]] is not None
    ]
    return shard_findings(checkpoint, sound)


WHOLE = {INDEX: index(first=["a"], second=["b"]), FILES["first"]: shard("a"), FILES["second"]: shard("b")}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({FILES["second"]: ...}, [("missing_shard", INDEX)]),
        (
            {FILES["second"]: shard("c")},
            [("missing_shard_tensor", FILES["second"]), ("unindexed_tensor", FILES["second"])],
        ),
        ({FILES["second"]: shard("b", "c")}, [("unindexed_tensor", FILES["second"])]),
        ({FILES["second"]: None}, []),  # what is wrong with it is said by its own findings
        ({INDEX: None}, []),
        ({INDEX: ...}, [("missing_index", INDEX)]),
        (
            {INDEX: ..., FILES["second"]: ...},
            [("missing_shard", "model.safetensors"), ("missing_index", INDEX)],
        ),
        (
            {"model-00001-of-00001.safetensors": shard("a")},
            [("unindexed_tensor", "model-00001-of-00001.safetensors")],
        ),
        ({"unet.safetensors": shard("x")}, []),  # a model of its own, which needs no index
    ],
)
def test_shard_findings_of_an_indexed_directory(changed, expected):
    """Every way in which index and shards can part has its own code, and names the file to look at."""
    members = {name: scan for name, scan in (WHOLE | changed).items() if scan is not ...}

    assert [(code, f"{PLACE}/{name}") for code, name in expected] == [
        (one.code, one.path) for one in found_in(members)
    ]


def test_shard_findings_say_what_is_missing_in_words():
    """The detail counts and names, so that somebody knows which machine to ask."""
    members = {INDEX: index(first=["a"], second=["b", "c"]), FILES["first"]: shard("a")}

    detail = f"1 of the 2 files that it names are not here: {FILES['second']}"
    assert (Finding("missing_shard", f"{PLACE}/{INDEX}", detail),) == found_in(members)


def test_shard_findings_count_only_numbers_within_the_count():
    """Shards of another count do not stand in for those that are missing."""
    some = {f"model-{number:05}-of-00002.safetensors": None for number in (1, 3)}

    assert "1 of 2 shards are not here" in [one.detail for one in found_in(some)]


def test_shard_findings_of_sharded_pdparams_need_no_index():
    """Such files can be loaded one by one; their count has to be right all the same."""
    names = [f"model_state-{number:05}-of-00002.pdparams" for number in (1, 2)]

    assert () == found_in(dict.fromkeys(names))
    assert ["missing_shard"] == [one.code for one in found_in({names[0]: None})]


def test_shard_findings_of_files_side_by_side_are_none():
    """A shard that is judged by itself says nothing of its neighbours."""
    assert () == shard_findings(stem_set("run", "model-00001-of-00002", (".safetensors", Role.SHARD)), [])


def flex(*parts):
    """Metadata that say of one tensor which part is in which file: file, offset, shape."""
    expected = tuple(ExpectedTensor("w", file, size, offset, "bfloat16") for file, offset, size in parts)
    return FileScan("pickle", 1, "0", expected=expected)


def part(shape, dtype="uint16", name="w"):
    """A file of a flex checkpoint with one tensor."""
    return shard(name, shape=shape, dtype=dtype)


HALVES = (("0_0.distcp", (0, 0), (2, 2)), ("1_0.distcp", (0, 2), (2, 2)))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"0.metadata": flex(*HALVES), "0_0.distcp": part((2, 2)), "1_0.distcp": part((2, 2))}, []),
        ({"0.metadata": flex(*HALVES), "0_0.distcp": part((2, 2))}, ["missing_shard"]),
        ({"0_0.distcp": part((2, 2))}, ["missing_index"]),
        # A second save into the directory keeps the metadata of the first.
        ({"0.metadata": flex(*HALVES[:1]), "0_0.distcp": part((2, 4))}, ["shard_mismatch"]),
        ({"0.metadata": flex(*HALVES[:1]), "0_0.distcp": part((2, 2), "float32")}, ["shard_mismatch"]),
        (
            {"0.metadata": flex(*HALVES[:1]), "0_0.distcp": part((2, 2), name="v")},
            ["missing_shard_tensor", "unindexed_tensor"],
        ),
        (
            {"0.metadata": flex(*HALVES[:1]), "0_0.distcp": part((2, 2)), "1_0.distcp": part((2, 2))},
            ["unindexed_tensor"],
        ),
        ({"0.metadata": flex(*HALVES[1:]), "1_0.distcp": part((2, 2))}, ["uncovered_tensor"]),
        ({"0.metadata": flex(), "0_0.distcp": shard()}, []),
        ({"0.metadata": flex(), "0_0.safetensors": shard("w")}, ["unindexed_tensor"]),
    ],
)
def test_shard_findings_of_a_flex_checkpoint(members, expected):
    """Metadata and data of different saves are told apart by what they say of each tensor."""
    assert expected == [one.code for one in found_in(members)]


def is_covered(*boxes):
    """Whether boxes, as offset and shape, are taken for a whole."""
    parts = [ExpectedTensor("w", "0_0.distcp", shape, offset) for offset, shape in boxes]
    scan = FileScan("pickle", 1, "0", expected=tuple(parts))
    return "uncovered_tensor" not in [one.code for one in found_in({"0.metadata": scan})]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([((), ())], True),
        ([((0,), (4,))], True),
        ([((0,), (4,)), ((0,), (4,))], True),  # a replica
        ([((0,), (4,)), ((4,), (4,))], True),
        ([((0,), (4,)), ((5,), (4,))], False),
        ([((0,), (5,)), ((4,), (4,))], False),
        ([((1,), (4,))], False),
        ([((0,), (0,))], True),
        ([((0,), (4,)), ((4,), (0,))], True),
        ([((0, 0), (2, 2)), ((2, 2), (2, 2))], False),
        ([((0, 0), (2, 2)), ((0,), (4,))], False),
        # The volumes fit, but one corner is covered twice and another not at all.
        ([((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (2, 2)), ((1, 1), (2, 2))], False),
        ([((0,) * 10, (1,) * 10)], False),  # no tensor has so many dimensions
    ],
)
def test_shard_findings_see_parts_that_do_not_tile(boxes, expected):
    """The parts of a tensor have to fill it from its first element to its last, each once."""
    assert expected == is_covered(*boxes)


def test_shard_findings_give_up_on_parts_without_end(monkeypatch):
    """An index that would take minutes to put together is not taken for a good one."""
    monkeypatch.setattr(shards, "_MAX_CORNERS", 7)

    assert is_covered(((0,), (4,)), ((4,), (4,)), ((8,), (4,)))
    assert not is_covered(((0, 0), (4, 2)), ((0, 2), (4, 2)))


@given(st.data())
def test_shard_findings_any_grid_of_parts_is_whole_until_one_is_taken_away(data):
    """Cut a tensor along any lines: the parts are a whole, and without an inner one they are not."""
    cuts = [
        sorted(data.draw(st.sets(st.integers(1, 9), max_size=3)) | {0, 10})
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    steps = [list(pairwise(along)) for along in cuts]
    boxes = [
        (tuple(start for start, _ in cell), tuple(end - start for start, end in cell))
        for cell in product(*steps)
    ]

    assert is_covered(*boxes)
    assert math.prod([10] * len(cuts)) == sum(math.prod(shape) for _, shape in boxes)
    if len(boxes) > 1:
        assert not is_covered(*boxes[1:])  # without the origin, whatever is left
