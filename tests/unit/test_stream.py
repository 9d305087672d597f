from __future__ import annotations

import io
from itertools import cycle

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.stream import HANDOVER_BYTES, WINDOW_BYTES, ByteStream, ScanStopped, at_once

windows = st.integers(1, 5).map(lambda number: number * 16)
ways = st.lists(
    st.tuples(st.sampled_from(["byte", "number", "bytes", "blocks", "pass"]), st.integers(1, 120)), min_size=1
)


class Grudging:
    """A file that gives fewer bytes at a time than asked for."""

    def __init__(self, data, pieces):
        self.file = io.BytesIO(data)
        self.pieces = cycle(pieces)

    def readinto(self, buffer):
        """Read at least one byte."""
        return self.file.readinto(buffer[: next(self.pieces)])


@given(st.binary(max_size=400), windows, ways, st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_stream_read_in_any_way_gives_the_files_bytes_in_order_and_its_digest(data, window, ways, pieces):
    """However a file is read and its reads fall short, the bytes are its own and the digest is right."""
    stream = ByteStream(Grudging(data, pieces).readinto, len(data), window_bytes=window)
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


@given(st.integers(0, 40), st.integers(1, 300), windows)
def test_passing_bytes_by_gives_whole_windows_but_for_the_last(before, count, window):
    """A long payload comes in blocks as long as the window, wherever it begins: no number is split."""
    data = bytes(before + count)
    stream = ByteStream(io.BytesIO(data).readinto, len(data), window_bytes=window)
    stream.take(before)
    sizes = []
    stream.pass_by(count, lambda block: sizes.append(len(block)))

    assert count == sum(sizes)
    assert all(size == window for size in sizes[:-1])


def test_work_beside_the_reading_is_done_by_settle_and_in_order():
    """Jobs that wait until they are asked for still see every block, and the digest is right."""
    data = bytes(range(256)) * 1024
    queue = []

    def later(job):
        queue.append(job)

        def wait():
            while queue:
                queue.pop(0)()

        return wait

    stream = ByteStream(io.BytesIO(data).readinto, len(data), beside=later, window_bytes=1 << 14)
    seen = []
    stream.take(3)
    stream.pass_by(len(data) - 10, lambda block: seen.append(bytes(block)))
    assert queue
    stream.settle()

    assert data[3:-7] == b"".join(seen)
    assert xxhash.xxh3_128_hexdigest(data) == stream.digest()


def test_a_payload_within_the_window_is_handed_over_when_it_is_long():
    """A block that takes a while to look at does not hold up the reading; a short one is not worth it."""
    jobs = []

    def count(job):
        jobs.append(job)
        return at_once(job)

    data = bytes(HANDOVER_BYTES * 2)
    stream = ByteStream(io.BytesIO(data).readinto, len(data), beside=count)
    stream.peek(len(data))
    before = len(jobs)
    stream.pass_by(10, lambda block: None)
    assert before == len(jobs)
    stream.pass_by(HANDOVER_BYTES, lambda block: None)
    assert before + 1 == len(jobs)


def test_a_job_that_fails_fails_the_stream():
    """What goes wrong beside the reading is not lost: a check that did not happen must not pass."""
    failures = iter([ValueError("no memory")])

    def failing(job):
        job()
        failure = next(failures, None)

        def wait():
            if failure:
                raise failure

        return wait

    stream = ByteStream(io.BytesIO(bytes(100)).readinto, 100, beside=failing, window_bytes=32)
    stream.byte()
    stream.byte()
    with pytest.raises(ValueError, match="no memory"):
        stream.settle()


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
    stream = ByteStream(io.BytesIO(bytes(10)).readinto, 10)

    with pytest.raises(ScanStopped) as stopped:
        read(stream)
    assert stopped.value.code == "truncated"


def test_a_file_that_shrinks_is_truncated_and_has_no_digest():
    """A file that ends before the size it had is not waited for."""
    stream = ByteStream(io.BytesIO(bytes(10)).readinto, 20)

    with pytest.raises(ScanStopped, match="after byte 10") as stopped:
        stream.drain()
    assert stopped.value.code == "truncated"
    assert stream.digest() is None


def test_a_file_that_grows_is_read_to_the_size_it_had():
    """Bytes that came later belong to another state of the file."""
    stream = ByteStream(io.BytesIO(b"old, new").readinto, 3)
    stream.drain()

    assert xxhash.xxh3_128_hexdigest(b"old") == stream.digest()


def test_window_is_a_multiple_of_every_element_size():
    """No number of 16 bytes or less straddles two blocks."""
    assert WINDOW_BYTES % 16 == 0
