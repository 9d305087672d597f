"""One file, judged: what it is by its content, and what that content holds. Unknown is never valid."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ckptd.core.model import FileScan, Finding, Role
from ckptd.core.names import shown
from ckptd.core.pickle_outline import first_call
from ckptd.core.pickles import PROTOCOLS, walk
from ckptd.core.state_dicts import Contents, contents
from ckptd.core.stream import ByteStream, ScanStopped, at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.model import KeyPath, TensorFacts
    from ckptd.core.stream import Beside

HEAD_BYTES: Final = 4096
ZERO_BYTES: Final = 1 << 20  # so many zeros at the beginning are no checkpoint, whatever follows
MAX_JSON_BYTES: Final = 1 << 24
MAX_JSON_ITEMS: Final = 1_000_000  # each becomes an object of up to 100 bytes before anything can be looked at
TENSORS_NAMED: Final = 3  # in a finding's detail
NAME_CHARACTERS: Final = 100  # the same, of one tensor

# What these hold is not for us to understand; what they are worth is not read from their content.
_DIGEST_ONLY: Final = frozenset((Role.OPAQUE, Role.EXTRA, Role.MARKER))
# These carry tensors, and Paddle writes tensors as a pickle.
_NEVER_JSON: Final = frozenset((Role.PARAMS, Role.OPT, Role.EMA, Role.SCALER, Role.SHARD))
_HTML: Final = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")


def scan(
    readinto: Callable[[memoryview], int | None],
    size: int,
    *,
    path: str,
    role: Role,
    beside: Beside = at_once,
) -> FileScan:
    """Judge one file in one pass forwards, in memory that does not grow with its tensors.

    Args:
        readinto: Fills a buffer with the next bytes and returns how many; 0 or None at the end of the file.
        size: The file's length as `stat` told it.
        path: The file's name within its root; findings show it printable.
        role: What the file is for.
        beside: Runs the checks of long payloads while the next block is read; by default nothing runs beside.

    Returns:
        Tensors and values of a file that could be walked to its end, and everything that is wrong with it.
        The digest is None where the walk ended early.
    """
    stream = ByteStream(readinto, size, beside=beside)
    container = "unknown"
    found = Contents()
    findings: list[tuple[str, str]] = []
    try:
        if role in _DIGEST_ONLY:
            stream.drain()
        else:
            container = _container(stream, path, role)
            found = _read_pickle(stream, findings) if container == "pickle" else _read_json(stream)
    except ScanStopped as stopped:
        findings.append((stopped.code, stopped.detail))
    findings += _number_findings(found)
    return FileScan(
        container=container,
        bytes=size,
        digest=stream.digest(),
        findings=tuple(Finding(code, shown(path), detail) for code, detail in findings),
        tensors=found.tensors,
        values=found.values,
    )


def _container(stream: ByteStream, path: str, role: Role) -> str:
    """What the file is, by its first bytes.

    Raises:
        ScanStopped: It is nothing that is read here.
    """
    if not stream.size:
        raise ScanStopped("empty_file", "0 bytes")
    head = stream.peek(HEAD_BYTES)
    if head[0] == 0x80 and (len(head) == 1 or head[1] in PROTOCOLS):
        return "pickle"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ScanStopped("git_lfs_pointer", "the file begins like a git-LFS pointer")
    if text[:16].lower().startswith(_HTML):
        raise ScanStopped("html_page", "the file begins with a tag")
    if not any(head) and _begins_with_zeros(stream):
        raise ScanStopped("all_zero", f"the first {stream.offset} of {stream.size} bytes are zero")
    if role not in _NEVER_JSON and (path.endswith(".json") or text.startswith((b"{", b"["))):
        return "json"
    if called := first_call(stream):
        raise ScanStopped("unsafe_global", f"{called}, in a pickle that Paddle never writes")
    raise ScanStopped("unknown_container", f"the file begins with {head[:16]!r}")


def _begins_with_zeros(stream: ByteStream) -> bool:
    """Whether nothing but zeros stands at the beginning; the rest of a sparse terabyte need not be read."""
    return all(not bytes(block).strip(b"\0") for block in stream.blocks(min(stream.size, ZERO_BYTES)))


def _read_pickle(stream: ByteStream, findings: list[tuple[str, str]]) -> Contents:
    found = contents(walk(stream))
    if stream.remaining:
        what = "another pickle" if stream.peek(1) == b"\x80" else "not part of the pickle"
        trailing = ("trailing_bytes", f"{stream.remaining} bytes after byte {stream.offset}, {what}")
        # They may be a terabyte of nothing, and no digest is wanted of a file that is not to be trusted.
        if called := first_call(stream):
            findings.append(("unsafe_global", f"{called}, behind the end of the pickle"))
        findings.append(trailing)
    return found


def _read_json(stream: ByteStream) -> Contents:
    if stream.size > MAX_JSON_BYTES:
        raise ScanStopped("limit_exceeded", f"{stream.size} bytes of JSON, at most {MAX_JSON_BYTES} are read")
    data = stream.take(stream.size)
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_JSON_ITEMS:
        raise ScanStopped("limit_exceeded", f"JSON with more than {MAX_JSON_ITEMS} commas and brackets")
    try:
        tree = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ScanStopped("limit_exceeded", "JSON that is nested too deeply") from None
    except ValueError as error:
        raise ScanStopped("invalid_json", str(error)) from None
    return contents(tree)


def _number_findings(found: Contents) -> list[tuple[str, str]]:
    findings = []
    if bad := [tensor for tensor in found.tensors if tensor.nonfinite]:
        total = sum(tensor.nonfinite for tensor in bad)
        named = _listed([f"{_name(tensor)} ({tensor.nonfinite})" for tensor in bad])
        findings.append(("nonfinite_values", f"{total} NaN or infinite in {len(bad)} tensors: {named}"))
    if found.unverified:
        named = _listed([f"{_name(tensor)} ({tensor.dtype})" for tensor in found.unverified])
        findings.append(("unverified_tensor", f"{len(found.unverified)} tensors: {named}"))
    if found.unloadable:
        named = _listed([_shown_key(key) for key in found.unloadable])
        findings.append(("unloadable_value", f"{len(found.unloadable)} values: {named}"))
    return findings


def _listed(names: list[str]) -> str:
    rest = len(names) - TENSORS_NAMED
    return ", ".join(names[:TENSORS_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _name(tensor: TensorFacts) -> str:
    return _shown_key(tensor.key)


def _shown_key(key: KeyPath) -> str:
    return shown(".".join(map(str, key)))[:NAME_CHARACTERS]
