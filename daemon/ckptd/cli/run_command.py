"""`ckptd run`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptd.cli.places import config_path
from ckptd.service.run import serve

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop; with `--once`, make one complete pass."""
    return serve(config_path(options), once=options.once)
