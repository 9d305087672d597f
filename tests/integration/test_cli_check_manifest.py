from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import xxhash

from checkpoints import save
from ckptd.cli.main import main


@pytest.fixture
def tree(tmp_path):
    """Two sets, one of them a directory with a file that is no training state."""
    save(tmp_path / "tree" / "run", "step_1", step=1)
    save(tmp_path / "tree" / "run" / "step_2", "model", step=2)
    (tmp_path / "tree" / "run" / "step_2" / "notes.txt").write_text("of step 2\n")
    (tmp_path / "tree" / "train.log").write_text("no part of a set\n")
    return tmp_path / "tree"


@pytest.fixture
def manifest(tree, tmp_path, capfdbinary):
    """The tree's manifest, in a file."""
    assert 0 == main(["check", "--digest", str(tree)])
    path = tmp_path / "MANIFEST"
    path.write_bytes(capfdbinary.readouterr().out)
    return path


def against(manifest, path, capfdbinary):
    """Compare: the exit code and the lines."""
    code = main(["check", "--against", str(manifest), str(path)])
    return code, capfdbinary.readouterr().out.decode().splitlines()


def test_digest_lists_every_file_of_the_sets_as_xxh128sum_does(tree, manifest):
    """Each line is the digest, two spaces and the path below PATH, sorted, and nothing else is in it."""
    names = [f"run/step_1{suffix}" for suffix in (".pdmeta", ".pdopt", ".pdparams")]
    names += [f"run/step_2/{name}" for name in ("model.pdmeta", "model.pdopt", "model.pdparams", "notes.txt")]
    expected = [f"{xxhash.xxh3_128_hexdigest((tree / name).read_bytes())}  {name}" for name in names]
    assert expected == manifest.read_text().splitlines()


def test_against_an_equal_copy_says_equal(tree, manifest, capfdbinary):
    """A copy with the same bytes differs in nothing, wherever it lies."""
    copy = shutil.copytree(tree, tree.parent / "elsewhere")
    assert (0, ["equal: 7 files"]) == against(manifest, copy, capfdbinary)


def test_against_a_different_copy_names_each_difference(tree, manifest, capfdbinary):
    """Missing, changed and additional files have a line each, and the exit code says that they differ."""
    copy = Path(shutil.copytree(tree, tree.parent / "elsewhere"))
    (copy / "run" / "step_1.pdopt").unlink()
    changed = copy / "run" / "step_2" / "model.pdparams"
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    shutil.copy(copy / "run" / "step_1.pdmeta", copy / "run" / "step_2" / "more.pdmeta")
    (copy / "run" / "step_2" / "notes.txt").unlink()
    (copy / "run" / "step_2" / "notes.txt").symlink_to("nowhere")
    assert (
        1,
        [
            "missing: run/step_1.pdopt",
            "differs: run/step_2/model.pdparams",
            "extra: run/step_2/more.pdmeta",
            "missing: run/step_2/notes.txt",
        ],
    ) == against(manifest, copy, capfdbinary)


def test_against_finds_files_that_are_in_no_set_any_more(tree, manifest, capfdbinary):
    """What the manifest names is compared although its set has lost the files that made it one."""
    for name in ("step_1.pdparams", "step_1.pdopt"):
        (tree / "run" / name).unlink()
    code, lines = against(manifest, tree, capfdbinary)
    assert (1, ["missing: run/step_1.pdopt", "missing: run/step_1.pdparams"]) == (code, lines)


@pytest.mark.parametrize("name", [b"a\\b\nc", b"\xff\r", b" x "])
def test_digest_of_odd_names_comes_back(name, tree, capfdbinary):
    """Names with line breaks, backslashes and bytes that are no UTF-8 survive a manifest."""
    shutil.copy(tree / "run" / "step_1.pdparams", os.fsencode(tree) + b"/" + name + b".pdz")
    assert 0 == main(["check", "--digest", str(tree)])
    path = tree.parent / "MANIFEST"
    path.write_bytes(capfdbinary.readouterr().out)
    assert (0, ["equal: 8 files"]) == against(path, tree, capfdbinary)


def test_digest_is_below_the_path_for_a_set_and_for_one_file(tree, capfdbinary):
    """Paths begin at what was asked for, so that copies under other names compare."""
    main(["check", "--digest", str(tree / "run" / "step_2")])
    main(["check", "--digest", str(tree / "run" / "step_1.pdopt")])
    names = [line.split(b"  ")[1] for line in capfdbinary.readouterr().out.splitlines()]
    assert [b"model.pdmeta", b"model.pdopt", b"model.pdparams", b"notes.txt", b"step_1.pdopt"] == names


def test_digest_of_what_cannot_be_in_it_says_so(tree, capfdbinary):
    """A link has no content of its own; a manifest without it is not complete."""
    (tree / "run" / "step_2" / "link").symlink_to("model.pdopt")
    assert 1 == main(["check", "--digest", str(tree)])
    assert b"run/step_2/link: no regular file" in capfdbinary.readouterr().err


@pytest.mark.parametrize("option", [["--digest"], ["--against", "MANIFEST"]])
def test_digest_of_nothing_is_told(option, tmp_path, monkeypatch, capfdbinary):
    """An empty tree equals nothing, not even an empty manifest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MANIFEST").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert 1 == main(["check", *option, "empty"])
    assert b"there is no checkpoint set here" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("# a comment", "line 2: expected 32 hexadecimal digits"),
        (f"{'0' * 32}  /etc/passwd", "line 2: refusing to look at /etc/passwd"),
        (f"{'0' * 32}  a/../../b", "line 2: refusing to look at a/../../b"),
    ],
)
def test_against_a_manifest_that_is_none_is_a_usage_error(line, words, tree, manifest, capfdbinary):
    """A line that no manifest has is named with its number, and nothing is compared."""
    first = manifest.read_text().splitlines()[0]
    manifest.write_text(f"{first}\n{line}\n")
    assert 2 == main(["check", "--against", str(manifest), str(tree)])
    assert words in capfdbinary.readouterr().err.decode()


def test_against_a_missing_manifest_is_told(tree, capfdbinary):
    """A manifest that cannot be read is an input error."""
    assert 3 == main(["check", "--against", str(tree / "none"), str(tree)])
    assert b"none: No such file" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--digest", "--json", "x"],
        ["--digest", "--load", "x"],
        ["--digest", "--against", "y", "x"],
        ["--digest", "x", "y"],
        ["--python", "/usr/bin/python3", "x"],
    ],
)
def test_check_options_that_do_not_go_together_are_refused(arguments, capsys):
    """Two answers at once, or one that cannot be told apart, is a usage error."""
    assert 2 == main(["check", *arguments])
    assert capsys.readouterr().err.startswith("ckptd: --")
