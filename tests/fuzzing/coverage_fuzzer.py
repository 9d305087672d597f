"""Feeds the readers with files that lead them to code not yet reached: `make fuzz-coverage`.

Needs `atheris`. What was found is kept in `build/fuzz-coverage/corpus`, where the next run goes on; the first
one begins with the small corpus beside this file.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ckptd.core"]):
    from fuzzing.coverage_laws import hold

HERE = Path(__file__).parent
SEEDS = HERE / "corpus"
DICTIONARY = HERE / "coverage.dict"
BUILD = Path("build") / "fuzz-coverage"
FOUND = BUILD / "corpus"

LONGEST_INPUT = 16_384
SECONDS_PER_INPUT = 5
MEGABYTES = 512  # of the whole process, with what the fuzzer itself takes


def main():
    """Fuzz for some seconds, or put the smallest corpus together that reaches as much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--merge", action="store_true", help="add to the seeds what reaches new code, and stop"
    )
    arguments, options = parser.parse_known_args()  # libFuzzer's own, when it starts this program to merge
    FOUND.mkdir(parents=True, exist_ok=True)
    if not options:
        options = [f"-max_len={LONGEST_INPUT}", f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MEGABYTES}"]
        options += _merging() if arguments.merge else _searching(arguments.seconds)
    # The first argument is the shell command with which libFuzzer starts this program again.
    atheris.Setup([shlex.join([sys.executable, __file__]), *options], hold)
    atheris.Fuzz()


def _searching(seconds):
    return [
        f"-max_total_time={seconds}",
        f"-dict={DICTIONARY}",
        f"-artifact_prefix={BUILD}/",
        "-print_final_stats=1",
        str(FOUND),
        str(SEEDS),
    ]


def _merging():
    return ["-merge=1", str(SEEDS), str(FOUND)]


if __name__ == "__main__":
    sys.stderr.write(f"begun {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
    main()
