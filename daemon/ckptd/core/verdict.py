"""The judgement of a set, from the scans of its members."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptd.core.findings import FINDINGS, worst_verdict
from ckptd.core.layouts import joined
from ckptd.core.metrics import epoch_of, metric_of, step_of
from ckptd.core.model import Finding, Judgement, Metric, Role, Verdict
from ckptd.core.names import shown
from ckptd.core.optimizer_state import foreign_state, is_accumulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckptd.core.model import (
        CheckpointSet,
        FileScan,
        KeyPath,
        Member,
        MetricRule,
        ProgressKeys,
        TensorFacts,
    )

NOT_READ = frozenset({Role.EXTRA, Role.MARKER, Role.PROGRAM, Role.OPAQUE})
"""Members whose content proves nothing about training state; no verdict needs their scan."""

# Keys of a dict that holds everything: `optimizer_state`, `opt`, `optim_G`, `netG_optimizer`, `gOptimizer`;
# but not `optical_flow`.
_OPTIMIZER_KEY = re.compile(r"(?:^|[_.]|(?<=[a-z])(?=O))(?i:opt(?:im(?:i[sz]er)?)?s?)(?:$|[_.A-Z0-9])")
_SCALER_KEY = re.compile(r"(?:^|[_.]|grad|Grad)(?i:scaler)(?:$|[_.A-Z0-9])")
_PROGRESS_KEY = re.compile(r"epoch|step|iter|loss|metric|acc|score", re.IGNORECASE)

# `state_dict` of `paddle/amp/grad_scaler.py`; a disabled scaler has none of these.
_SCALER_STATE = frozenset(
    {
        "scale",
        "incr_ratio",
        "decr_ratio",
        "incr_every_n_steps",
        "decr_every_n_nan_or_inf",
        "incr_count",
        "decr_count",
        "use_dynamic_loss_scaling",
    }
)


@dataclass(frozen=True, slots=True)
class _Contents:
    """What a weights file holds: the weights alone, or one dict with everything."""

    weights: tuple[TensorFacts, ...]
    optimizer: tuple[TensorFacts, ...]
    roles: frozenset[Role]


def judge(
    checkpoint: CheckpointSet,
    scans: Mapping[str, FileScan],
    *,
    rule: MetricRule | None,
    keys: ProgressKeys,
) -> Judgement:
    """Judge one set by itself.

    Args:
        checkpoint: the set.
        scans: what was read of its members, by path; those in a role of `NOT_READ` need none.
        rule: the metric to read, if sets are ranked.
        keys: where step and epoch are looked up.
    """
    place = _place(checkpoint)
    sound = tuple(_sound(checkpoint, scans))
    contents = {member.entry.path: _contents(scan) for member, scan in sound if member.role is Role.PARAMS}
    roles = _roles(checkpoint, sound, contents.values())
    told = sorted(
        ((member, scan) for member, scan in sound if member.role in {Role.META, Role.PARAMS}),
        key=lambda pair: (pair[0].role is not Role.META, pair[0].entry.path),
    )
    metric = metric_of(place, [(one.entry.path, scan) for one, scan in told], rule) if rule else None
    findings = (
        *(one for member in checkpoint.members for one in _member_findings(member, scans, checkpoint)),
        *(
            Finding("missing_role", place, f"no {role} is there")
            for role in sorted(checkpoint.required - roles)
        ),
        *(
            Finding("no_tensors", shown(path), "no weights are in it")
            for path, one in contents.items()
            if not one.weights
        ),
        *_optimizer_findings(checkpoint, sound, contents),
        *_scaler_findings(sound),
        *([metric] if isinstance(metric, Finding) else []),
    )
    return Judgement(
        verdict=worst_verdict(findings),
        findings=findings,
        step=step_of([scan for _, scan in told], keys),
        epoch=epoch_of([scan for _, scan in told], keys),
        metric=metric if isinstance(metric, Metric) else None,
        roles=roles,
    )


def _place(checkpoint: CheckpointSet) -> str:
    """What a finding about the whole set calls it."""
    return shown(joined(checkpoint.run, checkpoint.name))


def _sound(checkpoint: CheckpointSet, scans: Mapping[str, FileScan]) -> Iterator[tuple[Member, FileScan]]:
    """The members that were understood from end to end, so that what was read of them says something."""
    for member in checkpoint.members:
        scan = None if member.role in NOT_READ else scans.get(member.entry.path)
        if scan and worst_verdict(scan.findings) in {Verdict.VALID, Verdict.SUSPECT}:
            yield member, scan


def _roles(
    checkpoint: CheckpointSet, sound: Iterable[tuple[Member, FileScan]], contents: Iterable[_Contents]
) -> frozenset[Role]:
    """What the set provides; a progress file that nobody asked for and nobody can read provides nothing."""
    named = {member.role for member in checkpoint.members}
    if Role.META not in checkpoint.required:
        named -= {Role.META} - {member.role for member, _ in sound}
    return frozenset(named).union(*(one.roles for one in contents))


def _member_findings(
    member: Member, scans: Mapping[str, FileScan], checkpoint: CheckpointSet
) -> Iterator[Finding]:
    path, scan = shown(member.entry.path), scans.get(member.entry.path)
    is_required = member.role in checkpoint.required
    if member.role in NOT_READ:
        if is_required:
            yield Finding("unknown_container", path, f"a file of the kind {member.role} is not read")
        elif member.role is Role.OPAQUE:
            yield Finding("member_not_read", path, "open-ended by nature")
    elif scan is None:
        yield Finding("missing_file", path, "it was not read")
    elif member.role is Role.META:
        yield from (_progress_finding(one, is_required=is_required) for one in scan.findings)
    else:
        yield from scan.findings


def _progress_finding(finding: Finding, *, is_required: bool) -> Finding:
    """What a finding in a progress file means for the set: the weights beside it may be good all the same."""
    if finding.code == "nonfinite_values":
        return Finding("metric_not_finite", finding.path, finding.detail)
    verdict = FINDINGS[finding.code].verdict
    if is_required or verdict in {None, Verdict.UNSAFE}:
        return finding
    return Finding("member_not_read", finding.path, f"{finding.code}: {finding.detail}")


def _optimizer_findings(
    checkpoint: CheckpointSet, sound: Iterable[tuple[Member, FileScan]], contents: Mapping[str, _Contents]
) -> Iterator[Finding]:
    if any(one.role is Role.PARAMS and one.entry.path not in contents for one in checkpoint.members):
        return  # the parameters are not all known
    parts = contents.values()
    weights = [tensor for part in parts for tensor in part.weights]
    optimizer = [tensor for part in parts for tensor in part.optimizer]
    optimizer += (tensor for member, scan in sound if member.role is Role.OPT for tensor in scan.tensors)
    detail = foreign_state(optimizer, weights)
    if detail:
        yield Finding("foreign_optimizer", _place(checkpoint), detail)


def _scaler_findings(sound: Iterable[tuple[Member, FileScan]]) -> Iterator[Finding]:
    for member, scan in sound:
        if member.role is Role.SCALER:
            found = {path[0] for path in _paths(scan) if path}
            missing = _SCALER_STATE - found
            if found and missing:
                detail = f"no {', '.join(sorted(missing))}"
                yield Finding("bad_scaler_state", shown(member.entry.path), detail)


def _contents(scan: FileScan) -> _Contents:
    optimizer_branches = _optimizer_branches(scan)
    optimizer = tuple(one for one in scan.tensors if one.key[:-1] in optimizer_branches)
    weights = tuple(one for one in scan.tensors if one.key[:-1] not in optimizer_branches)
    roles = {Role.PARAMS}
    if optimizer_branches:
        roles.add(Role.OPT)
    if any(_is_below(path, _SCALER_KEY) for path in _paths(scan)):
        roles.add(Role.SCALER)
    if any(_tells_progress(path) and isinstance(value, int | float) for path, value in scan.values):
        roles.add(Role.META)
    return _Contents(weights, optimizer, frozenset(roles))


def _optimizer_branches(scan: FileScan) -> frozenset[KeyPath]:
    """The nested dicts that hold optimizer state: by their name, or because all in them are accumulators."""
    tensors: dict[KeyPath, list[TensorFacts]] = {}
    for one in scan.tensors:
        tensors.setdefault(one.key[:-1], []).append(one)
    by_name = (path[:-1] for path in _paths(scan) if _is_below(path, _OPTIMIZER_KEY))
    by_content = (branch for branch, inside in tensors.items() if branch and all(map(is_accumulator, inside)))
    return frozenset({*by_name, *by_content})


def _paths(scan: FileScan) -> Sequence[KeyPath]:
    return [*(one.key for one in scan.tensors), *(path for path, _ in scan.values)]


def _is_below(path: KeyPath, key: re.Pattern[str]) -> bool:
    return any(isinstance(part, str) and key.search(part) for part in path[:-1])


def _tells_progress(path: KeyPath) -> bool:
    return len(path) == 1 and isinstance(path[0], str) and _PROGRESS_KEY.search(path[0]) is not None
