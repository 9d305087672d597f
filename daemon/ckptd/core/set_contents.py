"""What the members of a set hold: weights, optimizer state, and which roles that fills.

A role is filled by name or by content: a combined dict is weights, optimizer and progress in one, and whether
a shard holds weights or optimizer state is said by its name in a unified checkpoint of PaddleNLP
(`trainer/unified_checkpoint`: `model`, `peft_model`, `optimizer`, `master_weights`), else by its tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptd.core.findings import worst_verdict
from ckptd.core.layouts import basename
from ckptd.core.model import Role, SetShape, Verdict
from ckptd.core.optimizer_state import MASTER_WEIGHTS, is_accumulator
from ckptd.core.shard_names import index_of
from ckptd.core.shards import shard_findings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptd.core.model import CheckpointSet, FileScan, Finding, KeyPath, Member, TensorFacts

NOT_READ: Final = frozenset({Role.EXTRA, Role.MARKER})
"""Members whose content proves nothing about training state; no verdict needs their scan."""

# Keys of a dict that holds everything: `optimizer_state`, `opt`, `optim_G`, `netG_optimizer`, `gOptimizer`;
# but not `optical_flow`.
_OPTIMIZER_KEY = re.compile(r"(?:^|[_.]|(?<=[a-z])(?=O))(?i:opt(?:im(?:i[sz]er)?)?s?)(?:$|[_.A-Z0-9])")
_SCALER_KEY = re.compile(r"(?:^|[_.]|grad|Grad)(?i:scaler)(?:$|[_.A-Z0-9])")
# `paddle.static.save` puts a program beside the weights that has the name of a progress file: `epoch_1.json`.
_TELLS_PROGRESS: Final = frozenset({"pickle", "json"})
_PROGRESS_KEY = re.compile(r"epoch|step|iter|loss|metric|acc|score", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Held:
    """What one member holds of the state that is kept in tensors."""

    weights: tuple[TensorFacts, ...]
    optimizer: tuple[TensorFacts, ...]
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class SetContents:
    """What is known of a set from those of its members that were understood from end to end."""

    sound: tuple[tuple[Member, FileScan], ...]
    held: Mapping[str, Held]  # by the member's path
    roles: frozenset[Role]  # what the set provides
    about_shards: tuple[Finding, ...]
    knows_weights: bool  # whether all that may hold weights is there and was understood


def contents_of(checkpoint: CheckpointSet, scans: Mapping[str, FileScan]) -> SetContents:
    """Gather what a set holds.

    Args:
        checkpoint: the set.
        scans: what was read of its members, by path.
    """
    sound = tuple(_sound(checkpoint, scans))
    held = {
        member.entry.path: one
        for member, scan in sound
        if (one := _held(member, scan, checkpoint)) is not None
    }
    about_shards = shard_findings(checkpoint, sound)
    unknown = [one for one in checkpoint.members if _may_hold_weights(one) and one.entry.path not in held]
    return SetContents(
        sound=sound,
        held=held,
        roles=_roles(checkpoint, sound, held.values(), unknown),
        about_shards=about_shards,
        knows_weights=not unknown and worst_verdict(about_shards) in {Verdict.VALID, Verdict.SUSPECT},
    )


def paths_in(scan: FileScan) -> Sequence[KeyPath]:
    """The key paths of all tensors and values of a file."""
    return [*(one.key for one in scan.tensors), *(path for path, _ in scan.values)]


def is_scaler_path(path: KeyPath) -> bool:
    """Whether this lies in the part of a combined dict that is a GradScaler's state."""
    return _is_below(path, _SCALER_KEY)


def _sound(checkpoint: CheckpointSet, scans: Mapping[str, FileScan]) -> Iterator[tuple[Member, FileScan]]:
    """The members that were understood from end to end, so that what was read of them says something."""
    for member in checkpoint.members:
        scan = None if member.role in NOT_READ else scans.get(member.entry.path)
        if scan and worst_verdict(scan.findings) in {Verdict.VALID, Verdict.SUSPECT}:
            yield member, scan


def _may_hold_weights(member: Member) -> bool:
    return member.role is Role.PARAMS or member.role is Role.SHARD


