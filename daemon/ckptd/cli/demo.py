"""`ckptd demo`: the daemon on a real Paddle training run with accidents, and a check of what came of it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ckptd.cli import demo_story as story
from ckptd.cli import output
from ckptd.cli.demo_stage import WORKERS, stage_in
from ckptd.cli.demo_view import ending_table, narration
from ckptd.core.units import shown_bytes
from ckptd.errors import CkptdError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from ckptd.cli.demo_stage import Stage

_PACE_SECONDS = 2.5  # an epoch; makes the whole demo last about 45 seconds
_START_SECONDS = 60.0
_TRAINING_SECONDS = 300.0
_END_SECONDS = 60.0
_WORKER_SECONDS = 60.0


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 only if everything came as it must."""
    if importlib.util.find_spec("paddle") is None:
        raise CkptdError(
            f"the demo trains with Paddle, which {sys.executable} does not have;"
            " install it with: pip install 'ckptd[paddle]'"
        )
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)  # what is started ends with this process
    console = output.console()
    with _workshop(options.directory) as directory:
        with narration(console) as narrator, stage_in(Path(directory), narrator) as stage:
            played = _play(stage)
        code = conclude(stage, played, console)
        if options.directory is not None:
            console.print(f"kept in {directory}; try: ckptd --config {directory}/config.toml trash list")
    return code


@dataclass(frozen=True, slots=True)
class Played:
    """How the demo had to end, how it did, and what ckptd's commands say of each set."""

    must: story.Ending
    did: story.Ending
    decisions: Mapping[str, Mapping[str, Any]]


