"""The `ckptd` command: parses arguments, runs one command, maps errors to exit codes.

Commands are imported when they are called: the daemon's scan processes import this module again, and `ckptd
check` needs no database.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except CkptdError as error:
        print(f"ckptd: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has seen enough; without this the interpreter complains while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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


def _add(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(command=run)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


def _add_service(commands: Commands) -> None:
    run = _add(commands, "run", _run, "watch, judge, keep and release until told to stop")
    run.add_argument("--once", action="store_true", help="make one complete pass and exit")
    demo = _add(commands, "demo", _demo, "show all of it on a real Paddle training run, in about a minute")
    demo.add_argument(
        "--directory", metavar="DIR", help="work here and keep it (default: a temporary directory)"
    )


def _add_answers(commands: Commands) -> None:
    check = _add(commands, "check", _check, "judge the checkpoint sets at the paths; needs no configuration")
    check.add_argument("paths", nargs="+", metavar="PATH", help="a file, a set's directory or a whole tree")
    check.add_argument("--workers", type=int, default=2, metavar="N", help="scan processes (default: 2)")
    _add_json(check)
    plan = _add(commands, "plan", _plan, "show what would be kept and removed, and why; removes nothing")
    plan.add_argument("runs", nargs="*", metavar="RUN", help="only these runs (default: all)")
    _add_json(plan)
    _add_json(_add(commands, "status", _status, "show what the daemon sees"))
    explain = _add(
        commands, "explain", _explain, "tell everything that was ever found and decided about a set"
    )
    explain.add_argument("set", metavar="SET", help="RUN/NAME, or the path of the set")
    _add_json(explain)


def _add_trash_and_pins(commands: Commands) -> None:
    trash = _add(commands, "trash", _trash_list, "look after removed sets").add_subparsers(
        metavar="ACTION", required=True
    )
    _add_json(_add(trash, "list", _trash_list, "list the removed sets that can come back"))
    restore = _add(trash, "restore", _trash_restore, "bring a removed set back, and pin it")
    restore.add_argument("entry", metavar="ID", help="as `ckptd trash list` shows it")
    purge = _add(trash, "purge", _trash_purge, "delete removed sets for good")
    which = purge.add_mutually_exclusive_group()
    which.add_argument("entry", nargs="?", metavar="ID", help="this one, before its time")
    which.add_argument("--due", action="store_true", help="those whose time is over (the default)")
    for name, run, text in (
        ("pin", _pin, "keep a set whatever the policy says"),
        ("unpin", _unpin, "let the policy decide about a set again"),
    ):
        parser = _add(commands, name, run, text)
        parser.add_argument("set", metavar="SET", help="RUN/NAME, or the path of the set")
    commands.choices["pin"].add_argument("--why", default="pinned by hand", help="a note for `ckptd explain`")


def _add_releases_and_config(commands: Commands) -> None:
    release = _add(commands, "release", _release_list, "look after releases").add_subparsers(
        metavar="ACTION", required=True
    )
    _add_json(_add(release, "list", _release_list, "list the releases, and which is live"))
    config = _add(commands, "config", _config_check, "look at the configuration").add_subparsers(
        metavar="ACTION", required=True
    )
    _add_json(_add(config, "check", _config_check, "say every error in the configuration at once"))
    _add_json(_add(config, "show", _config_show, "print the configuration with every default filled in"))
    _add(config, "schema", _config_schema, "print the JSON schema of the configuration")


def _run(options: argparse.Namespace) -> int:
    from ckptd.cli import run_command  # noqa: PLC0415

    return run_command.run(options.config, once=options.once)


def _demo(options: argparse.Namespace) -> int:
    from ckptd.cli import demo  # noqa: PLC0415

    return demo.run(options.directory)


def _check(options: argparse.Namespace) -> int:
    from ckptd.cli import check  # noqa: PLC0415

    return check.run(options.paths, workers=options.workers, as_json=options.json)


def _plan(options: argparse.Namespace) -> int:
    from ckptd.cli import plan  # noqa: PLC0415

    return plan.run(options.config, options.runs, as_json=options.json)


def _status(options: argparse.Namespace) -> int:
    from ckptd.cli import status  # noqa: PLC0415

    return status.run(options.config, as_json=options.json)


def _explain(options: argparse.Namespace) -> int:
    from ckptd.cli import explain  # noqa: PLC0415

    return explain.run(options.config, options.set, as_json=options.json)


def _pin(options: argparse.Namespace) -> int:
    from ckptd.cli import pin  # noqa: PLC0415

    return pin.pin(options.config, options.set, options.why)


def _unpin(options: argparse.Namespace) -> int:
    from ckptd.cli import pin  # noqa: PLC0415

    return pin.unpin(options.config, options.set)


def _trash_list(options: argparse.Namespace) -> int:
    from ckptd.cli import trash  # noqa: PLC0415

    return trash.show(options.config, as_json=options.json)


def _trash_restore(options: argparse.Namespace) -> int:
    from ckptd.cli import trash  # noqa: PLC0415

    return trash.restore(options.config, options.entry)


def _trash_purge(options: argparse.Namespace) -> int:
    from ckptd.cli import trash  # noqa: PLC0415

    return trash.purge(options.config, options.entry)


def _release_list(options: argparse.Namespace) -> int:
    from ckptd.cli import release  # noqa: PLC0415

    return release.show(options.config, as_json=options.json)


def _config_check(options: argparse.Namespace) -> int:
    from ckptd.cli import config_command  # noqa: PLC0415

    return config_command.check(_found(options), as_json=options.json, out=sys.stdout, err=sys.stderr)


def _config_show(options: argparse.Namespace) -> int:
    from ckptd.cli import config_command  # noqa: PLC0415

    return config_command.show(_found(options), as_json=options.json, out=sys.stdout, err=sys.stderr)


def _config_schema(options: argparse.Namespace) -> int:
    from ckptd.cli import config_command  # noqa: PLC0415

    return config_command.schema(out=sys.stdout)


def _found(options: argparse.Namespace) -> str:
    from ckptd.config import find  # noqa: PLC0415

    return find(options.config, os.environ, os.getcwd())
