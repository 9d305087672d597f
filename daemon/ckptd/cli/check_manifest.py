"""`ckptd check --digest` and `--against`: the digests of all files at a path, to compare two copies.

A manifest is what `xxh128sum` prints and `xxh128sum -c` reads: 32 hexadecimal digits, two spaces, and the
path below PATH, sorted. A name with a backslash or a line break is escaped, and the line begins with a
backslash, as GNU coreutils do it.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ckptd.cli.check_places import look
from ckptd.cli.check_scan import scan_all
from ckptd.core.model import EntryKind, Fingerprint, Role
from ckptd.core.names import shown
from ckptd.errors import CkptdError, UsageError
from ckptd.shell import inventory
from ckptd.shell.scanner import ScanRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptd.core.model import Entry
    from ckptd.shell.prober import ScanResult

_LINE: Final = re.compile(rb"(\\?)([0-9a-f]{32}) [ *]([^\n]+)")
_ESCAPES: Final = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}


class _Files(NamedTuple):
    """The files at a path, by their paths below it."""

    root: str
    regular: dict[str, Fingerprint]
    others: tuple[str, ...]  # symbolic links and the like
    is_complete: bool


class _Digests(NamedTuple):
    known: dict[str, str]
    unread: dict[str, str]  # why there is no digest


def write(path: str, workers: int) -> int:
    """Print the manifest of a path; 1 if a file could not be read, or there is none."""
    files = _files(path)
    digests = _digests(files.root, files.regular.values(), workers)
    for name, digest in sorted(digests.known.items(), key=lambda pair: os.fsencode(pair[0])):
        sys.stdout.buffer.write(_line(name, digest))
    for name, why in digests.unread.items():
        sys.stderr.write(f"ckptd: {shown(name)}: {why}\n")
    for name in files.others:
        sys.stderr.write(f"ckptd: {shown(name)}: no regular file, so not in the manifest\n")
    is_whole = files.is_complete and files.regular and not digests.unread and not files.others
    return 0 if is_whole else 1


def compare(manifest: str, path: str, workers: int) -> int:
    """Say how a path differs from a manifest, one line for each file; 1 if it does."""
    listed = _read(manifest)
    files = _files(path)
    here = dict(files.regular)
    for name in listed.keys() - here.keys():
        try:  # a neighbour that was a member of a set, there
            entry = inventory.entry(files.root, name)
        except OSError:
            continue
        if entry.kind is EntryKind.FILE:
            here[name] = entry.fingerprint
    digests = _digests(files.root, [here[name] for name in listed if name in here], workers)
    lines = dict.fromkeys({*files.regular, *files.others} - listed.keys(), "extra")
    for name, digest in listed.items():
        if name in digests.unread:
            lines[name] = f"unreadable ({digests.unread[name]})"
        elif name not in digests.known:
            lines[name] = "missing"
        elif digests.known[name] != digest:
            lines[name] = "differs"
    for name, difference in sorted(lines.items()):
        sys.stdout.write(f"{difference}: {shown(name)}\n")
    if not lines:
        sys.stdout.write(f"equal: {len(listed)} {'file' if len(listed) == 1 else 'files'}\n")
    return 0 if not lines and files.is_complete else 1


def _files(path: str) -> _Files:
    """All files of the sets at a path, and of what is in no set."""
    found = look(path)
    target = os.path.realpath(path)
    root = target if os.path.isdir(target) else os.path.dirname(target)
    entries: dict[str, Entry] = {}
    for place in found.places:
        for one in (*place.sets, *place.loose):
            for member in one.members:
                absolute = os.path.join(os.path.realpath(place.root or "."), member.entry.path)
                entries[os.path.relpath(absolute, root)] = member.entry
    for directory in found.unlisted:
        sys.stderr.write(f"ckptd: {shown(directory)}: cannot be listed, so its files are left out\n")
    if not entries:
        sys.stderr.write(f"ckptd: {shown(path)}: there is no checkpoint set here\n")
    return _Files(
        root=root,
        regular={
            name: one.fingerprint._replace(path=name)
            for name, one in entries.items()
            if one.kind is EntryKind.FILE
        },
        others=tuple(
            sorted(
                name for name, one in entries.items() if one.kind not in {EntryKind.FILE, EntryKind.DIRECTORY}
            )
        ),
        is_complete=bool(entries) and not found.unlisted,
    )


def _digests(root: str, files: Iterable[Fingerprint], workers: int) -> _Digests:
    digests = _Digests({}, {})

    def keep(result: ScanResult) -> None:
        name, scan = result.request.expected.path, result.scan
        if scan.digest is None:
            digests.unread[name] = "; ".join(finding.detail for finding in scan.findings)
        else:
            digests.known[name] = scan.digest

    # In this role, a file is read to its end whatever is in it.
    scan_all([ScanRequest(root, Role.EXTRA, one) for one in files], workers, keep)
    return digests


def _line(name: str, digest: str) -> bytes:
    data = os.fsencode(name)
    escaped = re.sub(rb"[\\\n\r]", lambda match: _ESCAPES[match[0]], data)
    return (b"\\" if escaped != data else b"") + digest.encode() + b"  " + escaped + b"\n"


def _read(manifest: str) -> dict[str, str]:
    """The digests of a manifest, by path."""
    try:
        lines = Path(manifest).read_bytes().split(b"\n")
    except OSError as error:
        raise CkptdError(f"{shown(manifest)}: {error.strerror}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            break
        match = _LINE.fullmatch(line)
        if match is None:
            raise UsageError(
                f"{shown(manifest)}: line {number}: expected 32 hexadecimal digits, two spaces and a path, as"
                " `ckptd check --digest` prints them"
            )
        is_escaped, digest, data = match.groups()
        name = os.fsdecode(_unescaped(data) if is_escaped else data)
        if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise UsageError(
                f"{shown(manifest)}: line {number}: refusing to look at {shown(name)}, which is not below the"
                " path; make the manifest by `ckptd check --digest`"
            )
        found[name] = digest.decode()
    return found


def _unescaped(data: bytes) -> bytes:
    originals = {escape: original for original, escape in _ESCAPES.items()}
    return re.sub(rb"\\.", lambda match: originals.get(match[0], match[0]), data)