def _roles(
    checkpoint: CheckpointSet,
    sound: Iterable[tuple[Member, FileScan]],
    held: Iterable[Held],
    unknown: Iterable[Member],
) -> frozenset[Role]:
    """What the set provides; a progress file that nobody asked for and nobody can read provides nothing.

    What could not be understood counts by its name: what is wrong with it is said, and it is not missing.
    """
    named = {member.role for member in checkpoint.members}
    if Role.META not in checkpoint.required:
        told = {member.role for member, scan in sound if scan.container in _TELLS_PROGRESS}
        named -= {Role.META} - told
    by_name = (_role_of_shard(member, checkpoint) for member in unknown if member.role is Role.SHARD)
    return frozenset({*named, *(role for role in by_name if role)}).union(*(one.roles for one in held))


def _held(member: Member, scan: FileScan, checkpoint: CheckpointSet) -> Held | None:
    """What a member holds; None for one that holds its state otherwise, or none."""
    if member.role is Role.PARAMS:
        return _in_dict(scan)
    if member.role is Role.OPT:
        return Held((), scan.tensors, frozenset({Role.OPT}))
    if member.role is Role.SHARD:
        return _in_shard(member, scan, checkpoint)
    if member.role is Role.PROGRAM and scan.container == "pickle" and scan.tensors:
        return _in_dict(scan)  # `model.pdmodel` of `save_group_sharded_model` holds weights
    return None


def _in_dict(scan: FileScan) -> Held:
    """The contents of a weights file: the weights alone, or one dict with everything."""
    optimizer_branches = _optimizer_branches(scan)
    optimizer = tuple(one for one in scan.tensors if one.key[:-1] in optimizer_branches)
    weights = tuple(one for one in scan.tensors if one.key[:-1] not in optimizer_branches)
    roles = {Role.PARAMS}
    if optimizer_branches:
        roles.add(Role.OPT)
    if any(map(is_scaler_path, paths_in(scan))):
        roles.add(Role.SCALER)
    if any(_tells_progress(path) and isinstance(value, int | float) for path, value in scan.values):
        roles.add(Role.META)
    return Held(weights, optimizer, frozenset(roles))


def _in_shard(member: Member, scan: FileScan, checkpoint: CheckpointSet) -> Held:
    name = basename(member.entry.path)
    if name.startswith(MASTER_WEIGHTS):
        masters = (one._replace(key=(MASTER_WEIGHTS, *one.key)) for one in scan.tensors)
        return Held((), tuple(masters), frozenset())
    role = _role_of_shard(member, checkpoint)
    state = {one for one in scan.tensors if role is Role.OPT or is_accumulator(one)}
    optimizer = tuple(one for one in scan.tensors if one in state)
    weights = tuple(one for one in scan.tensors if one not in state)
    if role is None:
        return Held(weights, optimizer, frozenset())
    roles = {one for one, tensors in ((Role.PARAMS, weights), (Role.OPT, optimizer)) if tensors}
    if (
        index_of(name) is None and not roles
    ):  # one of several may be empty, a file by itself is to hold something
        roles = {role}
    return Held(weights, optimizer, frozenset(roles))


def _role_of_shard(member: Member, checkpoint: CheckpointSet) -> Role | None:
    """What a shard fills by its name; nothing if it is one of several and the others are not known."""
    name = basename(member.entry.path)
    is_alone = checkpoint.shape is not SetShape.DIRECTORY and index_of(name) is not None
    if is_alone or name.startswith(MASTER_WEIGHTS):
        return None
    return Role.OPT if name.startswith("optimizer") else Role.PARAMS


def _optimizer_branches(scan: FileScan) -> frozenset[KeyPath]:
    """The nested dicts that hold optimizer state: by their name, or because all in them are accumulators."""
    tensors: dict[KeyPath, list[TensorFacts]] = {}
    for one in scan.tensors:
        tensors.setdefault(one.key[:-1], []).append(one)
    by_name = (path[:-1] for path in paths_in(scan) if _is_below(path, _OPTIMIZER_KEY))
    by_content = (branch for branch, inside in tensors.items() if branch and all(map(is_accumulator, inside)))
    return frozenset({*by_name, *by_content})


def _is_below(path: KeyPath, key: re.Pattern[str]) -> bool:
    return any(isinstance(part, str) and key.search(part) for part in path[:-1])


def _tells_progress(path: KeyPath) -> bool:
    return len(path) == 1 and isinstance(path[0], str) and _PROGRESS_KEY.search(path[0]) is not None
