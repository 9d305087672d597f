"""What `ckptd demo` shows: both sides while it runs, and at the end what became of each set."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ckptd.cli import output
from ckptd.cli.demo_story import EPOCHS
from ckptd.core.findings import FINDINGS
from ckptd.core.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from rich.console import Console

    from ckptd.cli.demo_story import Ending, Told

_SIDES = {"trainer": "cyan", "intruder": "magenta", "ckptd": "blue"}
_ENDS = {"keep": ("kept", "green"), "leave": ("left alone", "yellow"), "remove": ("in the trash", "dim")}


@dataclass(slots=True)
class Narrator:
    """Tells line by line who does what, and keeps the bar up to date where there is one."""

    console: Console
    reached: Callable[[int], None]  # an epoch
    _began: float = field(default_factory=time.monotonic)

    def tell(self, side: str, text: str | Text) -> None:
        """Print a line."""
        head = Text(f"{time.monotonic() - self._began:5.1f} s  ", style="dim")
        self.console.print(head.append(f"{side:<9} ", style=_SIDES[side]).append_text(_as_text(text)))

    def tell_save(self, told: Told) -> None:
        """Print what the trainer's side did."""
        side = "intruder" if told.accident.verdict == "unsafe" else "trainer"
        text = Text(f"{told.name:<9} accuracy {told.accuracy:.4f}")
        if told.accident.told:
            text.append(f", {told.accident.told}", style="bold")
        self.tell(side, text)
        if side == "trainer":
            self.reached(told.epoch)

    def tell_event(self, event: Mapping[str, Any]) -> None:
        """Print an event of the daemon's log, if it says something new to people."""
        name, of_set = event["event"], event.get("set", "")
        head = Text(f"{of_set:<9} ")
        if "verdict" in event:
            verdict = Verdict(event["verdict"])
            head.append_text(output.styled(verdict))
            self.tell("ckptd", head if verdict is Verdict.VALID else head.append(f": {_blamed(event)}"))
        elif name == "release.published":
            text = head.append("is live", style="bold green")
            self.tell("ckptd", text.append(", proved by paddle.inference"))
        elif name == "set.removed":
            self.tell("ckptd", head.append("moved to the trash"))
        elif event["level"] in {"error", "critical"}:
            self.tell("ckptd", head.append(f"{name}: {event.get('reason', '')}", style="red"))


def _as_text(text: str | Text) -> Text:
    return Text(text) if isinstance(text, str) else text


@contextmanager
def narration(console: Console) -> Iterator[Narrator]:
    """A narrator, with a bar below its lines if somebody watches."""
    if not console.is_terminal:
        yield Narrator(console, lambda _: None)
        return
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=EPOCHS)
        yield Narrator(console, lambda epoch: progress.update(task, completed=epoch))


def ending_table(
    told: Iterable[Told],
    decisions: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, Mapping[str, Any]],
    did: Ending,
) -> Table:
    """What became of each set, and why.

    Args:
        told: the sets.
        decisions: by set, what `ckptd plan --json` and `ckptd trash list --json` print of it.
        judged: by set, the last log event with its verdict.
        did: how it ended.
    """
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("set", "accuracy", "verdict", "", "why"):
        table.add_column(column, justify="right" if column == "accuracy" else "left")
    for one in sorted(told, key=lambda one: one.epoch):
        decision = decisions.get(one.name, {})
        end, style = _ENDS[decision["action"]] if decision else ("gone", "red")
        is_live = one.name == did.live
        verdict = did.verdicts.get(one.name)
        table.add_row(
            Text(one.name, style="bold" if is_live else ""),
            f"{one.accuracy:.4f}",
            output.styled(Verdict(verdict)) if verdict else Text("none", style="red"),
            Text.assemble(("live, " if is_live else "", "bold green"), (end, style)),
            _why(one, decision, judged.get(one.name, {})),
        )
    return table


def _why(told: Told, decision: Mapping[str, Any], event: Mapping[str, Any]) -> str:
    if decision.get("action") == "leave":
        return f"{told.accident.told}: {_blamed(event)}"
    reasons = decision.get("reasons", [])
    if decision.get("action") == "remove":
        return ", ".join(reason.partition(":")[0] for reason in reasons)
    # Which rules hold, without repeating what follows from the first ones.
    telling = [one for one in reasons if not one.startswith(("min_valid", "newest", "best", "released"))]
    return ", ".join(telling or reasons)


def _blamed(event: Mapping[str, Any]) -> str:
    """What the finding means that led to the verdict, in short."""
    codes = (finding["code"] for finding in event.get("findings", ()))
    meanings = (FINDINGS[code].meaning for code in codes if FINDINGS[code].verdict == event["verdict"])
    return re.split("[;:]", next(meanings, "no finding says why"))[0]
