"""Loads hostile files with pickle, each in an empty directory, to see whether the payload works.

Usage: `python loading.py DIRECTORY PLACE` prints the names of the files that made the canary, as JSON. The
process is to be thrown away: whatever the files name has run in it.
"""

from __future__ import annotations

import contextlib
import copyreg
import json
import os
import pickle
import sys

from hostile.rows import CANARY, DECOY, EXTENSION


def main(directory, place):
    """Load every file."""
    copyreg.add_extension("posix", "mkdir", EXTENSION)
    answer = os.dup(1)
    os.dup2(2, 1)  # what the payloads print is no answer
    worked = []
    for name in sorted(os.listdir(directory)):
        own = os.path.join(place, name)
        os.mkdir(own)
        os.chdir(own)
        sys.modules.pop(DECOY, None)
        with contextlib.suppress(BaseException), open(os.path.join(directory, name), "rb") as file:
            pickle.load(file)
        if os.path.exists(CANARY):
            worked.append(name)
    os.write(answer, json.dumps(worked).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
