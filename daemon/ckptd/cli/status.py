"""`ckptd status`: what the daemon sees, from its ledger and the status it leaves; reads no checkpoint."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ckptd.cli import output, places
from ckptd.core.assessment import saved_at
from ckptd.core.layouts import find_runs, recognise
from ckptd.core.model import Verdict
from ckptd.core.names import shown
from ckptd.core.releases import Release
from ckptd.core.scrubbing import files_of, progress
from ckptd.core.units import duration_text, shown_bytes, shown_duration
from ckptd.shell import locking
from ckptd.shell.deploy_directory import live
from ckptd.shell.ledger import open_existing_ledger
from ckptd.shell.status import read_status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from ckptd.core.model import Fingerprint
    from ckptd.core.records import RecordedJudgement
    from ckptd.core.scrubbing import Reading
    from ckptd.core.settings import Settings, WatchSettings


@dataclass(frozen=True, slots=True)
class _JudgedSet:
    saved_at: datetime
    record: RecordedJudgement


@dataclass(frozen=True, slots=True)
class _RunStatus:
    watch: WatchSettings
    run: str
    judged: tuple[_JudgedSet, ...]  # of the sets that are there now
    waiting: int  # sets that are there and not judged yet
    readings: Mapping[Fingerprint, Reading]  # of the judged ones' files

    @property
    def verdicts(self) -> Counter[Verdict]:
        return Counter(one.record.judgement.verdict for one in self.judged)

    @property
    def newest_valid(self) -> _JudgedSet | None:
        valid = [one for one in self.judged if one.record.judgement.verdict is Verdict.VALID]
        return max(valid, key=lambda one: one.saved_at, default=None)


def run(options: argparse.Namespace) -> int:
    """Print the state of the daemon and of every run."""
    settings = places.settings(options)
    daemon = _daemon(settings)
    runs = list(_runs(settings))
    places.reachable(settings)  # tells of those that are not
    daemon["scrub"] = _scrub(settings, runs)
    if options.json:
        output.print_json({"daemon": daemon})
        for one in runs:
            output.print_json(_object(one))
        return 0
    _print(settings, daemon, runs)
    return 0


def _daemon(settings: Settings) -> dict[str, Any]:
    pid = locking.holder(settings.daemon.state_dir)
    left = read_status(settings.daemon.state_dir) or {}
    keys = ("version", "started_at", "complete_pass_at", "pending_scans", "trouble")
    return {"running": pid is not None, "pid": pid, **{key: left.get(key) for key in keys}}


def _runs(settings: Settings) -> Iterator[_RunStatus]:
    with ExitStack() as stack:
        ledger = open_existing_ledger(Path(settings.daemon.state_dir))
        if ledger is not None:
            stack.enter_context(ledger)
        for watch in settings.watches:
            tree = places.listing(watch)
            for run_path in find_runs(tree):
                sets = recognise(tree, run_path, layout=watch.layout, required=watch.require)
                known = ledger.last_judgements(watch.path, run_path) if ledger else {}
                judged = [one for one in sets if one.key in known]
                files = [member.entry.fingerprint for one in judged for member in one.members]
                yield _RunStatus(
                    watch,
                    run_path,
                    tuple(_JudgedSet(saved_at(one), known[one.key]) for one in judged),
                    len(sets) - len(judged),
                    ledger.readings(watch.path, files) if ledger else {},
                )


def _scrub(settings: Settings, runs: Sequence[_RunStatus]) -> dict[str, Any] | None:
    """How far the present round is; None if there are none."""
    length = settings.daemon.scrub
    if length is None:
        return None
    files = [file for one in runs for file in files_of(one.watch.path, one.readings)]
    rotted = sum(reading.is_rotted for one in runs for reading in one.readings.values())
    told = progress(
        files,
        now=datetime.now(UTC),
        round_length=length,
        bytes_per_second=settings.daemon.scrub_rate,
    )
    return {
        "round": duration_text(length),
        "files": told.files,
        "bytes": told.bytes,
        "files_read": told.files_read,
        "bytes_read": told.bytes_read,
        "began_at": told.began_at.isoformat(),
        "through_at": told.through_at.isoformat() if told.through_at else None,
        "late": told.is_late,
        "rotted": rotted,
    }


def _scrub_line(scrub: dict[str, Any]) -> Text:
    line = Text(
        f"read again in this round of {scrub['round']}: {scrub['files_read']} of {scrub['files']} files, "
        f"{shown_bytes(scrub['bytes_read'])} of {shown_bytes(scrub['bytes'])}"
    )
    if scrub["through_at"]:
        line.append(f", through in {_until(scrub['through_at'])}")
    if scrub["late"]:
        line.append("; late: raise daemon.scrub_rate, or let the daemon run", style="yellow")
    if scrub["rotted"]:
        line.append(f"; {scrub['rotted']} rotted: see set.rotted in the log", style="red")
    return line


def _until(instant: str) -> str:
    return shown_duration(datetime.fromisoformat(instant) - datetime.now(UTC))


def _live_set(watch: WatchSettings) -> dict[str, Any] | None:
    current = live(watch.release.deploy_dir) if watch.release else None
    if not isinstance(current, Release):
        return None
    return {
        "version": current.version,
        "run": shown(current.source.run),
        "set": shown(current.source.set_name),
    }


def _object(one: _RunStatus) -> dict[str, Any]:
    newest = one.newest_valid
    return {
        "root": shown(one.watch.path),
        "run": shown(places.run_name(one.watch, one.run)),
        "sets": {verdict.value: count for verdict, count in sorted(one.verdicts.items())},
        "waiting": one.waiting,
        "bytes": sum(judged.record.bytes for judged in one.judged),
        "newest_valid": shown(newest.record.key.name) if newest else None,
        "newest_valid_at": newest.saved_at.isoformat() if newest else None,
        "live": _live_set(one.watch),
    }


def _print(settings: Settings, daemon: dict[str, Any], runs: list[_RunStatus]) -> None:
    console = output.console()
    if daemon["running"]:
        passed = daemon["complete_pass_at"]
        since = f", last complete pass {_ago(passed)}" if passed else ""
        console.print(Text.assemble(("running", "green"), f" as process {daemon['pid']}{since}"))
    else:
        console.print(Text.assemble(("not running", "red"), ": what follows is what it knew last"))
    for root, reason in (daemon["trouble"] or {}).items():
        console.print(Text(f"{root}: {reason}", style="red"))
    console.print(_scrub_line(daemon["scrub"]) if daemon["scrub"] else "nothing is read again: scrub is off")
    table = Table(box=None, header_style="bold")
    for column in ("run", "sets", "newest valid"):
        table.add_column(column)
    for one in runs:
        newest = one.newest_valid
        table.add_row(
            Text(shown(places.run_name(one.watch, one.run))),
            _counts(one),
            Text(
                f"{shown(newest.record.key.name)}, written {_ago(newest.saved_at.isoformat())}"
                if newest
                else "none"
            ),
        )
    console.print(table if runs else "no run with checkpoint sets yet")
    for watch in settings.watches:
        if current := _live_set(watch):
            console.print(Text(f"live: {current['run']}/{current['set']} as {current['version']}"))


def _in_words(newest: _JudgedSet | None) -> str:
    if newest is None:
        return "none"
    return f"{shown(newest.record.key.name)}, written {_ago(newest.saved_at.isoformat())}"


def _counts(one: _RunStatus) -> Text:
    parts = [
        Text.assemble(f"{count} ", output.styled(verdict)) for verdict, count in sorted(one.verdicts.items())
    ]
    parts += [Text(f"{one.waiting} waiting", style="dim")] if one.waiting else []
    return Text(", ").join(parts)


def _ago(instant: str) -> str:
    return f"{shown_duration(datetime.now(UTC) - datetime.fromisoformat(instant))} ago"
