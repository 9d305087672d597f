"""Recognises checkpoint sets in a directory listing, by the rows of `core.layout_table`."""

from __future__ import annotations

import re
from collections import defaultdict
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ckptd.core.layout_table import JSON_PROGRESS, LAYOUT_ROWS, MEMBER_ROLES, LayoutRow
from ckptd.core.model import CheckpointSet, EntryKind, Member, Role, SetShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckptd.core.model import Entry

LAYOUT_NAMES: frozenset[str] = frozenset(row.layout for row in LAYOUT_ROWS)
DEFAULT_REQUIRED: frozenset[Role] = frozenset({Role.PARAMS, Role.OPT})

_FALLBACK = "plain"
_ONLY_INSIDE = (".distcp", ".metadata", ".pdmodel")  # members of a directory that something else makes a set
_STEM_SUFFIXES = (
    ".info.json",
    ".metrics.json",
    ".json",
    *(
        glob[1:]
        for glob, _ in MEMBER_ROLES
        if glob.startswith("*.") and glob.count(".") == 1 and not glob.endswith(_ONLY_INSIDE)
    ),
)
_ANCHORS = frozenset({Role.PARAMS, Role.OPT, Role.SHARD, Role.INDEX})  # a set is known by one of these
_PLACEHOLDERS = {
    # 18 digits fit a signed 64-bit column; a longer run of digits is a hash or a date, not a step.
    "epoch": r"(?P<epoch>\d{1,18})",
    "step": r"(?P<step>\d{1,18})",
    "any": r"(?P<family>.*?)",
}

Tree = dict[str, "tuple[Entry, ...]"]
"""The direct entries of each directory that was looked at, by the directory's path (`.` is the root)."""


class _Name(NamedTuple):
    """What a fitting template reads out of a name."""

    step: int | None
    epoch: int | None
    family: str


class _Group(NamedTuple):
    """Files that belong together by name, not yet matched with a row."""

    shape: SetShape
    name: str
    directory: str | None
    members: tuple[Member, ...]


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    literals = (
        re.escape(part) if index % 2 == 0 else _PLACEHOLDERS[part] for index, part in enumerate(parts)
    )
    return re.compile("".join(literals), re.DOTALL)


def _read_name(row: LayoutRow, name: str) -> _Name | None:
    """What the row's first fitting template reads out of the name; None if no template fits."""
    for template in row.names:
        if match := _pattern(template).fullmatch(name):
            found = match.groupdict()
            step, epoch = (int(found[key]) if key in found else None for key in ("step", "epoch"))
            return _Name(step, epoch, found.get("family", ""))
    return None


def basename(path: str) -> str:
    """The last component of a relative path."""
    return path.rpartition("/")[2]


def parent(path: str) -> str:
    """The directory that holds a path; the root holds itself."""
    return path.rpartition("/")[0] or "."


def joined(directory: str, name: str) -> str:
    """The path of an entry of a directory."""
    return name if directory == "." else f"{directory}/{name}"


@lru_cache(maxsize=4096)
def may_be_set_directory(name: str) -> bool:
    """Whether a directory of this name can be a set by itself, judged by the name alone."""
    return any(row.shape is SetShape.DIRECTORY and _read_name(row, name) for row in LAYOUT_ROWS)


def is_set_directory(tree: Mapping[str, Sequence[Entry]], path: str) -> bool:
    """Whether a directory is a set of its parent, and so no run of its own."""
    return path != "." and may_be_set_directory(basename(path)) and _directory_group(tree, path) is not None


def owning_run(path: str, is_set: Callable[[str], bool]) -> str:
    """The run that a directory belongs to: the parent of the outermost set directory on its path, or itself.

    Args:
        path: the directory.
        is_set: `is_set_directory` on a fresh listing; asked only for names that could be sets.
    """
    reached = "."
    for part in path.split("/"):
        outer, reached = reached, joined(reached, part)
        if may_be_set_directory(part) and is_set(reached):
            return outer
    return path


def find_runs(tree: Mapping[str, Sequence[Entry]], start: str = ".") -> Iterator[str]:
    """All directories at or below `start` that hold at least one set, outer before inner."""
    groups = _groups(tree, start)
    set_directories = {group.directory for group in groups}
    if groups:
        yield start
    for entry in tree.get(start, ()):
        if entry.kind is EntryKind.DIRECTORY and entry.path not in set_directories:
            yield from find_runs(tree, entry.path)


def recognise(
    tree: Mapping[str, Sequence[Entry]],
    run: str,
    *,
    layout: str = "auto",
    required: frozenset[Role] = DEFAULT_REQUIRED,
) -> tuple[CheckpointSet, ...]:
    """The sets of a run, sorted by name.

    Args:
        tree: the listing of the run's directory and of everything below its set directories.
        run: the run's path.
        layout: a name of `LAYOUT_NAMES`, or `auto` to choose by what the files show.
        required: roles that a set must have, unless its layout's row never writes them.
    """
    groups = _groups(tree, run)
    chosen = _choose_layout(groups) if layout == "auto" else layout
    taken = {group.name for group in groups if group.shape is SetShape.STEM}
    found = (_recognised(group, run, chosen, required, taken) for group in groups)
    return tuple(sorted((one for one in found if one), key=lambda one: one.name))


