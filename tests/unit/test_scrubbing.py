from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.ledger_codec import FORMAT
from ckptd.core.model import FileScan, Finding, Fingerprint
from ckptd.core.scrubbing import Budget, KnownFile, Reading, compared, due, files_of, progress, step

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
ROUND = timedelta(days=7)
STEP = step(ROUND)
FAST = 1 << 40  # bytes per second; no round needs that many


def known(name="a", size=1 << 30, age=timedelta(0)):
    """A file that was read so long ago."""
    return KnownFile("/root", Fingerprint(f"{name}.pdparams", size, 1, 1), NOW - age)


def names(chosen):
    """What the chosen files are called."""
    return [one.fingerprint.path.partition(".")[0] for one in chosen]


sizes = st.integers(min_value=0, max_value=1 << 34)
ages = st.integers(min_value=0, max_value=60 * 24 * 10).map(lambda minutes: timedelta(minutes=minutes))
files = st.lists(st.tuples(sizes, ages), min_size=1, max_size=8).map(
    lambda drawn: [known(f"{number}", size, age) for number, (size, age) in enumerate(drawn)]
)
elapsed = st.lists(st.floats(min_value=0, max_value=3 * 24 * 3600), min_size=1, max_size=30)
rates = st.integers(min_value=1024, max_value=1 << 28)


def rounds(found, waits, rate):
    """Read what is due after each wait; yields the time passed and what was read."""
    budget, passed = Budget(0.0, 0.0), 0.0
    found = {one.fingerprint: one for one in found}
    for wait in waits:
        passed += wait
        now = NOW + timedelta(seconds=passed)
        chosen, budget = due(
            found.values(), budget, now=now, monotonic=passed, round_length=ROUND, bytes_per_second=rate
        )
        yield passed, chosen
        found |= {one.fingerprint: one._replace(read_at=now) for one in chosen}


# Laws


@given(files, elapsed, rates)
def test_due_never_reads_more_than_the_rate_in_any_window(found, waits, rate):
    """Between any two moments no more is read than the rate allows, and a file that was saved for."""
    largest = max(4096, *(one.fingerprint.bytes for one in found))
    read = [(at, sum(one.fingerprint.bytes for one in chosen)) for at, chosen in rounds(found, waits, rate)]
    for first in range(len(read)):
        for last in range(first, len(read)):
            window = read[last][0] - (read[first - 1][0] if first else 0.0)
            assert sum(size for _, size in read[first : last + 1]) <= window * rate + largest + 1


@given(files, st.floats(min_value=0, max_value=1e9), rates)
def test_due_after_any_sleep_reads_no_more_than_two_steps_allow(found, slept, rate):
    """However long nobody asked, the next answer makes up for two steps at most."""
    largest = max(4096, *(one.fingerprint.bytes for one in found))
    [(_, chosen)] = rounds(found, [slept], rate)
    assert sum(one.fingerprint.bytes for one in chosen) <= 2 * STEP.total_seconds() * rate + largest


@given(files, elapsed, rates)
def test_due_reads_what_was_read_longest_ago_first(found, waits, rate):
    """Nothing is read while something that was read longer ago waits."""
    at = {one.fingerprint: one.read_at for one in found}
    for passed, chosen in rounds(found, waits, rate):
        times = [at[one.fingerprint] for one in chosen]
        others = [time for key, time in at.items() if key not in {one.fingerprint for one in chosen}]
        assert sorted(times) == times
        assert not (times and others) or max(times) <= min(others)
        at |= {one.fingerprint: NOW + timedelta(seconds=passed) for one in chosen}


@given(files.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))), rates)
def test_due_does_not_depend_on_the_order_of_the_files(pair, rate):
    """The same files and times give the same answer, in whatever order they are told."""
    options = {"now": NOW, "monotonic": 600.0, "round_length": ROUND, "bytes_per_second": rate}
    budget = Budget(float(1 << 33), 0.0)
    assert due(pair[0], budget, **options) == due(pair[1], budget, **options)


@given(st.lists(sizes, min_size=1, max_size=6), st.data())
def test_due_reads_every_file_within_a_round_if_the_rate_suffices(drawn, data):
    """Files that were read at any time of a planned round are each read again before a round has passed."""
    spread = st.floats(min_value=0, max_value=0.85).map(lambda part: ROUND * part)
    found = [known(f"{number}", size, data.draw(spread)) for number, size in enumerate(drawn)]
    read_at = {one.fingerprint: one.read_at for one in found}
    for passed, chosen in rounds(found, [STEP.total_seconds() * 2] * 520, FAST):
        now = NOW + timedelta(seconds=passed)
        read_at |= {one.fingerprint: now for one in chosen}
        late = [now - at for at in read_at.values() if now - at > ROUND]
        assert [] == late


# Tables


def test_files_of_a_root_are_those_that_have_not_rotted():
    """Of what has rotted there is nothing more to learn."""
    sound, rotted = (Fingerprint(name, 1, 1, 1) for name in "ab")
    found = files_of("/root", {sound: FIRST, rotted: replace(FIRST, is_rotted=True)})
    assert [KnownFile("/root", sound, NOW)] == found


def test_due_of_nothing_saves_nothing():
    """While there is no file, no budget grows that a later one could spend at once."""
    options = {"now": NOW, "monotonic": 600.0, "round_length": ROUND, "bytes_per_second": FAST}
    assert ((), Budget(0.0, 600.0)) == due([], Budget(1e9, 0.0), **options)


