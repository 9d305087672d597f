"""Short ways to make the values that many tests need."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptd.core.layouts import joined, parent
from ckptd.core.model import CheckpointSet, Entry, EntryKind, Member, Role, SetShape

if TYPE_CHECKING:
    from ckptd.core.layouts import Tree


def entry(
    path: str,
    *,
    kind: EntryKind = EntryKind.FILE,
    size: int = 10,
    mtime_ns: int = 1_000_000_000,
    inode: int = 1,
) -> Entry:
    """A directory entry with plausible facts."""
    return Entry(path, kind, size, mtime_ns, inode)


def tree_of(*paths: str) -> Tree:
    """A listing that holds the given files; a path that ends in `/` is an empty directory."""
    found: dict[str, dict[str, Entry]] = defaultdict(dict)
    found["."] = {}
    for path in paths:
        name = path.rstrip("/")
        kind = EntryKind.DIRECTORY if path.endswith("/") else EntryKind.FILE
        if kind is EntryKind.DIRECTORY:
            found[name] = found.get(name, {})
        while True:
            found[parent(name)].setdefault(name, entry(name, kind=kind))
            if parent(name) == ".":
                break
            name, kind = parent(name), EntryKind.DIRECTORY
    return {
        place: tuple(sorted(entries.values(), key=lambda one: one.path)) for place, entries in found.items()
    }


def stem_set(run: str, stem: str, *members: tuple[str, Role], **facts) -> CheckpointSet:
    """A set of files that share a stem, such as `stem_set("run", "epoch_1", (".pdparams", Role.PARAMS))`."""
    return CheckpointSet(
        run=run,
        name=stem,
        layout=facts.pop("layout", "plain"),
        shape=SetShape.STEM,
        members=tuple(Member(role, entry(joined(run, f"{stem}{suffix}"))) for suffix, role in members),
        required=facts.pop("required", frozenset({Role.PARAMS, Role.OPT})),
        **facts,
    )


def directory_set(run: str, name: str, *members: tuple[str, Role], **facts) -> CheckpointSet:
    """A set that is a directory, like `directory_set("run", "step_5", ("model.pdparams", Role.PARAMS))`."""
    place = joined(run, name)
    return CheckpointSet(
        run=run,
        name=name,
        layout=facts.pop("layout", "paddlenlp"),
        shape=SetShape.DIRECTORY,
        members=tuple(Member(role, entry(joined(place, file))) for file, role in members),
        required=facts.pop("required", frozenset({Role.PARAMS, Role.OPT})),
        directory=place,
        **facts,
    )
