"""What the names of shards say: which whole they are parts of, and which index belongs to them.

Format: `<base>-<number>-of-<count><suffix>` beside `<base><suffix>.index.json` (`paddlenlp/utils/env.py`,
`transformers/utils.py`), `<rank>_<id>.distcp` or `.safetensors` beside `<id>.metadata` (`save_state_dict.py`
of `paddle/distributed/flex_checkpoint/dcp`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NUMBERED: Final = re.compile(r"(.+)-([0-9]{1,9})-of-([0-9]{1,9})(\.[^.]+)", re.DOTALL)
_FLEX: Final = re.compile(r"[0-9]+_([0-9]+)\.(distcp|safetensors)")


class Part(NamedTuple):
    """A file that its name calls one of several."""

    whole: str  # the name that a single file would have
    number: int  # from 1
    of: int


def part_of(name: str) -> Part | None:
    """What a numbered shard's name says of it; None for any other file."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return None
    base, number, count, suffix = match.groups()
    return Part(base + suffix, int(number), int(count))


def whole_of(name: str) -> str:
    """The name that all shards of one whole share; a file that is no shard is its own."""
    part = part_of(name)
    return name if part is None else part.whole


def index_of(name: str) -> str | None:
    """The name of the index that a shard is listed in; None for a file that may do without."""
    if part := part_of(name):
        return f"{part.whole}.index.json"
    flex = _FLEX.fullmatch(name)
    return f"{flex[1]}.metadata" if flex else None


def needs_index(name: str) -> bool:
    """Whether no loader finds the tensors of this shard without its index."""
    return name.endswith(".distcp") or (part_of(name) is not None and name.endswith(".safetensors"))
