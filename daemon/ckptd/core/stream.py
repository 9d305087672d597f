"""A file as a window of bytes: all that is read passes through one buffer and one running digest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Window = tuple[bytes | bytearray, int, int]
    """Bytes of a file: a buffer, where in it they begin, and where they end. The rest of it means nothing."""

    NextWindow = Callable[[], Window]
    """Hands out the file's next bytes, valid until it is called again; none at the end of the file."""

# Measured with benchmarks/scan.py: a window that fits the processor's second cache is digested and checked
# several times as fast as it is read; a shorter one loses its time to being handed over.
WINDOW_BYTES: Final = 1 << 20

# How much of a tensor that begins at an odd place in memory is moved at a time to be looked at.
MOVED_BYTES: Final = 1 << 18

ALIGNED_BYTES: Final = 16  # bytes: the longest element that is checked


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


def windows(
    readinto: Callable[[memoryview], int | None], size: int, window_bytes: int = WINDOW_BYTES
) -> NextWindow:
    """A file's windows, each read when it is asked for.

    Args:
        readinto: Fills a buffer with the next bytes and returns how many; 0 or None at the end.
        size: The file's length; the buffer need not be longer.
        window_bytes: The length of all windows but the last; a multiple of 16 keeps numbers whole.
    """
    buffer = bytearray(max(1, min(size, window_bytes)))
    view = memoryview(buffer)

    def next_window() -> Window:
        end = 0
        while end < len(view) and (got := readinto(view[end:])):
            end += got
        return buffer, 0, end

    return next_window


class ByteStream:
    """Reads a file of known size forwards; memory is one window, however long the file is.

    Every method that needs more bytes than the file has raises `ScanStopped("truncated", ...)`.
    """

    __slots__ = (
        "_align",
        "_buffer",
        "_end",
        "_hash",
        "_moved",
        "_next_window",
        "_position",
        "_unread",
        "_view",
        "opcodes",
        "size",
    )

    def __init__(
        self, next_window: NextWindow, size: int, align: Callable[[int], None] | None = None
    ) -> None:
        """Start at byte 0.

        Args:
            next_window: Hands out the file in order.
            size: The file's length as `stat` told it; what comes after is not looked at.
            align: Told of each long payload at which byte of the file it begins, so that the windows to come
                can have that byte, and each 16th from it, aligned in memory.
        """
        self._next_window = next_window
        self._align = align
        self.size = size
        self.opcodes = 0  # of pickles, walked so far
        self._view = memoryview(b"")
        self._buffer: bytes | bytearray = b""
        self._hash = xxhash.xxh3_128()
        self._position = 0  # of the next byte to hand out, within the window
        self._end = 0  # of the bytes in the window
        self._unread = size  # bytes of the file that were in no window yet
        self._moved: memoryview | None = None  # made for the first long tensor that needs it

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

    def counted(self) -> bytes | bytearray:
        """Take the bytes behind one that says how many they are."""
        start = self._position + 1
        if start <= self._end:
            stop = start + self._buffer[start - 1]
            if stop <= self._end:
                self._position = stop
                return self._buffer[start:stop]
        return self.take(self.byte())

    def begins_with(self, octet: int) -> bool:
        """Take the next byte if it is this one, and in the window."""
        position = self._position
        if position < self._end and self._buffer[position] == octet:
            self._position = position + 1
            return True
        return False

    def unsigned(self, width: int) -> int:
        """Take a little-endian unsigned integer of `width` bytes."""
        if width == 1:
            return self.byte()
        return int.from_bytes(self.take(width), "little")

    def peek(self, count: int) -> bytes:
        """Look at the next bytes without taking them: `count`, or as many as the file has."""
        wanted = min(count, self.remaining)
        if self._end - self._position < wanted:
            rest = bytes(self._view[self._position : self._end])
            while len(rest) < wanted:
                self._fill()
                rest += self._view[self._position : self._end]
            self._show((rest, 0, len(rest)))
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

    def pass_by(self, count: int, look: Callable[[memoryview], None]) -> None:
        """Take `count` bytes, and have `look` called with each block of them.

        All blocks but the last are a multiple of 16 bytes long, so that no number straddles two of them, and
        those of a long payload begin aligned in memory.
        """
        stop = self._position + count
        if stop <= self._end and count <= MOVED_BYTES:
            look(self._view[self._position : stop])
            self._position = stop
            return
        self.require(count, "a byte string")
        if self._align is not None:
            self._align(self.offset)
        passed = moved = 0
        for block in self.blocks(count):
            rest = block
            if (
                not (self._position - len(block) - passed) % ALIGNED_BYTES
            ):  # the memory is aligned as the payload is
                moved = self._move(rest[: -passed % ALIGNED_BYTES], moved, look)
                rest = rest[-passed % ALIGNED_BYTES :]
                if moved and len(rest):
                    look(self._moving()[:moved])
                    moved = 0
                if whole := len(rest) - len(rest) % ALIGNED_BYTES:
                    look(rest[:whole])
                rest = rest[whole:]
            moved = self._move(rest, moved, look)
            passed += len(block)
        if moved:
            look(self._moving()[:moved])

    def in_window(self) -> tuple[bytes | bytearray, memoryview, int, int]:
        """What is there without reading on: the window, a view of it, and the bounds of the next bytes in it.

        Valid until anything but `skip` is called.
        """
        return self._buffer, self._view, self._position, self._end

    def skip(self, count: int) -> None:
        """Take `count` bytes that `in_window` has shown."""
        self._position += count

    def drain(self) -> None:
        """Read to the end of the file, so that the digest covers all of it."""
        self._position = self._end
        while self._unread:
            self._fill()
            self._position = self._end

    def digest(self) -> str | None:
        """The xxh3-128 of the whole file, or None while there are bytes that were not read."""
        return None if self._unread else str(self._hash.hexdigest())

    def _move(self, block: memoryview, moved: int, look: Callable[[memoryview], None]) -> int:
        """Have a block looked at through the aligned buffer, which holds `moved` bytes already."""
        while len(block):
            buffer = self._moving()
            count = min(len(block), len(buffer) - moved)
            buffer[moved : moved + count] = block[:count]
            block = block[count:]
            moved += count
            if moved == len(buffer):
                look(buffer)
                moved = 0
        return moved

    def _moving(self) -> memoryview:
        if self._moved is None:
            # Not where a page of its own would begin: see `shell.reading`.
            self._moved = memoryview(bytearray(MOVED_BYTES + 64))[64:]
        return self._moved

    def _fill(self) -> None:
        """Go on to the next window, of at least one byte, and digest it."""
        buffer, start, end = self._next_window() if self._unread else (b"", 0, 0)
        end = min(end, start + self._unread)
        if start == end:
            raise ScanStopped(
                "truncated",
                f"the content goes on after byte {self.size - self._unread}, where the file ends",
            )
        self._show((buffer, start, end))
        self._hash.update(self._view[start:end])
        self._unread -= end - start

    def _show(self, window: Window) -> None:
        self._buffer, self._position, self._end = window
        self._view = memoryview(self._buffer)
