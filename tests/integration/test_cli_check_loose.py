from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import dump, optimizer, save, weights
from ckptd.cli.main import main

PROGRAM = Path(__file__).with_name("paddle_deployments.py")
ALL = {
    ("", "flex", "flex"): "valid",
    ("", "separate", "inference"): "valid",
    ("", "variables", "variables"): "valid",
    ("old", "inference", "inference"): "valid",
    ("pir", "inference", "inference"): "valid",
    ("single", ".saving_info", "file"): "valid",
    ("single", "average.ckpt", "file"): "valid",
    ("single", "average.np", "file"): "valid",
    ("single", "average.pdz", "file"): "valid",
    ("single", "rng_state_0.pth", "file"): "valid",
    ("single", "tensor", "file"): "valid",
    ("single", "weights", "file"): "valid",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """What one Paddle process saved."""
    directory = tmp_path_factory.mktemp("original")
    subprocess.run([sys.executable, str(PROGRAM), str(directory)], check=True, capture_output=True)
    return directory


@pytest.fixture
def saved(original, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "saved"))


@pytest.fixture
def check(capsys):
    """Run `ckptd check --json` on a tree: its exit code, and verdicts and finding codes by place."""

    def run(path):
        code = main(["check", "--json", str(path)])
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        places = [(os.path.relpath(one["run"], path).removeprefix("."), one) for one in told]
        verdicts = {(run, one["set"], one["layout"]): one["verdict"] for run, one in places}
        codes = {f"{run}/{one['set']}": [each["code"] for each in one["findings"]] for run, one in places}
        return code, verdicts, codes

    return run


def test_check_judges_every_file_that_paddle_saved(saved, check):
    """Deployed models, variables, a flex checkpoint and single files of any name are judged, and valid."""
    (saved / "train.log").write_text("step 1\n")
    (saved / "single" / "tokenizer.json").write_text("{}")
    assert (0, ALL) == check(saved)[:2]


def test_check_for_people_counts_what_is_left_out(saved, capsys):
    """Files that are none of Paddle's are counted in one line."""
    (saved / "train.log").write_text("step 1\n")
    (saved / "notes").write_text("of a run\n")
    assert 0 == main(["check", str(saved)])
    out = capsys.readouterr().out
    assert "inference  valid" in out
    assert "2 other files were left out: nothing that Paddle writes\n" in out


def cut(path):
    """Take the last bytes away."""
    data = path.read_bytes()
    path.write_bytes(data[:-4])


@pytest.mark.parametrize(
    ("damage", "place", "verdict", "code"),
    [
        (lambda at: cut(at / "pir/inference.pdiparams"), "pir/inference", "corrupt", "truncated"),
        (lambda at: cut(at / "pir/inference.json"), "pir/inference", "corrupt", "invalid_json"),
        (lambda at: (at / "old/inference.pdmodel").unlink(), "old/inference", "incomplete", "missing_role"),
        (lambda at: (at / "pir/inference.pdiparams").unlink(), "pir/inference", "incomplete", "missing_role"),
        (
            lambda at: shutil.copy(at / "variables/fc_0.w_0", at / "pir/inference.pdiparams"),
            "pir/inference",
            "corrupt",
            "foreign_parameters",
        ),
        (lambda at: (at / "separate/fc_0.b_0").unlink(), "/separate", "corrupt", "foreign_parameters"),
        (lambda at: (at / "separate/fc_0.b_0").write_bytes(b""), "/separate", "corrupt", "empty_file"),
        (lambda at: (at / "variables/fc_0.b_0").write_bytes(b""), "/variables", "corrupt", "empty_file"),
        (lambda at: (at / "flex/0_0.distcp").unlink(), "/flex", "incomplete", "missing_shard"),
        (lambda at: cut(at / "single/weights"), "single/weights", "corrupt", "truncated"),
        (
            lambda at: (at / "single/average.np").write_bytes(b""),
            "single/average.np",
            "corrupt",
            "empty_file",
        ),
        (
            lambda at: (at / "single/weights").write_bytes(b"\x80\x04cos\nsystem\n\x8c\x04true\x85R."),
            "single/weights",
            "unsafe",
            "unsafe_global",
        ),
    ],
)
def test_check_of_damaged_files_says_which_and_why(damage, place, verdict, code, saved, check):
    """What is wrong costs the one entry its verdict, and all others stay valid."""
    damage(saved)
    exit_code, verdicts, codes = check(saved)
    found = {f"{run}/{name}": one for (run, name, _), one in verdicts.items() if one != "valid"}
    assert (1, {place: verdict}) == (exit_code, found)
    assert code in codes[place]


