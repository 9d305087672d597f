from __future__ import annotations

import os
import socket

import pytest

from ckptd.shell import systemd


@pytest.fixture
def listener(tmp_path, monkeypatch):
    """A socket in the service manager's place."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield server


def test_notify_sends_each_state_on_a_line(listener):
    """The service manager gets one datagram with a line for each variable."""
    systemd.notify(READY=1, STATUS="watching 3 runs")

    assert b"READY=1\nSTATUS=watching 3 runs" == listener.recv(1000)


def test_notify_reloading_tells_the_time_it_began(listener):
    """A reload carries the monotonic time that newer service managers demand."""
    systemd.notify_reloading()

    first, second = listener.recv(1000).decode().split("\n")
    assert "RELOADING=1" == first
    assert second.startswith("MONOTONIC_USEC=")


def test_notify_without_a_listener_does_nothing(monkeypatch, tmp_path):
    """Outside systemd, and with a socket that is gone, notifying is silent."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(READY=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [("2000000", None, 2.0), ("2000000", str(os.getpid()), 2.0), ("2000000", "1", None), (None, None, None)],
)
def test_watchdog_seconds_is_for_this_process_only(monkeypatch, microseconds, pid, seconds):
    """The watchdog's interval counts when it was set for us, and for nobody else."""
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    assert seconds == systemd.watchdog_seconds()
