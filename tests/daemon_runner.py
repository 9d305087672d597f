"""The real daemon as a process of its own, watched through its log."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOP_SECONDS = 5  # what the daemon promises
PATIENCE_SECONDS = 45  # scans get what nobody else wants of a busy machine

_PR_CAPBSET_DROP = 24  # linux/prctl.h
_OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of linux/capability.h


def watch_table(path="output", *, options="", best=None, retention=None, release=None):
    """A `[[watch]]` table; each part is the TOML of its keys.

    Args:
        path: The root.
        options: Keys of the table itself.
        best: The order of the metric called `metric`, if sets are ranked by it.
        retention: Keys of `[watch.retention]`, without which nothing is removed.
        release: Keys of `[watch.release]`.
    """
    parts = [f"[[watch]]\npath = {json.dumps(str(path))}\n{options}"]
    parts += [f'[watch.best]\nmetric = "metric"\norder = "{best}"'] if best else []
    parts += [f"[watch.retention]\n{retention}"] if retention else []
    parts += [f"[watch.release]\n{release}"] if release else []
    return "\n".join(parts)


def enforced(**rules):
    """The keys of a policy that is carried out at once, whatever the age of the sets."""
    fixed = 'mode = "enforce"\nmin_age = "0s"\n'
    return fixed + "\n".join(f"{name} = {json.dumps(value)}" for name, value in rules.items())


def write_config(place, *watches, settle="0.2s", sweep="1h", options=""):
    """Write `config.toml` into the place, with a ledger in its `state`; returns its path.

    Args:
        place: The directory.
        watches: The watch tables; without any, `output` is watched and nothing removed.
        settle: How long a set must be unchanged.
        sweep: How often everything is looked at without an event; by default never within a test.
        options: Further keys of `[daemon]`.
    """
    path = place / "config.toml"
    head = f'[daemon]\nstate_dir = "state"\nsettle = "{settle}"\nsweep = "{sweep}"\n{options}\n'
    draft = path.with_suffix(".new")
    draft.write_text("\n".join([head, '[log]\nformat = "json"', *(watches or [watch_table()])]))
    draft.rename(path)
    return path


class Daemon:
    """One run of the daemon, from its start to its end."""

    def __init__(self, place: Path, *arguments: str, environment=None, unprivileged=False) -> None:
        number = len(list(place.glob("log-*")))
        self.place = place
        self.log_path = place / f"log-{number}"
        self.errors_path = place / f"errors-{number}"
        with self.log_path.open("wb") as log, self.errors_path.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ckptd", "--config", "config.toml", "run", *arguments],
                cwd=place,
                env=os.environ | (environment or {}),
                stdout=log,
                stderr=errors,
                preexec_fn=give_up_root if unprivileged else None,  # noqa: PLW1509 - no thread runs here
            )
        self.pid = self.process.pid

    @property
    def lines(self):
        """What was logged so far."""
        whole, _, _ = self.log_path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def told(self, event, **fields):
        """The lines of an event in which these fields have these values."""
        wanted = {"event": event, **fields}.items()
        return [line for line in self.lines if wanted <= _comparable(line).items()]

    def wait_for(self, event, *, times=1, **fields):
        """Wait until such a line was logged so many times; returns the last one."""

        def enough():
            assert self.is_running or len(self.told(event, **fields)) >= times, self.story
            return len(self.told(event, **fields)) >= times

        wait_until(enough, f"{event} {fields} in {self.log_path}", PATIENCE_SECONDS)
        return self.told(event, **fields)[times - 1]

    def wait_for_verdicts(self, expected):
        """Wait until the last verdict told of each set is the expected one."""
        wait_until(
            lambda: expected.items() <= self.verdicts.items(),
            f"{expected}, in {self.log_path}",
            PATIENCE_SECONDS,
        )

    @property
    def verdicts(self):
        """The last verdict that was told of each set, by its name."""
        return {line["set"]: line["verdict"] for line in self.lines if "verdict" in line}

    @property
    def removed(self):
        """The sets that were told to be removed."""
        return {line["set"] for line in self.told("set.removed")}

    @property
    def is_running(self):
        """Whether the process is there."""
        return self.process.poll() is None

    @property
    def story(self):
        """All that it said, for the message of a failure."""
        return self.log_path.read_text() + self.errors_path.read_text()

    def children(self):
        """The processes that it has started, and theirs."""
        return descendants(self.pid)

    def reading(self, path):
        """Its processes that have the file open."""
        return readers(self.pid, path)

    def send(self, number):
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self):
        """Wait for its end, and for that of all that it started; returns its exit code."""
        code = self.process.wait(STOP_SECONDS)
        assert "Traceback" not in self.story
        return code

    def stop(self, number=signal.SIGTERM):
        """Tell it to stop; returns its exit code, and fails if it takes too long or leaves a process."""
        children = self.children()
        self.send(number)
        code = self.wait()
        wait_until(lambda: not any(map(is_alive, children)), "the end of all that it has started", 2)
        return code


@contextmanager
def running(place, *arguments, environment=None, unprivileged=False) -> Iterator[Daemon]:
    """The daemon on the place's configuration; nothing of it is left afterwards."""
    daemon = Daemon(place, *arguments, environment=environment, unprivileged=unprivileged)
    try:
        yield daemon
        if daemon.is_running:
            assert 0 == daemon.stop()
    finally:
        for one in daemon.children():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        if daemon.is_running:
            daemon.process.kill()
            daemon.process.wait()


@contextmanager
def serving(place, **options) -> Iterator[Daemon]:
    """The daemon, once it has looked at everything that was there when it was started."""
    with running(place, **options) as daemon:
        daemon.wait_for("pass.finished")
        yield daemon


def give_up_root():
    """Leave this process no more access to files than their modes give it, whoever it belongs to."""
    libc = ctypes.CDLL(None)
    for capability in _OVERRIDES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails without effect for who is not root


def run_once(place, **options):
    """One complete pass of the daemon; returns its exit code and what it said."""
    with running(place, "--once", **options) as daemon:
        daemon.process.wait(30)
        assert "Traceback" not in daemon.story
    return daemon.process.returncode, daemon


def descendants(pid):
    """The processes that a process has started, and theirs."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def readers(pid, path):
    """Those of them that have the file open."""
    return [one for one in descendants(pid) if str(path) in _open_files(one)]


def is_alive(process):
    """Whether a process has not ended yet; a zombie is for somebody else to bury."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _open_files(process):
    try:
        return {one.path for one in process.open_files()}
    except psutil.Error:
        return set()


def _comparable(line):
    return {name: value for name, value in line.items() if not isinstance(value, (list, dict))}
