"""What commands print: the versioned JSON objects of the contract, and words for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ckptd.core.findings import FINDINGS
from ckptd.core.model import Verdict
from ckptd.core.names import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptd.core.model import CheckpointSet, Decision, FileScan, Finding, Judgement, Metric

SCHEMA = 1
"""Raised when a field of the printed JSON changes its meaning or goes."""

_WIDTH_WITHOUT_TERMINAL = 160

_STYLES = {
    Verdict.VALID: "green",
    Verdict.SUSPECT: "yellow",
    Verdict.INCOMPLETE: "yellow",
    Verdict.CORRUPT: "red",
    Verdict.UNSAFE: "bold red",
    Verdict.UNREADABLE: "red",
    Verdict.WRITING: "dim",
    Verdict.PENDING: "dim",
}


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object on one line."""
    sys.stdout.write(json.dumps({"schema": SCHEMA, **value}, allow_nan=False) + "\n")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # `main` knows what to do about it; rich would exit with 1


def console() -> Console:
    """Where people read; wide enough for a log or a pager when it is no terminal."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)


def styled(verdict: Verdict) -> Text:
    """A verdict in its colour."""
    return Text(verdict, style=_STYLES[verdict])


def in_words(finding: Finding) -> str:
    """A finding as one sentence: where, what it means, what was seen."""
    return f"{finding.path}: {FINDINGS[finding.code].meaning} ({finding.detail})"


def metric_object(metric: Metric | None) -> dict[str, Any] | None:
    """A metric as JSON."""
    return None if metric is None else {"name": metric.name, "value": metric.value, "order": metric.order}


def set_object(
    run: str, checkpoint: CheckpointSet, judgement: Judgement, scans: Mapping[str, FileScan]
) -> dict[str, Any]:
    """A judged set as `ckptd check --json` prints it.

    Args:
        run: the run's path as the user knows it.
        checkpoint: the set.
        judgement: its verdict.
        scans: the members' scans by member path; members that are not read have none.
    """
    return {
        "run": shown(run),
        "set": shown(checkpoint.name),
        "layout": checkpoint.layout,
        "verdict": judgement.verdict,
        "step": judgement.step,
        "epoch": judgement.epoch,
        "metric": metric_object(judgement.metric),
        "bytes": checkpoint.bytes,
        "findings": [finding_object(finding) for finding in judgement.findings],
        "members": [
            {
                "role": member.role,
                "path": shown(member.entry.path),
                "bytes": member.entry.bytes,
                "digest": scan.digest if scan else None,
                "tensors": len(scan.tensors) if scan else None,
                "nonfinite": scan.nonfinite if scan else None,
            }
            for member in checkpoint.members
            for scan in (scans.get(member.entry.path),)
        ],
    }


def finding_object(finding: Finding) -> dict[str, Any]:
    """A finding as JSON."""
    return {
        "code": finding.code,
        "severity": FINDINGS[finding.code].severity,
        "path": finding.path,
        "detail": finding.detail,
    }


def decision_object(run: str, decision: Decision) -> dict[str, Any]:
    """A decision as `ckptd plan --json` prints it."""
    return {
        "run": shown(run),
        "set": shown(decision.key.name),
        "verdict": decision.verdict,
        "action": decision.action,
        "reasons": list(decision.reasons),
        "bytes": decision.bytes,
    }
