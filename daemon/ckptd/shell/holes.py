"""The holes of a file: what was never written, or copied as a hole; it takes no room and reads as zeros."""

from __future__ import annotations

import errno
import os
from typing import Final

from ckptd.core.stream import ScanStopped

# A hole is no damage by itself: `cp --sparse` and `rsync -S` make one of every long run of zeros, such as the
# moments of a fresh optimizer. So holes are read through up to this many bytes, about two seconds.
MAX_BYTES: Final = 4 << 30

# What is found to be wrong before this place is the better answer, and most files are shorter.
FIRST_LOOK_BYTES: Final = 32 << 20

_END_IN_HOLE: Final = errno.ENXIO


class Holes:
    """Adds up the holes of a file that is read forwards, each as soon as the reader gets to it."""

    __slots__ = ("_bytes", "_descriptor", "_next", "_size")

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._next = FIRST_LOOK_BYTES  # up to here it is known where the holes are
        self._bytes = 0

    def look(self, position: int) -> None:
        """Stop the scan if from here on more would be read of holes than is worth it.

        Moves the descriptor's own position.

        Raises:
            ScanStopped: `sparse_file`.
        """
        while position >= self._next and position < self._size:
            begin = max(position, self._next)
            data = _seek(self._descriptor, begin, os.SEEK_DATA, self._size)
            self._bytes += data - begin
            if self._bytes > MAX_BYTES:
                raise ScanStopped(
                    "sparse_file", f"{self._bytes} bytes of holes up to byte {data} of {self._size}"
                )
            self._next = _seek(self._descriptor, data, os.SEEK_HOLE, self._size)


def _seek(descriptor: int, position: int, what: int, size: int) -> int:
    """The next place with data or with a hole; the end of the file if there is none, or nobody can tell."""
    try:
        return os.lseek(descriptor, position, what)
    except OSError as error:
        if error.errno == _END_IN_HOLE or what == os.SEEK_HOLE:
            return size
        return position  # the filesystem does not know holes: all is data
