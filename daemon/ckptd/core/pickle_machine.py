"""The state of the symbolic pickle walk, and the limits that keep a hostile file from filling the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from ckptd.core.stream import ByteStream

# A tensor takes about 30 opcodes and 10 memo entries, so these leave room for 100,000 tensors, more than any
# Paddle model has, and bound what a hostile file can make the scanner hold: 200 MiB, of which the stack, with
# small numbers and tuples on it, takes 50 bytes for each opcode, and the memo 80 for each entry.
MAX_OPCODES: Final = 3_000_000
MAX_MEMO: Final = 1_000_000
MAX_CONTAINERS: Final = 500_000
MAX_MARKS: Final = 1_000  # open at the same time: how deep the structure is
MAX_TEXT_BYTES: Final = 1 << 20  # of one string
MAX_TAKEN_BYTES: Final = 1 << 26  # of all strings, byte strings, large numbers and names, about
MAX_INTEGER_BYTES: Final = 255
# A pickler writes a string of this length outside of its frames; what is left between two of those is in no
# frame if it is shorter than one is worth.
UNFRAMED_BYTES: Final = 1 << 16
SHORTEST_FRAME_BYTES: Final = 4

# What one of these takes beside its content; a name takes time rather than memory.
TEXT_BYTES: Final = 64
PAYLOAD_BYTES: Final = 256
INTEGER_BYTES: Final = 40
CALL_BYTES: Final = 128
ITEM_BYTES: Final = 128  # of a dict, with what finding a doubled key takes
NAME_BYTES: Final = 256

MAX_NAME_BYTES: Final = 256  # of a module or of a name in it


class Machine:
    """The pickle machine's state: a stack of stacks, one per open mark, and the memo."""

    __slots__ = (
        "_frame_end",
        "_frame_is_open",
        "_is_framed",
        "below",
        "containers",
        "memo",
        "protocol",
        "stack",
        "stream",
        "taken_bytes",
    )

    def __init__(self, stream: ByteStream, protocol: int) -> None:
        self.stream = stream
        self.protocol = protocol
        self.stack: list[object] = []
        self.below: list[list[object]] = []  # the stacks under the open marks
        self.memo: dict[int, object] = {}
        self.containers = 0
        self.taken_bytes = 0
        self._is_framed = False
        self._frame_is_open = False  # else the last thing was a long string
        self._frame_end = stream.offset

    def begin_frame(self, length: int) -> None:
        """Note a frame whose `length` bytes begin here.

        A loader takes a frame as a block. If an opcode lies across the end of one, it reads something else
        than what stands in the file, so frames have to be where a pickler puts them.
        """
        if self.stream.offset - 9 != self._frame_end:
            raise self._misplaced()
        self._is_framed = self._frame_is_open = True
        self._frame_end = self.stream.offset + length

    def leave_frame(self, begin: int, end: int) -> None:
        """Note what stands outside of frames, a long string or the end of the pickle, as two offsets."""
        rest = begin - self._frame_end
        if self._is_framed and not 0 <= rest < (1 if self._frame_is_open else SHORTEST_FRAME_BYTES):
            raise self._misplaced()
        self._frame_is_open = False
        self._frame_end = end

    def _misplaced(self) -> ScanStopped:
        return ScanStopped(
            "malformed", f"a frame does not end at byte {self._frame_end}, where it says it does"
        )

    def pop_mark(self) -> list[object]:
        """Close the innermost mark and return what is above it."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def take_up(self, count: int) -> None:
        """Note that what comes next takes `count` bytes."""
        self.taken_bytes += count
        if self.taken_bytes > MAX_TAKEN_BYTES:
            raise ScanStopped("limit_exceeded", f"strings of more than {MAX_TAKEN_BYTES} bytes in all")

    def push_container(self, container: object) -> None:
        """Push an object that takes memory of its own."""
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise ScanStopped("limit_exceeded", f"more than {MAX_CONTAINERS} lists, dicts and sets")
        self.stack.append(container)

    def memoize(self) -> None:
        """Put the top of the stack into the memo's next entry."""
        memo = self.memo
        index = len(memo)
        if index >= MAX_MEMO:
            raise self._too_much_memo()
        memo[index] = self.stack[-1]

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        # Picklers count upwards. A loader takes memory up to the highest index.
        if index >= MAX_MEMO:
            raise self._too_much_memo()
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push what the memo holds."""
        try:
            self.stack.append(self.memo[index])
        except KeyError:
            raise ScanStopped("malformed", f"memo entry {index} is used before it is set") from None

    def _too_much_memo(self) -> ScanStopped:
        return ScanStopped("limit_exceeded", f"more than {MAX_MEMO} memo entries")
