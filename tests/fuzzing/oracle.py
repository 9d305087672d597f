"""The other side of `paddle_oracle`: starts it, asks it, stops it; and the corpus that real Paddle writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fuzzing.mutations import base_of

HERE = Path(__file__).parent
# One thread each: what Paddle does here is far too little for more.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOG_minloglevel": "4"}


class Oracle:
    """A process that has imported Paddle and answers for files; a context manager."""

    def __init__(self, log):
        self._log = open(log, "wb")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "paddle_oracle.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | _ENVIRONMENT,
        )

    def __enter__(self):
        assert self._process.stdout.readline() == "ready\n", f"Paddle does not start, see {self._log.name}"
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._log.close()

    def ask(self, jobs):
        """Let it begin with a batch of `(path, way)`; `answers` waits for it."""
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()

    def answers(self):
        """What it says of the batch that was asked for first."""
        line = self._process.stdout.readline()
        assert line, f"Paddle's process ended, see {self._log.name}"
        return json.loads(line)


def write_corpus(directory):
    """Have real Paddle write its files, and return the manifest."""
    with open(directory / "writers.log", "wb") as log:
        subprocess.run(
            [sys.executable, str(HERE / "paddle_writers.py"), str(directory)],
            check=True,
            stdout=log,
            stderr=log,
            env=os.environ | _ENVIRONMENT,
        )
    return json.loads((directory / "manifest.json").read_text(encoding="utf-8"))


def bases(directory, manifest):
    """The files of the corpus that are to be damaged."""
    return [
        base_of(entry["name"], entry["role"], entry["way"], (directory / entry["name"]).read_bytes())
        for entry in manifest
        if entry["mutate"]
    ]
