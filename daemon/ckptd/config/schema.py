"""The tables and keys of `config.toml`; the docstrings are the descriptions of its JSON schema."""

from __future__ import annotations

from datetime import timedelta  # noqa: TC003 - pydantic evaluates the annotations
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ckptd.config.values import (
    AtLeastTwo,
    DataType,
    Dimension,
    Directory,
    Entrypoint,
    Format,
    InputName,
    Interpreter,
    KeyPathText,
    Lasting,
    LastingOrOff,
    Layout,
    Level,
    Mode,
    Name,
    ObserverName,
    OneOf,
    OrderName,
    Positive,
    RequiredRoles,
    SizeWithin,
    Tolerance,
    WorkerCount,
    told,
)


class Table(BaseModel):
    """A table that knows all its keys. Defaults are written as in the file and validated like it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, use_attribute_docstrings=True
    )


class DaemonTable(Table):
    """The service itself."""

    state_dir: Directory = "/var/lib/ckptd"
    """Where the ledger lives."""
    workers: WorkerCount = 1
    """Scan processes that work at the same time."""
    settle: Annotated[timedelta, Lasting("0.1s", "1d"), Field(default="5s")]
    """A set is judged when none of its files has changed for this long."""
    sweep: Annotated[timedelta, Lasting("1s", "7d"), Field(default="5m")]
    """How often every root is looked at, whether or not an event came."""
    heartbeat: Annotated[timedelta, Lasting("1s", "1d"), Field(default="1m")]
    """How often the log says that the service works."""
    scrub: Annotated[timedelta | None, LastingOrOff("1s", "1y"), Field(default="7d")]
    """Within this time every file is read again, to find rot; `off`: never."""
    scrub_rate: Annotated[int, SizeWithin("4MiB", "1TiB"), Field(default="50MiB")]
    """The most that is read again per second."""


class LogTable(Table):
    """How the service talks."""

    format: Format = "auto"
    """`json`: one object per line; `console`: for people; `auto`: `console` on a terminal, else `json`."""
    level: Level = "info"
    """The least important events that are still written."""


class BestTable(Table):
    """Which set is the best one."""

    metric: KeyPathText
    """Key path of the metric in the set's progress file or combined dict, with dots."""
    order: OrderName
    """Which end of the metric is the good one."""
    min_delta: Tolerance = 0.0
    """A release is replaced only by a set that is better by more than this."""


class RetentionTable(Table):
    """Which sets stay. Each `keep_*` is a reason to keep a set; a set with none may go."""

    mode: Mode = "plan"
    """`plan` only says what would go; `enforce` removes it."""
    keep_last: Positive | None = None
    """Keep the newest valid sets, this many."""
    keep_best: Positive | None = None
    """Keep the best valid sets, this many; needs [watch.best]."""
    keep_every_steps: Positive | None = None
    """Keep the valid set closest to each multiple of this many steps."""
    min_valid: Positive = 1
    """The newest valid sets that stay whatever the rules say."""
    min_age: Annotated[timedelta, Lasting("0s"), Field(default="10m")]
    """No younger set is removed."""
    trash_for: Annotated[timedelta, Lasting("0s"), Field(default="24h")]
    """How long a removed set can be restored."""
    idle_after: Annotated[timedelta, Lasting("1s"), Field(default="6h")]
    """A run without a new set for this long is over: its trainer tracks its sets no longer."""


class InputTable(Table):
    """One input of the network."""

    shape: list[Dimension]
    """Its shape; -1 is any size."""
    dtype: DataType
    """Its data type."""
    name: InputName = ""
    """Its name; empty: `input_` and its position from 0."""


def _distinct(inputs: list[InputTable]) -> list[InputTable]:
    names = [one.name or f"input_{index}" for index, one in enumerate(inputs)]
    for name in names:
        if names.count(name) > 1:
            raise told(f'expected a different name for each input, got "{name}" more than once')
    return inputs


class ReleaseTable(Table):
    """How the best set becomes a model that serves."""

    deploy_dir: Directory
    """Where releases go; each watch has its own."""
    exporter: Annotated[Literal["factory"], OneOf("factory")] = "factory"
    """How the model is made: from the network that `entrypoint` builds."""
    entrypoint: Entrypoint
    """The function that returns the untrained network: `package.module:function`."""
    input_spec: Annotated[list[InputTable], Field(min_length=1), AfterValidator(_distinct)]
    """The inputs of the network, in the order of its `forward`."""
    python: Interpreter = ""
    """The interpreter that has Paddle and the network's code; empty: the one ckptd runs under."""
    pythonpath: list[Directory] = []
    """Directories from which `entrypoint` is imported."""
    params_key: KeyPathText | None = None
    """Key path of the weights within a combined dict; not set: found by the names of the weights."""
    timeout: Annotated[timedelta, Lasting("1s", "7d"), Field(default="10m")]
    """The worker is killed after this long."""
    rtol: Tolerance = 1e-4
    """How far the model's output may be from the network's, relative to it."""
    atol: Tolerance = 1e-5
    """How far the model's output may be from the network's, in absolute terms."""
    keep: AtLeastTwo = 5
    """Releases that stay in the deploy directory, the live one among them."""


class WatchTable(Table):
    """A directory below which training runs write their checkpoints."""

    path: Directory
    """The root: nothing outside it is ever changed, but for the deploy directory."""
    name: Name | None = None
    """What the root is called; not set: the directory's own name."""
    layout: Layout = "auto"
    """How sets are named; `auto`: what most sets of a run show."""
    observer: ObserverName = "auto"
    """How changes are noticed; `auto`: polling on network mounts, else inotify."""
    poll_interval: Annotated[timedelta, Lasting("0.1s", "1d"), Field(default="10s")]
    """How often a polled root is looked at."""
    require: RequiredRoles = ["params", "opt"]
    """The members without which a set is incomplete; `params` is always one."""
    step_key: KeyPathText | None = None
    """Key path of the step in progress files; not set: the usual names."""
    epoch_key: KeyPathText | None = None
    """Key path of the epoch in progress files; not set: the usual names."""
    best: BestTable | None = None
    """Which set is the best one; not set: sets are not ranked."""
    retention: RetentionTable | None = None
    """Which sets stay; not set: nothing is ever removed."""
    release: ReleaseTable | None = None
    """How the best set is released; not set: it is not."""


class Document(Table):
    """The configuration of ckptd."""

    daemon: Annotated[DaemonTable, Field(default={})]
    """The service itself."""
    log: Annotated[LogTable, Field(default={})]
    """How the service talks."""
    watch: Annotated[list[WatchTable], Field(min_length=1)]
    """The watched roots."""


TABLES: dict[tuple[str, ...], type[Table]] = {
    (): Document,
    ("daemon",): DaemonTable,
    ("log",): LogTable,
    ("watch",): WatchTable,
    ("watch", "best"): BestTable,
    ("watch", "retention"): RetentionTable,
    ("watch", "release"): ReleaseTable,
    ("watch", "release", "input_spec"): InputTable,
}
"""Each table by where it stands, without array positions."""


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, draft 2020-12."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Document.model_json_schema()}
