"""What `ckptd check` finds at a path: the sets of its runs, and the files of Paddle that are in none."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.assessment import Rules, RunFacts, assess, scans_of
from ckptd.core.findings import worst_verdict
from ckptd.core.layouts import find_runs, lone_file, may_be_set_directory, recognise
from ckptd.core.loose_files import HEAD_BYTES, judge_loose, loose_sets, single_file, wants_look
from ckptd.core.model import EntryKind, ProgressKeys, Role
from ckptd.core.names import shown
from ckptd.errors import CkptdError
from ckptd.shell import inventory
from ckptd.shell.sniffing import heads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptd.core.layouts import Tree
    from ckptd.core.model import CheckpointSet, Entry, FileScan, Finding, Fingerprint, Judgement, Member

_RULES = Rules(rule=None, keys=ProgressKeys(), policy=None)


@dataclass(slots=True)
class Place:
    """What one directory holds, with what is known of it so far."""

    root: str  # "" is the working directory
    run: str
    sets: tuple[CheckpointSet, ...] = ()
    loose: tuple[CheckpointSet, ...] = ()
    scans: dict[Fingerprint, FileScan] = field(default_factory=dict)
    loaded: dict[Fingerprint, tuple[Finding, ...]] = field(default_factory=dict)  # what --load has found

    @property
    def path(self) -> str:
        """The directory as the user wrote it."""
        return os.path.normpath(os.path.join(self.root, self.run))

    def unscanned(self) -> tuple[Member, ...]:
        """What has to be read for the verdicts."""
        loose = (
            member
            for one in self.loose
            for member in one.members
            if member.entry.path not in scans_of(one, self.scans)
        )
        facts = RunFacts(self.sets, frozenset(one.key for one in self.sets), self.scans)
        return (*assess(facts, _RULES, datetime.now(UTC)).unscanned, *loose)

    def judged(self) -> list[tuple[CheckpointSet, Judgement]]:
        """The verdicts, once all is read: of the sets, and then of the rest."""
        facts = RunFacts(self.sets, frozenset(one.key for one in self.sets), self.scans)
        found = list(assess(facts, _RULES, datetime.now(UTC)).judged)
        found += [(one, judge_loose(one, scans_of(one, self.scans))) for one in self.loose]
        return [(one, self._with_loaded(one, judgement)) for one, judgement in found]

    def _with_loaded(self, one: CheckpointSet, judgement: Judgement) -> Judgement:
        more = [
            finding for member in one.members for finding in self.loaded.get(member.entry.fingerprint, ())
        ]
        together = (*judgement.findings, *more)
        return replace(judgement, verdict=worst_verdict(together), findings=together) if more else judgement


class Found(NamedTuple):
    """What lies at one path."""

    path: str
    places: tuple[Place, ...]
    left_out: int = 0  # files that are none of Paddle's
    unlisted: tuple[str, ...] = ()  # directories that could not be looked into


def look(path: str) -> Found:
    """Look at a path: a whole tree, one set's directory, or one file taken by itself.

    Raises:
        CkptdError: it is not there, or cannot be read.
    """
    try:
        os.lstat(path)
        target = os.path.realpath(path) if os.path.islink(path) else path
        if not os.path.isdir(target):
            return Found(path, (_single(target),))
        parent, name = os.path.split(os.path.abspath(target))
        if may_be_set_directory(name):
            tree = inventory.look(parent, ".")
            if own := tuple(one for one in recognise(tree, ".") if one.directory == name):
                below = {at: inside for at, inside in tree.items() if at == name or at.startswith(f"{name}/")}
                return _found(path, os.path.dirname(os.path.normpath(target)), below, {".": own})
        tree = inventory.walk(target)
    except OSError as error:
        raise CkptdError(f"{shown(path)}: {error.strerror}") from None
    runs = {run: recognise(tree, run) for run in find_runs(tree) if not _is_own(run)}
    return _found(path, target, tree, runs)


def _found(path: str, root: str, tree: Tree, runs: dict[str, tuple[CheckpointSet, ...]]) -> Found:
    claimed = {
        member.entry.path
        for sets in runs.values()
        for one in sets
        for member in one.members
        if member.role is not Role.EXTRA
    }
    entries = [one for inside in tree.values() for one in inside]
    # The trash of a root below is passed over: what lies there was removed.
    directories = [one for one in entries if one.kind is EntryKind.DIRECTORY and not _is_own(one.path)]
    rest = [one for one in entries if one.kind is not EntryKind.DIRECTORY and not _is_own(one.path)]
    loose = loose_sets(rest, claimed, heads(root, filter(wants_look, rest), HEAD_BYTES))
    by_run: dict[str, list[CheckpointSet]] = defaultdict(list)
    for one in loose.sets:
        by_run[one.run].append(one)
    places = tuple(
        Place(root, run, runs.get(run, ()), tuple(by_run[run]))
        for run in sorted({*runs, *by_run}, key=_parts)
    )
    unlisted = tuple(os.path.join(root, one.path) for one in directories if one.path not in tree)
    return Found(path, places, loose.left_out, unlisted)


def _single(path: str) -> Place:
    root, name = os.path.split(os.path.normpath(path))
    entry = inventory.entry(root, name)
    found = single_file(entry, _head(root, (entry,)))
    known = lone_file(entry)
    if known.members[0].role is found.members[0].role and name.endswith((".pdparams", ".pdopt", ".json")):
        return Place(root, ".", sets=(known,))
    return Place(root, ".", loose=(found,))


def _head(root: str, entries: Iterable[Entry]) -> bytes | None:
    return next(iter(heads(root, filter(wants_look, entries), HEAD_BYTES).values()), None)


def _is_own(path: str) -> bool:
    return inventory.OWN_DIRECTORY in path.split("/")


def _parts(run: str) -> list[str]:
    return [] if run == "." else run.split("/")
