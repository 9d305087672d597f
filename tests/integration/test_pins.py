from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.core.model import SetKey
from ckptd.shell.own_directory import making
from ckptd.shell.pins import Pins, pin, pins, unpin
from removing import NOW

KEY = SetKey("run", "epoch_1")
TEXTS = st.binary(min_size=1, max_size=30).map(
    lambda raw: raw.replace(b"\0", b"\n").decode(errors="surrogateescape")
)


def pin_file(root):
    """The only pin's file."""
    (found,) = (root / ".ckptd" / "pins").iterdir()
    return found


@settings(max_examples=20, deadline=None)
@given(keys=st.frozensets(st.builds(SetKey, TEXTS, TEXTS), max_size=4), why=TEXTS)
def test_pin_of_any_sets_is_read_back_until_unpinned(tmp_path_factory, keys, why):
    """Exactly the pinned sets are pinned, whatever their names are; each can be unpinned once."""
    root = str(tmp_path_factory.mktemp("root"))
    for key in keys:
        pin(root, key, why, NOW)
    assert Pins(keys) == pins(root)
    assert [True] * len(keys) == [unpin(root, key) for key in keys]
    assert [False] * len(keys) == [unpin(root, key) for key in keys]
    assert Pins() == pins(root)


def test_pins_of_a_root_without_any_make_nothing(tmp_path):
    """Neither looking for pins nor taking one away makes a directory."""
    assert Pins() == pins(str(tmp_path))
    assert not unpin(str(tmp_path), KEY)
    assert [] == os.listdir(tmp_path)


def test_pin_makes_a_directory_that_is_not_for_everyone(tmp_path):
    """The own directory is readable by its owner and group only, and the pin says when and why."""
    pin(str(tmp_path), KEY, "the paper's model", NOW)
    assert 0o750 == stat.S_IMODE((tmp_path / ".ckptd").stat().st_mode)
    expected = {
        "schema": 1,
        "run": "run",
        "set": "epoch_1",
        "pinned_at": NOW.isoformat(),
        "why": "the paper's model",
    }
    assert expected == json.loads(pin_file(tmp_path).read_bytes())


def test_pin_again_takes_the_new_note(tmp_path):
    """Pinning twice is pinning once, with the later reason."""
    pin(str(tmp_path), KEY, "one", NOW)
    pin(str(tmp_path), KEY, "two", NOW)
    assert "two" == json.loads(pin_file(tmp_path).read_bytes())["why"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "[" * 100_000, '{"schema": 1}', '{"schema": 1, "run": "run", "set": "epoch_2"}',
     '{"schema": 1, "run": "\\\\ud800", "set": "x"}'],
)  # fmt: skip
def test_pin_that_is_damaged_is_told_and_can_be_taken_away(tmp_path, text):
    """A damaged pin is a problem with its place; pinning or unpinning the set again ends it."""
    pin(str(tmp_path), KEY, "why", NOW)
    file = pin_file(tmp_path)
    file.write_text(text)
    found = pins(str(tmp_path))
    assert frozenset() == found.keys
    assert [f".ckptd/pins/{file.name}"] == [problem.path for problem in found.problems]
    assert unpin(str(tmp_path), KEY)
    assert Pins() == pins(str(tmp_path))


def test_pin_that_is_no_file_is_told(tmp_path):
    """A directory or a link in a pin's place is a problem, and the link is not followed."""
    pin(str(tmp_path), KEY, "why", NOW)
    file = pin_file(tmp_path)
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    (file.parent / "directory.json").mkdir()
    assert {"ELOOP", "EISDIR"} == {
        problem.reason.partition(":")[0] for problem in pins(str(tmp_path)).problems
    }


def test_pins_half_written_count_for_nothing(tmp_path):
    """What a write leaves that was cut off is neither a pin nor a problem."""
    pin(str(tmp_path), KEY, "why", NOW)
    (tmp_path / ".ckptd" / "pins" / ".x.json.tmp").touch()
    (tmp_path / ".ckptd" / "pins" / "README").touch()
    assert Pins(frozenset({KEY})) == pins(str(tmp_path))


@pytest.mark.parametrize("kind", ["file", "link"])
def test_pins_where_the_own_directory_is_none_are_a_problem(tmp_path, kind):
    """A file or link called `.ckptd` is never used, and pins are then unknown, not absent."""
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / ".ckptd").touch() if kind == "file" else (root / ".ckptd").symlink_to(tmp_path / "outside")
    assert 1 == len(pins(str(root)).problems)
    with pytest.raises(NotADirectoryError):
        pin(str(root), KEY, "why", NOW)
    with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
        unpin(str(root), KEY)
    assert [] == os.listdir(tmp_path / "outside")


def test_pin_while_another_process_is_at_work_says_so(tmp_path):
    """Two changes at a time are kept apart; the second says what to do."""
    with (
        making(str(tmp_path)),
        pytest.raises(BlockingIOError, match="another ckptd is at work here; try again"),
    ):
        pin(str(tmp_path), KEY, "why", NOW)
    pin(str(tmp_path), KEY, "why", NOW)
