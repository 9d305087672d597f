"""Every event that ckptd logs: the one table behind the log calls, `docs/events.md` and the alert rules.

An event is named `noun.past_verb`. A key means the same in every event that has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ckptd.core.model import Verdict

Level = Literal["debug", "info", "warning", "error", "critical"]
"""How much an event matters: from `error` on, a person should look."""

Kind = Literal["name", "names", "text", "texts", "integer", "seconds", "metric", "findings"]
"""What a value is. A `name` is a file name, which may hold any byte; the plurals are lists of at most ten."""


@dataclass(frozen=True, slots=True)
class Field:
    """One key of an event. An optional one is left out where there is nothing to say."""

    name: str
    kind: Kind
    meaning: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of log line."""

    name: str
    level: Level
    fields: tuple[Field, ...]
    meaning: str
    advice: str


KEYS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("root", "name", "watched directory, absolute"),
        Field("run", "name", "training output directory below the root; `.` is the root itself"),
        Field("set", "name", "checkpoint set within the run"),
        Field("step", "integer", "training step of the set"),
        Field("epoch", "integer", "epoch of the set"),
        Field("metric", "metric", "`{name, value, order}` that ranks the set"),
        Field("verdict", "text", "judgement of the set"),
        Field("findings", "findings", "list of `{code, path, detail}`"),
        Field("reasons", "texts", "every reason for what was decided"),
        Field("bytes", "integer", "size of what the event is about"),
        Field("digest", "text", "xxh3-128 of the weights file, hexadecimal"),
        Field("digest_before", "text", "xxh3-128 of the file when it was first read"),
        Field("digest_now", "text", "the same as read now; missing if the file cannot be read to its end"),
        Field("seconds", "seconds", "how long it took, or how long ago it was"),
        Field("bytes_freed", "integer", "bytes that the pass moved into the trash"),
        Field("config", "name", "configuration file"),
        Field("deploy_dir", "name", "where models are released to"),
        Field("entry", "name", "id of the trash entry, for `ckptd trash restore`"),
        Field("keep", "integer", "sets that the plan keeps"),
        Field("leave", "integer", "sets that the plan leaves alone"),
        Field("logger", "text", "which library speaks"),
        Field("message", "text", "what it says"),
        Field("mode", "text", "`plan` says what would be removed, `enforce` removes it"),
        Field("not_valid", "integer", "sets with any other final verdict"),
        Field("observer", "text", "where changes are learned from: `inotify` or `polling`"),
        Field("path", "name", "file that the event is about"),
        Field("pending", "integer", "sets that still change or wait for their scan"),
        Field("pid", "integer", "process id"),
        Field("previous", "name", "set that was the best one before"),
        Field("problems", "texts", "everything that is wrong, each with its place"),
        Field("reason", "text", "why"),
        Field("remove", "integer", "sets that the plan removes"),
        Field("removed", "integer", "sets that the pass moved into the trash"),
        Field("roots", "names", "watched directories"),
        Field("runs", "integer", "runs that were looked at"),
        Field("set_aside", "name", "new name of the damaged file"),
        Field("sets", "integer", "sets that were found"),
        Field("valid", "integer", "sets that are whole and loadable"),
        Field("version", "text", "version of ckptd, or of the release"),
    )
}


def _event(name: str, level: Level, keys: str, meaning: str, advice: str = "None needed.") -> Event:
    """Make a row of the table; `keys` are separated by blanks, a `?` at the end makes one optional."""
    fields = (replace(KEYS[key.rstrip("?")], is_optional=key.endswith("?")) for key in keys.split())
    return Event(name, level, tuple(fields), meaning, advice)


_JUDGED = "root run set verdict bytes step? epoch? metric? findings? digest? seconds?"
_EXPLAIN = "`ckptd explain SET` tells the findings and what to do about each."

