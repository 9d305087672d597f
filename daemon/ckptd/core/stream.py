"""A file as a window of bytes: all that is read passes through a few fixed buffers and one running digest."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Beside = Callable[[Callable[[], None]], Callable[[], None]]
    """Takes a job that may run beside the caller, and returns how to wait for it. Jobs run in their order."""

# Measured with benchmarks/scan.py: shorter windows lose their time to being handed over, longer ones gain
# nothing, and with two of them the reader waits for the checker at the end of every tensor.
WINDOW_BYTES: Final = 2 << 20
WINDOWS: Final = 3

# How much is read at a time while no long payload passes, and how far a read goes beyond the end of one: the
# next tensor's head, and few of its bytes, because those have to be moved to begin aligned.
STEP_BYTES: Final = 128 << 10

# A shorter block is looked at sooner than handed over.
HANDOVER_BYTES: Final = 64 << 10


class ScanStopped(Exception):  # noqa: N818 - a judgement on the file, not a failure of the scan
    """The file is settled as wrong, and reading on would prove nothing.

    Attributes:
        code: A finding code of `core.findings`.
        detail: What is wrong and where, for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def at_once(job: Callable[[], None]) -> Callable[[], None]:
    """The simplest `Beside`: does the job before it returns."""
    job()
    return _nothing


def _nothing() -> None:
    """There is nothing to wait for."""


class _Window:
    """A buffer, and the jobs that look into it."""

    __slots__ = ("buffer", "jobs", "view")

    def __init__(self, capacity: int) -> None:
        self.buffer = bytearray(capacity)
        self.view = memoryview(self.buffer)
        self.jobs: list[Callable[[], None]] = []  # each waits for one, and raises what that one raised

    def settle(self) -> None:
        """Wait until no job looks into the buffer any more."""
        for wait in self.jobs:
            wait()
        self.jobs.clear()


