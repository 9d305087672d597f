"""What the configuration says, checked and complete; every path is absolute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import timedelta

    from ckptd.core.model import MetricRule, Policy, ProgressKeys, Role

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
ObserverChoice = Literal["auto", "inotify", "polling"]


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """The service itself."""

    state_dir: str
    workers: int  # scan processes
    settle: timedelta  # a set is judged when its files have not changed for this long
    sweep: timedelta  # how often everything is looked at without a hint
    heartbeat: timedelta
    scrub: timedelta | None  # within this every file is read again; None: never
    scrub_rate: int  # bytes per second, at most


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the service talks. `auto` is `console` on a terminal and `json` elsewhere."""

    format: LogFormat
    level: LogLevel


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of the exported network, as `paddle.static.InputSpec` takes it."""

    shape: tuple[int, ...]  # -1: any size
    dtype: str
    name: str  # empty: named by its position


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    """How the best set becomes a model that serves."""

    deploy_dir: str
    exporter: Literal["factory"]
    entrypoint: str  # package.module:function
    input_spec: tuple[InputSpec, ...]  # at least one
    python: str  # the worker's interpreter; empty: the one that runs the daemon
    pythonpath: tuple[str, ...]
    params_key: str  # dotted key path of the weights within a combined dict; empty: found by their names
    timeout: timedelta
    rtol: float
    atol: float
    keep: int  # releases, the live one among them; at least 2


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """One watched root and what is wanted for its runs."""

    path: str
    name: str  # unique
    layout: str  # "auto" or a name of `core.layouts.LAYOUT_NAMES`
    observer: ObserverChoice
    poll_interval: timedelta
    require: frozenset[Role]
    progress: ProgressKeys
    best: MetricRule | None
    retention: Policy | None  # None: nothing is ever removed
    release: ReleaseSettings | None  # never without `best`


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration."""

    daemon: DaemonSettings
    log: LogSettings
    watches: tuple[WatchSettings, ...]  # at least one; no root lies within another
