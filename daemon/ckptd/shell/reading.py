"""Reads a file forwards, on two threads if it is long, and gives the page cache back behind itself."""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ckptd.core.stream import ALIGNED_BYTES, WINDOW_BYTES, ScanStopped
from ckptd.shell.holes import Holes

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ckptd.core.stream import Window

# How far the reader gets before the page cache behind it is given back: rare enough to cost nothing.
GIVE_BACK_BYTES: Final = 32 << 20

# Below this, starting a thread takes longer than it saves.
WORTH_A_THREAD_BYTES: Final = 8 << 20

# Where in a page a window begins. Copying to a place from 8 to 31 bytes behind the start of a page, which is
# where Python's own buffers are, is up to four times as slow on some processors (measured: AMD Zen).
PAGE_BYTES: Final = 4096
IN_PAGE_BYTES: Final = 64

# One is looked at, one is read by either thread, one waits: more gain nothing.
WINDOWS: Final = 4


class _Window(NamedTuple):
    """What one read brought."""

    number: int
    buffer: bytearray
    start: int
    end: int
    error: OSError | ScanStopped | None


class Reader:
    """A file's windows in order.

    Copying out of the page cache is what takes the time, and one thread does not copy as fast as the memory
    can. So the next windows are read beside the one that is looked at, by a second thread, and by the first
    one too while it would have to wait.
    """

    def __init__(
        self,
        descriptor: int,
        size: int,
        on_progress: Callable[[int], None] | None = None,
        *,
        give_cache_back: bool = True,
    ) -> None:
        """Prepare to read.

        Args:
            descriptor: The open file; its own position is used by nobody else.
            size: Its length; nothing behind it is read.
            on_progress: Told with each window how many bytes were read.
            give_cache_back: Drop what was read from the page cache.
        """
        self._descriptor = descriptor
        self._size = size
        self._on_progress = on_progress
        self._give_cache_back = give_cache_back
        self._given_back = 0
        self._holes = Holes(descriptor, size)
        self._claim = threading.Lock()
        self._claimed = 0  # windows that somebody reads or has read
        self._handed_out = 0
        self._current: bytearray | None = None
        self._shift = 0  # where in their buffers the windows begin
        self._ready: dict[int, _Window] = {}
        self._free: SimpleQueue[bytearray | None] = SimpleQueue()
        self._full: SimpleQueue[_Window] = SimpleQueue()
        self._helper: threading.Thread | None = None
        is_long = size >= WORTH_A_THREAD_BYTES
        for _ in range(WINDOWS if is_long else 1):
            self._free.put(bytearray(max(1, min(size, WINDOW_BYTES)) + PAGE_BYTES + ALIGNED_BYTES))
        if is_long:
            self._helper = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read ahead."""
        if self._helper is not None:
            self._helper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop reading, and give back the rest of a file that is long enough to matter."""
        with self._claim:
            self._claimed = self._size  # more than there are windows
        if self._helper is not None:
            self._free.put(None)
            self._helper.join()
        if self._given_back:
            self._give_back(self._handed_out * WINDOW_BYTES)

    def align(self, offset: int) -> None:
        """Have this byte of the file, and each 16th from it, aligned in the windows that are not read yet."""
        self._shift = -offset % ALIGNED_BYTES

    def next_window(self) -> Window:
        """The next bytes, valid until the next call; none at the end of the file.

        Raises:
            OSError: Reading failed.
            ScanStopped: `sparse_file`.
        """
        if self._current is not None:
            self._free.put(self._current)
            self._current = None
        index = self._handed_out
        start = index * WINDOW_BYTES
        if start >= self._size:
            return b"", 0, 0
        while index not in self._ready:
            window = self._another()
            self._ready[window.number] = window
        window = self._ready.pop(index)
        if window.error is not None:
            raise window.error
        self._handed_out += 1
        self._current = window.buffer
        if start - self._given_back >= GIVE_BACK_BYTES:
            self._give_back(start)
        if self._on_progress is not None:
            self._on_progress(start + window.end - window.start)
        return window.buffer, window.start, window.end

    def _another(self) -> _Window:
        """A window that the helper has read, or one that is read here and now."""
        try:
            return self._full.get_nowait()
        except Empty:
            pass
        try:
            buffer = self._free.get_nowait()
        except Empty:
            return self._full.get()
        if buffer is not None and (window := self._read_next(buffer)) is not None:
            return window
        self._free.put(buffer)  # the helper reads the last window
        return self._full.get()

    def _read_ahead(self) -> None:
        while (buffer := self._free.get()) is not None:
            window = self._read_next(buffer)
            if window is None:
                return
            self._full.put(window)

    def _read_next(self, buffer: bytearray) -> _Window | None:
        """Read the first window that nobody has claimed, or return None if there is none left."""
        with self._claim:
            number = self._claimed
            offset = number * WINDOW_BYTES
            if offset >= self._size:
                return None
            self._claimed += 1
            try:
                self._holes.look(offset)
            except (OSError, ScanStopped) as error:
                return _Window(number, buffer, 0, 0, error)
        start = end = _place_in_page(buffer) + self._shift
        stop = start + min(WINDOW_BYTES, self._size - offset)
        view = memoryview(buffer)
        try:
            while end < stop and (got := os.preadv(self._descriptor, [view[end:stop]], offset + end - start)):
                end += got
        except OSError as error:
            return _Window(number, buffer, start, end, error)
        return _Window(number, buffer, start, end, None)

    def _give_back(self, end: int) -> None:
        """Drop the pages read since the last time; dirty ones stay until the kernel has written them."""
        start, self._given_back = self._given_back, min(end, self._size)
        if self._give_cache_back:
            os.posix_fadvise(self._descriptor, start, self._given_back - start, os.POSIX_FADV_DONTNEED)


def _place_in_page(buffer: bytearray) -> int:
    """Where in the buffer the place in a page is at which windows begin."""
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return (IN_PAGE_BYTES - address) % PAGE_BYTES
