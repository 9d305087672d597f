from __future__ import annotations

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.polyglots import LOST, MAX_OPCODES, follow, pickled_import

PADDING = bytes(500)


@pytest.mark.parametrize(
    ("head", "imports"),
    [
        (b"cos\nsystem\n(S'x'\ntR.", "os.system"),
        (b"(S'x'\nios\nsystem\n.", "os.system"),
        (b"\x80\x01cos\nsystem\n.", "os.system"),
        (b"Va\0b\ncos\nsystem\n.", "os.system"),
        (b"X\x02\0\0\0aacos\nsystem\n.", "os.system"),
        (b"VosVsystem\n\x93.", "what opcode 0x93 at byte 11 says"),
        (b"\x82\x01.", "what opcode 0x82 at byte 0 says"),
        (b"best_accuracy.pdparams", None),
        (b"model.pdparams", None),
        (b"./model.pdparams", None),
        (b"checkpoint.pdparams", None),
        (b"Inception.pdparams", None),
        (b"Xception.pdparams", None),
        (b"N.", None),
    ],
)
def test_name_that_would_import_is_told_from_one_that_would_not(head, imports):
    """What a file's first name would do in a pickle is worked out, and no common name would do a thing."""
    assert pickled_import(head + PADDING, 600) == imports


@given(st.integers(520, 2000))
def test_pickle_that_goes_on_behind_the_head_counts(size):
    """What is not looked at is not trusted, unless the file ends before it."""
    head = b"X" + struct.pack("<I", 510) + bytes(505)
    assert pickled_import(head, size) == "what is behind byte 510"
    assert pickled_import(head, 512) is None


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)))
def test_plain_pickle_imports_nothing(tree):
    """Values alone need no import, in any protocol."""
    pickles = [pickle.dumps(tree, protocol) for protocol in range(6)]
    assert [pickled_import(data, len(data)) for data in pickles] == [None] * 6


@pytest.mark.parametrize(
    ("head", "place"),
    [
        (b"", 0),
        (b"N", 1),
        (b"G12", 9),
        (b"B\xff\0\0\0", 260),
        (b"B\xff\0", LOST),
        (b"Va", LOST),
        (b"Va\n", 3),
        (b"N" * MAX_OPCODES, LOST),
        (b"{", None),
    ],
)
def test_pickle_is_followed_to_where_it_goes_on(head, place):
    """Where the next opcode is is told, unless one is cut off or there is no end of them."""
    assert place == follow(head)
