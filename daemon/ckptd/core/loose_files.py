"""Files of Paddle that are no checkpoint set: deployed models, saved variables, single files of any name.

Only `ckptd check` looks for them, the daemon never does: what is no set is never removed.
Sources: `paddle/jit/api.py`, `paddle/static/io.py` (`save_inference_model`, `save_vars`), and
`save_state_dict.py` of `paddle/distributed/flex_checkpoint/dcp`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

from ckptd.core import archives, programs, tensor_streams
from ckptd.core.findings import worst_verdict
from ckptd.core.layout_table import MEMBER_ROLES
from ckptd.core.layouts import basename, parent
from ckptd.core.model import (
    CheckpointSet,
    EntryKind,
    Finding,
    Judgement,
    Member,
    Role,
    SetShape,
    Verdict,
)
from ckptd.core.names import listed, shown
from ckptd.core.pickles import PROTOCOLS
from ckptd.core.shards import shard_findings
from ckptd.core.stream import ByteStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from ckptd.core.model import Entry, FileScan

HEAD_BYTES: Final = 512
"""So much of a file's beginning tells what it is."""

LOOSE_LAYOUTS: Final = frozenset({"inference", "variables", "flex", "shards", "file"})

_STREAM: Final = ".pdiparams"
_WEIGHTS: Final = (".pdparams", _STREAM, ".pdparams.tar")  # these are to hold tensors
# Names that Paddle's users give to what paddle.save writes; such a file is judged whatever is in it.
_BY_NAME: Final[tuple[tuple[str, Role], ...]] = (
    *((glob, role) for glob, role in MEMBER_ROLES if glob != "*.pkl"),
    ("*.pdiparams.info", Role.META),
    *((f"*{suffix}", Role.PARAMS) for suffix in (_STREAM, ".pdz", ".np", ".ckpt", ".pdparams.tar")),
)
_NO_STATE: Final = frozenset({Role.OPAQUE, Role.MARKER})
_PROGRAM_SUFFIXES: Final = (".pdmodel", ".json")
# What need not be opened to know that it is none of Paddle's.
_FOREIGN: Final = re.compile(
    r".*\.(bmp|cfg|conf|csv|gif|gz|h|html?|ini|ipynb|jpe?g|lock|log|md|mp[34]|np[yz]|pdf|png|py|pyc|pyi|sh|so|svg"
    r"|tiff?|toml|tsv|txt|wav|webp|xml|ya?ml|zip)",
    re.DOTALL | re.IGNORECASE,
)


class Loose(NamedTuple):
    """What was made of the files that are in no set."""

    sets: tuple[CheckpointSet, ...]
    left_out: int  # files that are none of Paddle's


def wants_look(entry: Entry) -> bool:
    """Whether the first bytes of this entry are needed to know what it is."""
    return entry.kind is EntryKind.FILE and not _is_foreign(entry)


def loose_sets(
    entries: Iterable[Entry], claimed: AbstractSet[str], heads: Mapping[str, bytes | None]
) -> Loose:
    """Gather what belongs together, directory by directory.

    Args:
        entries: all that a tree holds but its directories.
        claimed: paths of what is judged already as a member of a set; its neighbours may need it.
        heads: the first `HEAD_BYTES` of what `wants_look`, by path; None for what could not be read.
    """
    by_directory: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_directory[parent(entry.path)].append(entry)
    sets: list[CheckpointSet] = []
    left_out = 0
    for directory, inside in sorted(by_directory.items()):
        found = [one for one in _in_directory(directory, inside, heads) if not _paths(one) <= claimed]
        sets += sorted(found, key=lambda one: one.name)
        left_out += len(
            {one.path for one in inside} - claimed - {path for one in found for path in _paths(one)}
        )
    return Loose(tuple(sets), left_out)


def single_file(entry: Entry, head: bytes | None) -> CheckpointSet:
    """One file to be judged by itself, whatever it is; what is of no known kind is taken for weights."""
    role = _role(entry, head) or Role.PARAMS
    return _set("file", parent(entry.path), basename(entry.path), [Member(role, entry)])


