from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.core.ledger_codec import FORMAT
from ckptd.core.model import (
    Action,
    CheckpointSet,
    Decision,
    Entry,
    EntryKind,
    FileScan,
    Finding,
    Fingerprint,
    Judgement,
    Member,
    Metric,
    Order,
    Plan,
    Role,
    SetKey,
    SetShape,
    Verdict,
)
from ckptd.core.names import from_shown, shown
from ckptd.core.records import (
    RecordedDecision,
    RecordedJudgement,
    ReleaseRecord,
    ReleaseState,
    Removal,
    RemovalState,
    fingerprints_digest,
)
from ckptd.core.scrubbing import Reading
from ckptd.shell.ledger import open_ledger

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
ROOT = "/data/out"
ODD = 'line\nbreak \udcff "quoted" \\ \x00 号'
SCAN = FileScan("pickle", 100, "ab" * 16, (), (), ((("epoch",), 3),))


@pytest.fixture
def ledger(tmp_path):
    """An open, empty ledger."""
    opened, damage = open_ledger(tmp_path, NOW)
    assert damage is None
    with opened:
        yield opened


def fingerprint(path="run/a.pdparams", size=100, mtime_ns=1, inode=7):
    """A fingerprint of a file that differs from others where asked."""
    return Fingerprint(path, size, mtime_ns, inode)


def checkpoint(name="epoch_1", run="run", size=100, mtime_ns=1):
    """A set of one file."""
    entry = Entry(f"{run}/{name}.pdparams", EntryKind.FILE, size, mtime_ns, 7)
    members = (Member(Role.PARAMS, entry),)
    return CheckpointSet(run, name, "test", SetShape.STEM, members, frozenset({Role.PARAMS}))


def judgement(verdict=Verdict.VALID, accuracy=None, **fields):
    """A judgement, with an accuracy where given."""
    metric = None if accuracy is None else Metric("accuracy", accuracy, Order.MAX)
    return Judgement(verdict, metric=metric, **fields)


def decision(name="epoch_1", action=Action.KEEP, reasons=("the newest",), run="run"):
    """A decision on a valid set."""
    return Decision(SetKey(run, name), Verdict.VALID, action, reasons, 100)


def removal(state, entry="e1", at=NOW, name="epoch_1"):
    """One step of a removal."""
    return Removal(SetKey("run", name), entry, state, "no rule keeps it", 100, at)


def release(state, export_key="k1", at=NOW, reason="", **fields):
    """One step of a release of the same set."""
    return ReleaseRecord(
        "/srv/model", ROOT, SetKey("run", "epoch_1"), state, export_key, at, reason=reason, **fields
    )


# Scans


names = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: from_shown(shown(name)) == name
)
big = st.integers(min_value=0, max_value=2**64 - 1)


@settings(max_examples=40)
@given(st.dictionaries(st.builds(Fingerprint, names, big, big, big), st.binary(max_size=4), max_size=5))
def test_scans_recorded_under_any_names_are_found_again(tmp_path_factory, contents):
    """Every name, size, time and inode that a file system can have leads back to its scan."""
    by_path = {key.path: (key, FileScan("json", key.bytes, data.hex())) for key, data in contents.items()}
    expected = dict(by_path.values())
    with open_ledger(tmp_path_factory.mktemp("state"), NOW)[0] as ledger:
        ledger.record_scans(ROOT, expected, NOW)
        assert ledger.scans(ROOT, expected) == expected
        assert ledger.scans("/elsewhere", expected) == {}


@pytest.mark.parametrize(
    "changed", [{"size": 101}, {"mtime_ns": 2}, {"inode": 8}, {"path": "run/b.pdparams"}]
)
def test_scan_of_changed_file_is_not_found(ledger, changed):
    """A scan holds for exactly the fingerprint that it was made on."""
    ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
    assert ledger.scans(ROOT, [fingerprint(**changed)]) == {}


def test_scan_recorded_again_replaces_the_older_one(ledger):
    """One path has one scan: that of its latest state."""
    newer = FileScan("pickle", 200, "cd" * 16)
    ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
    ledger.record_scans(ROOT, {fingerprint(size=200): newer}, LATER)
    assert ledger.scans(ROOT, [fingerprint()]) == {}
    assert ledger.scans(ROOT, [fingerprint(size=200)]) == {fingerprint(size=200): newer}


