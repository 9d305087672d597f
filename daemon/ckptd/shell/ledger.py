"""What ckptd remembers between passes: scans, judgements, decisions, removals, releases.

Losing it costs time (every file is scanned anew), never a checkpoint. All methods raise `LedgerUnavailable`
when the database cannot be used now, and its subclass `LedgerDamaged` when it has to be opened again. Roots
and deploy directories are absolute paths; names and paths are stored printable and come back as they were.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from sqlalchemy import delete, func, insert, select

from ckptd.core.ledger_codec import UnknownFormat, decode_scan
from ckptd.core.model import SetKey
from ckptd.core.records import ReleaseState, RemovalState, is_lasting
from ckptd.core.scrubbing import compared
from ckptd.shell import ledger_schema as tables
from ckptd.shell.ledger_file import (
    DamageReport,
    LedgerDamaged,
    LedgerFile,
    LedgerUnavailable,
    open_existing,
    open_or_create,
)
from ckptd.shell.ledger_rows import (
    JOURNALS,
    batches,
    decision_row,
    judgement_identity,
    judgement_of,
    judgement_row,
    last_decisions,
    last_judgement_rows,
    reading_row,
    release_of,
    release_row,
    removal_of,
    removal_row,
    replace,
    scan_row,
    stat_text,
    stored_readings,
)
from ckptd.shell.ledger_schema import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import ColumnElement, Table

    from ckptd.core.model import CheckpointSet, FileScan, Fingerprint, Judgement, Plan
    from ckptd.core.records import HistoryEntry, RecordedJudgement, ReleaseRecord, Removal
    from ckptd.core.scrubbing import Reading

__all__ = [
    "DamageReport",
    "Ledger",
    "LedgerDamaged",
    "LedgerUnavailable",
    "open_existing_ledger",
    "open_ledger",
]

_FILE_NAME = "ledger.db"


def open_ledger(state_dir: Path, now: datetime) -> tuple[Ledger, DamageReport | None]:
    """Open the ledger, made anew if there is none; a damaged one is set aside, which the report tells.

    Only for the process that holds the state directory's lock.

    Raises:
        LedgerUnavailable: locked for more than 5 s, no permission, disk full, made by a newer ckptd.
    """
    file, damage = open_or_create(state_dir / _FILE_NAME, now)
    return Ledger(file), damage


def open_existing_ledger(state_dir: Path) -> Ledger | None:
    """Open the ledger if there is one; nothing is made, moved or migrated. For commands beside a daemon.

    Raises:
        LedgerDamaged: it is damaged, and left as it is.
        LedgerUnavailable: as for `open_ledger`.
    """
    file = open_existing(state_dir / _FILE_NAME)
    return None if file is None else Ledger(file)


class Ledger:
    """The open ledger. Each method is one short transaction, safe beside other threads and processes."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; a later call opens it again."""
        self._file.close()

    def scans(self, root: str, fingerprints: Iterable[Fingerprint]) -> dict[Fingerprint, FileScan]:
        """The scans of those files that were scanned as they are now."""
        wanted = {digest(root, fingerprint.path): fingerprint for fingerprint in fingerprints}
        table = tables.scans
        found = {}
        for keys in batches(wanted):
            statement = select(table.c.file_key, table.c.stat, table.c.scan).where(table.c.file_key.in_(keys))
            with self._file.reading() as connection:
                rows = connection.execute(statement).all()
            for row in rows:
                fingerprint = wanted[row.file_key]
                if row.stat == stat_text(fingerprint):
                    with suppress(UnknownFormat):  # as good as never scanned
                        found[fingerprint] = decode_scan(row.scan)
        return found

    def record_scans(
        self, root: str, found: Mapping[Fingerprint, FileScan], at: datetime
    ) -> dict[Fingerprint, FileScan]:
        """Remember scans in place of earlier ones of the same paths.

        One that is not lasting is not remembered, but the earlier one goes: nobody vouches for the file now.
        The digest of a file's first complete scan stays as long as the file does.

        Returns:
            The scans as they hold from now on: with a finding where the content is not what it was at first.
        """
        if not found:
            return {}
        taken = dict(found)
        known: dict[Fingerprint, Reading] = {}
        with self._file.writing() as connection:
            before = stored_readings(connection, root, found)
            for key, scan in found.items():
                if is_lasting(scan):
                    taken[key], reading = compared(key, before.get(key), scan, at)
                    known |= {} if reading is None else {key: reading}
            for keys in batches(
                digest(root, key.path) for key, scan in found.items() if not is_lasting(scan)
            ):
                connection.execute(delete(tables.scans).where(tables.scans.c.file_key.in_(keys)))
            rows = [scan_row(root, *item, at) for item in taken.items() if is_lasting(item[1])]
            replace(connection, tables.scans, "file_key", rows)
            readings = [reading_row(root, *item) for item in known.items()]
            replace(connection, tables.readings, "file_key", readings)
        return taken

    def readings(self, root: str, fingerprints: Iterable[Fingerprint]) -> dict[Fingerprint, Reading]:
        """What is known of the content of those files that are as they were when they were read."""
        with self._file.reading() as connection:
            return stored_readings(connection, root, fingerprints)

    def forget_scans(self, root: str, except_paths: Iterable[str]) -> int:
        """Forget the scans of files under the root that are not among these paths; how many.

        That a file has rotted is not forgotten: it may come back from the trash.
        """
        kept = {digest(root, path) for path in except_paths}
        self._forget(tables.readings, "file_key", root, kept, tables.readings.c.is_rotted.is_(False))
        return self._forget(tables.scans, "file_key", root, kept)

    def last_judgements(self, root: str, run: str) -> dict[SetKey, RecordedJudgement]:
        """The latest judgement of every set of the run."""
        statement = select(tables.judgements).where(tables.judgements.c.run_key == digest(root, run))
        with self._file.reading() as connection:
            rows = connection.execute(statement).all()
        return {record.key: record for row in rows if (record := judgement_of(row)) is not None}

    def record_judgements(
        self, root: str, judged: Iterable[tuple[CheckpointSet, Judgement]], at: datetime
    ) -> frozenset[SetKey]:
        """Remember judgements; each that differs from its set's last one becomes part of the history, too.

        Returns:
            The sets whose verdict or fingerprints changed, or that are new.
        """
        rows = {row["set_key"]: row for row in (judgement_row(root, *item, at) for item in judged)}
        changed: set[SetKey] = set()
        for keys in batches(rows):
            with self._file.writing() as connection:
                last = last_judgement_rows(connection, keys)
                different = [rows[key] for key in keys if last.get(key) != judgement_identity(rows[key])]
                if different:
                    replace(connection, tables.judgements, "set_key", different)
                    connection.execute(insert(tables.judgement_history), different)
            changed |= {
                SetKey(row["run"], row["name"])
                for row in different
                if last.get(row["set_key"], ())[:2] != judgement_identity(row)[:2]
            }
        return frozenset(changed)

    def forget_judgements(self, root: str, except_sets: Iterable[SetKey]) -> int:
        """Forget the last judgements of sets under the root that are not among these; the history stays."""
        return self._forget(tables.judgements, "set_key", root, {digest(root, *key) for key in except_sets})

    def metric_history(self, root: str, run: str) -> list[RecordedJudgement]:
        """Every judgement of the run's sets that carries a metric, oldest first."""
        table = tables.judgement_history
        of_run = (table.c.run_key == digest(root, run), table.c.metric_name.is_not(None))
        with self._file.reading() as connection:
            rows = connection.execute(select(table).where(*of_run).order_by(table.c.id)).all()
        return [record for row in rows if (record := judgement_of(row)) is not None]

    def record_plan(self, root: str, plan: Plan, at: datetime) -> int:
        """Remember the decisions that differ from their set's last one in action or reasons; how many did."""
        rows = [decision_row(root, decision, at) for decision in plan.decisions]
        with self._file.writing() as connection:
            last: dict[str, tuple[str, str]] = {}
            for run_key in {row["run_key"] for row in rows}:
                last |= last_decisions(connection, run_key)
            different = [row for row in rows if last.get(row["set_key"]) != (row["action"], row["reasons"])]
            if different:
                connection.execute(insert(tables.decisions), different)
        return len(different)

    def record_removal(self, root: str, removal: Removal) -> None:
        """Append one step of a removal to the journal."""
        with self._file.writing() as connection:
            connection.execute(insert(tables.removals), [removal_row(root, removal)])

    def open_removals(self, root: str) -> list[Removal]:
        """Removals under the root that were begun and whose end is unknown, oldest first."""
        table = tables.removals
        newest = select(func.max(table.c.id)).where(table.c.root_key == digest(root)).group_by(table.c.entry)
        statement = (
            select(table)
            .where(table.c.id.in_(newest), table.c.state == RemovalState.BEGUN.value)
            .order_by(table.c.id)
        )
        with self._file.reading() as connection:
            return [removal_of(row) for row in connection.execute(statement)]

    def record_release(self, record: ReleaseRecord) -> None:
        """Append one step of a release to the journal."""
        with self._file.writing() as connection:
            connection.execute(insert(tables.releases), [release_row(record)])

    def releases(self, deploy_dir: str) -> list[ReleaseRecord]:
        """The journal of the deploy directory, oldest first."""
        table = tables.releases
        statement = select(table).where(table.c.deploy_key == digest(deploy_dir)).order_by(table.c.id)
        with self._file.reading() as connection:
            return [release_of(row) for row in connection.execute(statement)]

    def history(self, root: str, key: SetKey) -> list[HistoryEntry]:
        """Everything about one set in time order; at equal times judged, decided, removed, released."""
        entries: list[HistoryEntry] = []
        with self._file.reading() as connection:
            for table, value_of in JOURNALS:
                statement = select(table).where(table.c.set_key == digest(root, *key)).order_by(table.c.id)
                values = (value_of(row) for row in connection.execute(statement))
                entries += [entry for entry in values if entry is not None]
        return sorted(entries, key=lambda entry: entry.at)

    def forget_before(self, oldest: datetime) -> int:
        """Forget history older than this; how many rows.

        What was published or rolled back and what is still open stays, as do the last judgements.
        """
        removals, releases = tables.removals, tables.releases
        ended = select(removals.c.entry).where(removals.c.state != RemovalState.BEGUN.value)
        fleeting = [ReleaseState.STARTED.value, ReleaseState.REFUSED.value]
        statements = (
            delete(tables.judgement_history).where(tables.judgement_history.c.at < oldest),
            delete(tables.decisions).where(tables.decisions.c.at < oldest),
            delete(removals).where(removals.c.at < oldest, removals.c.entry.in_(ended)),
            delete(releases).where(releases.c.at < oldest, releases.c.state.in_(fleeting)),
            delete(tables.readings).where(
                tables.readings.c.last_at < oldest, tables.readings.c.is_rotted.is_(True)
            ),
        )
        forgotten = 0
        for statement in statements:
            with self._file.writing() as connection:
                forgotten += connection.execute(statement).rowcount
        return forgotten

    def _forget(
        self, table: Table, key: str, root: str, kept: Collection[str], *conditions: ColumnElement[bool]
    ) -> int:
        statement = select(table.c[key]).where(table.c.root_key == digest(root), *conditions)
        with self._file.reading() as connection:
            stored = connection.scalars(statement).all()
        gone = [value for value in stored if value not in kept]
        for keys in batches(gone):
            with self._file.writing() as connection:
                connection.execute(delete(table).where(table.c[key].in_(keys)))
        return len(gone)
