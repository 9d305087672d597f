"""Reads files again at a measured pace, from the disk and not from the page cache."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ckptd.shell.scanning import scan_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.model import FileScan
    from ckptd.shell.scanner import Scan, ScanRequest


def at_pace(bytes_per_second: int) -> Scan:
    """What a scan process does that reads no faster than this."""
    return partial(_scan_slowly, bytes_per_second)


def _scan_slowly(
    bytes_per_second: int, request: ScanRequest, on_progress: Callable[[int], None], give_cache_back: bool
) -> FileScan:
    brake = Brake(bytes_per_second)

    def slowly(read: int) -> None:
        on_progress(read)
        brake.hold(read)

    return scan_file(
        request.root,
        request.expected.path,
        request.role,
        expected=request.expected,
        on_progress=slowly,
        give_cache_back=give_cache_back,
        from_disk=True,
    )


@dataclass(slots=True)
class Brake:
    """Holds a reader back. Time that a slow disk took is not made up for."""

    bytes_per_second: int
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _free_at: float = field(default=0.0, init=False)
    _read: int = field(default=0, init=False)

    def hold(self, read: int) -> None:
        """Wait until so many bytes may have been read, counted from the first one."""
        now = self.clock()
        self._free_at = max(self._free_at, now) + (read - self._read) / self.bytes_per_second
        self._read = read
        self.sleep(self._free_at - now)
