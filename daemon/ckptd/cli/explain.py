"""`ckptd explain SET`: everything that was ever found and decided about a set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ckptd.cli import output, places
from ckptd.core.findings import FINDINGS
from ckptd.core.layouts import joined
from ckptd.core.model import SetKey
from ckptd.core.names import from_shown, shown
from ckptd.core.records import RecordedDecision, RecordedJudgement, ReleaseRecord, Removal, RemovalState
from ckptd.errors import CkptdError
from ckptd.shell.ledger import open_existing_ledger

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ckptd.core.records import HistoryEntry
    from ckptd.core.settings import Settings
    from ckptd.shell.ledger import Ledger

_REMOVAL_WORDS = {
    RemovalState.BEGUN: "removal begun, into trash entry",
    RemovalState.REMOVED: "moved into the trash as",
    RemovalState.SKIPPED: "removal called off, of trash entry",
    RemovalState.RESTORED: "restored from trash entry",
    RemovalState.PURGED: "deleted for good with trash entry",
}


def run(options: argparse.Namespace) -> int:
    """Print the set's history, oldest first."""
    settings = places.settings(options)
    ledger = open_existing_ledger(Path(settings.daemon.state_dir))
    if ledger is None:
        raise CkptdError("nothing is known yet: the daemon has never run with this configuration")
    with ledger:
        place = places.find_place(settings, options.set, _remembered(settings, options.set, ledger))
        history = ledger.history(place.watch.path, place.key)
    if options.json:
        for entry in history:
            output.print_json(_object(place, entry))
        return 0
    console = output.console()
    name = joined(places.run_name(place.watch, place.key.run), place.key.name)
    console.print(Text(shown(name), style="bold"))
    for entry in history:
        console.print(Text.assemble((f"{entry.at:%Y-%m-%d %H:%M:%S}  ", "dim"), _line(entry)))
    if not history:
        console.print("nothing was found or decided about it yet")
    return 0


def _remembered(settings: Settings, text: str, ledger: Ledger) -> Iterator[places.Place]:
    """Sets that are gone from the disk but not from the ledger, if the text names one below a root."""
    run_path, _, name = from_shown(text).rpartition("/")
    for watch in settings.watches:
        for run_name in {
            run_path,
            run_path.removeprefix(f"{watch.name}/"),
            "." if run_path == watch.name else run_path,
        }:
            key = SetKey(run_name or ".", name)
            if ledger.history(watch.path, key):
                yield places.Place(watch, key)


def _object(place: places.Place, entry: HistoryEntry) -> dict[str, Any]:
    head = {
        "run": shown(places.run_name(place.watch, place.key.run)),
        "set": shown(place.key.name),
        "at": entry.at.isoformat(),
    }
    match entry:
        case RecordedJudgement(judgement=judgement):
            return {
                **head,
                "what": "judged",
                "verdict": judgement.verdict,
                "step": judgement.step,
                "epoch": judgement.epoch,
                "metric": output.metric_object(judgement.metric),
                "findings": [output.finding_object(finding) for finding in judgement.findings],
            }
        case RecordedDecision(decision=decision):
            return {**head, "what": "decided", "action": decision.action, "reasons": list(decision.reasons)}
        case Removal():
            return {**head, "what": entry.state, "entry": entry.entry, "reason": entry.reason}
        case ReleaseRecord():
            return {
                **head,
                "what": f"release {entry.state}",
                "version": entry.version,
                "reason": entry.reason,
            }


def _line(entry: HistoryEntry) -> Text:
    match entry:
        case RecordedJudgement(judgement=judgement):
            line = Text.assemble("judged ", output.styled(judgement.verdict))
            for finding in judgement.findings:
                line.append(f"\n  {output.in_words(finding)}\n  {FINDINGS[finding.code].advice}")
            return line
        case RecordedDecision(decision=decision):
            return Text(f"{decision.action}: {'; '.join(decision.reasons)}")
        case Removal():
            reason = f": {entry.reason}" if entry.reason else ""
            return Text(f"{_REMOVAL_WORDS[entry.state]} {entry.entry}{reason}")
        case ReleaseRecord():
            version = f" as {entry.version}" if entry.version else ""
            reason = f": {entry.reason}" if entry.reason else ""
            return Text(f"release {entry.state}{version}{reason}")