def test_check_judges_a_model_that_lies_inside_of_a_set(saved, check):
    """What a set's directory holds besides training state is judged as well; the set keeps its verdict."""
    dump(saved / "best_model.pdparams", weights())
    (saved / "best_model").mkdir()
    dump(saved / "best_model" / "model.pdparams", weights())
    dump(saved / "best_model" / "model.pdopt", optimizer())
    (saved / "pir").rename(saved / "best_model" / "inference")
    _, verdicts, _ = check(saved)
    assert "valid" == verdicts["", "best_model/", "plain"]
    assert "valid" == verdicts["best_model/inference", "inference", "inference"]
    cut(saved / "best_model" / "inference" / "inference.pdiparams")
    _, verdicts, _ = check(saved / "best_model")
    assert "corrupt" == next(one for (_, name, _), one in verdicts.items() if name == "inference")


def test_check_of_a_directory_that_is_not_listed_says_so(tmp_path, capsys):
    """What was not looked into, here because it lies too deep, is named, and not all is valid then."""
    save(tmp_path, "step_1")
    (tmp_path / "/".join(["deep"] * 70)).mkdir(parents=True)
    assert 1 == main(["check", str(tmp_path)])
    out, err = capsys.readouterr()
    assert "step_1  valid" in out
    assert "deep: cannot be listed, so what it holds is not judged\n" in err
    assert 1 == main(["check", "--digest", str(tmp_path)])
    assert "deep: cannot be listed, so its files are left out\n" in capsys.readouterr().err


def test_check_of_a_link_judges_what_it_leads_to(tmp_path, check):
    """A path may be a symbolic link to a tree, to a set's directory or to a file."""
    save(tmp_path / "run" / "step_1", "model", step=1)
    for name, target in (("tree", "run"), ("set", "run/step_1"), ("file", "run/step_1/model.pdparams")):
        (tmp_path / name).symlink_to(tmp_path / target)
        code, verdicts, _ = check(tmp_path / name)
        assert (0, ["valid"]) == (code, list(verdicts.values()))


def test_check_of_names_that_are_no_text_shows_them_printable(tmp_path, check):
    """Bytes that are no UTF-8 and line breaks do not disturb the output."""
    shutil.copy(save(tmp_path / "x", "step_1")[0], os.fsencode(tmp_path) + b"/a\xff\nb.pdz")
    shutil.rmtree(tmp_path / "x")
    code, verdicts, _ = check(tmp_path)
    assert (0, {("", "a\\dff\\x0ab.pdz", "file"): "valid"}) == (code, verdicts)


@pytest.mark.parametrize("name", ["notes.txt", "notes", "empty"])
def test_check_of_one_file_that_is_none_of_paddles_is_not_valid(name, tmp_path, check):
    """A file that was asked for is judged whatever it is, and nothing is proved of a text."""
    (tmp_path / name).write_text("" if name == "empty" else "some words\n")
    code, verdicts, _ = check(tmp_path / name)
    assert (1, 1) == (code, len(verdicts))
    assert "valid" not in verdicts.values()


def test_check_follows_no_link_and_waits_for_no_writer_inside_a_tree(tmp_path, check):
    """Links and FIFOs under names of Paddle's are named and not read; others are left out."""
    save(tmp_path, "step_1")
    (tmp_path / "link.pdz").symlink_to(tmp_path / "step_1.pdparams")
    (tmp_path / "link").symlink_to(tmp_path / "step_1.pdparams")
    os.mkfifo(tmp_path / "pipe.np")
    os.mkfifo(tmp_path / "pipe")
    code, verdicts, codes = check(tmp_path)
    assert 1 == code
    assert {"step_1": "valid", "link.pdz": "unreadable", "pipe.np": "unreadable"} == {
        name: one for (_, name, _), one in verdicts.items()
    }
    assert (["symbolic_link"], ["not_a_regular_file"]) == (codes["/link.pdz"], codes["/pipe.np"])
