"""Settings back in the words of the file, with every key resolved; and what is odd about them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ckptd.core.model import ProgressKeys, Role
from ckptd.core.names import shown
from ckptd.core.units import duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptd.core.model import MetricRule, Policy
    from ckptd.core.settings import ReleaseSettings, Settings, WatchSettings


def effective(settings: Settings) -> dict[str, Any]:
    """Every key of the file with the value that holds; None for what is not set."""
    daemon = settings.daemon
    return {
        "daemon": {
            "state_dir": _path(daemon.state_dir),
            "workers": daemon.workers,
            "settle": duration_text(daemon.settle),
            "sweep": duration_text(daemon.sweep),
            "heartbeat": duration_text(daemon.heartbeat),
            "scrub": duration_text(daemon.scrub) if daemon.scrub else "off",
            "scrub_rate": size_text(daemon.scrub_rate),
        },
        "log": {"format": settings.log.format, "level": settings.log.level},
        "watch": [_watch(watch) for watch in settings.watches],
    }


def _path(path: str) -> str:
    """A path that can be printed; one that is no UTF-8 could not stand in the file anyway."""
    return shown(path) if any("\ud800" <= character <= "\udfff" for character in path) else path


def _watch(watch: WatchSettings) -> dict[str, Any]:
    usual = ProgressKeys()
    return {
        "path": _path(watch.path),
        "name": watch.name,
        "layout": watch.layout,
        "observer": watch.observer,
        "poll_interval": duration_text(watch.poll_interval),
        "require": [str(role) for role in Role if role in watch.require],
        "step_key": watch.progress.step[0] if watch.progress.step != usual.step else None,
        "epoch_key": watch.progress.epoch[0] if watch.progress.epoch != usual.epoch else None,
        "best": _best(watch.best) if watch.best else None,
        "retention": _retention(watch.retention) if watch.retention else None,
        "release": _release(watch.release) if watch.release else None,
    }


def _best(rule: MetricRule) -> dict[str, Any]:
    return {"metric": rule.name, "order": str(rule.order), "min_delta": rule.min_delta}


def _retention(policy: Policy) -> dict[str, Any]:
    return {
        "mode": "enforce" if policy.enforce else "plan",
        "keep_last": policy.keep_last,
        "keep_best": policy.keep_best,
        "keep_every_steps": policy.keep_every_steps,
        "min_valid": policy.min_valid,
        "min_age": duration_text(policy.min_age),
        "trash_for": duration_text(policy.trash_for),
        "idle_after": duration_text(policy.idle_after),
    }


def _release(release: ReleaseSettings) -> dict[str, Any]:
    return {
        "deploy_dir": _path(release.deploy_dir),
        "exporter": release.exporter,
        "entrypoint": release.entrypoint,
        "input_spec": [
            {"shape": list(one.shape), "dtype": one.dtype, "name": one.name} for one in release.input_spec
        ],
        "python": _path(release.python),
        "pythonpath": [_path(path) for path in release.pythonpath],
        "params_key": release.params_key or None,
        "timeout": duration_text(release.timeout),
        "rtol": release.rtol,
        "atol": release.atol,
        "keep": release.keep,
    }


def as_toml(document: Mapping[str, Any]) -> str:
    """What `effective` returns as a file that means the same; a comment for each key that is not set."""
    return "\n".join(_lines(document)).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    inner = {key: value for key, value in table.items() if _holds_tables(value)}
    for key, value in table.items():
        if key not in inner:
            yield f"# {key} is not set" if value is None else f"{key} = {_value(value)}"
    for key, value in inner.items():
        name = f"{prefix}{key}"
        for entry in value if isinstance(value, list) else [value]:
            yield ""
            yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            yield from _lines(entry, f"{name}.")


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(one, dict) for one in value)
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=not value.isprintable())  # TOML knows all of JSON's escapes
    return str(value)


def notes(settings: Settings) -> tuple[str, ...]:
    """What is valid and yet without effect as things are now, each with its place."""
    return tuple(
        f"watch[{number}].{note}"
        for number, watch in enumerate(settings.watches, start=1)
        for note in _notes(watch)
    )


def _notes(watch: WatchSettings) -> Iterator[str]:
    if not os.path.lexists(watch.path):
        yield f"path: {_path(watch.path)} does not exist; it is watched as soon as it does"
    elif not os.path.isdir(watch.path):
        yield f"path: {_path(watch.path)} is no directory; it is watched as soon as it is one"
    if watch.retention and watch.retention.keep_every_steps == 1:
        yield "retention.keep_every_steps: 1 keeps every valid set that has a step"
    if watch.release:
        if watch.release.python and not os.path.isfile(watch.release.python):
            yield f"release.python: {_path(watch.release.python)} is no file; releases fail without it"
        for number, path in enumerate(watch.release.pythonpath, start=1):
            if not os.path.isdir(path):
                yield f"release.pythonpath[{number}]: {_path(path)} is no directory, so adds nothing"
