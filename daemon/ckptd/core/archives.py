"""Tar archives, walked member by member; nothing is unpacked.

Each member is judged like a file of its own, from a stream within the stream. What unpacking would put
elsewhere, or would make a link or device of, is refused. Formats: ustar and pax of POSIX.1-2017 (`pax`,
Extended Description), and GNU tar's long names ("Basic Tar Format" of its manual).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptd.core.names import shown
from ckptd.core.stream import ScanStopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptd.core.stream import ByteStream

BLOCK_BYTES: Final = 512
MAX_MEMBERS: Final = 10_000
MAX_NAME_BYTES: Final = 4096
MAX_EXTENSION_BYTES: Final = 1 << 16  # of a pax header
MAX_PADDING_BYTES: Final = 1 << 20  # behind the end; GNU tar fills up to 10 KiB

_MAGIC: Final = slice(257, 263)
_CHECKSUM: Final = slice(148, 156)
_FILES: Final = (b"0", b"\0", b"7")
_DIRECTORY: Final = b"5"
_UNSAFE: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
}
_OCTAL: Final = re.compile(rb" *([0-7]*)[ \0]*")
_PAX_RECORD: Final = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n]+)=")


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file within an archive."""

    name: str
    bytes: int
    readinto: Callable[[memoryview], int]  # as a file that is open for reading has it


def is_tar(head: bytes) -> bool:
    """Whether a file that begins like this is meant to be a tar archive."""
    return head[_MAGIC].startswith(b"ustar") or (len(head) >= BLOCK_BYTES and _is_sound(head[:BLOCK_BYTES]))


def members(stream: ByteStream) -> Iterator[TarMember]:
    """Go through the files of an archive; the caller reads each one to its end before it asks for the next.

    Behind the last one the stream stands where no more zeros come, or after too many of them.

    Raises:
        ScanStopped: The archive is cut off, contradicts itself, holds what is not to be unpacked, or is
            beyond the limits.
    """
    seen: set[str] = set()
    extended: dict[str, bytes] = {}
    while True:
        start = stream.offset
        stream.require(BLOCK_BYTES, "the next member of the archive, or its end")
        header = stream.take(BLOCK_BYTES)
        if not any(header):
            break
        if not _is_sound(header):
            raise ScanStopped("malformed", f"the header at byte {start} does not have its checksum")
        kind = header[156:157]
        size = _number(extended.get("size"), header[124:136], start)
        if kind in {b"L", b"x"}:
            extended |= _extension(stream, kind, size)
            continue
        name = _name(header, extended)
        extended = {}
        _check(name, kind, size, start)
        if name in seen:
            raise ScanStopped("malformed", f"the archive has {shown(name):.200} twice")
        if len(seen) == MAX_MEMBERS:
            raise ScanStopped("limit_exceeded", f"more than {MAX_MEMBERS} members")
        seen.add(name)
        stream.require(size, f"the member {shown(name):.200}")
        if kind != _DIRECTORY:
            yield TarMember(name, size, _reader(stream, stream.offset + size))
        _padding(stream, size)
    _end(stream, has_extension=bool(extended))


def _end(stream: ByteStream, *, has_extension: bool) -> None:
    stream.require(BLOCK_BYTES, "the second half of the archive's end")
    if has_extension or any(stream.take(BLOCK_BYTES)):
        raise ScanStopped("malformed", f"half of an archive's end before byte {stream.offset}")
    stop = stream.offset + MAX_PADDING_BYTES
    while stream.remaining and stream.offset < stop:
        rest = stream.peek(BLOCK_BYTES)
        if any(rest):
            return
        stream.take(len(rest))


def _is_sound(header: bytes) -> bool:
    match = _OCTAL.fullmatch(header[_CHECKSUM])
    without = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
    return match is not None and match[1] != b"" and int(match[1], 8) == without


def _number(of_pax: bytes | None, digits: bytes, start: int) -> int:
    """A size: octal, of pax decimal, or of GNU a large number in binary."""
    if of_pax is not None:
        if re.fullmatch(rb"[0-9]{1,19}", of_pax):
            return int(of_pax)
    elif digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    elif match := _OCTAL.fullmatch(digits):
        return int(match[1] or b"0", 8)
    raise ScanStopped("malformed", f"the header at byte {start} has no size")


def _extension(stream: ByteStream, kind: bytes, size: int) -> dict[str, bytes]:
    """What a header says about the member behind it."""
    if size > MAX_EXTENSION_BYTES:
        raise ScanStopped("limit_exceeded", f"a header of {size} bytes at byte {stream.offset}")
    stream.require(size, "a header")
    data = stream.take(size)
    _padding(stream, size)
    if kind == b"L":
        return {"path": data.removesuffix(b"\0")}
    found: dict[str, bytes] = {}
    place = 0
    while place < size:
        match = _PAX_RECORD.match(data, place)
        end = place + int(match[1]) if match else 0
        if match is None or not match.end() < end <= size or data[end - 1 : end] != b"\n":
            raise ScanStopped("malformed", f"a pax header that is none before byte {stream.offset}")
        key = match[2].decode("utf-8", "replace")
        if key.startswith("GNU.sparse."):
            raise ScanStopped("unknown_container", "a tar archive of sparse files, which is not read")
        found[key] = data[match.end() : end - 1]
        place = end
    return found


def _name(header: bytes, extended: dict[str, bytes]) -> str:
    raw = extended.get("path")
    if raw is None:
        raw = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0]
        if prefix and header[_MAGIC] == b"ustar\0":
            raw = prefix + b"/" + raw
    if len(raw) > MAX_NAME_BYTES:
        raise ScanStopped("limit_exceeded", f"a member's name of {len(raw)} bytes")
    return raw.decode("utf-8", "backslashreplace")


def _check(name: str, kind: bytes, size: int, start: int) -> None:
    """Stop at what is not to be unpacked, or is not understood."""
    what = _UNSAFE.get(kind)
    if what is None and ("\0" in name or name.startswith("/") or ".." in name.split("/")):
        what = "a name that leads elsewhere"
    if what is not None:
        raise ScanStopped("unsafe_archive", f"{what} at byte {start}: {shown(name):.200}")
    if kind == _DIRECTORY and not size:
        return
    if kind not in _FILES:
        raise ScanStopped("unknown_container", f"a tar member of the kind {kind!r} at byte {start}")
    if not name or name.endswith("/"):
        raise ScanStopped("malformed", f"a file without a name at byte {start}")


def _padding(stream: ByteStream, size: int) -> None:
    rest = stream.take(-size % BLOCK_BYTES)
    if any(rest):
        raise ScanStopped("malformed", f"the block before byte {stream.offset} is not filled with zeros")


def _reader(stream: ByteStream, end: int) -> Callable[[memoryview], int]:
    def readinto(room: memoryview) -> int:
        got = 0
        for block in stream.blocks(min(len(room), end - stream.offset)):
            room[got : got + len(block)] = block
            got += len(block)
        return got

    return readinto
