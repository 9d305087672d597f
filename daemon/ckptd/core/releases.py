"""What a release is, when one may replace another, and which old ones may go.

A release is described by the `manifest.json` beside its model: JSON, `"schema": 1`, written last. Names in it
are printable (`core.names.shown`). Everything read from it is checked: the file may be damaged or forged.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from ckptd.core.model import Metric, Order
from ckptd.core.names import from_shown, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ckptd.core.model import MetricRule
    from ckptd.core.settings import ReleaseSettings

MANIFEST_NAME = "manifest.json"
SCHEMA = 1

_VERSION = re.compile(r"\d{8}T\d{6}Z-[A-Za-z0-9_.-]{1,80}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_NOT_IN_VERSIONS = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_SET_NAME = 60
_START_AFRESH = "remove the link `current` to start afresh"
_NO_ANSWER = "Report it: the worker must answer in its own form."


@dataclass(frozen=True, slots=True)
class Source:
    """The set that a release is made from, as it was judged."""

    root: str
    run: str
    set_name: str
    step: int | None
    epoch: int | None
    metric: Metric
    digests: tuple[tuple[str, str], ...]  # member path → xxh3-128, sorted by path


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a release."""

    name: str
    bytes: int
    digest: str  # xxh3-128


@dataclass(frozen=True, slots=True)
class Proof:
    """What the export worker found when it ran the model beside the network."""

    paddle_version: str
    max_abs_difference: float
    seconds: tuple[tuple[str, float], ...]  # by stage


@dataclass(frozen=True, slots=True)
class Release:
    """One exported, proven model."""

    version: str
    source: Source
    export_key: str
    files: tuple[PublishedFile, ...]
    proof: Proof
    published_at: datetime
    previous: str | None  # the version that was live before


@dataclass(frozen=True, slots=True)
class Damaged:
    """A release that cannot be trusted: why, and what somebody can do about it."""

    reason: str
    way_out: str = f"repair it, or {_START_AFRESH}"


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the export worker gave no model, and what somebody can do about it (a sentence)."""

    reason: str
    way_out: str
    show_output: bool = True  # what the worker printed tells more


def why_not(source: Source, live: Release | Damaged | None, rule: MetricRule) -> str | None:
    """Say why a set must not become the live release; None where it may.

    It may where it is better by more than `min_delta`, or where nothing is live. A reason that starts with
    "refusing to" needs somebody to act; the others are the normal case.
    """
    metric = source.metric
    if not math.isfinite(metric.value):
        return f"{metric.name} is {metric.value}, which never ranks"
    if live is None:
        return None
    if isinstance(live, Damaged):
        return (
            f"refusing to replace a live release that cannot be compared with: {live.reason}; {live.way_out}"
        )
    if source.digests == live.source.digests:
        return f"already live as {live.version}"
    return _why_not_better(metric, live, rule)


def _why_not_better(metric: Metric, live: Release, rule: MetricRule) -> str | None:
    held = live.source.metric
    wanted = rule.name, rule.order
    if (held.name, held.order) != wanted or (metric.name, metric.order) != wanted:
        return (
            f"refusing to compare {metric.name} ({metric.order}) with {held.name} ({held.order}) of the live"
            f" {live.version} by the rule {rule.name} ({rule.order}); set the rule back, or {_START_AFRESH}"
        )
    gain = metric.value - held.value if rule.order is Order.MAX else held.value - metric.value
    if gain > rule.min_delta:
        return None
    return (
        f"not better than the live {live.version}: {metric.name} {metric.value:g} against {held.value:g}"
        f" (order {rule.order}, min_delta {rule.min_delta:g})"
    )


def export_key(digests: Iterable[tuple[str, str]], settings: ReleaseSettings) -> str:
    """Digest what is exported and how: equal keys, equal outcome.

    All that a refusal may ask to be changed is part of it, so that the change gets another try.
    """
    how = [
        settings.entrypoint,
        [[list(spec.shape), spec.dtype, spec.name] for spec in settings.input_spec],
        settings.params_key,
        settings.python,
        list(settings.pythonpath),
        settings.timeout.total_seconds(),
        settings.rtol,
        settings.atol,
    ]
    return blake2b(json.dumps([sorted(digests), how]).encode(), digest_size=16).hexdigest()


def version_name(now: datetime, set_name: str, existing: Collection[str]) -> str:
    """Name a new release so that names sort by time and none of the existing ones is used again."""
    readable = _NOT_IN_VERSIONS.sub("-", set_name)[:_LONGEST_SET_NAME].strip("-.") or "set"
    name = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{readable}"
    versions = (name if number == 1 else f"{name}-{number}" for number in range(1, len(existing) + 2))
    return next(version for version in versions if version not in existing)


def is_version(name: str) -> bool:
    """Whether a name is one that `version_name` gives."""
    return _VERSION.fullmatch(name) is not None


def removable(releases: Iterable[Release], live: Release, keep: int) -> tuple[str, ...]:
    """The versions that may go, oldest first: beyond `keep` in all, never the live one or its `previous`."""
    newest_first = sorted(releases, key=_age, reverse=True)
    spared = {live.version, live.previous}
    others = [release.version for release in newest_first if release.version not in spared]
    present = sum(release.version in spared for release in newest_first)
    return tuple(reversed(others[max(0, keep - present) :]))


def _age(release: Release) -> tuple[datetime, str]:
    return release.published_at, release.version


def render_manifest(release: Release) -> bytes:
    """Write a release down; `parse_manifest` reads it back."""
    source = release.source
    manifest = {
        "schema": SCHEMA,
        "version": release.version,
        "published_at": release.published_at.astimezone(UTC).isoformat(),
        "previous": release.previous,
        "root": shown(source.root),
        "run": shown(source.run),
        "set": shown(source.set_name),
        "step": source.step,
        "epoch": source.epoch,
        "metric": {
            "name": source.metric.name,
            "value": source.metric.value,
            "order": source.metric.order.value,
        },
        "source": {shown(path): digest for path, digest in source.digests},
        "export_key": release.export_key,
        "files": {file.name: {"bytes": file.bytes, "xxh3_128": file.digest} for file in release.files},
        "proof": {
            "paddle_version": release.proof.paddle_version,
            "max_abs_difference": release.proof.max_abs_difference,
            "seconds": dict(release.proof.seconds),
        },
    }
    return (json.dumps(manifest, indent=2) + "\n").encode()


def parse_manifest(data: bytes, version: str) -> Release | Damaged:
    """Read the manifest of the release with this name; any damage is a value, never an exception."""
    try:
        return _release(json.loads(data), version)
    except (ValueError, OverflowError, RecursionError) as error:
        return Damaged(f"{version}/{MANIFEST_NAME}: {error}")


def parse_answer(data: bytes) -> Proof | Objection:
    """Read what the export worker wrote about its work; the network's code may have meddled with it."""
    try:
        answer = json.loads(data)
        if _field(answer, "ok", bool):
            return _proof(answer)
        show_output = _field(answer, "show_output", bool)
        return Objection(_text(answer, "reason"), _text(answer, "way_out"), show_output=show_output)
    except (ValueError, RecursionError) as error:
        return Objection(f"the worker's answer is damaged: {error}", _NO_ANSWER)


