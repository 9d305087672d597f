"""What is wrong with a configuration, in words."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ckptd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BEYOND_64_BITS = 1 << 63


class ConfigError(UsageError):
    """The configuration cannot be used; `problems` holds one line for each thing that is wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(self.problems))


def place(location: Iterable[str | int]) -> str:
    """Where a value stands, with array positions counted from 1: `watch[1].retention.keep_last`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += ("." if text else "") + (part if _BARE_KEY.fullmatch(part) else quoted(part))
    return text


def quoted(text: str, longest: int = 60) -> str:
    """A text as TOML could hold it, on one line and of bearable length."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def got(value: Any) -> str:
    """A value of the file as an error repeats it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, int) and abs(value) >= _BEYOND_64_BITS:
        return "a number beyond 64 bits"  # it may have more digits than Python is willing to print
    return str(value).lower() if isinstance(value, bool) else str(value)  # also dates and times


def nearest(text: Any, known: Iterable[str]) -> str:
    """The end of an error that offers the known word which looks most like this one, or nothing."""
    close = get_close_matches(text, list(known), n=1) if isinstance(text, str) else []
    return f'; did you mean "{close[0]}"?' if close else ""