EVENTS: dict[str, Event] = {
    event.name: event
    for event in (
        _event("daemon.started", "info", "version pid config roots", "the service runs"),
        _event("daemon.stopped", "info", "reason seconds", "the service ends; `seconds` is how long it ran"),
        _event(
            "daemon.heartbeat",
            "info",
            "seconds pending?",
            "the service works; `seconds` since the last complete pass",
            "Alert when `seconds` exceeds three sweeps, or when no heartbeat comes.",
        ),
        _event("config.reloaded", "info", "config", "the configuration was read again and holds from now on"),
        _event(
            "config.rejected",
            "error",
            "config problems",
            "the new configuration is wrong; the one before stays in force",
            "Correct it (`ckptd config check` lists every problem) and reload again.",
        ),
        _event(
            "config.noted",
            "warning",
            "message root?",
            "the configuration is valid, but part of it has no effect now",
            "Create the missing directory, or drop the rule that the message names.",
        ),
        _event("watch.started", "info", "root observer", "changes below the root are noticed"),
        _event(
            "watch.degraded",
            "error",
            "root reason",
            "the root, its watch or its trash cannot be used; what can be done without it goes on",
            "Do what the reason says: mount the directory, or raise fs.inotify.max_user_watches.",
        ),
        _event("watch.recovered", "info", "root", "the root can be used in full again"),
        _event("run.started", "info", "root run", "a run was seen for the first time"),
        _event(
            "run.failed",
            "error",
            "root run reason",
            "the run could not be looked at; the others go on, and it is tried again at the next sweep",
            "Give the service read access to the directory, or check the disk.",
        ),
        _event("set.validated", "info", _JUDGED, "the set is whole and loadable"),
        _event(
            "set.suspected",
            "warning",
            _JUDGED,
            "the set loads, but its content is not to be trusted",
            _EXPLAIN,
        ),
        _event(
            "set.incomplete", "warning", _JUDGED, "a member that is needed to resume is missing", _EXPLAIN
        ),
        _event("set.corrupt", "error", _JUDGED, "a file of the set is broken", _EXPLAIN),
        _event(
            "set.unsafe",
            "critical",
            _JUDGED,
            "loading the set would run code that it carries; it was not loaded",
            "Do not load it. Find out who wrote it.",
        ),
        _event("set.unreadable", "warning", _JUDGED, "a file of the set could not be judged", _EXPLAIN),
        _event(
            "set.rotted",
            "error",
            "root run set path digest_before reasons digest_now?",
            "a file's content changed although its size, time and inode did not; the set is valid no more",
            "Restore the file from a copy, then check disk and memory (docs/operations.md, Rot).",
        ),
        _event(
            "set.removed",
            "info",
            "root run set entry bytes reasons step? epoch?",
            "the set was moved into the trash",
            "`ckptd trash restore ENTRY` brings it back until it is purged.",
        ),
        _event("set.restored", "info", "root run set entry bytes?", "the set came back from the trash"),
        _event(
            "set.skipped",
            "warning",
            "root run set reason entry?",
            "a removal was called off at the last moment; the set is where it was",
            "None needed; the next pass decides anew.",
        ),
        _event(
            "best.changed",
            "info",
            "root run set metric step? epoch? previous?",
            "another set is the best one",
        ),
        _event(
            "plan.changed",
            "info",
            "root run mode keep remove leave bytes",
            "other sets than before are to go; `bytes` is what that frees",
            "`ckptd plan RUN` tells every reason.",
        ),
        _event("release.started", "info", "deploy_dir root run set metric?", "an export and its proof began"),
        _event(
            "release.published",
            "info",
            "deploy_dir root run set version metric? digest? seconds?",
            "the model is live: `current` points at it",
        ),
        _event(
            "release.refused",
            "error",
            "deploy_dir root run set reason metric? seconds?",
            "the model was not released; the one before stays live",
            "The reason names the way out. The same export is not tried again until set or settings change.",
        ),
        _event("trash.purged", "info", "root entry bytes run? set?", "a trash entry was deleted for good"),
        _event(
            "trash.kept",
            "warning",
            "root entry reason",
            "a trash entry was due and was not deleted",
            "Do what the reason says; it is tried again at each sweep.",
        ),
        _event(
            "trash.recovered",
            "warning",
            "root entry reason run? set?",
            "a removal or purge that was cut off by a crash was brought to an end",
        ),
        _event(
            "pin.damaged",
            "error",
            "path reason",
            "the pins cannot be read; until they can, nothing is removed",
            "Restore the file, or delete it and pin again.",
        ),
        _event(
            "ledger.damaged",
            "error",
            "path set_aside reason",
            "the ledger was damaged and set aside under a new name",
            "Check the disk. No checkpoint is lost; the damaged file may be deleted.",
        ),
        _event("ledger.rebuilt", "warning", "path", "a new ledger was made; every file is scanned anew"),
        _event(
            "ledger.unavailable",
            "error",
            "reason",
            "the ledger cannot be used now; nothing is removed or released until it can",
            "Do what the reason says: free disk space, or end the process that locks it.",
        ),
        _event(
            "scan.failed",
            "error",
            "root path reason run? set?",
            "a scan process died or hung on the file",
            "Keep the file and report it: the scanner must answer for every file.",
        ),
        _event(
            "pass.finished",
            "info",
            "runs sets valid not_valid pending removed bytes_freed seconds",
            "one pass over the runs that had changed",
        ),
        _event("library.warned", "warning", "logger message", "a library that ckptd uses has a complaint"),
    )
}

VERDICT_EVENTS: dict[Verdict, str] = {
    Verdict.VALID: "set.validated",
    Verdict.SUSPECT: "set.suspected",
    Verdict.INCOMPLETE: "set.incomplete",
    Verdict.CORRUPT: "set.corrupt",
    Verdict.UNSAFE: "set.unsafe",
    Verdict.UNREADABLE: "set.unreadable",
}


def event_for(verdict: Verdict) -> str:
    """The event that tells a final verdict; a set that still changes or waits is not told.

    Raises:
        KeyError: the verdict is not final.
    """
    return VERDICT_EVENTS[verdict]


def mismatch(event: Event, keys: frozenset[str]) -> str | None:
    """What is wrong with a log call that gives these keys to the event; None if nothing is."""
    unknown = keys - {field.name for field in event.fields}
    missing = {field.name for field in event.fields if not field.is_optional} - keys
    complaints = [
        f"{what} {', '.join(sorted(names))}"
        for what, names in (("lacks", missing), ("has no key", unknown))
        if names
    ]
    return f"{event.name} {' and '.join(complaints)}" if complaints else None
