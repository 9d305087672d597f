from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from ckptd.cli import demo, demo_story
from ckptd.cli.main import main
from waiting import wait_until

DEMO = (sys.executable, "-m", "ckptd", "demo")


def told(name, step, accuracy, accident="none"):
    """A set as the trainer tells it."""
    line = {"set": name, "epoch": int(name.split("_")[1]), "step": step, "accuracy": accuracy}
    return demo_story.Told.from_line({**line, "accident": accident})


SETS = (
    told("epoch_1", 250, 0.7),
    told("epoch_2", 500, 0.3),
    told("epoch_3", 600, 0.8, "killed"),
    told("epoch_4", 700, 0.5),
    told("epoch_5", 800, 0.4),
    told("epoch_99", 100, 1.0, "hostile"),
    told("epoch_6", 900, 0.4),
    told("epoch_7", 1100, 0.4, "no_optimizer"),
    told("epoch_8", 1200, 0.4),
)
MUST = demo_story.expected_ending(SETS)


@pytest.mark.timeout(180)
def test_demo_ends_as_it_must(tmp_path):
    """The demo exits 0, shows each set and what is live, and leaves no trace of a loaded hostile file."""
    directory = tmp_path / "demo"
    done = subprocess.run([*DEMO, "--directory", directory], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("epoch_")}
    assert {f"epoch_{number}" for number in (*range(1, 15), 99)} == rows.keys()
    assert {"unsafe", "corrupt", "incomplete", "suspect"} == {
        rows[f"epoch_{number}"].split()[2] for number in (99, 5, 7, 9)
    }
    live = (directory / "deploy" / "current").resolve().name.rpartition("-")[2]
    assert "live, kept" in rows[live]
    assert f"as it must be: {live} is live" in done.stdout
    assert not (directory / "canary").exists()
    assert set() == processes_about(directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_when_interrupted_leaves_nothing(tmp_path, number):
    """An interrupt ends the demo with 130, and all of its processes and files go with it."""
    # Whoever started the tests may have had them ignore a hang-up.
    with subprocess.Popen(
        ("env", "--default-signal=HUP", *DEMO),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        wait_until(lambda: list(tmp_path.glob("*/output/run/epoch_1.pdopt")), "the first set")
        assert set() != processes_about(tmp_path)
        running.send_signal(number)
        running.communicate()

    assert 130 == running.returncode
    assert [] == os.listdir(tmp_path)
    assert set() == processes_about(tmp_path)


def processes_about(directory):
    """The processes that have a directory's path in their command line."""
    return {
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if str(directory) in " ".join(one.info["cmdline"] or []) and one.pid != os.getpid()
    }


def test_demo_without_paddle_says_how_to_install_it(monkeypatch, capsys):
    """Without Paddle the demo cannot be given, and the message says what to do."""
    monkeypatch.setitem(sys.modules, "paddle", None)

    assert 3 == main(["demo"])
    assert "pip install 'ckptd[paddle]'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["full", "file"])
def test_demo_in_a_used_place_is_refused(tmp_path, capsys, kind):
    """The demo never works in a directory that holds something, nor in what is none; nothing is changed."""
    used = tmp_path / "used"
    used.write_text("mine") if kind == "file" else (used.mkdir(), (used / "mine").touch())

    assert 2 == main(["demo", "--directory", str(used)])
    assert "name a new directory" in capsys.readouterr().err
    assert used.is_file() or ["mine"] == os.listdir(used)


def test_expected_ending_keeps_last_best_milestones_and_all_that_is_not_valid():
    """Of the valid sets the last three, the best and the milestones stay; of the others all do."""
    assert "epoch_1" == MUST.live
    assert {"epoch_4"} == MUST.trash
    assert {"epoch_1", "epoch_2", "epoch_3", "epoch_99", "epoch_5", "epoch_6", "epoch_7", "epoch_8"} == set(
        MUST.members
    )
    assert {".pdparams", ".pdopt"} == MUST.members["epoch_3"]


def test_failures_of_what_must_be_are_none():
    """An ending as it must be has no failures, even if one held-out sample is answered differently."""
    assert [] == demo_story.failures(MUST, MUST)
    assert [] == demo_story.failures(MUST, replace(MUST, live_accuracy=0.7 - 1 / 2000))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"live": "epoch_99"}, "the live model is from epoch_99, the best valid set is epoch_1"),
        ({"live": None}, "the live model is from nowhere, the best valid set is epoch_1"),
        ({"live_accuracy": 0.698}, "the live model has accuracy 0.698, the best valid set 0.7"),
        ({"live_accuracy": None}, "the live model could not be measured"),
        ({"members": {**MUST.members, "epoch_4": frozenset()}}, "epoch_4 is still there"),
        (
            {"members": {name: one for name, one in MUST.members.items() if name != "epoch_3"}},
            "epoch_3 is gone",
        ),
        (
            {"members": {**MUST.members, "epoch_3": frozenset({".pdopt"})}},
            "epoch_3 has the members .pdopt instead of .pdopt, .pdparams",
        ),
        (
            {"verdicts": {**MUST.verdicts, "epoch_99": "valid"}},
            "epoch_99 was judged valid instead of unsafe",
        ),
        ({"verdicts": {}}, "epoch_1 was judged not at all instead of valid"),
        ({"trash": frozenset()}, "epoch_4 is not in the trash"),
        ({"trash": frozenset({"epoch_4", "epoch_3"})}, "epoch_3 is in the trash"),
        ({"planned_removals": frozenset({"epoch_8"})}, "epoch_8 would be removed next"),
        ({"canary_exists": True}, "the hostile file was loaded: its canary exists"),
        ({"daemon_exit_code": -9}, "the daemon ended with -9 instead of 0"),
        ({"seconds_to_stop": 6.0}, "the daemon took 6.0 s to stop, longer than 5 s"),
    ],
)
def test_demo_that_ended_otherwise_exits_1_and_says_what_is_wrong(damage, sentence):
    """Each way in which the ending is not what it must be makes the demo fail, in words."""
    printed = io.StringIO()
    ended = demo.Played(MUST, replace(MUST, **damage), decisions={})

    assert 1 == demo.conclude(SimpleNamespace(told=SETS, judged={}), ended, Console(file=printed, width=200))
    assert f"not as it must be: {sentence}\n" in printed.getvalue()
