from __future__ import annotations

import os
import threading

import pytest

import intruding
from checkpoints import SLOW_BYTES, dump, dump_slow, weights
from ckptd.core.model import Role
from ckptd.shell import inventory, prober
from ckptd.shell.prober import Prober
from ckptd.shell.scanner import ScanRequest
from daemon_runner import descendants, is_alive, readers
from waiting import wait_until


@pytest.fixture
def probe():
    """Make probers that are stopped whatever the test does."""
    made = []

    def make(workers=1, **options):
        made.append(Prober(workers, threading.Event().set, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def request(path):
    """The request for a scan of a file as it is now."""
    found = inventory.entry(str(path.parent), path.name)
    return ScanRequest(str(path.parent), Role.PARAMS, found.fingerprint)


def results(one, meanwhile=lambda: None):
    """Wait until everything is answered; every result there was."""
    found = []

    def is_done():
        meanwhile()
        found.extend(one.take_results())
        return not len(one)

    wait_until(is_done, "all answers")
    return found


def answers(one, meanwhile=lambda: None):
    """The codes of each file's findings by its name, once per answer."""
    found = results(one, meanwhile)
    return sorted((each.request.expected.path, [one.code for one in each.scan.findings]) for each in found)


def test_prober_answers_each_request_once(probe, tmp_path):
    """However many files are asked for, and how often, each gets one answer, with its own findings."""
    one = probe(workers=2)
    for number in range(12):
        path = tmp_path / f"{number:02}.pdparams"
        dump(path, weights(number))
        if number % 3 == 0:
            path.write_bytes(b"")
        one.submit(request(path))
        one.submit(request(path))
    expected = [(f"{number:02}.pdparams", [] if number % 3 else ["empty_file"]) for number in range(12)]
    assert expected == answers(one)


def test_prober_answers_again_when_asked_again(probe, tmp_path):
    """An answer that was taken does not stand in the way of the same question later."""
    one = probe()
    path = tmp_path / "a.pdparams"
    dump(path, weights())
    for _ in range(2):
        one.submit(request(path))
        assert [("a.pdparams", [])] == answers(one)


def test_prober_blames_no_file_for_the_death_of_another_ones_scan(probe, tmp_path):
    """Of all files that are under way when scan processes die, only the deadly ones are given up."""
    one = probe(workers=2)
    deadly = [tmp_path / "a_deadly.pdparams", tmp_path / "c_deadly.pdparams"]
    for path in deadly:
        dump_slow(path)
    harmless = [tmp_path / "b.pdparams", tmp_path / "d.pdparams", tmp_path / "e.pdparams"]
    for number, path in enumerate(harmless):
        dump(path, weights(number))

    def kill_those_that_read_a_deadly_file():
        for path in deadly:
            for process in readers(os.getpid(), path):
                process.kill()

    for path in sorted(deadly + harmless):
        one.submit(request(path))
    expected = [
        (path.name, ["scanner_failed"] if path in deadly else []) for path in sorted(deadly + harmless)
    ]
    assert expected == answers(one, kill_those_that_read_a_deadly_file)


def test_prober_gives_up_a_scan_that_hangs(probe, tmp_path, monkeypatch):
    """A scan that takes longer than any disk could explain is ended, and the others are answered."""
    monkeypatch.setattr(prober, "_BASE_SECONDS", 1.0)
    monkeypatch.setattr(prober, "_SLOWEST_BYTES_PER_SECOND", 1 << 50)
    one = probe()
    dump_slow(tmp_path / "a.pdparams")
    dump(tmp_path / "b.pdparams", weights())
    for name in ("a.pdparams", "b.pdparams"):
        one.submit(request(tmp_path / name))
    found = {each.request.expected.path: each.scan.findings for each in results(one)}
    assert () == found["b.pdparams"]
    assert ["it took too long"] == [finding.detail for finding in found["a.pdparams"]]


@pytest.mark.parametrize(
    ("name", "cpu_seconds", "why"),
    [
        ("spin.pdparams", 0, "the scan process died"),
        ("bomb.pdparams", 30, "it wanted more memory than a scan may use"),
        ("abort.pdparams", 30, "the scan process died"),
    ],
)
def test_prober_outlives_a_scan_that_runs_wild(probe, tmp_path, name, cpu_seconds, why):
    """A scan that computes, allocates or crashes without end costs its own file the verdict, and no other."""
    one = probe(scan=intruding.obey, cpu_seconds=cpu_seconds)
    for each in (name, "a.pdparams"):
        dump(tmp_path / each, weights())
        one.submit(request(tmp_path / each))
    expected = {name: [("scanner_failed", why)], "a.pdparams": []}
    assert expected == {
        each.request.expected.path: [(found.code, found.detail) for found in each.scan.findings]
        for each in results(one)
    }


def test_prober_ends_the_scan_of_a_huge_file_that_takes_too_much_cpu(probe, tmp_path, monkeypatch):
    """The real scan too dies by the limit of its CPU time, long before its hour on the wall has come."""
    monkeypatch.setattr(prober, "_SLOWEST_BYTES_PER_CPU_SECOND", 1 << 50)
    one = probe(cpu_seconds=0)
    path = tmp_path / "a.pdparams"
    dump_slow(path)
    one.submit(request(path))
    assert [("a.pdparams", ["scanner_failed"])] == answers(one)


def test_prober_tells_how_far_running_scans_are(probe, tmp_path):
    """What a scan has read counts while it runs, and no longer once it was given up."""
    one = probe()
    path = tmp_path / "a.pdparams"
    dump_slow(path)
    one.submit(request(path))
    wait_until(lambda: one.bytes_read > 64 << 20, "progress")
    assert one.bytes_read < SLOW_BYTES
    one.stop()
    assert 0 == one.bytes_read


def test_prober_has_read_everything_once_all_is_answered(probe, tmp_path, monkeypatch):
    """Every answered file counts as a whole: read, broken, deadly, or judged by a later pool of processes."""
    monkeypatch.setattr(prober, "_IDLE_SECONDS", 0.0)
    one = probe(workers=2, scan=intruding.obey)
    total = 0
    for names in (("a.pdparams", "abort.pdparams", "empty.pdparams"), ("b.pdparams", "bomb.pdparams")):
        for name in names:
            path = tmp_path / name
            dump(path, weights())
            path.write_bytes(b"" if name.startswith("empty") else path.read_bytes() + b"more")
            total += path.stat().st_size
            one.submit(request(path))
        results(one)
        assert total == one.bytes_read
    assert total == one.bytes_read


def test_prober_stops_at_once_and_leaves_no_process(probe, tmp_path):
    """Stopping ends the scans under way with their processes."""
    one = probe()
    path = tmp_path / "a.pdparams"
    dump_slow(path)
    one.submit(request(path))
    wait_until(lambda: readers(os.getpid(), path), "the scan")
    scanners = readers(os.getpid(), path)
    one.stop()
    assert not any(map(is_alive, scanners))


def test_prober_without_work_gives_its_processes_back(probe, tmp_path, monkeypatch):
    """An idle pool costs nothing: its processes end, and the next scan starts new ones."""
    monkeypatch.setattr(prober, "_IDLE_SECONDS", 0.0)
    one = probe()
    path = tmp_path / "a.pdparams"
    dump(path, weights())
    others = {process.pid for process in descendants(os.getpid())}
    for _ in range(2):
        one.submit(request(path))
        assert [("a.pdparams", [])] == answers(one)
        wait_until(
            lambda: (
                not [
                    each
                    for each in descendants(os.getpid())
                    if each.pid not in others
                    and is_alive(each)
                    and "resource_tracker" not in str(each.cmdline())
                ]
            ),
            "the processes to end",
        )
