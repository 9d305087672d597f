"""Finds, reads and checks `config.toml`, and turns it into settings."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ckptd.config.paths import absolute, default_name
from ckptd.config.problems import ConfigError, got, nearest, place
from ckptd.config.rules import broken_rules
from ckptd.config.schema import TABLES, Document
from ckptd.config.values import TOLD
from ckptd.core.model import MetricRule, Policy, ProgressKeys, Role
from ckptd.core.names import shown
from ckptd.core.settings import (
    DaemonSettings,
    InputSpec,
    LogSettings,
    ReleaseSettings,
    Settings,
    WatchSettings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from ckptd.config.schema import BestTable, ReleaseTable, RetentionTable, WatchTable

VARIABLE = "CKPTD_CONFIG"
SYSTEM_PATH = "/etc/ckptd/config.toml"

_LARGEST_BYTES = 1 << 20


def find(explicit: str | None, environ: Mapping[str, str], cwd: str, system_path: str = SYSTEM_PATH) -> str:
    """The file to read: the one named on the command line, by $CKPTD_CONFIG, the system's, the directory's.

    Raises:
        ConfigError: none was named and none is in the usual places.
    """
    if named := explicit or environ.get(VARIABLE):
        return named
    usual = (system_path, os.path.join(cwd, "config.toml"))
    for path in usual:
        if not _is_absent(path):
            return path
    places = " nor at ".join(shown(path) for path in usual)
    raise ConfigError(
        [f"no configuration: ${VARIABLE} is not set, and there is none at {places}; name one with --config"]
    )


def _is_absent(path: str) -> bool:
    """Whether there is no such file; one that may not be seen counts as there, so that this gets said."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def load(path: str) -> Settings:
    """Read and check a configuration; relative paths in it start at the directory it is in.

    Raises:
        ConfigError: with every problem there is, each on a line that begins with the file's name.
    """
    base = os.path.dirname(os.path.abspath(path))
    try:
        document = _parsed(_content(path))
    except ValueError as error:
        raise ConfigError([f"{shown(path)}: {error}"]) from None
    problems = []
    try:
        checked = Document.model_validate(document)
    except ValidationError as error:
        problems = [_in_words(item) for item in error.errors(include_url=False)]
    problems += broken_rules(document, base)
    if problems:
        raise ConfigError(f"{shown(path)}: {problem}" for problem in problems)
    return _settings(checked, base)


def _content(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file; name another with --config") from None
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_BYTES:
        raise ValueError("it is larger than 1 MiB; expected a configuration")
    return content


def _parsed(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ValueError: it is none; the message names line and column.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        where = _line_and_column(content[: error.start].decode())
        raise ValueError(f"{where}: expected UTF-8, got the byte 0x{content[error.start]:02x}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(_syntax_problem(str(error), text)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply; expected tables as in docs/configuration.md") from None
    except ValueError:  # not TOML's own: Python does not read integers of more than 4300 digits
        raise ValueError("it holds a number of thousands of digits; expected 64 bits at most") from None


def _syntax_problem(message: str, text: str) -> str:
    """A message of tomllib, which ends with `(at line 1, column 2)` or `(at end of document)`."""
    what, _, where = message.removesuffix(")").rpartition(" (at ")
    return f"{_line_and_column(text) if where == 'end of document' else where}: no valid TOML: {what}"


def _line_and_column(before: str) -> str:
    """The place right after a text, both counted from 1."""
    return f"line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _in_words(error: ErrorDetails) -> str:
    """One of pydantic's errors as a problem."""
    location, kind = error["loc"], error["type"]
    if kind == TOLD:
        what = error["msg"]
    elif kind == "extra_forbidden":
        what = f"unknown key; {_hint(location)}"
    elif location == ("watch",):
        what = "nothing to watch; expected at least one [[watch]] table, in double brackets, with a path"
    elif kind == "missing":
        what = f"missing; expected {_expected(location)}"
    elif kind == "too_short":
        what = "expected at least one element, got an empty array"
    else:
        what = f"expected {'an array' if kind == 'list_type' else 'a table'}, got {got(error['input'])}"
    return f"{place(location)}: {what}"


def _table_of(location: tuple[int | str, ...]) -> tuple[str, ...]:
    return tuple(part for part in location[:-1] if isinstance(part, str))


def _hint(location: tuple[int | str, ...]) -> str:
    """Where an unknown key belongs, which one may have been meant, or what there is."""
    here, key = _table_of(location), str(location[-1])
    known = TABLES[here].model_fields
    if elsewhere := [table for table, model in TABLES.items() if table and key in model.model_fields]:
        return f"it belongs in {' or '.join(_header(table) for table in elsewhere)}"
    return nearest(key, known).removeprefix("; ") or f"known here: {', '.join(known)}"


def _header(table: tuple[str, ...]) -> str:
    return "[[watch]]" if table == ("watch",) else f"[{'.'.join(table)}]"


def _expected(location: tuple[int | str, ...]) -> str:
    """What should stand at a required key that does not."""
    field = TABLES[_table_of(location)].model_fields[str(location[-1])]
    phrases = (getattr(mark, "expected", None) for mark in field.metadata)
    return next((phrase for phrase in phrases if phrase), "an array")


def _settings(document: Document, base: str) -> Settings:
    daemon = document.daemon
    return Settings(
        daemon=DaemonSettings(
            state_dir=absolute(base, daemon.state_dir),
            workers=daemon.workers,
            settle=daemon.settle,
            sweep=daemon.sweep,
            heartbeat=daemon.heartbeat,
            scrub=daemon.scrub,
            scrub_rate=daemon.scrub_rate,
        ),
        log=LogSettings(format=document.log.format, level=document.log.level),
        watches=tuple(_watch(table, base) for table in document.watch),
    )


def _watch(table: WatchTable, base: str) -> WatchSettings:
    path = absolute(base, table.path)
    usual = ProgressKeys()
    return WatchSettings(
        path=path,
        name=table.name or default_name(path),
        layout=table.layout,
        observer=table.observer,
        poll_interval=table.poll_interval,
        require=frozenset(Role(name) for name in table.require),
        progress=ProgressKeys(
            step=(table.step_key,) if table.step_key else usual.step,
            epoch=(table.epoch_key,) if table.epoch_key else usual.epoch,
        ),
        best=_best(table.best) if table.best else None,
        retention=_policy(table.retention) if table.retention else None,
        release=_release(table.release, base) if table.release else None,
    )


def _best(table: BestTable) -> MetricRule:
    return MetricRule(name=table.metric, order=table.order, min_delta=table.min_delta)


def _policy(table: RetentionTable) -> Policy:
    return Policy(
        enforce=table.mode == "enforce",
        min_valid=table.min_valid,
        min_age=table.min_age,
        trash_for=table.trash_for,
        idle_after=table.idle_after,
        keep_last=table.keep_last,
        keep_best=table.keep_best,
        keep_every_steps=table.keep_every_steps,
    )


def _release(table: ReleaseTable, base: str) -> ReleaseSettings:
    return ReleaseSettings(
        deploy_dir=absolute(base, table.deploy_dir),
        exporter=table.exporter,
        entrypoint=table.entrypoint,
        input_spec=tuple(InputSpec(tuple(one.shape), one.dtype, one.name) for one in table.input_spec),
        python=absolute(base, table.python) if table.python else "",
        pythonpath=tuple(absolute(base, path) for path in table.pythonpath),
        params_key=table.params_key or "",
        timeout=table.timeout,
        rtol=table.rtol,
        atol=table.atol,
        keep=table.keep,
    )
