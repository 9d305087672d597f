"""One file, judged: what it is by its content, and what that content holds. Unknown is never valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptd.core import (
    archives,
    flex_checkpoints,
    indexes,
    json_documents,
    opaque,
    programs,
    safetensors,
    tensor_streams,
)
from ckptd.core.foreign_files import foreign_kind
from ckptd.core.model import FileScan, Finding, Role
from ckptd.core.names import shown
from ckptd.core.pickle_outline import first_call
from ckptd.core.pickles import PROTOCOLS, walk
from ckptd.core.polyglots import LOOK_BYTES, pickled_import
from ckptd.core.state_dicts import MAX_BYTES, MAX_TENSORS, Contents, contents
from ckptd.core.stream import ByteStream, ScanStopped, windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptd.core.model import KeyPath, TensorFacts
    from ckptd.core.stream import NextWindow

HEAD_BYTES: Final = 4096
ZERO_BYTES: Final = 1 << 20  # so many zeros at the beginning are no checkpoint, whatever follows
TENSORS_NAMED: Final = 3  # in a finding's detail
NAME_CHARACTERS: Final = 100  # the same, of one tensor
# The members of an archive may take as much together as one file may: opcodes, values visited, fields parsed,
# of which each has two bytes or more.
MAX_EFFORT: Final = 3_000_000
_PARSED: Final = frozenset(("program", "pir", "json", "index"))

# What these hold is not for us to understand; what they are worth is not read from their content.
_DIGEST_ONLY: Final = frozenset((Role.EXTRA, Role.MARKER))
# These carry tensors, and Paddle writes tensors as a pickle.
_NEVER_JSON: Final = frozenset((Role.PARAMS, Role.OPT, Role.EMA, Role.SCALER, Role.SHARD))
_HTML: Final = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")


def scan(
    readinto: Callable[[memoryview], int | None],
    size: int,
    *,
    path: str,
    role: Role,
) -> FileScan:
    """Judge one file, as `scan_windows` does, through one buffer.

    Args:
        readinto: Fills a buffer with the next bytes and returns how many; 0 or None at the end of the file.
        size: The file's length.
        path: The file's name within its root.
        role: What the file is for.
    """
    return scan_windows(windows(readinto, size), size, path=path, role=role)


def scan_windows(
    next_window: NextWindow,
    size: int,
    *,
    path: str,
    role: Role,
    align: Callable[[int], None] | None = None,
) -> FileScan:
    """Judge one file in one pass forwards, in memory that does not grow with its tensors.

    Args:
        next_window: Hands out the file's bytes in order.
        size: The file's length as `stat` told it.
        path: The file's name within its root; findings show it printable.
        role: What the file is for.
        align: Told of each long payload where it begins, as `core.stream` has it.

    Returns:
        Tensors and values of a file that could be walked to its end, and everything that is wrong with it.
        The digest is None where the walk ended early.
    """
    stream = ByteStream(next_window, size, align)
    container, found, findings = _judged(stream, path, role)
    return FileScan(
        container=container,
        bytes=size,
        digest=stream.digest(),
        findings=tuple(
            Finding(code, shown(path), detail) for code, detail in findings + _number_findings(found)
        ),
        tensors=found.tensors,
        values=found.values,
        expected=found.expected,
    )


def _judged(
    stream: ByteStream, path: str, role: Role, *, is_member: bool = False
) -> tuple[str, Contents, list[tuple[str, str]]]:
    """The container, what it holds, and what is wrong with it but for the numbers in it."""
    container = "unknown"
    try:
        if role in _DIGEST_ONLY:
            stream.drain()
            return container, Contents(), []
        if role is Role.OPAQUE:
            container = "opaque"
            opaque.read(stream)
            trailing = _trailing(stream, container)
            stream.drain()
            return container, Contents(), trailing
        container = _container(stream, path, role)
        if container == "tar" and is_member:
            return container, Contents(), [("unknown_container", "a tar archive within a tar archive")]
        if container == "tar":
            found, findings = _read_tar(stream, path, role)
        else:
            found, findings = _READERS[container](stream), []
        return container, found, findings or _trailing(stream, container)
    except ScanStopped as stopped:
        return container, Contents(), [(stopped.code, stopped.detail)]


def _read_tar(stream: ByteStream, path: str, role: Role) -> tuple[Contents, list[tuple[str, str]]]:
    """What the members hold, up to the first that is wrong."""
    if imported := pickled_import(stream.peek(LOOK_BYTES), stream.size):
        raise ScanStopped("unsafe_global", f"{imported}, in a tar archive that is a pickle as well")
    parts: list[Contents] = []
    effort = held = names = 0
    for member in archives.members(stream):
        place = f"{path}!{member.name}"
        inner = ByteStream(windows(member.readinto, member.bytes), member.bytes)
        container, found, findings = _judged(inner, member.name, role, is_member=True)
        parts.append(_below(member.name, found))
        effort += inner.opcodes + found.visits + (member.bytes // 2 if container in _PARSED else 100)
        held += len(found.tensors) + len(found.values)
        names += len(member.name) * (len(found.tensors) + len(found.values))
        if held > MAX_TENSORS or effort > MAX_EFFORT or names > MAX_BYTES:
            raise ScanStopped("limit_exceeded", f"more than one file may hold, up to {shown(place)}")
        if findings:
            return _together(parts), [(code, f"{shown(place)}: {detail}") for code, detail in findings]
    return _together(parts), []


def _below(name: str, found: Contents) -> Contents:
    """The contents of a member, with its name in front of every key."""
    return Contents(
        tensors=tuple(one._replace(key=(name, *one.key)) for one in found.tensors),
        values=tuple(((name, *key), value) for key, value in found.values),
        unverified=tuple(one._replace(key=(name, *one.key)) for one in found.unverified),
        unloadable=tuple((name, *key) for key in found.unloadable),
    )


def _together(parts: list[Contents]) -> Contents:
    return Contents(
        tensors=tuple(one for part in parts for one in part.tensors),
        values=tuple(one for part in parts for one in part.values),
        unverified=tuple(one for part in parts for one in part.unverified),
        unloadable=tuple(one for part in parts for one in part.unloadable),
    )


def _container(stream: ByteStream, path: str, role: Role) -> str:
    """What the file is, by its first bytes.

    Raises:
        ScanStopped: It is nothing that is read here.
    """
    if not stream.size:
        raise ScanStopped("empty_file", "0 bytes")
    head = stream.peek(HEAD_BYTES)
    if binary := _binary_container(stream, head):
        return binary
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ScanStopped("git_lfs_pointer", "the file begins like a git-LFS pointer")
    if text[:16].lower().startswith(_HTML):
        raise ScanStopped("html_page", "the file begins with a tag")
    if not any(head) and _begins_with_zeros(stream):
        raise ScanStopped("all_zero", f"the first {stream.offset} of {stream.size} bytes are zero")
    if programs.is_pir(text):
        return "pir"
    if role not in _NEVER_JSON and (path.endswith(".json") or text.startswith((b"{", b"["))):
        return "index" if path.endswith(indexes.SUFFIX) else "json"
    if called := first_call(stream):
        raise ScanStopped("unsafe_global", f"{called}, in a pickle that Paddle never writes")
    raise ScanStopped("unknown_container", foreign_kind(head))


def _binary_container(stream: ByteStream, head: bytes) -> str | None:
    """Which container that is no text begins here."""
    # A header of 640 bytes or so begins like a pickle, which the zeros of its length cannot go on as.
    if safetensors.is_safetensors(head):
        return "safetensors"
    if head[0] == 0x80 and (len(head) == 1 or head[1] in PROTOCOLS):
        return "pickle"
    if archives.is_tar(head):
        return "tar"
    if programs.is_program(head):
        return "program"
    return tensor_streams.container_of(stream, head)


def _begins_with_zeros(stream: ByteStream) -> bool:
    """Whether nothing but zeros stands at the beginning; the rest of a sparse terabyte need not be read."""
    return all(not bytes(block).strip(b"\0") for block in stream.blocks(min(stream.size, ZERO_BYTES)))


def _read_pickle(stream: ByteStream) -> Contents:
    tree = walk(stream)
    return flex_checkpoints.read(tree) if flex_checkpoints.is_metadata(tree) else contents(tree)


def _trailing(stream: ByteStream, container: str) -> list[tuple[str, str]]:
    """What is to be said of bytes behind the end of the content."""
    if not stream.remaining:
        return []
    what = f"not part of the {container}"
    if container == "pickle" and stream.peek(1) == b"\x80":
        what = "another pickle"
    trailing = ("trailing_bytes", f"{stream.remaining} bytes after byte {stream.offset}, {what}")
    # They may be a terabyte of nothing, and no digest is wanted of a file that is not to be trusted.
    if container == "pickle" and (called := first_call(stream)):
        return [("unsafe_global", f"{called}, behind the end of the pickle"), trailing]
    return [trailing]


_READERS: Final[dict[str, Callable[[ByteStream], Contents]]] = {
    "pickle": _read_pickle,
    "safetensors": safetensors.read,
    "index": indexes.read,
    "json": json_documents.read,
    "tensors": tensor_streams.read,
    "selected_rows": tensor_streams.read_selected_rows,
    "program": programs.read_program,
    "pir": programs.read_pir,
}


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
