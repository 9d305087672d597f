from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.model import FileScan, Finding, Role
from ckptd.core.progress import progress_findings
from making import directory_set, stem_set


def told(container="pickle", **values):
    """A file that tells these numbers."""
    return FileScan(container, 1, "0", values=tuple(((key,), value) for key, value in values.items()))


def found(layout="plain", *, params=None, opt=None, meta=None, **facts):
    """What is said of a stem's set whose members tell this."""
    scans = {".pdparams": (Role.PARAMS, params), ".pdopt": (Role.OPT, opt), ".pdstates": (Role.META, meta)}
    members = [(suffix, role) for suffix, (role, one) in scans.items() if one is not None]
    checkpoint = stem_set("run", "epoch_3", *members, layout=layout, **facts)
    sound = [
        (member, next(one for suffix, (_, one) in scans.items() if member.entry.path.endswith(suffix)))
        for member in checkpoint.members
    ]
    return list(progress_findings(checkpoint, sound))


def found_in_directory(layout, file, scan, **facts):
    """What is said of a directory with one file that tells progress."""
    checkpoint = directory_set("run", "set", (file, Role.META), layout=layout, **facts)
    return list(progress_findings(checkpoint, [(checkpoint.members[0], scan)]))


@pytest.mark.parametrize("key", ["epoch", "global_step", "iter", "iteration"])
@pytest.mark.parametrize(
    ("first", "second", "is_said"),
    [(7, 3, True), (3, 3, False), (4, 3, False), (5, 3, True), (None, 3, False), ("7", 3, False)],
)
def test_progress_of_a_combined_dict_has_to_be_the_progress_files(key, first, second, is_said):
    """Two tellings of one counter may differ by one, and no more."""
    detail = f"the {key} is {first}, epoch_3.pdparams says {second}"
    expected = [Finding("progress_disagrees", "run/epoch_3.pdstates", detail)] if is_said else []

    assert expected == found(meta=told(**{key: first}), params=told(**{key: second}))


@pytest.mark.parametrize(
    ("layout", "values", "facts", "expected"),
    [
        ("paddleocr", {"epoch": 9}, {"epoch": 3}, ["the epoch is 9, the name says 3"]),
        ("paddleclas", {"epoch": 9}, {"epoch": 3}, ["the epoch is 9, the name says 3"]),
        ("paddleclas", {"epoch": 3}, {"epoch": 3}, []),
        ("paddleclas", {"epoch": 9}, {"epoch": None}, []),  # an alias
        ("paddleseg", {"iter": 900}, {"step": 300}, ["the iter is 900, the name says 300"]),
        ("paddledetection", {"epoch": 9}, {"epoch": 3}, []),  # its names count otherwise
        ("plain", {"epoch": 9}, {"epoch": 3}, []),
    ],
)
def test_progress_in_the_name_is_compared_where_the_suite_is_known(layout, values, facts, expected):
    """Only of suites that write their own counter into the name it is known what it counts."""
    assert expected == [one.detail for one in found(layout, meta=told(**values), **facts)]


@pytest.mark.parametrize(
    ("layout", "last_epoch", "expected"),
    [
        ("paddledetection", 5, ["the epoch is 6, the optimizer's last_epoch is 5"]),
        ("paddledetection", 6, []),
        ("paddledetection", None, []),
        ("paddleclas", 5, []),
    ],
)
def test_progress_of_paddledetection_is_in_its_optimizer_too(layout, last_epoch, expected):
    """PaddleDetection adds the epoch to the optimizer's state, and counts it as in the progress file."""
    scans = {"meta": told(epoch=6), "opt": told(last_epoch=last_epoch)}

    assert expected == [one.detail for one in found(layout, **scans)]


@pytest.mark.parametrize(
    ("file", "scan", "expected"),
    [
        ("trainer_state.json", told("json", global_step=90), ["the global_step is 90, the name says 100"]),
        ("trainer_state.json", told("json", global_step=100), []),
        ("trainer_state.json", told("json", epoch=9.5), []),
        ("metrics.json", told("json", global_step=90), []),  # may describe the best set
    ],
)
def test_progress_of_a_trainer_state_is_in_the_directorys_name(file, scan, expected):
    """PaddleNLP names a directory by the step that the state in it tells."""
    assert expected == [one.detail for one in found_in_directory("paddlenlp", file, scan, step=100)]


def test_progress_in_the_name_of_any_other_directory_is_not_compared():
    """The trainer's state counts under PaddleNLP's names only."""
    scan = told("json", global_step=90)

    assert [] == found_in_directory("plain", "trainer_state.json", scan, step=100)


@given(st.text(max_size=8))
def test_progress_findings_show_any_file_name(name):
    """No name of a file, braces included, breaks the sentence."""
    checkpoint = directory_set("run", "set", (f"{name}.pdparams", Role.PARAMS), ("a.pdstates", Role.META))
    scans = [told(epoch=1), told(epoch=9)]

    [finding] = progress_findings(checkpoint, list(zip(checkpoint.members, scans, strict=True)))

    assert finding.detail.startswith("the epoch is 9, ")
    assert finding.detail.endswith("says 1")
