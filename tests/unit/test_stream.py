from __future__ import annotations

import io
from itertools import cycle

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.stream import WINDOW_BYTES, ByteStream, ScanStopped, windows

window_sizes = st.integers(1, 5).map(lambda number: number * 16)
ways = st.lists(
    st.tuples(st.sampled_from(["byte", "number", "bytes", "blocks", "pass"]), st.integers(1, 120)), min_size=1
)


def opened(data, window_bytes=WINDOW_BYTES, size=None):
    """A stream over these bytes, with windows of that length."""
    size = len(data) if size is None else size
    return ByteStream(windows(io.BytesIO(data).readinto, size, window_bytes), size)


class Grudging:
    """A file that gives fewer bytes at a time than asked for."""

    def __init__(self, data, pieces):
        self.file = io.BytesIO(data)
        self.pieces = cycle(pieces)

    def readinto(self, buffer):
        """Read at least one byte."""
        return self.file.readinto(buffer[: next(self.pieces)])


@given(st.binary(max_size=400), window_sizes, ways, st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_stream_read_in_any_way_gives_the_files_bytes_in_order_and_its_digest(data, window, ways, pieces):
    """However a file is read and its reads fall short, the bytes are its own and the digest is right."""
    stream = ByteStream(windows(Grudging(data, pieces).readinto, len(data), window), len(data))
    taken = []

    def look(block):
        taken.append(bytes(block))

    for way, wanted in cycle(ways):
        offset = sum(map(len, taken))
        assert offset == stream.offset
        assert data[offset:].startswith(stream.peek(5))
        count = min(wanted, stream.remaining)
        if not stream.remaining:
            break
        match way:
            case "bytes":
                taken.append(stream.take(count))
            case "blocks":
                taken += map(bytes, stream.blocks(count))
            case "pass":
                stream.pass_by(count, look)
            case "number":
                taken.append(stream.unsigned(1).to_bytes(1, "little"))
            case "byte":
                taken.append(bytes([stream.byte()]))

    assert data == b"".join(taken)
    assert xxhash.xxh3_128_hexdigest(data) == stream.digest()


@given(st.integers(0, 40), st.integers(1, 300), window_sizes)
def test_passing_bytes_by_splits_no_number(before, count, window):
    """A payload comes in blocks of a multiple of 16 bytes, wherever it begins, and nothing is left out."""
    data = bytes(index % 251 for index in range(before + count))
    stream = opened(data, window)
    stream.take(before)
    seen = []
    stream.pass_by(count, lambda block: seen.append(bytes(block)))

    assert data[before:] == b"".join(seen)
    assert all(not len(block) % 16 for block in seen[:-1])
    assert not stream.remaining


@pytest.mark.parametrize("before", [0, 3, 16, 1001])
def test_a_long_payload_is_looked_at_whole_and_aligned(before):
    """Over several windows, every byte of it is seen once and in order, in aligned memory."""
    data = bytes(range(256)) * 12_000
    stream = opened(data, WINDOW_BYTES)
    stream.take(before)
    seen = []

    def look(block):
        assert not np.frombuffer(block, np.uint8).ctypes.data % 16
        seen.append(bytes(block))

    stream.pass_by(len(data) - before - 5, look)
    assert data[before:-5] == b"".join(seen)
    assert data[-5:] == stream.take(5)
    assert xxhash.xxh3_128_hexdigest(data) == stream.digest()


class Aligning:
    """A file whose windows begin where the stream asks for, from the second one after it asked."""

    def __init__(self, data, window_bytes):
        self.data, self.window_bytes = data, window_bytes
        self.read = self.shift = self.asked = 0

    def align(self, offset):
        """Have this byte aligned soon."""
        self.asked = -offset % 16

    def next_window(self):
        """The next bytes, behind some that mean nothing."""
        fresh = self.data[self.read : self.read + self.window_bytes]
        self.read += len(fresh)
        start, self.shift = self.shift, self.asked
        return bytearray(b"?" * start + fresh), start, start + len(fresh)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), window_sizes)
def test_payloads_in_windows_that_become_aligned_are_seen_whole(counts, window):
    """Where windows come to be aligned within a payload, it goes on in order, and no number is split."""
    data = bytes(index % 251 for index in range(sum(counts)))
    file = Aligning(data, window)
    stream = ByteStream(file.next_window, len(data), file.align)
    for count in counts:
        offset, seen = stream.offset, []
        stream.pass_by(count, lambda block, seen=seen: seen.append(bytes(block)))
        assert data[offset : offset + count] == b"".join(seen)
        assert all(not len(block) % 16 for block in seen[:-1])
    assert xxhash.xxh3_128_hexdigest(data) == stream.digest()


def test_what_is_in_the_window_can_be_seen_and_skipped():
    """The bytes that come next can be looked at in place, up to the window's end, and then be taken."""
    stream = opened(b"-" * 4 + b"word" + b"x" * 24, 16)
    stream.take(4)

    buffer, view, position, end = stream.in_window()
    assert b"wordxxxxxxxx" == bytes(buffer[position:end]) == bytes(view[position:end])
    stream.skip(4)
    assert stream.offset == 8
    assert b"x" * 24 == stream.take(24)


@given(st.binary(max_size=60), window_sizes)
def test_counted_bytes_are_those_behind_their_number(data, window):
    """A length of one byte and what it counts are taken alike, within a window or across two."""
    stream = opened(bytes([len(data)]) + data + b"!", window)
    assert data == stream.counted()
    assert not stream.begins_with(ord("?"))
    assert stream.begins_with(ord("!")) == (len(data) % window != window - 1)


@pytest.mark.parametrize(
    "read",
    [
        lambda stream: stream.take(11),
        lambda stream: list(stream.blocks(11)),
        lambda stream: stream.pass_by(11, lambda block: None),
        lambda stream: stream.require(11, "a tensor"),
        lambda stream: [stream.byte() for _ in range(11)],
    ],
)
def test_more_than_the_file_has_is_truncated(read):
    """Nothing is made up where the file ends."""
    stream = opened(bytes(10))

    with pytest.raises(ScanStopped) as stopped:
        read(stream)
    assert stopped.value.code == "truncated"


def test_a_file_that_shrinks_is_truncated_and_has_no_digest():
    """A file that ends before the size it had is not waited for."""
    stream = opened(bytes(10), size=20)

    with pytest.raises(ScanStopped, match="after byte 10") as stopped:
        stream.drain()
    assert stopped.value.code == "truncated"
    assert stream.digest() is None


def test_a_file_that_grows_is_read_to_the_size_it_had():
    """Bytes that came later belong to another state of the file."""
    stream = opened(b"old, new", size=3)
    stream.drain()

    assert xxhash.xxh3_128_hexdigest(b"old") == stream.digest()


def test_window_is_a_multiple_of_every_element_size():
    """No number of 16 bytes or less straddles two blocks."""
    assert WINDOW_BYTES % 16 == 0