def _proof(found: Any) -> Proof:
    seconds = _field(found, "seconds", dict)
    return Proof(
        _text(found, "paddle_version"),
        _number(found, "max_abs_difference"),
        tuple((stage, _number(seconds, stage)) for stage in seconds),
    )


def _release(manifest: Any, version: str) -> Release:
    if _field(manifest, "schema", int) != SCHEMA:
        raise ValueError(f"schema {manifest['schema']} is not {SCHEMA}")
    if _text(manifest, "version") != version:
        raise ValueError(f"it describes {manifest['version']!r}")
    metric = _field(manifest, "metric", dict)
    previous = _field(manifest, "previous", str, type(None))
    if previous is not None and not is_version(previous):
        raise ValueError(f"'previous' {previous!r} is no version")
    files = _field(manifest, "files", dict)
    if not files:
        raise ValueError("it names no file")
    source = Source(
        root=from_shown(_text(manifest, "root")),
        run=from_shown(_text(manifest, "run")),
        set_name=from_shown(_text(manifest, "set")),
        step=_field(manifest, "step", int, type(None)),
        epoch=_field(manifest, "epoch", int, type(None)),
        metric=Metric(_text(metric, "name"), _number(metric, "value"), Order(_text(metric, "order"))),
        digests=tuple(
            sorted(
                (from_shown(path), _digest(digest))
                for path, digest in _field(manifest, "source", dict).items()
            )
        ),
    )
    return Release(
        version=version,
        source=source,
        export_key=_text(manifest, "export_key"),
        files=tuple(_file(name, entry) for name, entry in sorted(files.items())),
        proof=_proof(_field(manifest, "proof", dict)),
        published_at=_instant(_text(manifest, "published_at")),
        previous=previous,
    )


def _field(mapping: Any, key: str, *kinds: type) -> Any:
    """A value of one of these exact types (a bool is no int)."""
    if not isinstance(mapping, dict) or key not in mapping:
        raise ValueError(f"{key!r} is missing")
    value = mapping[key]
    if type(value) not in kinds:
        raise ValueError(f"{key!r} is {type(value).__name__}")
    return value


def _text(mapping: Mapping[str, Any], key: str) -> str:
    text: str = _field(mapping, key, str)
    return text


def _number(mapping: Mapping[str, Any], key: str) -> float:
    try:
        number = float(_field(mapping, key, int, float))
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{key!r} is not finite")
    return number


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{value!r} is no xxh3-128 digest")
    return value


def _file(name: str, entry: Any) -> PublishedFile:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
        raise ValueError(f"{name!r} is no name of a published file")
    return PublishedFile(name, _field(entry, "bytes", int), _digest(_field(entry, "xxh3_128", str)))


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"'published_at' {text!r} has no time zone")
    return instant.astimezone(UTC)
