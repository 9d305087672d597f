"""What turns up in place of a checkpoint and is no container of Paddle's, by its first bytes."""

from __future__ import annotations

from typing import Final

_BEGINNINGS: Final = (
    (b"PK\x03\x04", "a zip archive, as torch.save and numpy.savez write"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ\0", "compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "an array that numpy.save wrote"),
    (b"\x7fELF", "a program or library of Linux"),
    (b"GGUF", "a GGUF model, as llama.cpp reads"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"SQLite format 3\0", "an SQLite database"),
)


def foreign_kind(head: bytes) -> str:
    """What a file that begins like this is, as far as its first bytes tell; at least those bytes."""
    return next(
        (what for beginning, what in _BEGINNINGS if head.startswith(beginning)),
        f"the file begins with {head[:16]!r}",
    )
