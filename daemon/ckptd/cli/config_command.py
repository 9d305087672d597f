"""`ckptd config`: check, show and describe the configuration."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from ckptd import config
from ckptd.cli.output import SCHEMA
from ckptd.core.names import shown
from ckptd.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from typing import TextIO


def check_command(options: argparse.Namespace) -> int:
    """`ckptd config check`."""
    return check(_found(options), as_json=options.json, out=sys.stdout, err=sys.stderr)


def show_command(options: argparse.Namespace) -> int:
    """`ckptd config show`."""
    return show(_found(options), as_json=options.json, out=sys.stdout, err=sys.stderr)


def schema_command(_options: argparse.Namespace) -> int:
    """`ckptd config schema`."""
    return schema(out=sys.stdout)


def _found(options: argparse.Namespace) -> str:
    return config.find(options.config, os.environ, os.getcwd())


def check(path: str, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """Say every error in the configuration at once, and what is valid but has no effect now."""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        notes = config.notes(config.load(path))
    except config.ConfigError as error:
        problems = error.problems
    if as_json:
        answer = {"file": shown(path), "valid": not problems, "problems": problems, "notes": notes}
        _print_json(answer, out)
    else:
        err.writelines(f"{problem}\n" for problem in problems)
        out.writelines(f"{shown(path)}: note: {note}\n" for note in notes)
        if not problems:
            out.write(f"{shown(path)}: valid\n")
    return UsageError.exit_code if problems else 0


def show(path: str, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """Print the configuration with all defaults, as TOML or as one JSON object."""
    try:
        document = config.effective(config.load(path))
    except config.ConfigError as error:
        err.write(f"{error}\n")
        return error.exit_code
    if as_json:
        _print_json(document, out)
    else:
        out.write(config.as_toml(document))
    return 0


def schema(*, out: TextIO) -> int:
    """Print the JSON schema of the configuration."""
    out.write(json.dumps(config.schema(), indent=2) + "\n")
    return 0


def _print_json(answer: dict[str, Any], out: TextIO) -> None:
    out.write(json.dumps({"schema": SCHEMA, **answer}) + "\n")