def judge_loose(one: CheckpointSet, scans: Mapping[str, FileScan]) -> Judgement:
    """Judge what `loose_sets` made.

    Args:
        one: a set of one of `LOOSE_LAYOUTS`.
        scans: what was read of all its members, by path.
    """
    sound = [
        (member, scans[member.entry.path])
        for member in one.members
        if worst_verdict(scans[member.entry.path].findings) in {Verdict.VALID, Verdict.SUSPECT}
    ]
    findings = [
        *(finding for member in one.members for finding in scans[member.entry.path].findings),
        *(
            Finding("no_tensors", shown(member.entry.path), "no weights are in it")
            for member, scan in sound
            if member.entry.path.endswith(_WEIGHTS) and not scan.tensors
        ),
        *shard_findings(one, sound if one.layout in {"flex", "shards"} else ()),
        *(_deployment_findings(one, sound) if one.layout == "inference" else ()),
    ]
    if one.layout == "file" and one.members[0].role is Role.OPAQUE:
        findings.append(
            Finding("unknown_container", shown(one.members[0].entry.path), "open-ended by nature")
        )
    return Judgement(worst_verdict(findings), tuple(findings), roles=frozenset(m.role for m in one.members))


def _paths(one: CheckpointSet) -> set[str]:
    return {member.entry.path for member in one.members}


def _set(
    layout: str, run: str, name: str, members: Sequence[Member], directory: str | None = None
) -> CheckpointSet:
    return CheckpointSet(
        run=run,
        name=name,
        layout=layout,
        shape=SetShape.STEM if directory is None else SetShape.DIRECTORY,
        members=tuple(sorted(members, key=lambda member: member.entry.path)),
        required=frozenset(),
        is_alias=True,
        directory=directory,
    )


def _in_directory(
    directory: str, entries: Sequence[Entry], heads: Mapping[str, bytes | None]
) -> Iterator[CheckpointSet]:
    roles = {one.path: role for one in entries if (role := _role(one, heads.get(one.path)))}
    left = {one.path: Member(roles[one.path], one) for one in entries if one.path in roles}
    for group in (
        *_deployed(directory, left),
        *_of_variables(directory, entries, left, heads),
        *_sharded(directory, left),
    ):
        yield group
        for path in _paths(group):
            left.pop(path, None)
    for member in left.values():
        if member.role not in _NO_STATE:
            yield _set("file", directory, basename(member.entry.path), [member])


def _deployed(directory: str, members: Mapping[str, Member]) -> Iterator[CheckpointSet]:
    """Programs with the stream of their parameters; several may share one (`combine_params` of jit.save)."""
    stems = sorted(path.removesuffix(_STREAM) for path in members if path.endswith(_STREAM))
    by_stem: dict[str, list[Member]] = {stem: [] for stem in stems}
    for path, member in members.items():
        stem = _stem(path, member)
        if stem is None:
            continue
        shared = [one for one in stems if stem.startswith(f"{one}.")] if stem not in by_stem else []
        by_stem.setdefault(max(shared, key=len, default=stem), []).append(member)
    for stem, inside in by_stem.items():
        yield _set("inference", directory, basename(stem), inside)


def _stem(path: str, member: Member) -> str | None:
    if path.endswith((_STREAM, f"{_STREAM}.info")):
        return path.removesuffix(".info").removesuffix(_STREAM)
    if member.role is Role.PROGRAM and not basename(path).startswith("__model__"):
        return next((path.removesuffix(one) for one in _PROGRAM_SUFFIXES if path.endswith(one)), None)
    return None


def _of_variables(
    directory: str, entries: Sequence[Entry], members: Mapping[str, Member], heads: Mapping[str, bytes | None]
) -> Iterator[CheckpointSet]:
    """One file per variable, with or without a program beside them."""
    programs_ = [one for path, one in members.items() if basename(path).startswith("__model__")]
    streams = [one for path, one in members.items() if _is_nameless_stream(path, heads.get(path))]
    # Beside others, an empty file or one of zeros is a variable that was not written.
    torn = [
        Member(Role.PARAMS, one)
        for one in entries
        if one.path not in members and (head := heads.get(one.path)) is not None and not any(head)
        if not basename(one.path).startswith(".")
    ]
    if not programs_ and (not streams or len(streams) + len(torn) == 1):
        return  # one tensor by itself is a file like any other
    layout = "inference" if programs_ else "variables"
    yield _set(layout, parent(directory), basename(directory), [*programs_, *streams, *torn], directory)


