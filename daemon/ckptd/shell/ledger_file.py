"""The ledger's SQLite file: all that is special to SQLite, and what happens when the file is damaged.

The file appears under its name only when it is complete, so one that lacks something was damaged later. It
runs in WAL mode, so that readers and the one writer do not wait for each other. `synchronous=NORMAL`: a power
cut may lose the last few commits, but never makes the file inconsistent. What the ledger says can be found
out again from the disk, and the trash and the releases carry their own records, so that no fsync is needed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError

from ckptd.core.names import shown
from ckptd.errors import CkptdError
from ckptd.shell.ledger_schema import MIGRATIONS, metadata, migrate, schema_version, stored_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

_BUSY_SECONDS = 5.0
_BEGIN = "BEGIN"
_BEGIN_WRITING = (
    "BEGIN IMMEDIATE"  # waits for the other writer at once; a read lock upgraded later could fail
)
_SIDE_FILES = ("", "-wal", "-shm")


class LedgerUnavailable(CkptdError):  # noqa: N818 - it says what is the matter
    """The ledger cannot be used now: locked, full disk, no permission, made by a newer ckptd."""


class LedgerDamaged(LedgerUnavailable):
    """The ledger is damaged or gone; `open_ledger` sets it aside and makes a new one."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{_shown(path)} is damaged ({reason}): restart the service, "
            "which sets it aside and starts a new one; no checkpoint is lost"
        )
        self.reason = reason


@dataclass(frozen=True, slots=True)
class DamageReport:
    """A damaged ledger was set aside and a new one made."""

    set_aside: Path
    reason: str


class LedgerFile:
    """Transactions on the ledger's file. May be used from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)
        self._engine = _engine(path)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A short transaction that only reads."""
        with _explained(self._path), self._same_file().begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A short transaction that writes: all of it is stored, or nothing when it raises."""
        with (
            _explained(self._path),
            self._same_file().execution_options(begin=_BEGIN_WRITING).begin() as connection,
        ):
            yield connection

    def _same_file(self) -> Engine:
        identity = _identity(self._path)
        if identity != self._identity:  # another process set it aside; what we hold open is nobody's any more
            self._engine.dispose()
            self._identity = identity
        return self._engine


def open_or_create(path: Path, now: datetime) -> tuple[LedgerFile, DamageReport | None]:
    """Open the ledger's file, made anew where there is none or a damaged one, which is set aside.

    Only for the process that holds the state directory's lock: others may have the file open.

    Raises:
        LedgerUnavailable: locked, no permission, disk full, or made by a newer ckptd.
    """
    with _explained(path), _one_at_a_time(path):
        damage = None
        if os.path.lexists(path):
            try:
                _check(path, thorough=True)
            except LedgerDamaged as error:
                damage = DamageReport(_set_aside(path, now), error.reason)
        if not os.path.lexists(path):
            _create(path)
        return LedgerFile(path), damage


def open_existing(path: Path) -> LedgerFile | None:
    """Open the ledger's file if there is one; nothing is made, moved or migrated.

    Raises:
        LedgerDamaged: it is no ledger.
        LedgerUnavailable: as for `open_or_create`.
    """
    if not os.path.lexists(path):
        return None
    with _explained(path):
        _check(path, thorough=False)
        return LedgerFile(path)


def _check(path: Path, *, thorough: bool) -> None:
    """Make sure that this is a ledger of the newest schema; `thorough` reads all of it and migrates."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise LedgerDamaged(path, "it is no regular file")
    if status.st_size == 0:
        raise LedgerDamaged(path, "it is empty")
    engine = _engine(path)
    try:
        with (
            _explained(path),
            engine.execution_options(begin=_BEGIN_WRITING if thorough else _BEGIN).begin() as connection,
        ):
            tables = set(inspect(connection).get_table_names())
            version = stored_version(connection) if schema_version.name in tables else 0
            if version > len(MIGRATIONS):
                raise LedgerUnavailable(
                    f"{_shown(path)} was made by a newer ckptd (schema {version}, this one knows "
                    f"{len(MIGRATIONS)}): install that version again, or move the file away"
                )
            if version == 0:
                raise LedgerDamaged(path, "it has no schema version")
            if thorough:
                problems = connection.exec_driver_sql("PRAGMA quick_check(1)").scalars().all()
                if problems != ["ok"]:
                    raise LedgerDamaged(path, problems[0].strip())
                migrate(connection, since=version)
                tables = set(inspect(connection).get_table_names())
            elif version < len(MIGRATIONS):
                raise LedgerUnavailable(
                    f"{_shown(path)} was made by an older ckptd (schema {version}, this one needs "
                    f"{len(MIGRATIONS)}): restart the service, which brings it up to date"
                )
        missing = sorted(set(metadata.tables) - tables)
        if missing:
            raise LedgerDamaged(path, f"it lacks {', '.join(missing)}")
    finally:
        engine.dispose()


def _create(path: Path) -> None:
    draft = path.with_name(path.name + ".new")
    for suffix in _SIDE_FILES:  # left by a crash; beside a new file, an old -wal would be replayed into it
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    engine = _engine(draft)
    try:
        with closing(sqlite3.connect(draft)) as empty:
            empty.execute("PRAGMA journal_mode=WAL").close()  # the file keeps it
        with engine.execution_options(begin=_BEGIN_WRITING).begin() as connection:
            migrate(connection, since=0)
    finally:
        engine.dispose()  # closing the last connection moves the -wal into the file
    draft.rename(path)


def _set_aside(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    target = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    for suffix in reversed(
        _SIDE_FILES
    ):  # the file itself last: until then a crash leaves it to be found again
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    return target


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise LedgerDamaged(path, "it is gone") from None
    return status.st_dev, status.st_ino


def _engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, DDL included
        connection.execute("PRAGMA synchronous=NORMAL").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", _BEGIN))

    return engine


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the database and the system say into a message with a way out."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise _explanation(path, cause) from error
    except OSError as error:
        raise LedgerUnavailable(
            f"cannot use {_shown(path)}: {error.strerror}: check the state directory"
        ) from error


def _explanation(path: Path, cause: BaseException | None) -> LedgerUnavailable:
    extended = getattr(cause, "sqlite_errorcode", 0)
    code = extended & 0xFF  # the upper bits refine it
    name = _shown(path)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return LedgerUnavailable(
            f"{name} is locked by another process for more than {_BUSY_SECONDS:g} s: "
            f"wait for it to end, or find it with `fuser {name}`"
        )
    if code == sqlite3.SQLITE_FULL:
        return LedgerUnavailable(f"no space left for {name}: free some on its file system")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}:
        return LedgerUnavailable(f"may not open {name} for writing ({cause}): run as the service's user")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR} or (
        extended == sqlite3.SQLITE_IOERR_SHORT_READ  # the file ends before its pages do
    ):
        return LedgerDamaged(path, str(cause))
    return LedgerUnavailable(f"cannot use {name}: {cause}: check the disk")


def _shown(path: Path) -> str:
    return shown(str(path))
