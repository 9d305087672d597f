"""What changed between a set and the one before it in its series.

The weights of a training keep their names, shapes and types. A network that was changed is legal, but nothing
that passes in silence: the first set after the change is suspect, the next is compared with that one.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptd.core.layouts import basename
from ckptd.core.model import Finding, Role, SetShape
from ckptd.core.names import listed
from ckptd.core.optimizer_state import is_named
from ckptd.core.set_contents import is_scaler_path, paths_in
from ckptd.core.shard_names import whole_of
from ckptd.core.state_dicts import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ckptd.core.model import CheckpointSet, FileScan, KeyPath, Member, TensorFacts
    from ckptd.core.set_contents import SetContents

    Name = tuple[str, str]  # of the file and of the tensor
    Form = tuple[tuple[int, ...], str]  # shape and type

_LARGEST_SIZE: Final = 2**63 - 1  # of a dimension that is not nonsense


@dataclass(frozen=True, slots=True)
class Traits:
    """What later sets of the series are compared with.

    `weights` are names, shapes and types, packed, since a daemon remembers them for every set; None if not
    all of the weights are known. `has_scaler_state` is None where there is no GradScaler at all.
    """

    weights: bytes | None = None
    has_scaler_state: bool | None = None


def traits_of(checkpoint: CheckpointSet, contents: SetContents) -> Traits:
    """Take from a set's contents what later ones are compared with."""
    told = [
        any(path[-1:] != (NOTHING,) for path in paths)
        for member, scan in contents.sound
        if (paths := _scaler_paths(member, scan)) is not None
    ]
    return Traits(_packed(checkpoint, contents), any(told) if told else None)


def changes(place: str, before: Traits, now: Traits, name_before: str) -> Iterator[Finding]:
    """Say how the weights differ from those of the previous set.

    Args:
        place: how to name the set in a finding.
        before: the previous set's traits.
        now: this set's traits.
        name_before: how to name the previous set, printable.
    """
    if before.weights is None or now.weights is None or before.weights == now.weights:
        return
    old, new = _unpacked(before.weights), _unpacked(now.weights)
    both = [name for name in new if name in old]
    differences = (
        ("tensors_lost", "are gone", [name for name in old if name not in new]),
        ("shapes_changed", "have other shapes", [one for one in both if _is_reshaped(old[one], new[one])]),
        ("dtypes_changed", "are of another type", [one for one in both if old[one][1] != new[one][1]]),
        ("tensors_added", "are new", [name for name in new if name not in old]),
    )
    for code, what, names in differences:
        if names:
            count = f"{len(names)} tensors {what} since {name_before}: "
            yield Finding(code, place, count + listed([_described(name, old, new) for name in names]))


def _described(name: Name, old: Mapping[Name, Form], new: Mapping[Name, Form]) -> str:
    forms = [f"{shape} {dtype}" for shape, dtype in (side[name] for side in (old, new) if name in side)]
    return f"{name[1]} {' to '.join(forms)}"


def _is_reshaped(old: Form, new: Form) -> bool:
    """Whether a tensor has another shape that matters.

    Some Paddle versions write a single number as (1,), others as (); and a vector that grows may be a history
    which is saved beside the weights, while a bias never changes without its matrix.
    """
    sizes = {math.prod(old[0]), math.prod(new[0])}
    return old[0] != new[0] and sizes != {1} and not len(old[0]) == len(new[0]) == 1


def _scaler_paths(member: Member, scan: FileScan) -> Sequence[KeyPath] | None:
    """The key paths of a GradScaler's state; None where this member has no place for one."""
    paths = paths_in(scan)
    if member.role is Role.PARAMS:
        return [path for path in paths if is_scaler_path(path)] or None
    return paths if member.role is Role.SCALER else None


def _packed(checkpoint: CheckpointSet, contents: SetContents) -> bytes | None:
    found = [
        (_label(checkpoint, path), ".".join(map(str, one.key)), one.shape, one.dtype)
        for path, held in sorted(contents.held.items())
        for one in _lasting(held.weights)
    ]
    if not contents.knows_weights or any(path.endswith(".distcp") for path in contents.held):
        return None  # parts of a flex checkpoint's tensors may be cut otherwise in every set
    return zlib.compress(json.dumps(sorted(found)).encode(), level=1)


def _unpacked(packed: bytes) -> dict[Name, Form]:
    rows = json.loads(zlib.decompress(packed))
    return {(label, name): (tuple(shape), dtype) for label, name, shape, dtype in rows}


def _label(checkpoint: CheckpointSet, path: str) -> str:
    """The part of a file's name that is the same in every set."""
    name = basename(path)
    return name.rpartition(".")[2] if checkpoint.shape is SetShape.STEM else whole_of(name)


def _lasting(weights: Sequence[TensorFacts]) -> Sequence[TensorFacts]:
    """The weights proper, without what a loop saves beside them and may be of another shape each time.

    They go by Paddle's names; where none does, they are what is nested beside plain values.
    """
    known = [one for one in weights if max(one.shape, default=0) <= _LARGEST_SIZE]
    named = [one for one in known if is_named(one)]
    nested = [one for one in known if len(one.key) > 1]
    return named or nested or known
