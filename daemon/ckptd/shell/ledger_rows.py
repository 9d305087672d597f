"""The rows of the ledger's tables, the values that they stand for, and how they are put and found."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from ckptd.core.ledger_codec import UnknownFormat, decode_judgement, encode_judgement, encode_scan
from ckptd.core.model import Action, Decision, Metric, Order, SetKey, Verdict
from ckptd.core.records import (
    RecordedDecision,
    RecordedJudgement,
    ReleaseRecord,
    ReleaseState,
    Removal,
    RemovalState,
    fingerprints_digest,
)
from ckptd.core.scrubbing import Reading
from ckptd.shell.ledger_schema import (
    decisions,
    digest,
    judgement_history,
    judgements,
    readings,
    releases,
    removals,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection, Row, Table

    from ckptd.core.model import CheckpointSet, FileScan, Fingerprint, Judgement
    from ckptd.core.records import HistoryEntry

Values = dict[str, Any]
"""A row to be inserted: a value for every column."""


def batches(keys: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Cut keys into lists short enough for one statement; both databases take some 32,000 values."""
    remaining = iter(keys)
    while batch := tuple(islice(remaining, 1000)):
        yield batch


def replace(connection: Connection, table: Table, key: str, rows: list[Values]) -> None:
    """Put rows in place of those with the same key: an upsert that every database understands."""
    for keys in batches(row[key] for row in rows):
        connection.execute(delete(table).where(table.c[key].in_(keys)))
    if rows:
        connection.execute(insert(table), rows)


def stat_text(fingerprint: Fingerprint) -> str:
    """All of a fingerprint but the path."""
    return f"{fingerprint.bytes} {fingerprint.mtime_ns} {fingerprint.inode}"


def scan_row(root: str, fingerprint: Fingerprint, scan: FileScan, at: datetime) -> Values:
    """The row of a file's scan."""
    return {
        "file_key": digest(root, fingerprint.path),
        "root_key": digest(root),
        "root": root,
        "path": fingerprint.path,
        "stat": stat_text(fingerprint),
        "scan": encode_scan(scan),
        "at": at,
    }


def reading_row(root: str, fingerprint: Fingerprint, reading: Reading) -> Values:
    """The row of what is known of a file's content."""
    return {
        "file_key": digest(root, fingerprint.path),
        "root_key": digest(root),
        "root": root,
        "path": fingerprint.path,
        "stat": stat_text(fingerprint),
        "digest": reading.digest,
        "scanner": reading.scanner,
        "first_at": reading.first_at,
        "last_at": reading.last_at,
        "is_rotted": reading.is_rotted,
    }


def stored_readings(
    connection: Connection, root: str, fingerprints: Iterable[Fingerprint]
) -> dict[Fingerprint, Reading]:
    """What is known of the content of those files that are as they were when it was read."""
    wanted = {digest(root, fingerprint.path): fingerprint for fingerprint in fingerprints}
    found = {}
    for keys in batches(wanted):
        for row in connection.execute(select(readings).where(readings.c.file_key.in_(keys))):
            if row.stat == stat_text(wanted[row.file_key]):
                found[wanted[row.file_key]] = Reading(
                    row.digest, row.first_at, row.last_at, row.scanner, row.is_rotted
                )
    return found


def judgement_row(root: str, checkpoint: CheckpointSet, judgement: Judgement, at: datetime) -> Values:
    """The row of a judgement, in both its tables."""
    metric = judgement.metric
    return _set_values(root, checkpoint.key) | {
        "fingerprints": fingerprints_digest(checkpoint.fingerprints),
        "verdict": judgement.verdict.value,
        "judgement": encode_judgement(judgement),
        "bytes": checkpoint.bytes,
        "metric_name": metric and metric.name,
        "metric_value": metric and metric.value,
        "at": at,
    }


def judgement_identity(row: Values) -> tuple[str, str, bytes]:
    """What makes one judgement differ from another: fingerprints, verdict, then all the rest."""
    return row["fingerprints"], row["verdict"], row["judgement"]


