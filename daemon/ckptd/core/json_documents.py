"""JSON as trainers write it: progress, configuration, metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ckptd.core.state_dicts import contents
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.state_dicts import Contents
    from ckptd.core.stream import ByteStream

MAX_JSON_BYTES: Final = 1 << 24
# Each becomes an object of up to 100 bytes before anything can be looked at.
MAX_JSON_ITEMS: Final = 1_000_000


def read(stream: ByteStream) -> Contents:
    """Read a whole file as one document.

    Raises:
        ScanStopped: It is no JSON, or beyond the limits.
    """
    if stream.size > MAX_JSON_BYTES:
        raise ScanStopped("limit_exceeded", f"{stream.size} bytes of JSON, at most {MAX_JSON_BYTES} are read")
    data = stream.take(stream.size)
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_ITEMS:
        raise ScanStopped("limit_exceeded", f"JSON with more than {MAX_JSON_ITEMS} commas and brackets")
    try:
        tree = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ScanStopped("limit_exceeded", "JSON that is nested too deeply") from None
    except ValueError as error:
        raise ScanStopped("invalid_json", str(error)) from None
    return contents(tree)
