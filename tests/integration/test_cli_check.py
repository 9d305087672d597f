from __future__ import annotations

import json
import os

import numpy as np
import pytest

from checkpoints import dump, save, weights
from ckptd.cli.main import main

KEYS = {
    "schema",
    "run",
    "set",
    "layout",
    "verdict",
    "step",
    "epoch",
    "metric",
    "bytes",
    "findings",
    "members",
}
FINDING_KEYS = {"code", "severity", "path", "detail"}
MEMBER_KEYS = {"role", "path", "bytes", "digest", "tensors", "nonfinite"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two runs, one with a set that has lost its optimizer state, and a directory without any set."""
    root = tmp_path_factory.mktemp("tree")
    save(root / "good", "step_1", step=1)
    save(root / "good" / "step_2", "model", step=2)
    save(root / "bad", "step_1", step=1)
    save(root / "bad", "step_2", step=2, without=[".pdopt"])
    (root / "empty").mkdir()
    return root


@pytest.fixture
def check(capsys):
    """Run `ckptd check --json`: its exit code and what it prints by the name of the set."""

    def run(*paths):
        code = main(["check", "--json", *map(str, paths)])
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def verdicts(told):
    """The verdict of each set."""
    return {(os.path.basename(one["run"]), one["set"]): one["verdict"] for one in told}


def test_check_of_a_tree_judges_every_run_with_the_keys_of_the_contract(tree, check):
    """All sets below a directory are judged, as objects with exactly the promised keys; one is not valid."""
    code, told = check(tree)
    assert 1 == code
    assert {
        ("good", "step_1"): "valid",
        ("good", "step_2"): "valid",
        ("bad", "step_1"): "valid",
        ("bad", "step_2"): "incomplete",
    } == verdicts(told)
    for one in told:
        assert one.keys() == KEYS
        assert 1 == one["schema"]
        assert all(finding.keys() == FINDING_KEYS for finding in one["findings"])
        assert all(member.keys() == MEMBER_KEYS for member in one["members"])
    finding = next(one for one in told if one["findings"])["findings"][0]
    assert ("missing_role", "error") == (finding["code"], finding["severity"])


def test_check_of_one_set_directory_judges_that_set(tree, check):
    """A directory that is a set is judged as one, and not as a run with a set in it."""
    code, told = check(tree / "good" / "step_2")
    assert 0 == code
    assert {("good", "step_2"): "valid"} == verdicts(told)
    assert 2 == told[0]["step"]


def test_check_of_one_file_judges_it_by_itself(tree, check):
    """A single file needs no members beside it."""
    code, told = check(tree / "bad" / "step_2.pdparams")
    assert 0 == code
    assert [("params", 4, 0)] == [
        (member["role"], member["tensors"], member["nonfinite"]) for member in told[0]["members"]
    ]


def test_check_of_overlapping_paths_judges_each(tree, check):
    """A set that is meant by two paths is judged for each of them; the same path twice counts once."""
    code, told = check(tree / "good", tree / "good", tree / "good" / "step_2")
    assert 0 == code
    assert [("step_1", "valid"), ("step_2", "valid"), ("step_2", "valid")] == [
        (one["set"], one["verdict"]) for one in told
    ]


def test_check_counts_what_is_not_finite(tmp_path, check):
    """NaN or infinite weights make a file suspect, and the member tells how many there are."""
    bias = np.array([np.nan, np.inf], "float32")
    dump(tmp_path / "step_1.pdparams", weights() | {"head.bias": bias})
    code, told = check(tmp_path / "step_1.pdparams")
    assert 1 == code
    assert "suspect" == told[0]["verdict"]
    assert 2 == told[0]["members"][0]["nonfinite"]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("missing", 3, "missing: No such file or directory"),
        ("", 3, "No such file or directory"),
        ("good/step_1.pdparams/x", 3, "Not a directory"),
        ("empty", 1, "there is no checkpoint set here"),
    ],
)
def test_check_of_nothing_says_so(name, code, words, tree, capsys):
    """A path with nothing to judge is told in one line, with the code that says why."""
    assert code == main(["check", os.path.join(tree, name) if name else ""])
    out, err = capsys.readouterr()
    assert "" == out
    assert words in err
    assert 1 == err.count("\n")


@pytest.mark.parametrize("workers", ["0", "17", "-1", "many"])
def test_check_with_a_useless_number_of_workers_is_a_usage_error(workers, tree, capsys):
    """A number of scan processes that cannot work is refused, and nothing is done."""
    with pytest.raises(SystemExit) as ended:
        main(["check", "--workers", workers, str(tree)])
    assert 2 == ended.value.code
    assert "--workers" in capsys.readouterr().err


def test_check_for_people_shows_verdicts_and_the_reason(tree, capsys):
    """Without `--json` each set is a line, with what is wrong below it."""
    assert 1 == main(["check", str(tree / "bad")])
    out = capsys.readouterr().out
    assert "step_1  valid" in out
    assert "step_2  incomplete" in out
    assert "no opt is there" in out


def test_check_passes_over_the_trash(tmp_path, check):
    """Sets in a trash below the path were removed and are not judged."""
    save(tmp_path / "output" / "run", "step_2")
    save(tmp_path / "output" / ".ckptd" / "trash" / "entry" / "content", "step_1")
    _, told = check(tmp_path)
    assert {("run", "step_2"): "valid"} == verdicts(told)
