"""The judgement of a set, from the scans of its members."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptd.core.findings import FINDINGS, worst_verdict
from ckptd.core.layouts import joined
from ckptd.core.metrics import epoch_of, metric_of, step_of
from ckptd.core.model import Finding, Judgement, Metric, Role, Verdict
from ckptd.core.names import listed, shown
from ckptd.core.optimizer_state import foreign_state
from ckptd.core.progress import progress_findings
from ckptd.core.set_contents import NOT_READ, paths_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptd.core.model import CheckpointSet, FileScan, Member, MetricRule, ProgressKeys
    from ckptd.core.set_contents import SetContents

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


# Files in these roles may hold no tensor at all, so that another kind of file would pass for an empty one.
_MAY_BE_EMPTY = frozenset({Role.OPT, Role.EMA, Role.SCALER, Role.SCHEDULER, Role.RNG})
_NO_STATE = frozenset({"program", "pir", "index"})


def judge(
    checkpoint: CheckpointSet,
    scans: Mapping[str, FileScan],
    contents: SetContents,
    *,
    rule: MetricRule | None,
    keys: ProgressKeys,
) -> Judgement:
    """Judge one set by itself.

    Args:
        checkpoint: the set.
        scans: what was read of its members, by path; those in a role of `NOT_READ` need none.
        contents: what `contents_of` the two says.
        rule: the metric to read, if sets are ranked.
        keys: where step and epoch are looked up.
    """
    place = place_of(checkpoint)
    told = sorted(
        ((member, scan) for member, scan in contents.sound if member.role in {Role.META, Role.PARAMS}),
        key=lambda pair: (pair[0].role is not Role.META, pair[0].entry.path),
    )
    metric = metric_of(place, [(one.entry.path, scan) for one, scan in told], rule) if rule else None
    findings = (
        *(one for member in checkpoint.members for one in _member_findings(member, scans, checkpoint)),
        *(
            Finding("missing_role", place, f"no {role} is there")
            for role in sorted(checkpoint.required - contents.roles)
        ),
        *contents.about_shards,
        *(
            Finding("no_tensors", shown(path), "no weights are in it")
            for path, one in contents.held.items()
            if Role.PARAMS in one.roles and not one.weights
        ),
        *_container_findings(contents.sound),
        *_optimizer_findings(place, contents),
        *_scaler_findings(contents.sound),
        *progress_findings(checkpoint, contents.sound),
        *([metric] if isinstance(metric, Finding) else []),
        *_constant_findings(contents),
    )
    return Judgement(
        verdict=worst_verdict(findings),
        findings=findings,
        step=step_of([scan for _, scan in told], keys),
        epoch=epoch_of([scan for _, scan in told], keys),
        metric=metric if isinstance(metric, Metric) else None,
        roles=contents.roles,
    )


def place_of(checkpoint: CheckpointSet) -> str:
    """What a finding about the whole set calls it."""
    return shown(joined(checkpoint.run, checkpoint.name))


def _member_findings(
    member: Member, scans: Mapping[str, FileScan], checkpoint: CheckpointSet
) -> Iterator[Finding]:
    path, scan = shown(member.entry.path), scans.get(member.entry.path)
    is_required = member.role in checkpoint.required
    if scan is not None and (rot := [one for one in scan.findings if one.code == "content_rotted"]):
        yield from rot  # in whatever file: what keeps this one keeps the others, too
        scan = replace(scan, findings=tuple(one for one in scan.findings if one not in rot))
    if member.role in NOT_READ or member.role is Role.OPAQUE:
        if is_required:
            yield Finding("unknown_container", path, f"a file of the kind {member.role} is not read")
        elif member.role is Role.OPAQUE and scan is not None and scan.findings:
            codes = sorted({one.code for one in scan.findings})
            yield Finding("member_not_read", path, f"open-ended by nature: {listed(codes)}")
    elif scan is None:
        yield Finding("missing_file", path, "it was not read")
    elif member.role is Role.META:
        yield from (_progress_file_finding(one, is_required=is_required) for one in scan.findings)
    elif member.role is Role.RNG and not is_required:
        yield from map(_rng_finding, scan.findings)
    else:
        yield from scan.findings


def _progress_file_finding(finding: Finding, *, is_required: bool) -> Finding:
    """What a finding in a progress file means for the set: the weights beside it may be good all the same."""
    if finding.code == "nonfinite_values":
        return Finding("metric_not_finite", finding.path, finding.detail)
    verdict = FINDINGS[finding.code].verdict
    if is_required or verdict in {None, Verdict.UNSAFE}:
        return finding
    return Finding("member_not_read", finding.path, f"{finding.code}: {finding.detail}")


def _rng_finding(finding: Finding) -> Finding:
    """What a finding in a random state means for the set: it can be resumed, but not exactly."""
    if FINDINGS[finding.code].verdict in {None, Verdict.UNSAFE}:
        return finding
    return Finding("bad_rng_state", finding.path, f"{finding.code}: {finding.detail}")


def _container_findings(sound: Iterable[tuple[Member, FileScan]]) -> Iterator[Finding]:
    for member, scan in sound:
        if member.role in _MAY_BE_EMPTY and (scan.container in _NO_STATE or scan.expected):
            kind = "index" if scan.expected else scan.container
            detail = f"it is to be {member.role} state, and is of the kind {kind}"
            yield Finding("wrong_container", shown(member.entry.path), detail)


def _optimizer_findings(place: str, contents: SetContents) -> Iterator[Finding]:
    if contents.knows_weights:
        parts = contents.held.values()
        weights = [tensor for part in parts for tensor in part.weights]
        optimizer = [tensor for part in parts for tensor in part.optimizer]
        detail = foreign_state(optimizer, weights)
        if detail:
            yield Finding("foreign_optimizer", place, detail)


def _scaler_findings(sound: Iterable[tuple[Member, FileScan]]) -> Iterator[Finding]:
    for member, scan in sound:
        if member.role is Role.SCALER:
            found = {path[0] for path in paths_in(scan) if path}
            missing = _SCALER_STATE - found
            if found and missing:
                detail = f"no {', '.join(sorted(missing))}"
                yield Finding("bad_scaler_state", shown(member.entry.path), detail)


def _constant_findings(contents: SetContents) -> Iterator[Finding]:
    for path, held in contents.held.items():
        names = [".".join(map(str, one.key)) for one in held.weights if one.is_constant]
        if names:
            detail = (
                f"the elements of {len(names)} of {len(held.weights)} weights are all equal: {listed(names)}"
            )
            yield Finding("constant_tensors", shown(path), detail)
