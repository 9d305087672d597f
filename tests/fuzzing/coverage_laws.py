"""The laws that hold for every input of the coverage-guided fuzzer.

An input is two bytes, which choose the file's role and name and the pieces in which it is read, and then the
file itself.
"""

from __future__ import annotations

import math

import xxhash

from ckptd.core import containers, ledger_codec, set_contents, verdict
from ckptd.core.findings import FINDINGS
from ckptd.core.model import (
    CheckpointSet,
    Entry,
    EntryKind,
    Judgement,
    Member,
    MetricRule,
    Order,
    ProgressKeys,
    Role,
    SetShape,
)

HEADER = 2

ROLES = tuple(Role)
NAMES = (
    "model.pdparams",
    "trainer_state.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model_state.pdparams.index.json",
    "0.metadata",
    "0_0.distcp",
    "best_accuracy.pdparams.tar",
    "inference.pdmodel",
    "inference.json",
    "inference.pdiparams",
    "inference.pdiparams.info",
    "rng_state.pth",
    "training_args.bin",
    "fc_0.w_0",
)
PIECES = (1 << 20, 1, 7, 4096)
RULE = MetricRule("metric", Order.MAX)


def hold(data):
    """Judge the file in an input, and check what came of it."""
    if len(data) < HEADER:
        return
    role, name = ROLES[data[0] % len(ROLES)], NAMES[data[1] % len(NAMES)]
    content = data[HEADER:]
    found = scanned(content, name, role, PIECES[data[0] // len(ROLES) % len(PIECES)])
    check_scan(found, content)
    check_judgement(found, name, role)


def scanned(content, name, role, piece):
    """Scan a file that is read in pieces of at most some bytes."""
    position = 0

    def readinto(buffer):
        nonlocal position
        part = content[position : position + min(len(buffer), piece)]
        buffer[: len(part)] = part
        position += len(part)
        return len(part)

    return containers.scan(readinto, len(content), path=f"run/{name}", role=role)


def check_scan(found, content):
    """Every code is in the table, clean means read to the end, the ledger gives back what it was given."""
    assert found.bytes == len(content)
    for finding in found.findings:
        assert finding.code in FINDINGS, finding
        assert finding.detail, finding
        assert (finding.path + finding.detail).isprintable(), finding
    assert found.digest in {None, xxhash.xxh3_128_hexdigest(content)}
    assert found.findings or found.digest is not None
    for tensor in found.tensors:
        assert 0 <= tensor.nonfinite <= math.prod(tensor.shape), tensor
        assert tensor.bytes >= 0
    for _, value in found.values:
        str(value).encode()
    again = ledger_codec.decode_scan(ledger_codec.encode_scan(found))
    assert repr(found) == repr(again)  # a NaN equals no NaN


def check_judgement(found, name, role):
    """A set with this file can be judged, and is valid only if the file is clean."""
    entry = Entry(f"run/{name}", EntryKind.FILE, found.bytes, 0, 1)
    checkpoint = CheckpointSet(
        "run", "set", "plain", SetShape.STEM, (Member(role, entry),), frozenset({Role.PARAMS})
    )
    scans = {entry.path: found}
    contents = set_contents.contents_of(checkpoint, scans)
    judgement = verdict.judge(checkpoint, scans, contents, rule=RULE, keys=ProgressKeys())
    assert isinstance(judgement, Judgement)
    assert all(finding.code in FINDINGS for finding in judgement.findings)
    assert judgement == ledger_codec.decode_judgement(ledger_codec.encode_judgement(judgement))
