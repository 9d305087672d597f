"""Speaks the sd_notify protocol (sd_notify(3)); silent when nobody listens."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(**state: str | int) -> None:
    """Send a state to the service manager, such as `notify(READY=1, STATUS="watching 3 runs")`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = f"\0{address[1:]}"
    message = "\n".join(f"{key}={value}" for key, value in state.items())
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.connect(address)
        sender.sendall(message.encode())


def notify_reloading() -> None:
    """Say that a reload has begun; `READY=1` ends it."""
    notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)


def watchdog_seconds() -> float | None:
    """How often the service manager wants a sign of life, None if it does not watch this process."""
    interval, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not interval or not interval.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(interval) / 1_000_000
