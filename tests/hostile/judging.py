"""Scans files in a process of its own and tells what that took; run as a program.

Usage: `python judging.py together|apart DIRECTORY`, with a JSON list of `[path, role]` on standard
input; prints JSON with what came of each. `apart` forks for each file, to measure its memory alone.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
import time

import numpy as np

from ckptd.core.ledger_codec import encode_scan
from ckptd.core.model import Role
from ckptd.shell.scanning import scan_file

_seen = []
_READING = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_PATH | os.O_DIRECTORY
)


def watch(event, arguments):
    """Note whatever a scan has no business with; the interpreter tells of every import, call and file."""
    if event == "open" and not arguments[2] & ~_READING:
        return
    _seen.append(f"{event} {arguments!r:.100}")


def warm_up():
    """Scan healthy files, so that everything the scanner itself needs is loaded."""
    with tempfile.TemporaryDirectory() as place:
        for protocol in (2, 4):
            with open(os.path.join(place, "a"), "wb") as file:
                pickle.dump({"w": np.ones(100, "f4"), "é": np.float64(1)}, file, protocol)
            assert scan_file(place, "a", Role.PARAMS).findings == ()
        for role, data in ((Role.META, b'{"a": 1}'), (Role.PARAMS, b"(lp0\nS'x'\n.")):
            with open(os.path.join(place, "a"), "wb") as file:
                file.write(data)
            scan_file(place, "a", role)


def judge(directory, path, role):
    """Scan one file."""
    del _seen[:]
    started = time.process_time()
    found = scan_file(directory, path, Role(role))
    encode_scan(found)  # as the daemon does with every scan
    return {
        "codes": [finding.code for finding in found.findings],
        "details": [finding.detail[:200] for finding in found.findings],
        "cpu_seconds": time.process_time() - started,
        "seen": list(_seen),
    }


def judge_apart(directory, path, role):
    """Scan one file in a child; its peak memory includes the interpreter's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(writer, "w", encoding="utf-8") as pipe:
                json.dump(judge(directory, path, role), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status, usage = os.wait4(child, 0)
    outcome = json.loads(answer or '{"codes": [], "details": [], "seen": []}')
    return outcome | {
        "died_of": status,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss << 10,
    }


def peak_bytes():
    """This process's peak of memory; that of `getrusage` begins with what the parent had at the fork."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def main():
    """Judge everything that is asked for."""
    mode, directory = sys.argv[1:]
    asked = json.load(sys.stdin)
    warm_up()
    if mode == "apart":
        outcomes = [judge_apart(directory, path, role) for path, role in asked]
    else:
        sys.addaudithook(watch)
        outcomes = [judge(directory, path, role) for path, role in asked]
        peak = peak_bytes()
        outcomes = [outcome | {"peak_bytes": peak, "died_of": 0} for outcome in outcomes]
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
