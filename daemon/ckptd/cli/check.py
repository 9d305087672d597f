"""`ckptd check PATH…`: judges all that Paddle wrote at the paths, with no configuration and no daemon."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from ckptd.cli import check_load, check_manifest, check_view
from ckptd.cli.check_places import look
from ckptd.cli.check_scan import scan_all
from ckptd.core.model import Verdict
from ckptd.core.names import shown
from ckptd.errors import UsageError
from ckptd.shell.scanner import ScanRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ckptd.cli.check_places import Found, Place
    from ckptd.shell.prober import ScanResult


def run(options: argparse.Namespace) -> int:
    """Judge everything at the paths; 1 if anything is not valid or a path holds nothing to judge.

    With `--digest` or `--against`, the files are only read and compared.
    """
    _check_usage(options)
    if options.digest:
        return check_manifest.write(options.paths[0], options.workers)
    if options.against is not None:
        return check_manifest.compare(options.against, options.paths[0], options.workers)
    found = {path: look(path) for path in options.paths}
    places = [place for one in found.values() for place in one.places]
    if options.load:
        with check_load.loader(options.python) as process:
            _scan(places, options.workers)
            check_load.load_all(places, process)
    else:
        _scan(places, options.workers)
    verdicts = {verdict for place in places for verdict in _print(place, as_json=options.json)}
    if not options.json and (left_out := sum(one.left_out for one in found.values())):
        sys.stdout.write(check_view.left_out_line(left_out) + "\n")
    for one in found.values():
        _tell_gaps(one)
    is_complete = all(one.places and not one.unlisted for one in found.values())
    return 0 if verdicts <= {Verdict.VALID} and is_complete else 1


def _check_usage(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if options.python is not None and not options.load:
        raise UsageError("--python is for --load alone; leave it out, or add --load")
    modes = [name for name in ("json", "digest", "against") if getattr(options, name) not in {False, None}]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} do not go together; choose one")
    if options.digest or options.against is not None:
        if options.load:
            raise UsageError(f"--load judges files, and --{modes[0]} only reads them; choose one")
        if len(options.paths) > 1:
            raise UsageError(f"--{modes[0]} takes one PATH, and {len(options.paths)} were given")


def _scan(places: Sequence[Place], workers: int) -> None:
    """Fill in the scans of all places."""
    owners: dict[ScanRequest, list[Place]] = defaultdict(list)  # several where paths overlap
    for place in places:
        for member in place.unscanned():
            owners[ScanRequest(place.root or ".", member.role, member.entry.fingerprint)].append(place)

    def keep(result: ScanResult) -> None:
        for place in owners[result.request]:
            place.scans[result.request.expected] = result.scan

    scan_all(list(owners), workers, keep)


def _print(place: Place, *, as_json: bool) -> list[Verdict]:
    judged = place.judged()
    (check_view.print_json if as_json else check_view.print_tree)(place, judged)
    return [judgement.verdict for _, judgement in judged]


def _tell_gaps(found: Found) -> None:
    """Say what could not be judged at a path."""
    for directory in found.unlisted:
        sys.stderr.write(f"ckptd: {shown(directory)}: cannot be listed, so what it holds is not judged\n")
    if not found.places:
        sys.stderr.write(f"ckptd: {shown(found.path)}: there is no checkpoint set here\n")