def test_scan_that_may_pass_by_itself_is_not_remembered(ledger):
    """A file that could not be opened is looked at again, since chmod does not change its fingerprint."""
    denied = FileScan("none", 0, None, (Finding("permission_denied", "run/a.pdparams", "mode 0600"),))
    ledger.record_scans(ROOT, {fingerprint(): denied}, NOW)
    assert ledger.scans(ROOT, [fingerprint()]) == {}


def test_scan_of_another_format_counts_as_none(ledger, tmp_path):
    """A scan that another version wrote is not misread; the file is scanned anew."""
    ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE scans SET scan = x'00'")
    assert ledger.scans(ROOT, [fingerprint()]) == {}


def test_scans_beyond_one_statement_are_all_found_and_forgotten(ledger):
    """More files than one statement takes make no difference."""
    many = {fingerprint(f"run/{number}.pdparams"): SCAN for number in range(2500)}
    ledger.record_scans(ROOT, many, NOW)
    assert ledger.scans(ROOT, many) == many
    assert ledger.forget_scans(ROOT, []) == 2500


def test_forget_scans_keeps_listed_paths_and_other_roots(ledger):
    """Only scans of vanished files under this root go."""
    ledger.record_scans(ROOT, {fingerprint(): SCAN, fingerprint(ODD): SCAN, fingerprint("gone"): SCAN}, NOW)
    ledger.record_scans("/other", {fingerprint("gone"): SCAN}, NOW)
    assert ledger.forget_scans(ROOT, ["run/a.pdparams", ODD]) == 1
    assert set(ledger.scans(ROOT, [fingerprint(), fingerprint(ODD), fingerprint("gone")])) == {
        fingerprint(),
        fingerprint(ODD),
    }
    assert ledger.scans("/other", [fingerprint("gone")])


# Readings


def test_first_digest_stays_and_the_time_of_the_last_reading_moves(ledger):
    """Reading a file again notes when; what is known of a file that was written anew begins anew."""
    assert ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW) == {fingerprint(): SCAN}
    ledger.record_scans(ROOT, {fingerprint(): SCAN}, LATER)
    assert ledger.readings(ROOT, [fingerprint()]) == {fingerprint(): Reading(SCAN.digest, NOW, LATER, FORMAT)}
    other = replace(SCAN, digest="cd" * 16)
    assert ledger.record_scans(ROOT, {fingerprint(mtime_ns=2): other}, LATER) == {
        fingerprint(mtime_ns=2): other
    }
    assert ledger.readings(ROOT, [fingerprint()]) == {}


def test_rot_is_remembered_with_the_scan_and_outlives_the_file(tmp_path):
    """Rot is part of the scan from then on, after reopening and after the file was away for a while."""
    other = replace(SCAN, digest="cd" * 16)
    with open_ledger(tmp_path, NOW)[0] as ledger:
        ledger.record_scans(ROOT, {fingerprint(): SCAN, fingerprint("b"): SCAN}, NOW)
        rotted = ledger.record_scans(ROOT, {fingerprint(): other}, LATER)
        assert [one.code for one in rotted[fingerprint()].findings] == ["content_rotted"]
    with open_ledger(tmp_path, LATER)[0] as ledger:
        assert ledger.scans(ROOT, [fingerprint()]) == rotted
        assert ledger.forget_scans(ROOT, []) == 2
        assert ledger.record_scans(ROOT, {fingerprint(): SCAN}, LATER)[fingerprint()].findings
        assert ledger.readings(ROOT, [fingerprint("b")]) == {}
        assert ledger.forget_before(LATER + timedelta(seconds=1)) == 1
        assert ledger.readings(ROOT, [fingerprint()]) == {}


@pytest.mark.parametrize("code", ["read_error", "scanner_failed", "permission_denied"])
def test_file_that_cannot_be_read_again_has_no_scan_but_keeps_its_first_digest(ledger, code):
    """A failed reading ends what was known for good, but not what a later reading is compared with."""
    failed = FileScan("none", 0, None, (Finding(code, "run/a.pdparams", "EIO"),))
    ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
    assert ledger.record_scans(ROOT, {fingerprint(): failed}, LATER) == {fingerprint(): failed}
    assert ledger.scans(ROOT, [fingerprint()]) == {}
    assert ledger.readings(ROOT, [fingerprint()]) == {fingerprint(): Reading(SCAN.digest, NOW, NOW, FORMAT)}


