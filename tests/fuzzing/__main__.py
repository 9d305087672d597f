"""`python -m fuzzing`: any number of damaged checkpoints, judged by us and by Paddle."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from fuzzing.laws import judged, scanned
from fuzzing.mutations import mutate
from fuzzing.oracle import Oracle, bases, write_corpus

BATCH = 200
MOST_KEPT = 50  # offending files that are written out
VERDICTS = ("valid", "suspect", "corrupt", "unsafe", "unreadable")


def main():
    """Run, print the table, and tell by the exit code whether every law held."""
    arguments = _arguments()
    # On tmpfs, the files cost no disk.
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="ckptd-fuzz-", dir=fast if fast.is_dir() else None) as directory:
        return _run(arguments, Path(directory))


def _arguments():
    parser = argparse.ArgumentParser(prog="fuzzing", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many damaged files")
    parser.add_argument("--seed", type=int, default=1, help="equal seeds, equal files")
    parser.add_argument("--only", help="only bases whose name contains this")
    parser.add_argument("--violations", type=Path, default=Path("build/fuzz"), help="where they are put")
    return parser.parse_args()


def _run(arguments, directory):
    started = time.monotonic()
    files = bases(directory, write_corpus(directory))
    if arguments.only:
        files = [base for base in files if arguments.only in base.name]
    table, reasons, violations = Counter(), Counter(), 0
    with Oracle(directory / "oracle.log") as oracle:
        begun = time.monotonic()
        for first in range(0, arguments.count, BATCH):
            numbers = range(first, min(first + BATCH, arguments.count))
            for number, base, mutation, outcome in _batch(oracle, directory, files, arguments.seed, numbers):
                table[mutation.kind, outcome.paddle, outcome.ours] += 1
                if outcome.paddle == "loads" and outcome.codes:
                    reasons[outcome.codes[0]] += 1
                if outcome.violation:
                    violations += 1
                    if violations <= MOST_KEPT:
                        _keep(arguments, number, base, mutation, outcome.violation)
            _progress(numbers.stop, arguments.count, violations, begun)
    _print_table(table, reasons)
    seconds = time.monotonic() - started
    sys.stdout.write(
        f"\n{arguments.count} damaged files of {len(files)} whole ones, seed {arguments.seed},"
        f" {seconds:.0f} s: {violations} violations\n"
    )
    if violations:
        sys.stdout.write(f"the first {min(violations, MOST_KEPT)} are in {arguments.violations}\n")
    return 1 if violations else 0


def _batch(oracle, directory, files, seed, numbers):
    made = [(number, *mutate(Random(f"{seed}/{number}"), files)) for number in numbers]  # noqa: S311
    jobs = []
    for index, (_, base, mutation) in enumerate(made):
        path = directory / f"{index}"
        path.write_bytes(mutation.data)
        jobs.append((str(path), base.way))
    oracle.ask(jobs)
    scans = [scanned(base, mutation.data) for _, base, mutation in made]
    answers = oracle.answers()
    for index, ((number, base, mutation), answer) in enumerate(zip(made, answers, strict=True)):
        outcome = judged(base, scans[index], answer)
        if outcome.violation:
            # Another file of the batch may have led the child astray: only what it does alone counts.
            oracle.ask([jobs[index]])
            outcome = judged(base, scans[index], *oracle.answers())
        yield number, base, mutation, outcome


def _keep(arguments, number, base, mutation, violation):
    arguments.violations.mkdir(parents=True, exist_ok=True)
    name = f"seed{arguments.seed}-{number}-{base.name}"
    (arguments.violations / name).write_bytes(mutation.data)
    recipe = f"{base.name}: {mutation.kind} {mutation.recipe}\n{violation}\n"
    (arguments.violations / f"{name}.recipe.txt").write_text(recipe, encoding="utf-8")


def _progress(done, count, violations, begun):
    if not sys.stderr.isatty() and done % 10_000 and done != count:
        return
    rate = done / (time.monotonic() - begun)
    end = "\r" if sys.stderr.isatty() and done != count else "\n"
    sys.stderr.write(
        f"{done} of {count}, {rate:.0f}/s, {(count - done) / rate:.0f} s left, {violations} violations{end}"
    )
    sys.stderr.flush()


def _print_table(table, reasons):
    rows = sorted({key[:2] for key in table})
    totals = Counter()
    for (_, paddle, verdict), number in table.items():
        totals["**all**", paddle, verdict] += number
    lines = [f"| damage | paddle.load | {' | '.join(VERDICTS)} |", "|---|---|" + "--:|" * len(VERDICTS)]
    for kind, paddle in rows + sorted({key[:2] for key in totals}):
        counts = ((table + totals)[kind, paddle, verdict] for verdict in VERDICTS)
        lines.append(f"| {kind} | {paddle} | {' | '.join(str(count or '') for count in counts)} |")
    sys.stdout.write("\n".join(lines))
    sys.stdout.write("\n\n| Paddle loads it, we do not call it valid because of | files |\n|---|--:|\n")
    sys.stdout.writelines(f"| `{code}` | {number} |\n" for code, number in reasons.most_common())


if __name__ == "__main__":
    sys.exit(main())
