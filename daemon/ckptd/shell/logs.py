"""The log: events of `core.events` as JSON lines, or for people on a terminal. structlog lays out the line.

Logging never stops the service: when the reader of the log is gone or its disk full, lines are lost. What is
logged may come from hostile files and never breaks a line, forges one, or makes one too long for the journal.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import structlog

from ckptd.core.events import EVENTS, mismatch
from ckptd.core.model import Finding, Metric
from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import TextIO

    from ckptd.core.events import Kind, Level

Format = Literal["auto", "json", "console"]

_SCHEMA = 1
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
# The journal cuts a line at 48 KiB: a path of 4096 bytes is up to 16 KiB printable, a list gets the rest.
_MOST_ITEMS = 10
_MOST_CHARACTERS = 500
_INT64 = range(-(2**63), 2**63)


class Log:
    """Writes events to one stream. May be used from several threads."""

    def __init__(self, stream: TextIO, *, format: Format, level: Level, journal: str | None) -> None:  # noqa: A002 - the config key
        descriptor = stream.fileno()
        is_terminal = stream.isatty()
        is_console = format == "console" or (format == "auto" and is_terminal)
        self._logger = structlog.wrap_logger(
            _Writer(descriptor, with_priority=not is_console and _is_journal(descriptor, journal)),
            processors=[_console(is_terminal=is_terminal) if is_console else _json_line],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        )

    def emit(self, event: str, /, **fields: Any) -> None:
        """Write one event; a field that is None is left out.

        Raises:
            ValueError: the table has no such event, or other keys for it.
        """
        known = EVENTS.get(event)
        if known is None:
            raise ValueError(f"no event is called {event!r}")
        given = {name: value for name, value in fields.items() if value is not None}
        problem = mismatch(known, frozenset(given))
        if problem:
            raise ValueError(problem)
        kinds = {field.name: field.kind for field in known.fields}
        plain = {name: _plain(given[name], kinds[name]) for name in sorted(given)}
        getattr(self._logger, known.level)(event, level=known.level, **plain)


def configure(stream: TextIO, *, format: Format, level: Level, journal: str | None) -> Log:  # noqa: A002 - the config key
    """Make the log, and lead what libraries log from warnings on into it.

    Args:
        stream: an open file with a descriptor, which is written to directly.
        format: "auto" is "console" on a terminal, else "json".
        level: the least level that is written.
        journal: what the environment has as JOURNAL_STREAM.
    """
    log = Log(stream, format=format, level=level, journal=journal)
    handler = _LibraryHandler(log)
    root = logging.getLogger()
    for other in [other for other in root.handlers if isinstance(other, _LibraryHandler)]:
        root.removeHandler(other)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)  # of libraries; on stderr they would break the line format
    return log


class _LibraryHandler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the library's arguments do not fit its own format
            message = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message}: {record.exc_info[1]!r}"
        self._log.emit("library.warned", logger=record.name, message=message)


class _Writer:
    """What structlog calls with the finished line: one method per level."""

    def __init__(self, descriptor: int, *, with_priority: bool) -> None:
        self._descriptor = descriptor
        self._with_priority = with_priority
        self._lock = threading.Lock()
        self.debug, self.info, self.warning, self.error, self.critical = (
            self._method(_PRIORITIES[level]) for level in ("debug", "info", "warning", "error", "critical")
        )

    def _method(self, priority: int) -> Callable[[str], None]:
        prefix = f"<{priority}>" if self._with_priority else ""
        return lambda line: self._write(f"{prefix}{line}\n")

    def _write(self, text: str) -> None:
        # Past Python's buffers: they would keep what cannot be written and fail again at the exit.
        remaining = memoryview(text.encode("utf-8", "backslashreplace"))
        with self._lock, suppress(OSError):
            while remaining:
                remaining = remaining[os.write(self._descriptor, remaining) :]


def _is_journal(descriptor: int, journal: str | None) -> bool:
    """Whether the descriptor is the very stream that systemd connected to the journal."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return journal == f"{status.st_dev}:{status.st_ino}"


def _json_line(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> str:
    head = {"schema": _SCHEMA, "ts": _timestamp(), "level": line.pop("level"), "event": line.pop("event")}
    return json.dumps({**head, **line}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _console(*, is_terminal: bool) -> Callable[[Any, str, MutableMapping[str, Any]], str]:
    renderer = structlog.dev.ConsoleRenderer(colors=is_terminal, pad_event_to=18, sort_keys=False)

    def render(logger: Any, method: str, line: MutableMapping[str, Any]) -> str:
        fields = {key: _for_people(value) for key, value in line.items()}
        return renderer(logger, method, {"timestamp": _timestamp(), **fields})

    return render


def _for_people(value: Any) -> Any:
    match value:
        case list():
            return ", ".join(str(_for_people(item)) for item in value)
        case {"code": code, "path": path, "detail": detail}:
            return f"{code} ({path}: {detail})"
        case {"name": name, "value": number}:
            return f"{name} {number}"
        case _:
            return value


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any, kind: Kind) -> Any:
    """Turn a value into what JSON has, printable and of bounded size."""
    if isinstance(value, (tuple, list)):
        return [_plain(item, kind) for item in value[:_MOST_ITEMS]]
    if isinstance(value, Metric):
        return {"name": _text(value.name), "value": _number(value.value), "order": value.order.value}
    if isinstance(value, Finding):
        # A finding's path is printable already: its backslashes are escapes.
        return {"code": value.code, "path": _text(value.path), "detail": _text(value.detail)}
    if isinstance(value, (int, float)):
        return _number(round(value, 3) if kind == "seconds" else value)
    return shown(str(value)) if kind in {"name", "names"} else _text(str(value))


def _number(value: float) -> float | str:
    if isinstance(value, int):  # beyond 64 bits, many readers of JSON would take it for another one
        return value if value in _INT64 else "beyond 64 bits"
    return value if math.isfinite(value) else str(value)


def _text(text: str) -> str:
    """Text that is no name: its backslashes stay, only what could break a line is escaped."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else shown(character) for character in text)
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
