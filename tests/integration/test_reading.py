from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from ckptd.core.stream import WINDOW_BYTES
from ckptd.shell.reading import WORTH_A_THREAD_BYTES, Reader
from waiting import wait_until

LONG = WORTH_A_THREAD_BYTES + 3 * WINDOW_BYTES + 5


def opened(path, data):
    """A descriptor of a file that holds this."""
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def windows_of(reader):
    """All that a reader hands out, window by window."""
    while True:
        buffer, start, end = reader.next_window()
        if start == end:
            return
        yield bytes(buffer[start:end])


@pytest.mark.parametrize("size", [0, 1, WINDOW_BYTES, WINDOW_BYTES + 1, LONG])
def test_windows_are_the_file_in_order(tmp_path, size):
    """Whichever thread reads a window, together they are the file, and progress tells how far it got."""
    data = np.random.default_rng(0).bytes(size)
    seen = []
    with Reader(opened(tmp_path / "file", data), size, seen.append) as reader:
        assert data == b"".join(windows_of(reader))
    assert seen == sorted(seen)
    assert seen[-1:] == ([size] if size else [])


@pytest.mark.parametrize("offset", [0, 1, 15, 70])
def test_windows_to_come_are_aligned_as_asked(tmp_path, offset):
    """Once all that was read before is handed out, the byte asked for lies aligned in memory."""
    with Reader(opened(tmp_path / "file", bytes(LONG)), LONG) as reader:
        reader.align(offset)
        starts = [reader.next_window()[1] for _ in range(LONG // WINDOW_BYTES)]
        assert not (starts[-1] + offset) % 16  # the windows' length is a multiple of 16


@pytest.mark.parametrize("size", [WINDOW_BYTES, LONG])
def test_failed_read_is_raised_where_the_window_is_asked_for(tmp_path, size):
    """What cannot be read is an error of the one who asks, not of the thread that found out."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with Reader(descriptor, size) as reader, pytest.raises(IsADirectoryError) as raised:
        reader.next_window()
    assert errno.EISDIR == raised.value.errno


def test_file_that_became_shorter_ends_early(tmp_path):
    """A window that could not be filled is handed out as far as it was."""
    with Reader(opened(tmp_path / "file", bytes(10)), LONG) as reader:
        assert [bytes(10)] == list(windows_of(reader))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_reader_that_is_left_early_leaves_no_thread(tmp_path, count):
    """Whoever stops after a few windows waits for nothing but the read under way."""
    before = threading.active_count()
    with Reader(opened(tmp_path / "file", bytes(LONG)), LONG) as reader:
        for _ in range(count):
            reader.next_window()
    wait_until(lambda: before == threading.active_count(), "the end of the thread")
