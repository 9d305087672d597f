from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.model import (
    Action,
    CheckpointSet,
    Decision,
    EntryKind,
    Member,
    Role,
    SetKey,
    SetShape,
    Verdict,
)
from ckptd.core.trash_entries import (
    DamagedEntry,
    TrashEntry,
    entry_for,
    entry_id,
    is_entry_id,
    parse_entry,
    render_entry,
)
from making import entry, stem_set

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
WEEK = timedelta(days=7)
ID = "20261124T105500Z-0a1b2c"
NAMES = st.binary(min_size=1, max_size=20).map(
    lambda raw: (
        raw.replace(b"/", b"_").replace(b"\0", b"\n").replace(b".", b"\xff").decode(errors="surrogateescape")
    )
)


def decision_on(doomed, *reasons):
    """The decision to remove a set."""
    return Decision(doomed.key, Verdict.VALID, Action.REMOVE, reasons or ("no rule keeps it",), doomed.bytes)


def described(doomed):
    """The entry of a set that is removed now and stays for a week."""
    return entry_for(doomed, decision_on(doomed), ID, now=NOW, trash_for=WEEK)


def directory_set(*paths, directory="run/checkpoint-5"):
    """A set of the files in a directory."""
    members = tuple(Member(Role.EXTRA, entry(path)) for path in paths)
    return CheckpointSet(
        "run", "checkpoint-5", "plain", SetShape.DIRECTORY, members, frozenset(), directory=directory
    )


STEM_SET = stem_set(
    "run", "epoch_1", (".pdopt", Role.OPT), (".pdstates", Role.META), (".pdparams", Role.PARAMS)
)


@given(
    run=NAMES, stem=NAMES, suffixes=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    mtime_ns=st.integers(0, 2**63), reason=NAMES,
)  # fmt: skip
def test_entry_of_any_stem_set_survives_writing_and_reading(run, stem, suffixes, mtime_ns, reason):
    """Whatever bytes are in the names, an entry reads back as it was written."""
    members = tuple(Member(Role.META, entry(f"{run}/{stem}{one}", mtime_ns=mtime_ns)) for one in suffixes)
    doomed = replace(STEM_SET, run=run, name=stem, members=members)
    written = entry_for(doomed, decision_on(doomed, reason), ID, now=NOW, trash_for=WEEK)
    assert written == parse_entry(render_entry(written), ID)


def test_entry_of_a_directory_set_survives_writing_and_reading():
    """An entry of a directory set reads back as it was written."""
    written = described(directory_set("run/checkpoint-5/model.pdparams", "run/checkpoint-5/sub/x"))
    assert written == parse_entry(render_entry(written), ID)
    assert ("run", ("checkpoint-5",)) == (written.origin, written.names)


def test_entry_of_a_stem_set_moves_the_weights_first():
    """The weights leave first and the optimizer state next, so that no half-moved set looks whole."""
    written = described(STEM_SET)
    assert ("run", ("epoch_1.pdparams", "epoch_1.pdopt", "epoch_1.pdstates")) == (
        written.origin,
        written.names,
    )


def test_entry_in_the_root_itself_comes_from_the_root():
    """A set of the run `.` has the root for its origin."""
    written = described(stem_set(".", "model", (".pdparams", Role.PARAMS)))
    assert (".", ("model.pdparams",)) == (written.origin, written.names)
    assert isinstance(parse_entry(render_entry(written), ID), TrashEntry)


@pytest.mark.parametrize(
    "doomed",
    [
        replace(STEM_SET, members=()),
        replace(STEM_SET, shape=SetShape.DIRECTORY),
        replace(STEM_SET, directory="run"),
        replace(STEM_SET, members=(Member(Role.PARAMS, entry("other/epoch_1.pdparams")),)),
        replace(STEM_SET, run="..", members=(Member(Role.PARAMS, entry("../epoch_1.pdparams")),)),
        replace(STEM_SET, run="/etc", members=(Member(Role.PARAMS, entry("/etc/epoch_1.pdparams")),)),
        replace(STEM_SET, members=(Member(Role.PARAMS, entry("run/a\0")),)),
        replace(STEM_SET, members=(Member(Role.PARAMS, entry("run/a", kind=EntryKind.SYMLINK)),)),
        replace(STEM_SET, members=(Member(Role.PARAMS, entry("run/a", kind=EntryKind.OTHER)),)),
        replace(STEM_SET, members=(Member(Role.PARAMS, entry("run/a", kind=EntryKind.DIRECTORY)),)),
        directory_set("run/checkpoint-6/model.pdparams"),
        directory_set("run/checkpoint-5/../../x"),
        directory_set("./x", directory="."),
    ],
)
def test_entry_for_a_set_with_members_that_must_not_be_touched_is_refused(doomed):
    """What lies elsewhere, is no plain path, or is a link or device is never moved as part of a set."""
    with pytest.raises(
        ValueError, match=r"members|set with the directory|regular file|plain path|does not lie"
    ):
        described(doomed)


def test_entry_for_a_decision_on_another_set_is_refused():
    """A decision moves the set that it is about, no other."""
    decision = replace(decision_on(STEM_SET), key=SetKey("run", "epoch_2"))
    with pytest.raises(ValueError, match="epoch_2"):
        entry_for(STEM_SET, decision, ID, now=NOW, trash_for=WEEK)


def changed(**fields):
    """A written entry with some fields replaced; `...` takes one away."""
    found = json.loads(render_entry(described(STEM_SET))) | fields
    return json.dumps({name: value for name, value in found.items() if value != "..."})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        changed(schema=2),
        changed(id="20261124T105500Z-ffffff"),
        changed(run="..."),
        changed(run=7),
        changed(bytes=True),
        changed(verdict="good"),
        changed(shape="heap"),
        changed(members=[]),
        changed(members=["x"]),
        changed(run="../elsewhere"),
        changed(directory="run"),
        changed(removed_at="2026-11-24T10:55:00"),
        changed(purge_after="soon"),
        changed(set="\\U99999999"),
    ],
)
def test_entry_that_is_damaged_is_a_value(text):
    """Damage is told and never believed."""
    assert isinstance(parse_entry(text.encode(), ID), DamagedEntry)


@given(st.binary(max_size=100))
def test_entry_of_any_bytes_is_read_or_damaged(data):
    """No bytes make the reading fail."""
    assert isinstance(parse_entry(data, ID), DamagedEntry)


@given(st.datetimes(min_value=datetime(1000, 1, 1)), st.datetimes(min_value=datetime(1000, 1, 1)))  # noqa: DTZ001
def test_entry_ids_sort_by_time(one, other):
    """The earlier removal has the smaller id, to the second, and each is an id."""
    first, second = sorted(moment.replace(microsecond=0, tzinfo=UTC) for moment in (one, other))
    assert (first == second) or entry_id(first, "ffffff") < entry_id(second, "000000")
    assert is_entry_id(entry_id(first, "0a1b2c"))


def test_entry_id_is_in_utc():
    """Another time zone names the same moment alike."""
    assert ID == entry_id(NOW.astimezone(timezone(timedelta(hours=8))), "0a1b2c")


@pytest.mark.parametrize("text", ["", "..", f"{ID}/..", f"{ID}\n", "20261124T105500Z-0A1B2C"])
def test_entry_id_of_another_form_is_none(text):
    """Only what `entry_id` makes is an id; it can be used as a name without fear."""
    assert not is_entry_id(text)
