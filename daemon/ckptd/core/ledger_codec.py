"""Scans and judgements as bytes, for the ledger.

The bytes are a JSON list whose first element is `FORMAT`; a scan's are deflated on top, as its tensor table
repeats itself. Text goes through as it is, lone surrogates included.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from ckptd.core.model import (
    ExpectedTensor,
    FileScan,
    Finding,
    Judgement,
    KeyPath,
    Metric,
    Order,
    Role,
    TensorFacts,
    Verdict,
)

FORMAT = 2
"""Raised when the layout below changes or the scanner judges differently, so that files are scanned anew."""

MAX_SCAN_BYTES = 1 << 28  # inflated; the largest that the scanner's own limits allow is shorter

_INT64 = range(-(2**63), 2**63)


class UnknownFormat(ValueError):  # noqa: N818 - it says what is wrong, as ValueError does
    """The bytes were not written by this version's `encode_*`."""


def encode_scan(scan: FileScan) -> bytes:
    """Write a scan as bytes."""
    tensors = [
        (
            _key(item.key),
            [_int(n) for n in item.shape],
            item.dtype,
            _int(item.bytes),
            _int(item.nonfinite),
            item.parameter,
            item.is_constant,
        )
        for item in scan.tensors
    ]
    values = [(_key(key), _int(value)) for key, value in scan.values]
    expected = [
        (item.name, item.file, _sizes(item.shape), _sizes(item.offset), item.dtype) for item in scan.expected
    ]
    fields = (
        scan.container,
        _int(scan.bytes),
        scan.digest,
        _findings(scan.findings),
        tensors,
        values,
        expected,
    )
    return zlib.compress(_dump((FORMAT, *fields)), level=1)


def decode_scan(data: bytes) -> FileScan:
    """Read a scan back.

    Raises:
        UnknownFormat: the bytes are damaged or of another version.
    """
    try:
        _, container, size, digest, findings, tensors, values, expected = _load(_inflated(data))
        return FileScan(
            container=container,
            bytes=size,
            digest=digest,
            findings=tuple(Finding(*finding) for finding in findings),
            tensors=tuple(TensorFacts(tuple(key), tuple(shape), *others) for key, shape, *others in tensors),
            values=tuple((tuple(key), value) for key, value in values),
            expected=tuple(
                ExpectedTensor(name, file, _tuple(shape), _tuple(offset), dtype)
                for name, file, shape, offset, dtype in expected
            ),
        )
    except (zlib.error, LookupError, TypeError, ValueError) as error:
        raise UnknownFormat(f"no scan of format {FORMAT}: {error}") from error


def _inflated(data: bytes) -> bytes:
    """The bytes of a scan, which may come from a process that has read hostile files."""
    stream = zlib.decompressobj()
    inflated = stream.decompress(data, MAX_SCAN_BYTES)
    if not stream.eof:
        raise ValueError(f"it is cut off, or more than {MAX_SCAN_BYTES} bytes")
    return inflated


def encode_judgement(judgement: Judgement) -> bytes:
    """Write a judgement as bytes; equal judgements give equal bytes."""
    metric = judgement.metric and (judgement.metric.name, judgement.metric.value, judgement.metric.order)
    return _dump(
        (
            FORMAT,
            judgement.verdict,
            _findings(judgement.findings),
            _int(judgement.step),
            _int(judgement.epoch),
            metric,
            sorted(judgement.roles),
        )
    )


def decode_judgement(data: bytes) -> Judgement:
    """Read a judgement back.

    Raises:
        UnknownFormat: the bytes are damaged or of another version.
    """
    try:
        _, verdict, findings, step, epoch, metric, roles = _load(data)
        return Judgement(
            verdict=Verdict(verdict),
            findings=tuple(Finding(*finding) for finding in findings),
            step=step,
            epoch=epoch,
            metric=metric and Metric(metric[0], metric[1], Order(metric[2])),
            roles=frozenset(Role(role) for role in roles),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise UnknownFormat(f"no judgement of format {FORMAT}: {error}") from error


def _findings(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.path, finding.detail) for finding in findings]


def _sizes(sizes: tuple[int, ...] | None) -> list[Any] | None:
    return None if sizes is None else [_int(size) for size in sizes]


def _tuple(sizes: list[int] | None) -> tuple[int, ...] | None:
    return None if sizes is None else tuple(sizes)


def _key(key: KeyPath) -> list[Any]:
    return [_int(part) for part in key]


def _int(value: Any) -> Any:
    """Python refuses decimal integers beyond 4300 digits in either direction; hexadecimal has no limit."""
    return {"hex": hex(value)} if isinstance(value, int) and value not in _INT64 else value


def _dump(value: Any) -> bytes:
    # Not ASCII: two lone surrogates side by side, as \uXXXX escapes, would come back as one character.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _load(data: bytes) -> Any:
    fields = json.loads(data.decode("utf-8", "surrogatepass"), object_hook=lambda item: int(item["hex"], 16))
    if not isinstance(fields, list) or fields[:1] != [FORMAT]:
        raise ValueError("another version wrote it")
    return fields