def lone_file(entry: Entry) -> CheckpointSet:
    """A file to be judged by itself, whatever lies beside it; of unknown suffix, it is taken for weights."""
    role = _role(basename(entry.path), in_directory=False)
    role = Role.PARAMS if role is Role.EXTRA else role
    return CheckpointSet(
        run=parent(entry.path),
        name=basename(entry.path),
        layout=_FALLBACK,
        shape=SetShape.STEM,
        members=(Member(role, entry),),
        required=frozenset({role}),
        is_alias=True,
    )


def lone_directory(tree: Mapping[str, Sequence[Entry]], path: str) -> CheckpointSet | None:
    """The shards in a directory of any name as one set, to be judged by itself; None if there are none.

    So are a downloaded model and a flex checkpoint: what is in their files is one, and no run names it.
    """
    members = tuple(
        Member(_role(basename(entry.path), in_directory=True), entry) for entry in tree.get(path, ())
    )
    if not {Role.SHARD, Role.INDEX} & {member.role for member in members}:
        return None
    return CheckpointSet(
        run=parent(path),
        name=basename(path),
        layout=_FALLBACK,
        shape=SetShape.DIRECTORY,
        members=members,
        required=frozenset({Role.SHARD}),
        is_alias=True,
        directory=path,
    )


def _recognised(
    group: _Group, run: str, layout: str, required: frozenset[Role], taken_stems: set[str]
) -> CheckpointSet | None:
    for row in _rows(layout):
        name = _read_name(row, group.name) if row.shape is group.shape else None
        if name is None:
            continue
        collides = group.shape is SetShape.DIRECTORY and group.name in taken_stems
        return CheckpointSet(
            run=run,
            name=f"{group.name}/" if collides else group.name,
            layout=row.layout,
            shape=group.shape,
            members=group.members,
            required=(required | row.also_required) - row.never_written,
            step=name.step,
            epoch=name.epoch,
            family=name.family,
            is_alias=row.is_alias,
            trainer_prunes=row.trainer_prunes,
            directory=group.directory,
        )
    return None  # pragma: no cover - the fallback's last rows fit every group that _groups makes


@cache
def _rows(layout: str) -> tuple[LayoutRow, ...]:
    """A layout's own rows, then the general ones for what its trainer did not write."""
    own = tuple(row for row in LAYOUT_ROWS if row.layout == layout)
    return own if layout == _FALLBACK else own + _rows(_FALLBACK)


def _choose_layout(groups: Iterable[_Group]) -> str:
    """The layout that most sets of a run show evidence of; the first row wins a tie."""
    votes: dict[str, int] = defaultdict(int)
    for group in groups:
        for row in LAYOUT_ROWS:
            if row.shape is group.shape and _read_name(row, group.name) and _shows_evidence(row, group):
                votes[row.layout] += 1
                break
    order = [row.layout for row in LAYOUT_ROWS]
    return max(votes, key=lambda layout: (votes[layout], -order.index(layout)), default=_FALLBACK)


def _shows_evidence(row: LayoutRow, group: _Group) -> bool:
    names = [basename(member.entry.path) for member in group.members]
    return any(fnmatchcase(name, glob) for glob in row.evidence for name in names)


def _groups(tree: Mapping[str, Sequence[Entry]], run: str) -> list[_Group]:
    entries = tree.get(run, ())
    groups = _stem_groups(entries)
    for entry in entries:
        if entry.kind is EntryKind.DIRECTORY and may_be_set_directory(basename(entry.path)):
            group = _directory_group(tree, entry.path)
            if group is not None:
                groups.append(group)
    return groups


def _stem_groups(entries: Sequence[Entry]) -> list[_Group]:
    by_stem: dict[str, list[Member]] = defaultdict(list)
    for entry in entries:
        name = basename(entry.path)
        suffix = next((one for one in _STEM_SUFFIXES if name.endswith(one) and name != one), None)
        if suffix is not None:
            by_stem[name[: -len(suffix)]].append(Member(_role(name, in_directory=False), entry))
    return [
        _Group(SetShape.STEM, stem, None, tuple(members))
        for stem, members in by_stem.items()
        if any(map(_is_anchor, members))
    ]


def _is_anchor(member: Member) -> bool:
    return member.role in _ANCHORS and not member.entry.path.endswith(_ONLY_INSIDE)


def _directory_group(tree: Mapping[str, Sequence[Entry]], path: str) -> _Group | None:
    direct = tree.get(path, ())
    members = [Member(_role(basename(entry.path), in_directory=True), entry) for entry in direct]
    if not any(map(_is_anchor, members)):
        return None
    if sum(group.name.isdigit() for group in _stem_groups(direct)) > 1:
        return None  # a run that happens to be called like a set: it holds numbered sets of its own
    members += [Member(Role.EXTRA, entry) for entry in _below(tree, direct)]
    members.sort(key=lambda member: member.entry.path)
    return _Group(SetShape.DIRECTORY, basename(path), path, tuple(members))


def _below(tree: Mapping[str, Sequence[Entry]], entries: Iterable[Entry]) -> Iterator[Entry]:
    """Everything in the subdirectories among the entries."""
    for entry in entries:
        if entry.kind is EntryKind.DIRECTORY:
            inside = tree.get(entry.path, ())
            yield from inside
            yield from _below(tree, inside)


def _role(name: str, *, in_directory: bool) -> Role:
    if not in_directory and name.endswith(".json"):
        return Role.META
    if any(fnmatchcase(name, glob) for glob in JSON_PROGRESS):
        return Role.META
    return next((role for glob, role in MEMBER_ROLES if fnmatchcase(name, glob)), Role.EXTRA)