# Judgements


def test_judgement_is_the_last_one_after_reopening(tmp_path):
    """What was judged is known after a restart, under any name."""
    judged = judgement(
        accuracy=0.9,
        findings=(Finding("nonfinite_values", ODD, ODD),),
        step=10**30,
        epoch=3,
        roles=frozenset({Role.PARAMS}),
    )
    odd = checkpoint(ODD, ODD)
    with open_ledger(tmp_path, NOW)[0] as ledger:
        assert ledger.record_judgements(ROOT, [(odd, judged)], NOW) == {odd.key}
    with open_ledger(tmp_path, LATER)[0] as ledger:
        expected = RecordedJudgement(odd.key, judged, fingerprints_digest(odd.fingerprints), 100, NOW)
        assert ledger.last_judgements(ROOT, ODD) == {odd.key: expected}
        assert ledger.last_judgements(ROOT, "run") == {}
        assert ledger.last_judgements("/other", ODD) == {}


def test_judgement_unchanged_leaves_no_trace(ledger):
    """The same judgement again is neither a change nor history, and keeps its time."""
    ledger.record_judgements(ROOT, [(checkpoint(), judgement())], NOW)
    assert ledger.record_judgements(ROOT, [(checkpoint(), judgement())], LATER) == frozenset()
    assert [entry.at for entry in ledger.history(ROOT, SetKey("run", "epoch_1"))] == [NOW]


@pytest.mark.parametrize(
    ("second", "is_change"),
    [
        ((checkpoint(), judgement(Verdict.CORRUPT)), True),
        ((checkpoint(mtime_ns=2), judgement()), True),
        ((checkpoint(), judgement(accuracy=0.5)), False),
    ],
    ids=["verdict", "fingerprints", "metric"],
)
def test_judgement_that_differs_becomes_history(ledger, second, is_change):
    """Every difference is stored; only a new verdict or new files count as a change of the set."""
    ledger.record_judgements(ROOT, [(checkpoint(), judgement())], NOW)
    changed = ledger.record_judgements(ROOT, [second], LATER)
    assert bool(changed) is is_change
    assert len(ledger.history(ROOT, SetKey("run", "epoch_1"))) == 2
    [last] = ledger.last_judgements(ROOT, "run").values()
    assert (last.judgement, last.at) == (second[1], LATER)


def test_judgement_of_another_format_counts_as_none(ledger, tmp_path):
    """A judgement that another version wrote is made anew, and no error in the history."""
    ledger.record_judgements(ROOT, [(checkpoint(), judgement())], NOW)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE judgements SET judgement = x'00'")
        database.execute("UPDATE judgement_history SET judgement = x'00'")
    assert ledger.last_judgements(ROOT, "run") == {}
    assert ledger.history(ROOT, SetKey("run", "epoch_1")) == []


def test_set_larger_than_any_database_integer_is_recorded(ledger):
    """Sparse files whose sizes add up to more than 8 EiB are no error."""
    ledger.record_judgements(ROOT, [(checkpoint(size=2**65), judgement())], NOW)
    [last] = ledger.last_judgements(ROOT, "run").values()
    assert last.bytes == 2**63 - 1


def test_metric_history_holds_each_value_of_the_run_in_order(ledger):
    """A set that is rewritten in place leaves all its values; judgements without a metric are left out."""
    for minute, accuracy in enumerate([0.5, 0.7, None, 0.6]):
        at = NOW + timedelta(minutes=minute)
        ledger.record_judgements(
            ROOT, [(checkpoint("latest", mtime_ns=minute), judgement(accuracy=accuracy))], at
        )
    ledger.record_judgements(ROOT, [(checkpoint(run="other"), judgement(accuracy=0.1))], NOW)
    history = ledger.metric_history(ROOT, "run")
    assert [record.judgement.metric.value for record in history] == [0.5, 0.7, 0.6]