class ByteStream:
    """Reads a file of known size forwards; memory is a few windows, however long the file is.

    Digest and checks may run beside the reading: what they count stands after `settle`.
    Every method that needs more bytes than the file has raises `ScanStopped("truncated", ...)`.
    """

    __slots__ = (
        "_beside",
        "_buffer",
        "_capacity",
        "_end",
        "_hash",
        "_others",
        "_position",
        "_readinto",
        "_unread",
        "_view",
        "_window",
        "opcodes",
        "size",
    )

    def __init__(
        self,
        readinto: Callable[[memoryview], int | None],
        size: int,
        *,
        beside: Beside = at_once,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """Start at byte 0.

        Args:
            readinto: Fills a buffer with the next bytes and returns how many; 0 or None at the end.
            size: The file's length as `stat` told it; what comes after is not read.
            beside: Runs digest and checks, in their order, while the next bytes are read.
            window_bytes: The length of a window; a multiple of 16, so that no number straddles two blocks.
        """
        self._readinto = readinto
        self.size = size
        self.opcodes = 0  # of pickles, walked so far
        self._beside = beside
        self._capacity = max(16, min(size, window_bytes))
        self._window = _Window(self._capacity)
        self._others: deque[_Window] = deque()  # the other windows, once the file turns out to need them
        self._buffer = self._window.buffer
        self._view = self._window.view
        self._hash = xxhash.xxh3_128()
        self._position = 0  # of the next byte to hand out, within the window
        self._end = 0  # of the bytes in the window
        self._unread = size  # bytes of the file that are in no window yet

    @property
    def offset(self) -> int:
        """Where in the file the next byte is."""
        return self.size - self.remaining

    @property
    def remaining(self) -> int:
        """How many bytes are left until the end of the file."""
        return self._unread + self._end - self._position

    def byte(self) -> int:
        """Take one byte."""
        if self._position == self._end:
            self._fill()
        value = self._buffer[self._position]  # indexing a bytearray is faster than a view of it
        self._position += 1
        return value

    def take(self, count: int) -> bytes:
        """Take `count` bytes as an object of their own; the caller has capped `count`."""
        stop = self._position + count
        if stop <= self._end:
            data = bytes(self._view[self._position : stop])
            self._position = stop
            return data
        return b"".join(bytes(block) for block in self.blocks(count))

    def unsigned(self, width: int) -> int:
        """Take a little-endian unsigned integer of `width` bytes."""
        if width == 1:
            return self.byte()
        return int.from_bytes(self.take(width), "little")

    def peek(self, count: int) -> bytes:
        """Look at the next bytes without taking them: `count`, or as many as file and window have."""
        wanted = min(count, self.remaining, self._capacity)
        while self._end - self._position < wanted:
            self._fill()
        return bytes(self._view[self._position : self._position + wanted])

    def require(self, count: int, what: str) -> None:
        """Stop as truncated unless `count` more bytes can be there."""
        if count > self.remaining:
            raise ScanStopped(
                "truncated",
                f"{what} at byte {self.offset} needs {count} bytes, and the file has {self.remaining} more",
            )

    def blocks(self, count: int) -> Iterator[memoryview]:
        """Take `count` bytes as consecutive blocks, each valid until the next one is asked for."""
        self.require(count, "a value")
        while count:
            if self._position == self._end:
                self._fill()
            start = self._position
            self._position = min(self._end, start + count)
            count -= self._position - start
            yield self._view[start : self._position]

    def pass_by(self, count: int, look: Callable[[memoryview | bytes], None]) -> None:
        """Take `count` bytes, and have `look` called with each block of them, by `settle` at the latest.

        Every block begins aligned in memory and all but the last are as long as the window, so that no number
        straddles two blocks.
        """
        stop = self._position + count
        if stop <= self._end:
            # A copy costs what the block costs; turning the window for every tensor would cost the window.
            block = bytes(self._view[self._position : stop])
            self._position = stop
            if count < HANDOVER_BYTES:
                look(block)
            else:
                self._hand_over(partial(look, block))
            return
        self.require(count, "a byte string")
        while count:
            self._turn()
            wanted = min(count, self._capacity)
            start = self._end
            while self._end < wanted:
                self._read(min(self._capacity, count + STEP_BYTES))
            self._hand_over(
                partial(self._digest_and_look, self._view[start : self._end], self._view[:wanted], look)
            )
            self._position = wanted
            count -= wanted

    def drain(self) -> None:
        """Read to the end of the file, so that the digest covers all of it."""
        self._position = self._end
        while self._unread:
            self._fill()
            self._position = self._end

    def settle(self) -> None:
        """Wait until everything taken so far was looked at."""
        for window in (*self._others, self._window):
            window.settle()

    def digest(self) -> str | None:
        """The xxh3-128 of the whole file, or None while there are bytes that were not read."""
        self.settle()
        return None if self._unread else str(self._hash.hexdigest())

    def _digest_and_look(
        self, fresh: memoryview, block: memoryview, look: Callable[[memoryview | bytes], None]
    ) -> None:
        self._hash.update(fresh)
        look(block)

    def _hand_over(self, job: Callable[[], None]) -> None:
        self._window.jobs.append(self._beside(job))

    def _turn(self) -> None:
        """Go on in another window, with the bytes that were not taken yet at its front."""
        window = _Window(self._capacity) if len(self._others) < WINDOWS - 1 else self._others.popleft()
        window.settle()
        kept = self._end - self._position
        window.view[:kept] = self._view[self._position : self._end]
        self._others.append(self._window)
        self._window = window
        self._buffer = window.buffer
        self._view = window.view
        self._position, self._end = 0, kept

    def _fill(self) -> None:
        """Read more into the window, at least one byte, and digest it."""
        if self._end == self._capacity:
            self._turn()
        start = self._end
        self._read(min(self._capacity, start + STEP_BYTES))
        self._hand_over(partial(self._hash.update, self._view[start : self._end]))

    def _read(self, limit: int) -> None:
        """Read at least one byte, and up to `limit` bytes that are then in the window."""
        room = self._view[self._end : min(limit, self._end + self._unread)]
        got = self._readinto(room) if room else 0
        if not got:
            raise ScanStopped(
                "truncated",
                f"the content goes on after byte {self.size - self._unread}, where the file ends",
            )
        self._end += got
        self._unread -= got
