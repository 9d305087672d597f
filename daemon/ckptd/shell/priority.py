"""Keeps worker processes out of the training's way, and never lets them outlive the daemon."""

from __future__ import annotations

import ctypes
import os
import signal

import psutil

_PR_SET_PDEATHSIG = 1


def become_background_worker(parent_pid: int) -> None:
    """Give this process the lowest claim on CPU and disk, and tie its life to the daemon's.

    Args:
        parent_pid: the daemon's process id; if it is gone already, this process ends.
    """
    _die_with_parent(parent_pid)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches the whole group; the daemon decides
    process = psutil.Process()
    process.nice(19)
    process.ionice(psutil.IOPRIO_CLASS_IDLE)


def _die_with_parent(parent_pid: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before the line above took effect
        os._exit(1)
