from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest

from checkpoints import dump_huge, save, weights
from daemon_runner import enforced, running, watch_table, write_config
from waiting import wait_until

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
NOBODY = 65534
# Each is newer than the valid sets beside it, and wrong in one way that has one code.
WRONG = {
    "step_11": ("permission_denied", "unreadable"),
    "step_12": ("empty_file", "corrupt"),
    "step_13": ("html_page", "corrupt"),
    "step_14": ("git_lfs_pointer", "corrupt"),
    "step_15": ("not_a_regular_file", "unreadable"),  # a directory
    "step_16": ("not_a_regular_file", "unreadable"),  # a FIFO
    "step_17": ("not_a_regular_file", "unreadable"),  # a socket
    "step_18": ("symbolic_link", "unreadable"),  # to itself
    "step_19": ("symbolic_link", "unreadable"),  # to nothing
    "step_20": ("symbolic_link", "unreadable"),  # to a valid file
    "step_21": ("unsafe_global", "unsafe"),
    "step_22": ("truncated", "corrupt"),
    "step_23": ("trailing_bytes", "suspect"),
    "step_24": ("missing_role", "incomplete"),  # its weights vanish while they are read
    "step_25": ("unknown_container", "unreadable"),
    "step_26": ("all_zero", "corrupt"),  # a hole of one TiB
}
ODD_NAMES = ("with space_1", 'quote"and\\slash_2', "new\nline_3", os.fsdecode(b"no-utf8-\xff\xfe_4"), "ünï_5")


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def make_wrong_sets(run, canary):
    """Write the sets of `WRONG`, each with a sound optimizer state."""
    params = {name: run / f"{name}.pdparams" for name in WRONG}
    for name, path in params.items():
        save(run, name, step=int(name[5:]), metric=0.99)
        if name not in {"step_11", "step_22", "step_23"}:
            path.unlink()
    if os.geteuid() == 0:
        os.chown(params["step_11"], NOBODY, NOBODY)
        params["step_11"].chmod(0o600)
    else:
        params["step_11"].chmod(0)
    params["step_12"].write_bytes(b"")
    params["step_13"].write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    params["step_14"].write_bytes(LFS_POINTER)
    params["step_15"].mkdir()
    os.mkfifo(params["step_16"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(params["step_17"]))
    params["step_18"].symlink_to(params["step_18"].name)
    params["step_19"].symlink_to("nothing")
    params["step_20"].symlink_to("step_1.pdparams")
    params["step_21"].write_bytes(pickle.dumps(weights() | {"x": Hostile(f"touch {canary}")}, protocol=4))
    os.truncate(params["step_22"], params["step_22"].stat().st_size - 50)
    with params["step_23"].open("ab") as file:
        file.write(b"more")
    dump_huge(params["step_24"], 1 << 30)
    params["step_25"].write_bytes(b"just some text")
    with params["step_26"].open("wb") as file:
        file.truncate(1 << 40)


def inventory(root):
    """Every name below a root, with what regular files hold, but for huge and for ckptd's own ones."""
    found = {}
    for path in root.rglob("*"):
        if ".ckptd" not in path.parts and path.name not in {"step_24.pdparams", "step_26.pdparams"}:
            is_readable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
            found[path.relative_to(root)] = path.read_bytes() if is_readable else None
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service that has judged everything wrong beside valid sets: place, log, and all files before."""
    place = tmp_path_factory.mktemp("bad")
    write_config(place, watch_table(best="max", retention=enforced(keep_last=1)))
    run = place / "output" / "run"
    for step in (1, 2, 3):
        save(run, f"step_{step}", step=step, metric=0.5 - step / 10)
    make_wrong_sets(run, place / "canary")
    for name in ODD_NAMES:
        save(place / "output" / name, name)
    save(place / "output" / "measured", "step_1", step=1, metric="high")
    save(place / "output" / "measured", "step_2", step=2, metric=0.1)
    before = inventory(place / "output")
    with running(place, unprivileged=True) as daemon:
        vanishing = run / "step_24.pdparams"
        wait_until(lambda: daemon.reading(vanishing), "the scan of the file that vanishes")
        vanishing.unlink()
        daemon.wait_for_verdicts({name: verdict for name, (_, verdict) in WRONG.items()})
        daemon.wait_for("pass.finished", pending=0)
    return place, daemon, before


@pytest.mark.parametrize("name", WRONG)
def test_wrong_file_gets_its_verdict_and_its_finding(name, served):
    """Each way of being wrong is told with the verdict and the code that are its own."""
    _, daemon, _ = served
    code, verdict = WRONG[name]
    told = [line for line in daemon.lines if line.get("set") == name and "verdict" in line]
    assert verdict == told[-1]["verdict"]
    assert code in [finding["code"] for finding in told[-1]["findings"]]


def test_valid_sets_beside_wrong_ones_are_judged_and_kept(served):
    """However many newer sets are wrong, the newest valid one and the best stay, and only older ones go."""
    place, daemon, _ = served
    assert ["step_2"] == [line["set"] for line in daemon.told("set.removed", run="run")]
    assert {"step_1": "valid", "step_3": "valid"}.items() <= daemon.verdicts.items()
    for step in (1, 3):
        assert (place / "output" / "run" / f"step_{step}.pdparams").exists()


def test_nothing_wrong_is_lost(served):
    """Everything but the two removed sets is where it was and as it was."""
    place, _, before = served
    removed = {(Path("run"), "step_2"), (Path("measured"), "step_1")}
    expected = {path: content for path, content in before.items() if (path.parent, path.stem) not in removed}
    assert expected == inventory(place / "output")


def test_hostile_pickle_is_never_run(served):
    """What a pickle would do when loaded is not done."""
    place, daemon, _ = served
    assert not (place / "canary").exists()
    assert "critical" == daemon.told("set.unsafe")[0]["level"]


def test_odd_names_are_judged_and_told_on_one_line(served):
    """Blanks, line breaks, quotes and bytes that are no UTF-8 in names harm neither verdict nor log."""
    _, daemon, _ = served
    shown = {"with space_1", 'quote"and\\\\slash_2', "new\\x0aline_3", "no-utf8-\\dff\\dfe_4", "ünï_5"}
    assert shown == {line["set"] for line in daemon.told("set.validated") if line["set"] == line["run"]}


def test_metric_that_is_a_string_does_not_rank(served):
    """A metric that is no number is remarked, and the set is valid and never the best one."""
    _, daemon, _ = served
    line = daemon.told("set.validated", run="measured", set="step_1")[0]
    assert ["metric_not_a_number"] == [finding["code"] for finding in line["findings"]]
    assert ["step_2"] == [line["set"] for line in daemon.told("best.changed", run="measured")]


def test_nothing_fails_and_nobody_dies_of_bad_input(served):
    """Bad input is an everyday matter: no failed run, no failed scan, no warning of a library."""
    _, daemon, _ = served
    assert [] == [
        line for name in ("run.failed", "scan.failed", "library.warned") for line in daemon.told(name)
    ]
