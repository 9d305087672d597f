"""The processes of `ckptd demo`, and what they write while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptd import __file__ as package_file
from ckptd.cli.demo_story import SECONDS_TO_STOP, Told
from ckptd.errors import CkptdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ckptd.cli.demo_view import Narrator

WORKERS = Path(package_file).parent / "worker"

_LOOK_SECONDS = 0.05
_COMMAND_SECONDS = 60.0
_LINES_SHOWN = 15


@dataclass(slots=True)
class GrowingLines:
    """The lines of a JSON-lines file that somebody appends to."""

    path: Path
    _offset: int = 0

    def take(self) -> list[dict[str, Any]]:
        """The lines that were completed since the last call."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            return [json.loads(line) for line in whole.splitlines()]
        return []


@dataclass(slots=True)
class Stage:
    """The demo's directory, what runs in it, and what was seen of it."""

    directory: Path
    narrator: Narrator
    told: list[Told] = field(default_factory=list)
    judged: dict[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # by set: the last event with a verdict
    is_serving: bool = False
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _truth: GrowingLines = field(init=False)
    _log: GrowingLines = field(init=False)

    def __post_init__(self) -> None:
        self._truth = GrowingLines(self.truth_file)
        self._log = GrowingLines(self.directory / "daemon.log")

    @property
    def run_directory(self) -> Path:
        """Where the trainer saves."""
        return self.directory / "output" / "run"

    @property
    def truth_file(self) -> Path:
        """Where the trainer tells the truth."""
        return self.directory / "truth.jsonl"

    @property
    def canary(self) -> Path:
        """What exists once somebody has loaded the hostile file."""
        return self.directory / "canary"

    @property
    def config_file(self) -> Path:
        """The daemon's configuration."""
        return self.directory / "config.toml"

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start `ckptd run`."""
        return self._start("daemon", [*self._command("run")])

    def start_worker(self, name: str, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a script of `ckptd/worker`."""
        return self._start(name, [sys.executable, f"{WORKERS}/demo_{name}.py", *map(str, arguments)])

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        """The JSON lines that a ckptd command prints."""
        answer = subprocess.run(  # noqa: S603 - our own command
            self._command(*arguments), stdout=subprocess.PIPE, check=False, timeout=_COMMAND_SECONDS
        )
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def follow(
        self, is_done: Callable[[], bool], seconds: float, player: subprocess.Popen[bytes] | None = None
    ) -> bool:
        """Tell what happens until something is the case; False if time or the player ends before that."""
        deadline = time.monotonic() + seconds
        while True:
            is_over = time.monotonic() > deadline or (player is not None and player.poll() is not None)
            self._look()
            if is_done() or is_over:
                return is_done()
            time.sleep(_LOOK_SECONDS)

    def failed(self, name: str, what: str) -> CkptdError:
        """The error that a process did not do its part, with the end of what it said."""
        said = (self.directory / f"{name}.errors").read_text("utf-8", "replace").splitlines()
        return CkptdError("\n  ".join([f"the demo's {name} {what}; it said:", *said[-_LINES_SHOWN:]]))

    def end(self) -> None:
        """End whatever still runs, the daemon in its own way if it can."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_STOP)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # each began a session, and so a group of its own
            process.wait()

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "ckptd", "--config", str(self.config_file), *arguments]

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (
            (self.directory / f"{name}.log").open("ab") as log,
            (self.directory / f"{name}.errors").open("ab") as errors,
        ):
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=errors, start_new_session=True
            )
        self._processes.append(process)
        return process

    def _look(self) -> None:
        for line in self._truth.take():
            self.told.append(Told.from_line(line))
            self.narrator.tell_save(self.told[-1])
        for event in self._log.take():
            self.is_serving = self.is_serving or event["event"] == "daemon.started"
            if "verdict" in event:
                self.judged[event["set"]] = event
            self.narrator.tell_event(event)


@contextmanager
def stage_in(directory: Path, narrator: Narrator) -> Iterator[Stage]:
    """A stage in an empty directory; nothing of it runs any more afterwards."""
    stage = Stage(directory, narrator)
    try:
        yield stage
    finally:
        stage.end()
