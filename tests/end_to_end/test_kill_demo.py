from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import psutil
import pytest
import xxhash

from ckptd.cli import demo_story
from ckptd.cli.demo_stage import WORKERS, GrowingLines
from waiting import wait_until

SUFFIXES = (".pdparams", ".pdopt", ".pdscaler", ".pdmeta")  # in the order in which the trainer writes them
CHUNK_BYTES = 100_000
LONGEST_PAUSE_SECONDS = 1.0  # between two sets; a verdict that a kill kept from being told is not waited for
KILLS_BY_LINE = 5  # in each round
# For each round how long after a line it kills, in seconds, and an event after which it kills as well; the
# last round lets an export begin.
ROUNDS = (
    (0.0, "set.removed"),
    (0.01, "best.changed"),
    (0.03, "plan.changed"),
    (0.1, "release.published"),
    (0.6, "release.started"),
)
UNREMARKABLE = re.compile(r"(daemon|watch|pass|config)\.")  # such events tell nothing about any set


class Save(NamedTuple):
    """One file that was written."""

    of_set: str
    name: str
    content: bytes


class Recorded(NamedTuple):
    """The demo's training run: what was written, in order, and what must come of it."""

    saves: tuple[Save, ...]
    must: demo_story.Ending
    canary: object


class Found(NamedTuple):
    """All that is left on disk at the end."""

    run: dict[str, str]
    trash: list[tuple[str, dict[str, str]]]
    live: dict[str, object]
    staged: list[str]
    canary_exists: bool


@dataclass
class Moments:
    """When to kill the daemon, counted over its restarts: so long after the given lines of its log.

    Lines are counted without the unremarkable ones. The events count from the first restart on, each once.
    """

    after_lines: list[int] = field(default_factory=list)
    after_events: set[str] = field(default_factory=set)
    delay_seconds: float = 0.0
    lines: int = 0
    killed_after: list[str] = field(default_factory=list)  # events

    def has_come(self, event):
        """Count a line; whether it is one to kill the daemon after."""
        self.lines += not UNREMARKABLE.match(event)
        is_line = bool(self.after_lines) and self.lines >= self.after_lines[0]
        return is_line or (bool(self.killed_after) and event in self.after_events)

    def note(self, event):
        """Note a kill."""
        if self.killed_after and event in self.after_events:
            self.after_events.remove(event)
        elif self.after_lines:
            self.after_lines.pop(0)
        else:
            self.after_events.pop()
        self.killed_after.append(event)

    @property
    def are_over(self):
        """Whether none is left."""
        return not self.after_lines and not self.after_events


