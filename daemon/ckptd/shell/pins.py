"""Pins: sets that stay whatever the policy says, each a small file in `<root>/.ckptd/pins`.

A pin is named after the set, so that it protects the set even when its content is damaged.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from ckptd.core.model import SetKey
from ckptd.core.names import from_shown, shown
from ckptd.shell import durable
from ckptd.shell.inventory import OWN_DIRECTORY
from ckptd.shell.own_directory import PINS, changing, making, read_small, reading, told

if TYPE_CHECKING:
    from datetime import datetime

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class PinProblem:
    """A pin that cannot be read: some set is pinned, and it is not known which."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pins:
    """The pinned sets of a root, and what could not be read of them."""

    keys: frozenset[SetKey] = frozenset()
    problems: tuple[PinProblem, ...] = ()


def pins(root: str) -> Pins:
    """Read all pins of a root; whatever is wrong with them is a problem, never an exception."""
    keys: set[SetKey] = set()
    problems: list[PinProblem] = []
    try:
        with reading(root, PINS) as pins_fd:
            if pins_fd is None:
                return Pins()
            for name in sorted(os.listdir(pins_fd)):
                if not name.endswith(".json"):
                    continue  # a write that a crash cut off
                found = _read(pins_fd, name)
                if isinstance(found, SetKey):
                    keys.add(found)
                else:
                    problems.append(PinProblem(f"{OWN_DIRECTORY}/{PINS}/{shown(name)}", found))
    except OSError as error:
        problems.append(PinProblem(f"{OWN_DIRECTORY}/{PINS}", told(error)))
    return Pins(frozenset(keys), tuple(problems))


def pin(root: str, key: SetKey, why: str, now: datetime) -> None:
    """Pin a set; a set that is pinned already keeps its pin with the new note.

    Raises:
        OSError: it could not be pinned.
    """
    with making(root) as opened:
        write_pin(opened.pins_fd, key, why, now)


def unpin(root: str, key: SetKey) -> bool:
    """Take a set's pin away, a damaged one too.

    Returns:
        Whether there was one.

    Raises:
        OSError: it could not be taken away.
    """
    with changing(root) as opened:
        return opened is not None and remove_pin(opened.pins_fd, key)


def write_pin(pins_fd: int, key: SetKey, why: str, now: datetime) -> None:
    """Pin a set, under the lock."""
    found = {
        "schema": SCHEMA,
        "run": shown(key.run),
        "set": shown(key.name),
        "pinned_at": now.isoformat(),
        "why": shown(why),
    }
    durable.write_file(pins_fd, _file_name(key), (json.dumps(found, indent=1) + "\n").encode())


def remove_pin(pins_fd: int, key: SetKey) -> bool:
    """Take a set's pin away, under the lock."""
    return durable.remove_file(pins_fd, _file_name(key))


def has_pin(pins_fd: int, key: SetKey) -> bool:
    """Whether a set is pinned, under the lock; a damaged pin counts."""
    return _file_name(key) in os.listdir(pins_fd)


def _file_name(key: SetKey) -> str:
    digest = blake2b(b"\0".join(os.fsencode(part) for part in key), digest_size=16)
    return f"{digest.hexdigest()}.json"


def _read(pins_fd: int, name: str) -> SetKey | str:
    """The set that a pin is for, or what is wrong with it."""
    try:
        found = json.loads(read_small(pins_fd, name))
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            return f"not of schema {SCHEMA}"
        key = SetKey(from_shown(str(found.get("run"))), from_shown(str(found.get("set"))))
        return key if _file_name(key) == name else "it is for another set than its name says"
    except OSError as error:
        return told(error)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