def _sharded(directory: str, members: Mapping[str, Member]) -> Iterator[CheckpointSet]:
    parts = [one for one in members.values() if one.role in {Role.INDEX, Role.SHARD}]
    is_flex = any(one.entry.path.endswith((".distcp", ".metadata")) for one in parts)
    if is_flex or any(one.role is Role.INDEX for one in parts):
        layout = "flex" if is_flex else "shards"
        yield _set(layout, parent(directory), basename(directory), parts, directory)


def _role(entry: Entry, head: bytes | None) -> Role | None:
    """What a file is for, by its name and then by its first bytes; None for none of Paddle's."""
    name = basename(entry.path)
    by_name = next((role for glob, role in _BY_NAME if fnmatchcase(name, glob)), None)
    if by_name is not None:
        return by_name
    if entry.kind is not EntryKind.FILE or _is_foreign(entry):
        return None
    if head is None:  # nobody knows what it is; the scan says why it cannot be read
        return Role.PARAMS
    if programs.is_pir(head) or programs.is_program(head):
        return Role.PROGRAM
    return Role.PARAMS if _is_state(head) else None


def _is_state(head: bytes) -> bool:
    """Whether a file that begins like this is a pickle, a tensor, safetensors, or an archive of such."""
    if head[:1] == b"\x80" and head[1:2] and head[1] in PROTOCOLS:
        return True
    if head[8:10] == b'{"' and not any(head[5:8]):
        return True
    if archives.is_tar(head):
        first = head[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return any(fnmatchcase(basename(first), glob) for glob, _ in _BY_NAME)
    return _is_stream(head)


def _is_stream(head: bytes) -> bool:
    return tensor_streams.container_of(ByteStream(lambda: (head, 0, len(head)), len(head)), head) is not None


def _is_nameless_stream(path: str, head: bytes | None) -> bool:
    is_named = any(fnmatchcase(basename(path), glob) for glob, _ in _BY_NAME)
    return not is_named and head is not None and _is_stream(head)


def _is_foreign(entry: Entry) -> bool:
    return _FOREIGN.fullmatch(basename(entry.path)) is not None


def _deployment_findings(one: CheckpointSet, sound: Sequence[tuple[Member, FileScan]]) -> Iterator[Finding]:
    place = shown(one.directory or (one.name if one.run == "." else f"{one.run}/{one.name}"))
    of_program = [member for member in one.members if member.role is Role.PROGRAM]
    streams = [member for member in one.members if member.role is Role.PARAMS]
    if not of_program:
        yield Finding(
            "missing_role", place, "no program is there, and nothing else tells what has to be in it"
        )
    read = [scan for member, scan in sound if member.role is Role.PROGRAM]
    if len(of_program) != 1 or not read or read[0].container not in {"program", "pir"}:
        return  # which parameters each of several needs, of those that they share, is not told
    expected = read[0].expected
    if expected and not streams:
        yield Finding("missing_role", place, f"no params are there, and the program needs {len(expected)}")
    tensors = {member.entry.path: scan.tensors for member, scan in sound if member.role is Role.PARAMS}
    if len(tensors) < len(streams):
        return
    by_name = {basename(path): found for path, found in tensors.items()}
    names = {needed.name for needed in expected}
    if len(by_name) == 1 and not by_name.keys() & names:
        ((path, found),) = tensors.items()
        differences = list(programs.parameter_differences(expected, found))
        place = shown(path)
    else:
        missing = sorted(names - by_name.keys())
        differences = [f"{name} is not there" for name in missing] + [
            f"{needed.name}: {difference}"
            for needed in expected
            if needed.name in by_name
            for difference in programs.parameter_differences([needed], by_name[needed.name])
        ]
    if differences and streams:
        yield Finding("foreign_parameters", place, listed(differences))