class Daemon:
    """`ckptd run`, killed when a moment has come and started again."""

    def __init__(self, place, moments):
        self.place, self.moments = place, moments
        self.judged = set()
        self.process = None
        self.is_at_rest = False  # it has made a pass since it was started, and waits for nothing
        self._killing = threading.Lock()

    def keep_running(self):
        """Start the daemon unless it runs; always true, for use in conditions."""
        if self.process is None or self.process.poll() is not None:
            if self.process is not None:
                self.reader.join()
                assert -signal.SIGKILL == self.process.returncode
            self.is_at_rest = False
            with (self.place / "errors").open("ab") as errors:
                command = (sys.executable, "-m", "ckptd", "--config", "config.toml", "run")
                self.process = subprocess.Popen(
                    command, cwd=self.place, stdout=subprocess.PIPE, stderr=errors
                )
            self.reader = threading.Thread(target=self._read, args=(self.process,))
            self.reader.start()
        return True

    def _read(self, process):
        with process.stdout:
            for line in process.stdout:
                event = json.loads(line)
                self.is_at_rest = event["event"] == "pass.finished" and event["pending"] == 0
                if "verdict" in event:
                    self.judged.add(event["set"])
                if self.moments.has_come(event["event"]):
                    threading.Event().wait(self.moments.delay_seconds)
                    self.kill(process, event["event"])

    def kill(self, process, event):
        """Kill the daemon if it still runs, and nothing else: its children must notice by themselves."""
        with self._killing:
            if process.poll() is None:
                process.kill()
                process.wait()
                self.moments.note(event)

    def stop(self):
        """End the daemon in its own way; its exit code."""
        self.process.terminate()
        code = self.process.wait()
        self.reader.join()
        return code


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The real trainer and the real intruder, as fast as they can, with nobody watching."""
    place = tmp_path_factory.mktemp("recorded")
    run, truth, canary = place / "run", place / "truth.jsonl", place / "canary"
    train = [sys.executable, WORKERS / "demo_trainer.py", run, truth, *demo_story.trainer_arguments()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert [-signal.SIGKILL, 0] == [subprocess.run(train, **quiet, check=False).returncode for _ in range(2)]
    donor, number = demo_story.INTRUSION_DONOR, str(demo_story.HOSTILE)
    intrude = [sys.executable, WORKERS / "demo_intruder.py", run, donor, number, canary, truth]
    subprocess.run(intrude, check=True)
    *told, hostile = map(demo_story.Told.from_line, GrowingLines(truth).take())
    told.insert([one.name for one in told].index(demo_story.INTRUSION_AFTER) + 1, hostile)
    saves = [
        Save(one.name, f"{one.name}{suffix}", (run / f"{one.name}{suffix}").read_bytes())
        for one in told
        for suffix in SUFFIXES
        if suffix in one.accident.members
    ]
    return Recorded(tuple(saves), demo_story.expected_ending(told), canary)


def played(recorded, place, moments):
    """Let the daemon watch while the recorded files are written again, and kill it at the moments."""
    run = place / "output" / "run"
    run.mkdir(parents=True)
    (place / "config.toml").write_text(demo_story.config_text(str(WORKERS), settle="0.2s", sweep="1s"))
    daemon = Daemon(place, moments)
    for name, saves in groupby(recorded.saves, key=lambda save: save.of_set):
        for save in saves:
            with (run / save.name).open("wb", buffering=0) as file:
                for start in range(0, len(save.content), CHUNK_BYTES):
                    file.write(save.content[start : start + CHUNK_BYTES])
        latest = time.monotonic() + LONGEST_PAUSE_SECONDS
        wait_until(
            lambda name=name, latest=latest: (
                daemon.keep_running() and (name in daemon.judged or time.monotonic() > latest)
            ),
            "the next save",
        )
    while True:
        wait_until(
            lambda: daemon.keep_running() and daemon.is_at_rest and has_ended(recorded, place),
            f"the end after {moments}",
            60,
        )
        if moments.are_over:
            break
        daemon.kill(daemon.process, "nothing for a while")
    assert 0 == daemon.stop()
    assert "Traceback" not in (place / "errors").read_text()
    wait_until(lambda: not processes_in(place), "the end of all processes")
    return found_in(place, recorded.canary)


def has_ended(recorded, place):
    """Whether the run, the trash and the live model are what they must be."""
    members = {}
    for path in (place / "output" / "run").iterdir():
        members.setdefault(path.stem, set()).add(path.suffix)
    try:
        live = json.loads((place / "deploy" / "current" / "manifest.json").read_bytes())["set"]
    except FileNotFoundError:
        return False
    return recorded.must.members == members and recorded.must.live == live


def found_in(place, canary):
    """All that is left on disk."""
    manifest = json.loads((place / "deploy" / "current" / "manifest.json").read_bytes())
    entries = (place / "output" / ".ckptd" / "trash").iterdir()
    return Found(
        run=digests(place / "output" / "run"),
        trash=sorted(
            (json.loads((entry / "entry.json").read_bytes())["set"], digests(entry / "content"))
            for entry in entries
        ),
        live={key: manifest[key] for key in ("run", "set", "step", "epoch", "metric", "source", "files")},
        staged=[path.name for path in (place / "deploy" / ".staging").iterdir()],
        canary_exists=canary.exists(),
    )


def digests(directory):
    """What each file holds, to the last byte."""
    return {path.name: digest(path.read_bytes()) for path in directory.iterdir()}


def digest(content):
    """A short name for the content."""
    return xxhash.xxh3_128_hexdigest(content)


def processes_in(place):
    """The processes that work in the place or below it, as all that the daemon starts does."""
    return {one.pid for one in psutil.process_iter(["cwd"]) if f"{one.info['cwd']}/".startswith(f"{place}/")}


@pytest.mark.timeout(240)
def test_daemon_killed_at_35_moments_comes_to_the_same_end(recorded, tmp_path):
    """Wherever in the demo the daemon is killed and started again, it ends as if it never had been."""
    saved = {save.name: digest(save.content) for save in recorded.saves}
    undisturbed = Moments()
    expected = played(recorded, tmp_path / "undisturbed", undisturbed)
    kills = []
    # A kill keeps some lines from being written, so not all of them are there to be killed after.
    share = 0.85 * undisturbed.lines / (len(ROUNDS) * KILLS_BY_LINE)
    for number, (delay_seconds, event) in enumerate(ROUNDS):
        moments = Moments(
            after_lines=[1 + round(share * (number + len(ROUNDS) * kill)) for kill in range(KILLS_BY_LINE)],
            after_events={"daemon.started", event},
            delay_seconds=delay_seconds,
        )
        assert expected == played(recorded, tmp_path / f"round_{number}", moments)
        kills += moments.killed_after

    assert {name: saved[name] for name in expected.run} == expected.run
    assert sorted(recorded.must.trash) == [name for name, _ in expected.trash]
    assert {name: one for name, one in saved.items() if name not in expected.run} == {
        name: one for _, files in expected.trash for name, one in files.items()
    }
    assert recorded.must.live == expected.live["set"]
    assert [] == expected.staged
    assert not expected.canary_exists
    assert len(ROUNDS) * (KILLS_BY_LINE + 2) == len(kills) >= 20
    assert len(set(kills)) >= 5