def last_judgement_rows(connection: Connection, keys: Collection[str]) -> dict[str, tuple[str, str, bytes]]:
    """The `judgement_identity` of the last judgements on these sets."""
    columns = judgements.c
    statement = select(columns.set_key, columns.fingerprints, columns.verdict, columns.judgement)
    rows = connection.execute(statement.where(columns.set_key.in_(keys)))
    return {row.set_key: (row.fingerprints, row.verdict, row.judgement) for row in rows}


def judgement_of(row: Row[Any]) -> RecordedJudgement | None:
    """The judgement that a row holds; None if another version wrote it: as good as never judged."""
    try:
        judgement = decode_judgement(row.judgement)
    except UnknownFormat:
        return None
    return RecordedJudgement(SetKey(row.run, row.name), judgement, row.fingerprints, row.bytes, row.at)


def decision_row(root: str, decision: Decision, at: datetime) -> Values:
    """The row of a decision."""
    return _set_values(root, decision.key) | {
        "verdict": decision.verdict.value,
        "action": decision.action.value,
        "reasons": json.dumps(decision.reasons),
        "bytes": decision.bytes,
        "at": at,
    }


def last_decisions(connection: Connection, run_key: str) -> dict[str, tuple[str, str]]:
    """Action and reasons of the last decision on each set of the run, by the set's key."""
    columns = decisions.c
    newest = select(func.max(columns.id)).where(columns.run_key == run_key).group_by(columns.set_key)
    statement = select(columns.set_key, columns.action, columns.reasons).where(columns.id.in_(newest))
    return {row.set_key: (row.action, row.reasons) for row in connection.execute(statement)}


def decision_of(row: Row[Any]) -> RecordedDecision:
    """The decision that a row holds."""
    key, reasons = SetKey(row.run, row.name), tuple(json.loads(row.reasons))
    return RecordedDecision(
        Decision(key, Verdict(row.verdict), Action(row.action), reasons, row.bytes), row.at
    )


def removal_row(root: str, removal: Removal) -> Values:
    """The row of one step of a removal."""
    return _set_values(root, removal.key) | {
        "entry": removal.entry,
        "state": removal.state.value,
        "reason": removal.reason,
        "bytes": removal.bytes,
        "at": removal.at,
    }


def removal_of(row: Row[Any]) -> Removal:
    """The step of a removal that a row holds."""
    key = SetKey(row.run, row.name)
    return Removal(key, row.entry, RemovalState(row.state), row.reason, row.bytes, row.at)


def release_row(record: ReleaseRecord) -> Values:
    """The row of one step of a release."""
    metric = record.metric
    return _set_values(record.root, record.key) | {
        "deploy_key": digest(record.deploy_dir),
        "deploy_dir": record.deploy_dir,
        "state": record.state.value,
        "version": record.version,
        "export_key": record.export_key,
        "reason": record.reason,
        "metric_name": metric and metric.name,
        "metric_value": metric and metric.value,
        "metric_order": metric and metric.order.value,
        "at": record.at,
    }


def release_of(row: Row[Any]) -> ReleaseRecord:
    """The step of a release that a row holds."""
    return ReleaseRecord(
        deploy_dir=row.deploy_dir,
        root=row.root,
        key=SetKey(row.run, row.name),
        state=ReleaseState(row.state),
        export_key=row.export_key,
        at=row.at,
        version=row.version,
        reason=row.reason,
        metric=row.metric_order and Metric(row.metric_name, row.metric_value, Order(row.metric_order)),
    )


def _set_values(root: str, key: SetKey) -> Values:
    return {
        "root_key": digest(root),
        "run_key": digest(root, key.run),
        "set_key": digest(root, *key),
        "root": root,
        "run": key.run,
        "name": key.name,
    }


JOURNALS: tuple[tuple[Table, Callable[[Row[Any]], HistoryEntry | None]], ...] = (
    (judgement_history, judgement_of),
    (decisions, decision_of),
    (removals, removal_of),
    (releases, release_of),
)
"""The tables that hold a set's history, each with what reads its rows."""
