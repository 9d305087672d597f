"""What a hostile file is, and the payload of all of them: they make `canary` in the working directory."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from pickling import name, reduce, text

CANARY = "canary"
COMMAND = f"mkdir {CANARY}"
EXPRESSION = f"__import__('os').mkdir('{CANARY}')"

MKDIR = name("posix", "mkdir")
CALL = reduce(MKDIR, text(CANARY))

DECOY = "ckptd_decoy"
"""A module that whoever loads the files can import; importing it is enough."""
DECOY_SOURCE = f"import os\n\nos.mkdir({CANARY!r})\n"

EXTENSION = 0x41
"""The number under which whoever loads the files has registered `posix.mkdir` as an extension."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file that nobody should load.

    `code` is the first finding that it has as weights. `works` says that `pickle.load` of its bytes makes the
    canary; where it does not, another loader would, or the file is hostile to whoever reads it.
    """

    data: bytes
    code: str
    works: bool = True


def short(value):
    """A string as protocol 4 has it."""
    raw = value.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(raw)]) + raw


def stack_global(module, attribute):
    """A name as protocol 4 has it."""
    return short(module) + short(attribute) + pickle.STACK_GLOBAL


def called(module, attribute, *arguments):
    """A pickle of protocol 4 that is one call."""
    return pickle.PROTO + b"\4" + reduce(stack_global(module, attribute), *arguments) + pickle.STOP