def test_forget_judgements_of_vanished_sets_keeps_their_history(ledger):
    """A set that is gone has no last judgement any more, but can still be explained."""
    ledger.record_judgements(ROOT, [(checkpoint(), judgement()), (checkpoint("epoch_2"), judgement())], NOW)
    assert ledger.forget_judgements(ROOT, [SetKey("run", "epoch_2")]) == 1
    assert set(ledger.last_judgements(ROOT, "run")) == {SetKey("run", "epoch_2")}
    assert len(ledger.history(ROOT, SetKey("run", "epoch_1"))) == 1


# Decisions and journals


def test_plan_is_recorded_only_where_it_changed(ledger):
    """A decision is stored when its action or reasons differ from the set's last one."""
    first = Plan((decision("a"), decision("b"), decision("c"), decision("a", run="other")))
    assert ledger.record_plan(ROOT, first, NOW) == 4
    assert ledger.record_plan(ROOT, first, LATER) == 0
    second = Plan((decision("a"), decision("b", Action.REMOVE), decision("c", reasons=(ODD,))))
    assert ledger.record_plan(ROOT, second, LATER) == 2
    assert ledger.record_plan(ROOT, first, LATER) == 2
    assert ledger.record_plan(ROOT, Plan(), LATER) == 0


def test_removal_is_open_from_its_beginning_to_any_end(ledger):
    """After a crash exactly the removals that were begun and not ended are found, under their root."""
    for entry, end in enumerate(RemovalState):
        ledger.record_removal(ROOT, removal(RemovalState.BEGUN, f"e{entry}"))
        ledger.record_removal(ROOT, removal(end, f"e{entry}"))
    ledger.record_removal("/other", removal(RemovalState.BEGUN, "e9"))
    assert ledger.open_removals(ROOT) == [removal(RemovalState.BEGUN, "e0")]


def test_releases_come_back_as_recorded_in_order(ledger):
    """The journal of a deploy directory is read as it was written."""
    metric = Metric("accuracy", 0.9, Order.MAX)
    written = [
        release(ReleaseState.STARTED, metric=metric),
        release(ReleaseState.PUBLISHED, metric=metric, version="20261124T105500Z"),
        release(ReleaseState.ROLLED_BACK, reason=ODD),
    ]
    for record in written:
        ledger.record_release(record)
    assert ledger.releases("/srv/model") == written
    assert ledger.releases("/srv/other") == []


def test_history_tells_everything_about_one_set_in_time_order(ledger):
    """Judged, decided, removed, released: one list, oldest first, of this set only."""
    at = [NOW + timedelta(minutes=minute) for minute in range(4)]
    key = SetKey("run", "epoch_1")
    ledger.record_release(release(ReleaseState.PUBLISHED, at=at[1]))
    ledger.record_removal(ROOT, removal(RemovalState.BEGUN, at=at[3]))
    ledger.record_plan(ROOT, Plan((decision(), decision("epoch_2"))), at[2])
    ledger.record_judgements(ROOT, [(checkpoint(), judgement()), (checkpoint("epoch_2"), judgement())], at[0])
    digest = fingerprints_digest(checkpoint().fingerprints)
    assert ledger.history(ROOT, key) == [
        RecordedJudgement(key, judgement(), digest, 100, at[0]),
        release(ReleaseState.PUBLISHED, at=at[1]),
        RecordedDecision(decision(), at[2]),
        removal(RemovalState.BEGUN, at=at[3]),
    ]


def test_forget_before_drops_old_history_and_keeps_what_counts(ledger):
    """Old rows go; last judgements, open removals and published releases stay, however old."""
    ledger.record_judgements(ROOT, [(checkpoint(), judgement())], NOW)
    ledger.record_plan(ROOT, Plan((decision(),)), NOW)
    for entry, state in (("open", "begun"), ("done", "begun"), ("done", "purged")):
        ledger.record_removal(ROOT, removal(RemovalState(state), entry))
    for state in ReleaseState:
        ledger.record_release(release(state))
    assert ledger.forget_before(NOW) == 0
    assert ledger.forget_before(LATER) == 6
    assert ledger.last_judgements(ROOT, "run")
    assert ledger.history(ROOT, SetKey("run", "epoch_1")) == [
        removal(RemovalState.BEGUN, "open"),
        release(ReleaseState.PUBLISHED),
        release(ReleaseState.ROLLED_BACK),
    ]
