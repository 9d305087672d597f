"""The `ckptd` command: parses arguments, runs one command, maps errors to exit codes.

Commands are imported when they are called: the daemon's scan processes import this module again, and `ckptd
check` needs no database.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from ckptd import __version__
from ckptd.errors import CkptdError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXIT_CODES = """\
exit codes:
  0    done, nothing wrong
  1    done, and something is not valid or was refused
  2    usage or configuration error; nothing was done
  3    could not do it (I/O, permission, a lock that is held)
  130  interrupted
"""

_SERVICE = "run_command:run"
_SET = "RUN/NAME as `ckptd status` shows it, or the path of the set"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = _command(options.command)(options)
        sys.stdout.flush()  # what cannot be written is to be told, and not by the interpreter's last words
    except CkptdError as error:
        sys.stderr.write(f"ckptd: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has seen enough
        _drop_output()
        return 0
    except OSError as error:
        if options.command == _SERVICE:
            raise  # nobody foresaw it, and the journal is where it helps
        _drop_output()
        sys.stderr.write(f"ckptd: {error}\n")
        return CkptdError.exit_code
    return code


def _drop_output() -> None:
    """Keep the interpreter from writing what is left of the output once more while it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    """The function that carries out a command, by `module:function` below `ckptd.cli`."""
    module, _, function = name.partition(":")
    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"ckptd.cli.{module}"), function)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ckptd",
        description="Proves, keeps and releases PaddlePaddle checkpoints.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ckptd {__version__}")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration (default: $CKPTD_CONFIG, /etc/ckptd/config.toml, ./config.toml)",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_service(commands)
    _add_answers(commands)
    _add_trash_and_pins(commands)
    _add_releases_and_config(commands)
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name


def _add(commands: Commands, name: str, command: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=command)
    return parser


def _add_group(commands: Commands, name: str, text: str) -> Commands:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    return parser.add_subparsers(metavar="ACTION", required=True)


def _workers(text: str) -> int:
    number = int(text)
    if number not in range(1, 17):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 16, got {number}")
    return number


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


def _add_service(commands: Commands) -> None:
    run = _add(commands, "run", _SERVICE, "watch, judge, keep and release until told to stop")
    run.add_argument("--once", action="store_true", help="make one complete pass and exit")
    demo = _add(
        commands, "demo", "demo:run", "show all of it on a real Paddle training run, in about a minute"
    )
    demo.add_argument(
        "--directory", metavar="DIR", help="work here and keep it (default: a temporary directory)"
    )


def _add_answers(commands: Commands) -> None:
    check = _add(
        commands, "check", "check:run", "judge the checkpoint sets at the paths; needs no configuration"
    )
    check.add_argument("paths", nargs="+", metavar="PATH", help="a file, a set's directory or a whole tree")
    check.add_argument(
        "--workers", type=_workers, default=2, metavar="N", help="scan processes, 1 to 16 (default: 2)"
    )
    _add_json(check)
    check.add_argument(
        "--load",
        action="store_true",
        help="load what is valid or suspect with paddle.load as well, in a confined process",
    )
    check.add_argument(
        "--python", metavar="FILE", help="the Python that has Paddle, for --load (default: this one)"
    )
    check.add_argument(
        "--digest", action="store_true", help="print the digests of all files instead, as xxh128sum does"
    )
    check.add_argument(
        "--against", metavar="MANIFEST", help="compare the path with what --digest printed of a copy"
    )
    plan = _add(commands, "plan", "plan:run", "show what would be kept and removed, and why; removes nothing")
    plan.add_argument("runs", nargs="*", metavar="RUN", help="only these runs (default: all)")
    _add_json(plan)
    _add_json(_add(commands, "status", "status:run", "show what the daemon sees"))
    explain = _add(commands, "explain", "explain:run", "tell all that was ever found and decided about a set")
    explain.add_argument("set", metavar="SET", help=_SET)
    _add_json(explain)


def _add_trash_and_pins(commands: Commands) -> None:
    trash = _add_group(commands, "trash", "look after removed sets")
    _add_json(_add(trash, "list", "trash:show", "list the removed sets that can come back"))
    restore = _add(trash, "restore", "trash:restore", "bring a removed set back, and pin it")
    restore.add_argument("entry", metavar="ID", help="as `ckptd trash list` shows it")
    purge = _add(trash, "purge", "trash:purge", "delete removed sets for good")
    purge.add_argument(
        "entry", nargs="?", metavar="ID", help="this one, before its time (default: all past it)"
    )
    pin = _add(commands, "pin", "pin:pin", "keep a set whatever the policy says")
    pin.add_argument("set", metavar="SET", help=_SET)
    pin.add_argument("--why", default="pinned by hand", help="a note for whoever asks later")
    unpin = _add(commands, "unpin", "pin:unpin", "let the policy decide about a set again")
    unpin.add_argument("set", metavar="SET", help=_SET)


def _add_releases_and_config(commands: Commands) -> None:
    release = _add_group(commands, "release", "look after releases")
    _add_json(_add(release, "list", "release:show", "list the releases, and which is live"))
    config = _add_group(commands, "config", "look at the configuration")
    _add_json(
        _add(config, "check", "config_command:check_command", "say every error in the configuration at once")
    )
    _add_json(
        _add(config, "show", "config_command:show_command", "print the configuration with all defaults")
    )
    _add(config, "schema", "config_command:schema_command", "print the JSON schema of the configuration")
