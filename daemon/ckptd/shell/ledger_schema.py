"""The ledger's tables and how they came to be.

Everything here is portable between SQLite and PostgreSQL: file names are stored printable (neither takes lone
surrogates), times as text that sorts, and rows are found by fixed-width digests of what names them, since an
index entry for a path of 4096 characters is more than PostgreSQL accepts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
    insert,
    select,
)

from ckptd.core.names import from_shown, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Dialect


class Name(TypeDecorator[str]):
    """Text that may hold anything a file name may: `core.names.shown` in the table, itself in Python."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002, D102 - SQLAlchemy's signature
        return None if value is None else shown(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002, D102 - SQLAlchemy's signature
        return None if value is None else from_shown(value)


class Time(TypeDecorator[datetime]):
    """An aware time, stored as UTC in ISO 8601 with microseconds."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002, D102 - SQLAlchemy's signature
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002, D102 - SQLAlchemy's signature
        return None if value is None else datetime.fromisoformat(value)


class Size(TypeDecorator[int]):
    """A number of bytes, capped at what a database integer holds: sparse files can add up to more."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002, D102 - SQLAlchemy's signature
        return None if value is None else min(value, 2**63 - 1)


def digest(*parts: str) -> str:
    """Name a row by what identifies it, in 32 characters."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _key(name: str) -> Column[str]:
    return Column(name, String(32), nullable=False)


def _set_columns() -> tuple[Column[str], ...]:
    keys = (_key(name) for name in ("root_key", "run_key", "set_key"))
    return (*keys, *(Column(name, Name, nullable=False) for name in ("root", "run", "name")))


def _judgement_columns() -> tuple[Column[Any], ...]:
    return (
        *_set_columns(),
        _key("fingerprints"),
        Column("verdict", String(16), nullable=False),
        Column("judgement", LargeBinary, nullable=False),
        Column("bytes", Size, nullable=False),
        Column("metric_name", Name),
        Column("metric_value", Float(53)),
        _time(),
    )


def _row_number() -> Column[int]:
    # SQLite numbers rows by itself only in a column of exactly this type.
    return Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _time() -> Column[datetime]:
    return Column("at", Time, nullable=False)


metadata = MetaData()

schema_version = Table(
    "schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False)
)

scans = Table(
    "scans",
    metadata,
    Column("file_key", String(32), primary_key=True),
    _key("root_key"),
    Column("root", Name, nullable=False),
    Column("path", Name, nullable=False),
    Column("stat", String(80), nullable=False),  # text: inodes and times may not fit a signed 64-bit integer
    Column("scan", LargeBinary, nullable=False),
    _time(),
    Index("scans_by_root", "root_key"),
)

readings = Table(
    "readings",
    metadata,
    Column("file_key", String(32), primary_key=True),
    _key("root_key"),
    Column("root", Name, nullable=False),
    Column("path", Name, nullable=False),
    Column("stat", String(80), nullable=False),  # as in `scans`
    _key("digest"),
    Column("scanner", Integer, nullable=False),
    Column("first_at", Time, nullable=False),
    Column("last_at", Time, nullable=False),
    Column("is_rotted", Boolean, nullable=False),
    Index("readings_by_root", "root_key"),
)

judgements = Table(
    "judgements",
    metadata,
    *_judgement_columns(),
    Index("judgements_by_set", "set_key", unique=True),
    Index("judgements_by_run", "run_key"),
    Index("judgements_by_root", "root_key"),
)

judgement_history = Table(
    "judgement_history",
    metadata,
    _row_number(),
    *_judgement_columns(),
    Index("judgement_history_by_set", "set_key", "id"),
    Index("judgement_history_by_run", "run_key", "id"),
)

decisions = Table(
    "decisions",
    metadata,
    _row_number(),
    *_set_columns(),
    Column("verdict", String(16), nullable=False),
    Column("action", String(16), nullable=False),
    Column("reasons", Text, nullable=False),  # a JSON list, ASCII
    Column("bytes", Size, nullable=False),
    _time(),
    Index("decisions_by_run", "run_key", "set_key", "id"),
    Index("decisions_by_set", "set_key", "id"),
)

removals = Table(
    "removals",
    metadata,
    _row_number(),
    *_set_columns(),
    Column("entry", Name, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Name, nullable=False),
    Column("bytes", Size, nullable=False),
    _time(),
    Index("removals_by_root", "root_key", "id"),
    Index("removals_by_set", "set_key", "id"),
)

releases = Table(
    "releases",
    metadata,
    _row_number(),
    *_set_columns(),
    _key("deploy_key"),
    Column("deploy_dir", Name, nullable=False),
    Column("state", String(16), nullable=False),
    Column("version", Name),
    Column("export_key", Name, nullable=False),
    Column("reason", Name, nullable=False),
    Column("metric_name", Name),
    Column("metric_value", Float(53)),
    Column("metric_order", String(8)),
    _time(),
    Index("releases_by_deploy_dir", "deploy_key", "id"),
    Index("releases_by_set", "set_key", "id"),
)


def _create_tables(connection: Connection) -> None:
    metadata.create_all(connection)


def _add_readings(connection: Connection) -> None:
    readings.create(connection, checkfirst=True)  # a new ledger has it already


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_create_tables, _add_readings)
"""What leads from each schema version to the next, oldest first; the n-th one makes version n."""


def stored_version(connection: Connection) -> int:
    """The schema version of the database; 0 when it has none yet."""
    return connection.scalar(select(func.max(schema_version.c.version))) or 0


def migrate(connection: Connection, since: int) -> None:
    """Lead the database from schema version `since` to the newest, within the caller's transaction."""
    for version, step in enumerate(MIGRATIONS, start=1):
        if version > since:
            step(connection)
            connection.execute(insert(schema_version).values(version=version))
