"""The table of events as the page `docs/events.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptd.core.events import EVENTS, KEYS

if TYPE_CHECKING:
    from ckptd.core.events import Event

_PAGE = """\
# Log events

This page is generated from the table in `daemon/ckptd/core/events.py`.

ckptd writes one JSON object per line to its standard output, in UTF-8:

```json
{{"schema":1,"ts":"2026-11-24T10:55:00.123Z","level":"info","event":"run.started","root":"/data/out","run":"resnet50"}}
```

`schema`, `ts` (UTC), `level` and `event` come first, the event's own keys follow in alphabetical order. A key
in brackets is left out where there is nothing to say. Lists hold at most ten items, texts 500 characters.
Under systemd each line starts with its syslog priority (`<6>`), which the journal takes off. On a terminal
the same events are written for people (`log.format = "console"`).

File names may hold any byte. Control characters, bytes that are no UTF-8 and backslashes are written as
escapes (a line feed is `\\x0a`, the byte FF is `\\dff`, a backslash is doubled; JSON doubles each backslash
once more), so that a name can neither break nor forge a line.

## Events

| event | level | keys | meaning | what to do |
|---|---|---|---|---|
{events}

## Keys

| key | kind | meaning |
|---|---|---|
{keys}
"""


def render_markdown() -> str:
    """The text of `docs/events.md`."""
    events = (
        f"| `{event.name}` | {event.level} | {_keys_of(event)} | {event.meaning} | {event.advice} |"
        for event in EVENTS.values()
    )
    keys = (f"| `{field.name}` | {field.kind} | {field.meaning} |" for field in KEYS.values())
    return _PAGE.format(events="\n".join(events), keys="\n".join(keys))


def _keys_of(event: Event) -> str:
    return " ".join(f"[`{field.name}`]" if field.is_optional else f"`{field.name}`" for field in event.fields)
