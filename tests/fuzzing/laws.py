"""The laws that hold between our judgement of a file and Paddle's."""

from __future__ import annotations

import io
from dataclasses import dataclass

from ckptd.core.containers import scan
from ckptd.core.findings import worst_verdict
from ckptd.core.model import Role, Verdict


@dataclass(frozen=True)
class Judged:
    """What both say of one file."""

    ours: str  # a verdict
    codes: tuple[str, ...]
    paddle: str  # "loads", "rejects" or "crashes"
    violation: str | None


def scanned(base, data):
    """Our scan of the bytes, or the exception that it must not raise."""
    try:
        return scan(io.BytesIO(data).readinto, len(data), path=base.name, role=Role(base.role))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported with the file
        return error


def judged(base, found, answer):
    """Hold the scan of a file, made of this base, against what Paddle said."""
    if isinstance(found, Exception):
        return Judged("unreadable", ("scanner_failed",), "loads", f"the scanner raised {found!r}")
    verdict = worst_verdict(found.findings)
    codes = tuple(dict.fromkeys(finding.code for finding in found.findings))
    error = answer.get("error")
    paddle = "loads" if error is None else "crashes" if error.startswith("Paddle ") else "rejects"
    return Judged(verdict.value, codes, paddle, _violation(base, found, verdict, codes, answer))


def _violation(base, found, verdict, codes, answer):
    if error := answer.get("error"):
        return f"law 1: valid, but Paddle says {error}" if verdict is Verdict.VALID else None
    if answer["tensors"] is None or not set(codes) <= {"nonfinite_values"}:
        return None
    # Only pickles and safetensors have names for their tensors. Paddle hands bfloat16 to numpy as uint16.
    first = 0 if base.bounds or base.way == "safetensors" else 1
    read = found.tensors
    if found.container == "tensors" and base.way == "load":
        read = read[: len(answer["tensors"])]  # paddle.load takes the first of a stream and looks no further
    facts = (
        [list(one.key), list(one.shape), one.dtype.replace("bfloat16", "uint16"), one.bytes, one.nonfinite]
        for one in read
    )
    ours = sorted((one[first:] for one in facts), key=repr)
    theirs = sorted((one[first:] for one in answer["tensors"]), key=repr)
    if ours == theirs:
        return None
    only = [one for one in ours if one not in theirs][:3], [one for one in theirs if one not in ours][:3]
    return f"law 3: {len(ours)} and {len(theirs)} tensors; only ours {only[0]}, only Paddle's {only[1]}"