@contextmanager
def _workshop(wanted: str | None) -> Iterator[str]:
    """An empty directory: the wanted one, which stays, or a temporary one."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="ckptd-demo-") as directory:
            yield os.path.realpath(directory)
        return
    try:
        os.makedirs(wanted, exist_ok=True)
        is_used = bool(os.listdir(wanted))
    except OSError as error:
        raise UsageError(f"{wanted}: {error.strerror}; name a new directory") from None
    if is_used:
        raise UsageError(f"refusing to run the demo in {wanted}, which is not empty; name a new directory")
    yield os.path.realpath(wanted)


def _play(stage: Stage) -> Played:
    """Let it all happen."""
    stage.run_directory.parent.mkdir()
    stage.config_file.write_text(story.config_text(str(WORKERS)), "utf-8")
    daemon = stage.start_daemon()
    if not stage.follow(lambda: stage.is_serving, _START_SECONDS, daemon):
        raise stage.failed("daemon", "did not start")
    stage.narrator.tell("ckptd", "watches output/, which is empty")
    _train(stage)
    must = story.expected_ending(stage.told)

    def has_ended() -> bool:
        is_judged = stage.judged.keys() >= {one.name for one in stage.told}
        return is_judged and _members(stage) == must.members and _live_set(stage) == must.live

    stage.follow(has_ended, _END_SECONDS, daemon)  # if it never comes to that, the comparison says what lacks
    accuracy = _measure(stage)
    seconds = _stop(daemon)
    planned = {line["set"]: line for line in stage.ask("plan", "--json") if "set" in line}
    trash = {line["set"]: {**line, "action": "remove"} for line in stage.ask("trash", "list", "--json")}
    did = story.Ending(
        live=_live_set(stage),
        live_accuracy=accuracy,
        members=_members(stage),
        verdicts={name: line["verdict"] for name, line in {**stage.judged, **planned}.items()},
        trash=frozenset(trash),
        planned_removals=frozenset(name for name, line in planned.items() if line["action"] == "remove"),
        canary_exists=stage.canary.exists(),
        daemon_exit_code=daemon.returncode,
        seconds_to_stop=seconds,
    )
    return Played(must, did, {**trash, **planned})


def _train(stage: Stage) -> None:
    """Train to the end: the trainer is killed and started again, and the intruder comes in between."""
    arguments = (stage.run_directory, stage.truth_file, *story.trainer_arguments(), "--pace", _PACE_SECONDS)
    trainer = stage.start_worker("trainer", *arguments)
    if not stage.follow(lambda: trainer.poll() is not None, _TRAINING_SECONDS):
        raise stage.failed("trainer", f"took longer than {_TRAINING_SECONDS:g} s")
    if trainer.returncode != -signal.SIGKILL:
        raise stage.failed("trainer", f"ended with {trainer.returncode}, and not by its kill")
    stage.narrator.tell("trainer", "is dead; it is started again, and resumes from what loads")
    trainer = stage.start_worker("trainer", *arguments)
    if stage.follow(lambda: _has_written(stage, story.INTRUSION_AFTER), _TRAINING_SECONDS, trainer):
        _intrude(stage)
    if not stage.follow(lambda: trainer.poll() is not None, _TRAINING_SECONDS):
        raise stage.failed("trainer", f"took longer than {_TRAINING_SECONDS:g} s")
    if trainer.returncode != 0:
        raise stage.failed("trainer", f"ended with {trainer.returncode}")
    stage.narrator.tell("trainer", "has done its last epoch")


def _has_written(stage: Stage, name: str) -> bool:
    return any(one.name == name for one in stage.told)


def _intrude(stage: Stage) -> None:
    donor, epoch = story.INTRUSION_DONOR, story.HOSTILE
    intruder = stage.start_worker(
        "intruder", stage.run_directory, donor, epoch, stage.canary, stage.truth_file
    )
    if intruder.wait(_WORKER_SECONDS) != 0:
        raise stage.failed("intruder", f"ended with {intruder.returncode}")


def _measure(stage: Stage) -> float | None:
    """The accuracy of the live model; None if it could not be measured."""
    result = stage.directory / "measured.json"
    measure = stage.start_worker("measure", stage.directory / "deploy" / "current", result)
    with suppress(subprocess.TimeoutExpired):
        measure.wait(_WORKER_SECONDS)
    try:
        return float(json.loads(result.read_text("utf-8"))["accuracy"])
    except (OSError, ValueError):
        return None


def _stop(daemon: subprocess.Popen[bytes]) -> float:
    """Stop the daemon; returns how many seconds that took."""
    began = time.monotonic()
    daemon.terminate()
    try:
        daemon.wait(2 * story.SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
    return time.monotonic() - began


def _members(stage: Stage) -> dict[str, frozenset[str]]:
    """The suffixes of the files that each set has."""
    found: dict[str, set[str]] = {}
    for name in os.listdir(stage.run_directory):
        stem, dot, suffix = name.partition(".")
        found.setdefault(stem, set()).add(dot + suffix)
    return {stem: frozenset(suffixes) for stem, suffixes in found.items()}


def _live_set(stage: Stage) -> str | None:
    """The set that `current` was made from, if there is one."""
    manifest = stage.directory / "deploy" / "current" / "manifest.json"
    try:
        return str(json.loads(manifest.read_text("utf-8"))["set"])
    except (OSError, ValueError, KeyError):
        return None


def conclude(stage: Stage, played: Played, console: Console) -> int:
    """Show what became of each set, and whether it had to; returns the exit code."""
    did, missed = played.did, story.failures(played.must, played.did)
    console.print()
    console.print(ending_table(stage.told, played.decisions, stage.judged, did))
    console.print()
    for text in missed:
        console.print(Text(f"not as it must be: {text}", style="bold red"))
    if missed:
        return 1
    size = shown_bytes(sum(played.decisions[name]["bytes"] for name in did.trash))
    console.print(
        Text.assemble(
            ("as it must be: ", "bold green"),
            f"{did.live} is live, the best valid set, measured accuracy {did.live_accuracy:.4f}",
            f"\nfreed: {size}, {len(did.trash)} sets; they wait in the trash for an hour, each can come back",
            f"\nsafe: nobody loaded the hostile file; the daemon stopped in {did.seconds_to_stop:.1f} s",
        )
    )
    return 0
