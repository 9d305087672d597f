"""What happens in `ckptd demo`, and what must come of it; computed apart from the code that it checks.

The sets and their true accuracies come from the demo's trainer, line by line in its truth file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EPOCHS = 14
KILLED, NO_OPTIMIZER, DIVERGED, MIXED_UP_FROM = 5, 7, 9, 10
HOSTILE = 99
INTRUSION_AFTER = "epoch_10"
INTRUSION_DONOR = "epoch_8"

KEEP_LAST = 3
KEEP_EVERY_STEPS = 500
SECONDS_TO_STOP = 5.0

_ALL_MEMBERS = frozenset({".pdparams", ".pdopt", ".pdscaler", ".pdmeta"})
_ONE_SAMPLE = (
    1 / 2000
)  # of the held-out ones: a tie between two classes may fall either way in another program


@dataclass(frozen=True, slots=True)
class Accident:
    """What befalls a set, and what follows from it."""

    told: str  # by the trainer's side
    verdict: str
    members: frozenset[str]  # suffixes


ACCIDENTS: dict[str, Accident] = {
    "none": Accident("", "valid", _ALL_MEMBERS),
    "killed": Accident("killed by SIGKILL in mid-save", "corrupt", frozenset({".pdparams", ".pdopt"})),
    "no_optimizer": Accident("saved without .pdopt", "incomplete", _ALL_MEMBERS - {".pdopt"}),
    "diverged": Accident("diverged just before the save", "suspect", _ALL_MEMBERS),
    "hostile": Accident("dropped by somebody else", "unsafe", _ALL_MEMBERS),
}


@dataclass(frozen=True, slots=True)
class Told:
    """One set, as whoever wrote it tells the truth about it."""

    name: str
    epoch: int
    step: int
    accuracy: float
    accident: Accident

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Told:
        """Read a line of the truth file."""
        return cls(line["set"], line["epoch"], line["step"], line["accuracy"], ACCIDENTS[line["accident"]])

    @property
    def is_valid(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.accident.verdict == "valid"


@dataclass(frozen=True, slots=True)
class Ending:
    """How the demo ends: as it must, or as it did."""

    live: str | None
    live_accuracy: float | None  # measured on the live model
    members: Mapping[str, frozenset[str]]  # of each set that is in the run directory
    verdicts: Mapping[str, str]
    trash: frozenset[str]
    planned_removals: frozenset[str] = frozenset()  # what would still go
    canary_exists: bool = False
    daemon_exit_code: int = 0
    seconds_to_stop: float = 0.0


def expected_ending(told: Sequence[Told]) -> Ending:
    """What must come of these sets, in the order in which they were written."""
    valid = [one for one in told if one.is_valid]
    best = max(valid, key=lambda one: (one.accuracy, one.step))
    stay = {one.name for one in (*valid[-KEEP_LAST:], best, *_milestones(valid))}
    removed = frozenset(one.name for one in valid if one.name not in stay)
    return Ending(
        live=best.name,
        live_accuracy=best.accuracy,
        members={one.name: one.accident.members for one in told if one.name not in removed},
        verdicts={one.name: one.accident.verdict for one in told},
        trash=removed,
    )


def _milestones(valid: Sequence[Told]) -> Iterable[Told]:
    """For each multiple of the steps the closest set; of two equally close ones the later."""
    half = KEEP_EVERY_STEPS // 2
    for multiple in range(KEEP_EVERY_STEPS, valid[-1].step + KEEP_EVERY_STEPS, KEEP_EVERY_STEPS):
        near = [one for one in valid if -half <= one.step - multiple < half]
        if near:
            yield min(near, key=lambda one: (abs(one.step - multiple), -one.step))


def failures(must: Ending, did: Ending) -> list[str]:
    """Every expectation that was not met, as a sentence; empty if all were."""
    found = []
    if did.live != must.live:
        found.append(f"the live model is from {did.live or 'nowhere'}, the best valid set is {must.live}")
    if did.live_accuracy is None:
        found.append("the live model could not be measured")
    elif must.live_accuracy is None or abs(did.live_accuracy - must.live_accuracy) > _ONE_SAMPLE:
        found.append(
            f"the live model has accuracy {did.live_accuracy}, the best valid set {must.live_accuracy}"
        )
    found += (f"{name} is gone" for name in must.members if name not in did.members)
    found += (f"{name} is still there" for name in did.members if name not in must.members)
    found += (
        f"{name} has the members {_listed(did.members[name])} instead of {_listed(members)}"
        for name, members in must.members.items()
        if did.members.get(name, members) != members
    )
    found += (
        f"{name} was judged {did.verdicts.get(name, 'not at all')} instead of {verdict}"
        for name, verdict in must.verdicts.items()
        if did.verdicts.get(name) != verdict
    )
    found += (f"{name} is not in the trash" for name in sorted(must.trash - did.trash))
    found += (f"{name} is in the trash" for name in sorted(did.trash - must.trash))
    found += (f"{name} would be removed next" for name in sorted(did.planned_removals))
    if did.canary_exists:
        found.append("the hostile file was loaded: its canary exists")
    if did.daemon_exit_code != 0:
        found.append(f"the daemon ended with {did.daemon_exit_code} instead of 0")
    if did.seconds_to_stop > SECONDS_TO_STOP:
        found.append(
            f"the daemon took {did.seconds_to_stop:.1f} s to stop, longer than {SECONDS_TO_STOP:g} s"
        )
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def trainer_arguments() -> list[str]:
    """What makes the trainer play its part."""
    return [
        *("--epochs", str(EPOCHS)),
        *("--mixed-up-from", str(MIXED_UP_FROM)),
        *("--killed", str(KILLED)),
        *("--no-optimizer", str(NO_OPTIMIZER)),
        *("--diverged", str(DIVERGED)),
    ]


def config_text(worker_directory: str, *, settle: str = "0.5s", sweep: str = "2s") -> str:
    """The demo's configuration; its paths are relative to where it lies, but for the network's code.

    Args:
        worker_directory: where the module `demo_network` is.
        settle: a duration as the configuration has it.
        sweep: likewise.
    """
    return f"""\
[daemon]
state_dir = "state"
settle = "{settle}"
sweep = "{sweep}"

[log]
format = "json"

[[watch]]
path = "output"

[watch.best]
metric = "accuracy"
order = "max"

[watch.retention]
mode = "enforce"
keep_last = {KEEP_LAST}
keep_best = 1
keep_every_steps = {KEEP_EVERY_STEPS}
min_valid = 2
min_age = "0s"
trash_for = "1h"

[watch.release]
deploy_dir = "deploy"
entrypoint = "demo_network:build"
pythonpath = [{json.dumps(worker_directory)}]
input_spec = [{{ shape = [-1, 32], dtype = "float32", name = "x" }}]
"""
