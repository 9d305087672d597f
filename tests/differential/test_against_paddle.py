from __future__ import annotations

import os
import pickle
import sys
from random import Random

import pytest

from fuzzing import __main__ as program
from fuzzing.laws import Judged, judged, scanned
from fuzzing.mutations import Mutation, base_of, cuts, mutate
from fuzzing.oracle import bases

COUNT = 600
SMALL = "half.pdparams"


def outcomes(oracle, directory, damaged):
    """What we and Paddle say of each of some damaged files, with its recipe."""
    jobs = []
    for index, (base, mutation) in enumerate(damaged):
        path = directory / str(index)
        path.write_bytes(mutation.data)
        jobs.append((str(path), base.way))
    oracle.ask(jobs)
    answers = oracle.answers()
    return {
        f"{base.name}: {mutation.kind} {mutation.recipe}": judged(base, scanned(base, mutation.data), answer)
        for (base, mutation), answer in zip(damaged, answers, strict=True)
    }


def violations(found):
    """What breaks a law."""
    return {recipe: outcome.violation for recipe, outcome in found.items() if outcome.violation}


def test_every_file_that_paddle_wrote_is_valid_and_holds_what_paddle_loads(
    corpus, manifest, oracle, tmp_path
):
    """What real Paddle saves has no finding; names, shapes, types and numbers are those of paddle.load."""
    whole = []
    for entry in manifest:
        data = (corpus / entry["name"]).read_bytes()
        base = base_of(entry["name"], entry["role"], entry["way"], data)
        whole.append((base, Mutation("whole", "", data)))
    found = outcomes(oracle, tmp_path, whole)

    assert violations(found) == {}
    blamed = {recipe.split(":")[0]: outcome.codes for recipe, outcome in found.items() if outcome.codes}
    assert blamed.pop("diverged.pdparams") == ("nonfinite_values",)
    assert blamed == {}
    assert {"loads"} == {outcome.paddle for outcome in found.values()}


def test_file_cut_at_any_opcode_is_refused_like_paddle_refuses_it(corpus, manifest, oracle, tmp_path):
    """No beginning of a file is taken for the file, not even one that ends between two opcodes."""
    base = next(base for base in bases(corpus, manifest) if base.name == SMALL)
    found = outcomes(oracle, tmp_path, [(base, cut) for cut in cuts(base)])

    assert len(found) > 50
    assert {("corrupt", "rejects")} == {(outcome.ours, outcome.paddle) for outcome in found.values()}


def test_damaged_files_break_no_law(corpus, manifest, oracle, tmp_path):
    """What paddle.load rejects is never valid, and where both accept a file they see the same tensors."""
    files = bases(corpus, manifest)
    damaged = [mutate(Random(f"test/{number}"), files) for number in range(COUNT)]  # noqa: S311 - repeatable
    found = outcomes(oracle, tmp_path, damaged)

    assert violations(found) == {}
    # The damage is of use only if it leaves both kinds of files.
    assert all(
        sum(one.paddle == answer for one in found.values()) > COUNT / 10 for answer in ("loads", "rejects")
    )


def test_equal_seeds_give_equal_files(corpus, manifest):
    """A recipe can be followed again."""
    files = bases(corpus, manifest)
    first, second = ([mutate(Random(number), files) for number in range(99)] for _ in "ab")  # noqa: S311

    assert first == second
    assert len({mutation.kind for _, mutation in first}) > 15


class _Exits:
    """Ends the process that loads it."""

    def __reduce__(self):
        return os._exit, (3,)


class _Leaves:
    """Raises what is no Exception."""

    def __reduce__(self):
        return sys.exit, ()


def test_file_on_which_paddle_dies_counts_as_rejected_and_the_others_are_answered(oracle, tmp_path):
    """A batch goes on after the file that killed its process."""
    jobs = []
    for name, content in {"a": 1, "b": _Exits(), "c": _Leaves(), "d": {"x": 2}, "e": _Exits()}.items():
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content))
        jobs.append((str(path), "load"))
    oracle.ask(jobs)
    died = "Paddle died, wait status 768"

    assert [None, died, "SystemExit: ", None, died] == [answer.get("error") for answer in oracle.answers()]


@pytest.mark.parametrize("broken", [None, "law 1: valid, but Paddle says no"])
def test_fuzzing_tells_by_its_exit_code_and_keeps_the_offending_file(monkeypatch, tmp_path, capsys, broken):
    """`make fuzz` fails on a violation and leaves the file with its recipe; else it leaves nothing."""
    if broken:
        monkeypatch.setattr(program, "judged", lambda *_: Judged("valid", (), "rejects", broken))
    kept = tmp_path / "kept"
    arguments = ["fuzzing", "--count", "3", "--seed", "5", "--only", SMALL, "--violations", str(kept)]
    monkeypatch.setattr(sys, "argv", arguments)

    assert (1 if broken else 0) == program.main()
    assert (3 if broken else 0) == len(list(kept.glob("*.recipe.txt")))
    assert all(broken in path.read_text() for path in kept.glob("*.recipe.txt"))
    assert "3 damaged files of 1 whole ones, seed 5" in capsys.readouterr().out