def test_due_of_fresh_files_waits_until_their_share_has_been_saved():
    """Right after the first scan nothing is read; four equal files are read a quarter of the plan apart."""
    found = [known(name, 1 << 30, timedelta(seconds=10 - number)) for number, name in enumerate("abcd")]
    told = [(passed, names(chosen)) for passed, chosen in rounds(found, [600.0] * 920, 50 << 20) if chosen]
    planned = ROUND.total_seconds() * 0.9
    assert [["a"], ["b"], ["c"], ["d"]] == [chosen for _, chosen in told[:4]]
    for number, (passed, _) in enumerate(told[:4], start=1):
        assert planned * number / 4 == pytest.approx(passed, abs=1300)


def test_due_of_an_overdue_file_reads_at_the_full_rate():
    """After a long standstill the rate is the only brake."""
    found = [known(size=100 << 20, age=timedelta(days=20))]
    read = [names(chosen) for _, chosen in rounds(found, [1.0] * 3, 50 << 20)]
    assert [[], ["a"], []] == read


@pytest.mark.parametrize(
    ("round_length", "expected"),
    [
        (timedelta(seconds=1), timedelta(seconds=0.2)),
        (timedelta(hours=1), timedelta(seconds=3.6)),
        (timedelta(days=7), timedelta(minutes=10)),
        (timedelta(days=365), timedelta(minutes=10)),
    ],
)
def test_step_is_a_thousandth_of_a_round_within_bounds(round_length, expected):
    """Short rounds are looked at often, long ones each ten minutes."""
    assert expected == step(round_length)


def test_progress_counts_what_was_read_since_the_round_began():
    """A round begins at a fixed time; what was read since counts, and the rest has its planned end."""
    began = NOW - timedelta(days=1)
    began = datetime(1970, 1, 1, tzinfo=UTC) + (began - datetime(1970, 1, 1, tzinfo=UTC)) // ROUND * ROUND
    now = began + timedelta(days=2)
    found = [
        KnownFile("/root", Fingerprint("a", 300, 1, 1), began - timedelta(days=1)),
        KnownFile("/root", Fingerprint("b", 200, 1, 1), began),
        KnownFile("/root", Fingerprint("c", 100, 1, 1), now),
    ]
    told = progress(found, now=now, round_length=ROUND, bytes_per_second=50)
    assert (3, 600, 2, 300, began) == (
        told.files,
        told.bytes,
        told.files_read,
        told.bytes_read,
        told.began_at,
    )
    assert began - timedelta(days=1) + ROUND * 0.9 == told.through_at
    assert not told.is_late


def test_progress_that_the_rate_does_not_allow_is_late():
    """Where the rest takes longer than the round lasts, that is said, however long it takes."""
    huge = [known(size=1 << 62, age=timedelta(days=8))]
    told = progress(huge, now=NOW, round_length=ROUND, bytes_per_second=1024)
    assert told.is_late
    assert timedelta(days=36_000) < told.through_at - NOW


def test_progress_of_a_round_that_is_through_has_no_end_to_wait_for():
    """When all was read in this round, nothing is to come."""
    told = progress([known()], now=NOW, round_length=ROUND, bytes_per_second=1024)
    assert (None, False) == (told.through_at, told.is_late)


# What a reading says

FILE = Fingerprint("run/a.pdparams", 100, 1, 7)
FIRST = Reading("aa" * 16, NOW, NOW, FORMAT)
LATER = NOW + timedelta(days=7)


def scan(digest):
    """A scan that found nothing wrong, or that stopped at something."""
    findings = () if digest else (Finding("truncated", "run/a.pdparams", "it ends"),)
    return FileScan("pickle", 100, digest, findings)


def test_first_reading_is_remembered():
    """The digest of the first complete scan stays; a scan that stopped on the way leaves nothing."""
    assert (scan("aa" * 16), FIRST) == compared(FILE, None, scan("aa" * 16), NOW)
    assert (scan(None), None) == compared(FILE, None, scan(None), NOW)


def test_same_content_notes_the_time():
    """A file that reads the same as at first is sound, and was read now."""
    assert (scan("aa" * 16), replace(FIRST, last_at=LATER)) == compared(FILE, FIRST, scan("aa" * 16), LATER)


@pytest.mark.parametrize(
    ("digest", "words"),
    [("bb" * 16, "now it is " + "bb" * 16), (None, "now the file cannot be read to its end")],
)
def test_other_content_has_rotted(digest, words):
    """Another digest, or an end before the end, is rot: a finding beside what the scan has found."""
    found, reading = compared(FILE, FIRST, scan(digest), LATER)
    assert ["content_rotted"] == [one.code for one in found.findings[len(scan(digest).findings) :]]
    assert "aa" * 16 in found.findings[-1].detail
    assert words in found.findings[-1].detail
    assert replace(FIRST, last_at=LATER, is_rotted=True) == reading


@pytest.mark.parametrize("digest", ["aa" * 16, "bb" * 16, None])
def test_rotted_content_stays_rotted_whatever_is_read_next(digest):
    """Not even the first content makes a rotted file sound again; only writing it anew does."""
    rotted = replace(FIRST, is_rotted=True, scanner=FORMAT - 1)
    found, reading = compared(FILE, rotted, scan(digest), LATER)
    assert "content_rotted" == found.findings[-1].code
    assert reading.is_rotted


def test_scan_of_a_newer_scanner_that_stops_early_says_nothing_of_the_content():
    """A scanner that judges differently may stop where the one before went on; that is no rot."""
    older = replace(FIRST, scanner=FORMAT - 1)
    assert (scan(None), older) == compared(FILE, older, scan(None), LATER)


def test_content_is_compared_across_scanners():
    """The digest does not depend on the scanner: a newer one finds rot by it, too."""
    older = replace(FIRST, scanner=FORMAT - 1)
    assert compared(FILE, older, scan("bb" * 16), LATER)[1].is_rotted
    assert replace(FIRST, last_at=LATER) == compared(FILE, older, scan("aa" * 16), LATER)[1]
