"""`ckptd pin SET` and `ckptd unpin SET`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ckptd.cli import places
from ckptd.core.layouts import joined
from ckptd.core.names import shown
from ckptd.errors import CkptdError
from ckptd.shell import pins

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ckptd.core.settings import Settings


def pin(options: argparse.Namespace) -> int:
    """Keep a set whatever the policy says."""
    place = places.find_place(places.settings(options), options.set)
    try:
        pins.pin(place.watch.path, place.key, options.why, datetime.now(UTC))
    except OSError as error:
        raise CkptdError(f"{shown(place.watch.path)}: could not pin: {error.strerror}") from None
    _say(place, "pinned")
    return 0


def unpin(options: argparse.Namespace) -> int:
    """Let the policy decide about a set again; 1 if it was not pinned."""
    settings = places.settings(options)
    place = places.find_place(settings, options.set, _pinned(settings))
    try:
        was_pinned = pins.unpin(place.watch.path, place.key)
    except OSError as error:
        raise CkptdError(f"{shown(place.watch.path)}: could not unpin: {error.strerror}") from None
    _say(place, "unpinned" if was_pinned else "was not pinned")
    return 0 if was_pinned else 1


def _pinned(settings: Settings) -> Iterator[places.Place]:
    for watch in settings.watches:
        for key in pins.pins(watch.path).keys:
            yield places.Place(watch, key)


def _say(place: places.Place, what: str) -> None:
    name = joined(places.run_name(place.watch, place.key.run), place.key.name)
    sys.stdout.write(f"{shown(name)}: {what}\n")
