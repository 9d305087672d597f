"""Where things are: the configuration, and the sets that a user means."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from ckptd.config import find, load
from ckptd.core.layouts import find_runs, joined, recognise
from ckptd.core.names import shown
from ckptd.errors import UsageError
from ckptd.shell import inventory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ckptd.core.layouts import Tree
    from ckptd.core.model import SetKey
    from ckptd.core.settings import Settings, WatchSettings


class Place(NamedTuple):
    """A set of a watched root, whether it is there now or not."""

    watch: WatchSettings
    key: SetKey


def config_path(options: argparse.Namespace) -> str:
    """The configuration file that the command is about.

    Raises:
        UsageError: there is none.
    """
    return find(options.config, os.environ, os.getcwd())


def settings(options: argparse.Namespace) -> Settings:
    """The configuration that the command is about.

    Raises:
        UsageError: there is none, or it is wrong.
    """
    return load(config_path(options))


def run_name(watch: WatchSettings, run: str) -> str:
    """A run as commands show it: below the watch's name, which tells roots apart."""
    return watch.name if run == "." else f"{watch.name}/{run}"


def find_place(found: Settings, text: str, known: Iterator[Place] | None = None) -> Place:
    """The set that a user means by `RUN/NAME` or by its path.

    Args:
        found: the configuration.
        text: what the user wrote.
        known: further sets that may be meant although they are not on disk now.

    Raises:
        UsageError: no set, or more than one, is meant.
    """
    places: set[Place] = {*present(found), *(known or ())}
    meant = sorted(
        (place for place in places if text in _names(place) or os.path.abspath(text) in _paths(place)),
        key=lambda place: (place.watch.path, place.key),
    )
    if not meant:
        raise UsageError(
            f"{text}: no set of that name; `ckptd status` lists the runs, `ckptd plan` their sets"
        )
    if len(meant) > 1:
        choices = ", ".join(
            shown(joined(run_name(place.watch, place.key.run), place.key.name)) for place in meant
        )
        raise UsageError(f"{text}: more than one set has that name; write one of {choices}")
    return meant[0]


def present(found: Settings) -> Iterator[Place]:
    """All sets that are on disk now; roots that cannot be read have none."""
    for watch in found.watches:
        tree = listing(watch)
        for run in find_runs(tree):
            for one in recognise(tree, run, layout=watch.layout, required=watch.require):
                yield Place(watch, one.key)


def reachable(found: Settings) -> tuple[WatchSettings, ...]:
    """The watches whose roots can be read; of the others, the reason is told to the user."""
    reached = []
    for watch in found.watches:
        try:
            inventory.require_directory(watch.path)
        except OSError as error:
            sys.stderr.write(
                f"ckptd: {shown(watch.path)}: {error.strerror}; what it holds is not known now\n"
            )
        else:
            reached.append(watch)
    return tuple(reached)


def listing(watch: WatchSettings) -> Tree:
    """What a root holds now; nothing if it cannot be read."""
    try:
        return inventory.walk(watch.path)
    except OSError:
        return {}


def _names(place: Place) -> set[str]:
    run, name = place.key
    below_watch = joined(run_name(place.watch, run), name)
    below_root = joined(run, name)
    return {below_watch, below_root, shown(below_watch), shown(below_root)}


def _paths(place: Place) -> set[str]:
    path = os.path.normpath(os.path.join(place.watch.path, place.key.run, place.key.name))
    return {path, *(path + suffix for suffix in (".pdparams", ".pdopt"))}
