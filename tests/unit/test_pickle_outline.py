from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptd.core import pickle_outline
from ckptd.core.pickle_outline import first_call
from ckptd.core.stream import ByteStream, windows
from pickling import text

HEALTHY = {"w": np.ones((3, 4), "f4"), "n": [1, 2.5, "é" * 300, None, (1, 2, 3, 4), {5}, b"x" * 300]}


class Evil:
    """An object that loading calls os.mkdir for."""

    def __reduce__(self):
        return os.mkdir, ("x",)


def outlined(data, opcode=None):
    """The first call of these bytes."""
    return first_call(ByteStream(windows(io.BytesIO(data).readinto, len(data)), len(data)), opcode)


@pytest.mark.parametrize("protocol", range(6))
def test_call_is_found_in_every_protocol(protocol):
    """A name off the list that is called is found, behind listed names and whatever else there is."""
    assert outlined(pickle.dumps([HEALTHY["n"], Evil()], protocol)) == "posix.mkdir"
    assert (
        outlined(pickle.dumps(HEALTHY["n"][:5], protocol) * 3 + pickle.dumps(Evil(), protocol))
        == "posix.mkdir"
    )


@pytest.mark.parametrize("protocol", range(2, 6))
def test_healthy_pickles_call_nothing_off_the_list(protocol):
    """What Paddle writes is nothing to be warned of, however often it is there."""
    assert outlined(pickle.dumps(HEALTHY, protocol) * 3) is None


CALLS = {
    "INST": b"(S'x'\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nS'x'\no.",
    "NEWOBJ": b"cos\nmkdir\n)\x81.",
    "NEWOBJ_EX": b"cos\nmkdir\n)}\x92.",
    "BUILD": b"cos\nmkdir\n}b.",
    "a name from a numbered memo entry": b"cos\nmkdir\np7\n0g7\n)R.",
    "strings from the memo": b"\x8c\2os\x94\x8c\5mkdir\x940" + b"0h\0h\1\x93)R.",
    "strings that were doubled": b"\x8c\2os2\x8c\5mkdir\x93)R.",
    "a call above a mark": b"((1cos\nmkdir\n)R.",
    "the rest of a file": b"cos\nmkdir\n)R",
}


@pytest.mark.parametrize("data", CALLS.values(), ids=CALLS)
def test_every_form_of_a_call_is_found(data):
    """Old forms and detours lead to the same name."""
    assert outlined(data) == "os.mkdir"


def test_eval_is_named_although_it_is_listed():
    """Only the full walk can tell the one harmless call of eval."""
    assert outlined(b"cbuiltins\neval\n(S'1'\ntR.") == "builtins.eval"


NO_CALLS = {
    "nothing": b"",
    "no opcode": b"\xff",
    "a name without a call": b"cos\nmkdir\n.",
    "a call of what is not there": b"R",
    "a call on too short a stack": b"cos\nmkdir\nR",
    "a mark that was never set": b"t.",
    "text that begins like a name": b"config\nversion\nlatest\n",
    "text that begins like a mark and a name": b"(in German)\nund so weiter\n",
    "names that are none": b"c!\n\xff\n)R.",
    "a memo entry that is not set": b"g7\ng\n\x93)R.",
    "a memo entry of nothing": b"p0\n.",
    "a byte string beyond all limits": b"B\xff\xff\xff\xffcos\nmkdir\n)R.",
    "a line beyond all limits": b"S" + b"x" * 5000 + b"\n0cos\nmkdir\n)R.",
}


@pytest.mark.parametrize("data", NO_CALLS.values(), ids=NO_CALLS)
def test_bytes_that_call_nothing_have_no_name(data):
    """What is no pickle, or calls nothing, is no reason for a warning."""
    assert outlined(data) is None


def test_call_within_a_pickle_is_found_although_the_stack_is_unknown():
    """Behind an opcode in the middle, values and marks from before may be used."""
    assert outlined(b"1\n0000ttcos\nmkdir\n)R.", pickle.INT[0]) == "os.mkdir"


@pytest.mark.parametrize("limit", ["MAX_OPCODES", "MAX_BYTES"])
def test_outline_beyond_the_limits_ends(monkeypatch, limit):
    """A long way to the call is not followed to its end."""
    monkeypatch.setattr(pickle_outline, limit, 100)
    assert outlined((text("x" * 50) + pickle.POP) * 60 + pickle.dumps(Evil(), 0)) is None


@given(st.binary(max_size=200), st.none() | st.sampled_from(b"ISFL"))
@example(b"I" + b"9" * 5000, None)
@example(b"2", None)
def test_outline_of_any_bytes_ends_without_a_failure(data, opcode):
    """There are no bytes that raise."""
    outlined(data, opcode)
