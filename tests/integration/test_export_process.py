from __future__ import annotations

import os
import time
from datetime import timedelta

import psutil
import pytest

from ckptd.shell.export_process import Ended, ExportProcess, worker_environment
from waiting import wait_until

LONG = timedelta(seconds=30)


@pytest.fixture
def log(tmp_path):
    """A file for the output, as path and descriptor."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield path, fd
    os.close(fd)


def run(script, log, timeout=LONG):
    """Run a shell script as the worker would be run."""
    path, fd = log
    return ExportProcess(["sh", "-c", script], dict(os.environ), str(path.parent)).wait(fd, timeout)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo one; echo two >&2", Ended(None, ("one", "two"))),
        ("exit 3", Ended("it ended with status 3", ())),
        ("kill -9 $$", Ended("it was killed by SIGKILL", (), was_killed=True)),
        ("kill -11 $$", Ended("it was killed by SIGSEGV", ())),
        (r"printf 'a\033[2Jb\n\n  \377 \n'", Ended(None, (r"a\x1b[2Jb", "�"))),
        ("exec >&- 2>&-; exit 0", Ended(None, ())),
    ],
    ids=["fine", "status", "killed", "crashed", "control characters", "closes its output"],
)
def test_wait_says_how_the_process_ended(script, expected, log):
    """Each ending has its words, and the last lines are fit to be printed."""
    assert expected == run(script, log)


def test_wait_past_the_timeout_kills_the_group(log):
    """A process that floods its output and never ends is late, not something to wait for."""
    started = time.monotonic()

    ended = run("sleep 600 & echo $! > child; yes", log, timedelta(seconds=0.2))

    assert "it did not finish within 0.2 s" == ended.failure
    assert not ended.was_killed
    assert time.monotonic() - started < 10
    child = int((log[0].parent / "child").read_text())
    wait_until(lambda: not psutil.pid_exists(child), "the child to be gone")


def test_wait_does_not_wait_for_what_holds_the_output_open(log):
    """The worker's end counts: a child left behind is killed, one in another session is not waited for."""
    elsewhere = "setsid sh -c 'echo $$ > other; exec sleep 600' & while ! [ -s other ]; do sleep 0.01; done"
    ended = run(f"sleep 600 & echo $! > child; {elsewhere}; echo done", log)

    assert Ended(None, ("done",)) == ended
    child, other = (int((log[0].parent / name).read_text()) for name in ("child", "other"))
    wait_until(lambda: not psutil.pid_exists(child), "the child to be gone")
    psutil.Process(other).kill()


def test_log_of_a_flood_is_capped_and_holds_both_ends(log):
    """However much is printed, the log stays small and has the start and the end."""
    ended = run("echo first; yes | head -c 20000000; echo last", log)

    assert "last" == ended.last_lines[-1]
    text = log[0].read_text()
    assert text.startswith("first\n")
    assert text.endswith("last\n")
    assert len(text) < 600_000


def test_output_onto_a_full_disk_costs_only_the_log():
    """A log that cannot be written does not end the export."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = ExportProcess(["sh", "-c", "echo hello"], dict(os.environ), "/").wait(fd, LONG)
    finally:
        os.close(fd)

    assert Ended(None, ("hello",)) == ended


def test_kill_after_the_end_does_nothing(log):
    """A process number that may belong to somebody else by now is never signalled."""
    process = ExportProcess(["true"], dict(os.environ), "/")
    process.wait(log[1], LONG)

    process.kill()


def test_start_of_a_missing_interpreter_raises_and_leaks_nothing():
    """The caller hears of it, and no descriptor stays open."""
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(FileNotFoundError, match="/nowhere/python"):
        ExportProcess(["/nowhere/python"], {}, "/")

    assert before == len(os.listdir("/proc/self/fd"))


def test_worker_environment_passes_on_little(monkeypatch):
    """Secrets of the service's environment do not reach the network's code, and no GPU is seen."""
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("HOME", "/home/somebody")

    environment = worker_environment(("/src", "/more"), "/staging")

    assert "DATABASE_PASSWORD" not in environment
    assert ("", "/home/somebody", "/src:/more", "/staging") == tuple(
        environment[name] for name in ("CUDA_VISIBLE_DEVICES", "HOME", "PYTHONPATH", "TMPDIR")
    )
