"""What the daemon leaves behind for `ckptd status`: one small file, replaced whole."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ckptd.shell import durable

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "status.json"


def write_status(state_dir: str, status: Mapping[str, Any]) -> None:
    """Replace the status.

    Raises:
        OSError: it could not be written.
    """
    with durable.held(durable.open_directory(state_dir)) as directory:
        durable.write_file(directory, _NAME, json.dumps(status).encode())


def read_status(state_dir: str) -> dict[str, Any] | None:
    """The status that was written last; None if there is none that can be read."""
    try:
        with open(os.path.join(state_dir, _NAME), "rb") as file:
            status = json.load(file)
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None
