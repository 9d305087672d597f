from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptd.core import pickle_arrays, pickle_steps
from ckptd.core.pickles import walk
from ckptd.core.state_dicts import contents
from ckptd.core.stream import WINDOW_BYTES, ByteStream, ScanStopped, windows

dtypes = st.sampled_from(["<f4", "<f2", "<f8", "<u2", "<i8", "|b1", ">f4", "<c16"])
shapes = st.lists(st.integers(0, 5), max_size=6).map(tuple)
names = st.text(max_size=6) | st.sampled_from(["w" * 300, "\ud800"])


def arrays_of(kinds):
    """A state dict of such arrays, with an infinity in every second float."""
    state = {}
    for number, (name, code, shape) in enumerate(kinds):
        values = np.arange(int(np.prod(shape)), dtype="i8").astype(code).reshape(shape)
        if number % 2 and values.dtype.kind in "fc":
            values.flat[:1] = np.inf
        state[name] = values
    return state


def described(data, window_bytes=WINDOW_BYTES):
    """All that is found of a pickle: its contents, the opcodes counted, what is left; or how it stops."""
    stream = ByteStream(windows(io.BytesIO(data).readinto, len(data), window_bytes), len(data))
    try:
        found = contents(walk(stream))
    except ScanStopped as stopped:
        return stopped.code
    return found, stream.opcodes, stream.remaining


def in_single_steps(data):
    """The same without taking any array as a whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pickle_steps, "take_arrays", lambda machine: None)
        return described(data)


@given(
    st.lists(st.tuples(names, dtypes, shapes), max_size=8),
    st.sampled_from([2, 4, 5]),
    st.sampled_from([64, 256, WINDOW_BYTES]),
)
@example([("a", "<f4", (16, 16)), ("b", "<f4", (16, 16)), ("c", "<f4", (4,))], 4, WINDOW_BYTES)
def test_arrays_taken_whole_are_those_of_single_steps(kinds, protocol, window_bytes):
    """Whatever a state dict holds, tensors, opcodes and the end are the same in either way."""
    data = pickle.dumps(arrays_of(kinds), protocol)

    assert in_single_steps(data) == described(data, window_bytes)


WHOLE = pickle.dumps(
    arrays_of([(f"layer{number}", "<f4", (4, 5)) for number in range(4)] + [("bias", "<f4", (4,))]), 4
)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_damaged_arrays_are_judged_as_in_single_steps(place, octet):
    """One wrong byte anywhere gives the same tensors or the same finding in either way."""
    data = WHOLE[:place] + bytes([octet]) + WHOLE[place + 1 :]

    assert in_single_steps(data) == described(data)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_arrays_cut_off_are_judged_as_in_single_steps(length):
    """Wherever the file ends, it ends in the same way."""
    assert in_single_steps(WHOLE[:length]) == described(WHOLE[:length])


def test_arrays_of_a_state_dict_are_taken_whole(monkeypatch):
    """From the second on, the arrays of one type take no step of their own."""
    steps = []
    taken = pickle_arrays.take_arrays

    def count(machine):
        steps.append(len(machine.memo))
        taken(machine)

    monkeypatch.setattr(pickle_steps, "take_arrays", count)
    state = arrays_of([(f"layer{number}", "<f4", (4, 5)) for number in range(100)])
    assert len(contents(walk_of(pickle.dumps(state, 4))).tensors) == 100
    assert len(steps) == 1


def walk_of(data):
    """The tree that a pickle describes."""
    return walk(ByteStream(windows(io.BytesIO(data).readinto, len(data)), len(data)))


def test_far_memo_entries_are_found():
    """Once the memo has more than 256 entries, types and callables may go by four bytes."""
    state = {f"k{number}": number for number in range(300)}
    arrays = {str(number): np.full((3, 3), number, code) for number, code in enumerate(["f4", "f8"] * 3)}
    data = pickle.dumps(state | arrays, 4)

    assert in_single_steps(data) == described(data)
    assert len(described(data)[0].tensors) == 6


@pytest.mark.parametrize("length", [3, 100])
def test_short_text_to_be_encoded_is_bytes(length):
    """A byte string may be written as a short text that `_codecs.encode` turns into bytes."""
    encode = b"\x8c\x07_codecs\x8c\x06encode\x93"
    text = b"\x8c" + bytes([length]) + b"x" * length
    value = encode + text + b"\x8c\x06latin1\x86R"
    data = b"\x80\x04}\x8c\x01a" + value + b"s."

    assert {"a": b"x" * length} == pickle.loads(data)
    assert contents(walk_of(data)).unloadable == (("a",),)
