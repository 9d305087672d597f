from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime

import pytest

from ckptd.core.model import FileScan, Fingerprint
from ckptd.shell import ledger_file, ledger_schema
from ckptd.shell.ledger import LedgerDamaged, LedgerUnavailable, open_existing_ledger, open_ledger
from waiting import wait_until

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
ROOT = "/data/out"
SCAN = FileScan("pickle", 100, "ab" * 16, (), (), ((("epoch",), 3),))


def fingerprint(path="run/a.pdparams", size=100):
    """A fingerprint of a file that differs from others where asked."""
    return Fingerprint(path, size, 1, 7)


def filled(state_dir):
    """A ledger of several pages, closed again."""
    with open_ledger(state_dir, NOW)[0] as ledger:
        many = {fingerprint(f"run/{number}.pdparams"): SCAN for number in range(300)}
        ledger.record_scans(ROOT, many, NOW)
    return state_dir / "ledger.db"


def execute(path, statement):
    """Run one statement behind the back of the ledger."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def overwrite_middle(path):
    """Put bytes that are no page in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 8192)


def make_directory(path):
    """Put a directory in the place of the ledger."""
    path.unlink()
    (path / "below").mkdir(parents=True)


def make_fifo(path):
    """Put a FIFO in the place of the ledger."""
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "zero bytes": lambda path: os.truncate(path, 0),
    "one byte": lambda path: os.truncate(path, 1),
    "truncated within a page": lambda path: os.truncate(path, path.stat().st_size * 3 // 5),
    "truncated at a page": lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096),
    "all zero": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(os.urandom(50_000)),
    "garbage in the middle": overwrite_middle,
    "html": lambda path: path.write_text("<!DOCTYPE html><html>502 Bad Gateway</html>" * 100),
    "directory": make_directory,
    "fifo": make_fifo,
    "missing table": lambda path: execute(path, "DROP TABLE judgements"),
    "missing version table": lambda path: execute(path, "DROP TABLE schema_version"),
    "missing version": lambda path: execute(path, "DELETE FROM schema_version"),
    "foreign database": lambda path: (path.unlink(), execute(path, "CREATE TABLE theirs (x)")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_ledger_is_set_aside_and_made_anew(tmp_path, damage):
    """Whatever is in the ledger's place is kept under a new name, and the new ledger works."""
    path = filled(tmp_path)
    damage(path)
    inode = path.stat().st_ino
    ledger, report = open_ledger(tmp_path, NOW)
    with ledger:
        assert report.set_aside == tmp_path / "ledger.db.damaged-20261124T105500Z"
        assert report.set_aside.stat().st_ino == inode
        assert report.reason
        assert ledger.scans(ROOT, [fingerprint("run/1.pdparams")]) == {}
        ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
    ledger, report = open_ledger(tmp_path, NOW)
    with ledger:
        assert report is None
        assert ledger.scans(ROOT, [fingerprint()]) == {fingerprint(): SCAN}


@pytest.mark.parametrize("damage", ["zero bytes", "garbage", "directory", "missing version"])
def test_damaged_ledger_is_left_alone_by_commands(tmp_path, damage):
    """A command beside the daemon says that the ledger is damaged and how to go on, and moves nothing."""
    path = filled(tmp_path)
    DAMAGES[damage](path)
    with pytest.raises(LedgerDamaged, match=r"ledger\.db is damaged .*restart the service"):
        open_existing_ledger(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ledger.db", "ledger.db.lock"]


def test_damaged_twice_in_one_second_keeps_both(tmp_path):
    """A second damaged ledger never overwrites the first one."""
    for _ in range(2):
        filled(tmp_path).write_bytes(b"garbage" * 1000)
        open_ledger(tmp_path, NOW)[0].close()
    stem = "ledger.db.damaged-20261124T105500Z"
    assert sorted(path.name for path in tmp_path.glob("*.damaged*")) == [stem, f"{stem}-2"]


def test_damage_found_in_use_asks_to_open_again(tmp_path):
    """A file that goes bad under an open ledger is an error that `open_ledger` then cures."""
    path = filled(tmp_path)
    with open_ledger(tmp_path, NOW)[0] as ledger:
        overwrite_middle(path)
        with pytest.raises(LedgerDamaged):
            ledger.record_scans(
                ROOT, {fingerprint(f"run/{n}.pdparams", size=9): SCAN for n in range(300)}, NOW
            )
    ledger, report = open_ledger(tmp_path, NOW)
    ledger.close()
    assert report is not None


def test_ledger_removed_in_use_asks_to_open_again(tmp_path):
    """A ledger that somebody deletes under the daemon is noticed at the next use, not at the next start."""
    with open_ledger(tmp_path, NOW)[0] as ledger:
        for path in tmp_path.glob("ledger.db*"):
            path.unlink()
        with pytest.raises(LedgerDamaged, match="it is gone"):
            ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)


def test_ledger_replaced_in_use_is_followed(tmp_path):
    """Two processes meet in the same file again after one of them set a damaged one aside."""
    path = filled(tmp_path)
    with open_existing_ledger(tmp_path) as reader:
        assert reader.scans(ROOT, [fingerprint("run/1.pdparams")])
        path.write_bytes(b"garbage" * 1000)
        with open_ledger(tmp_path, NOW)[0] as ledger:
            ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
            assert reader.scans(ROOT, [fingerprint()]) == {fingerprint(): SCAN}


def test_stale_log_beside_a_missing_ledger_is_not_replayed(tmp_path):
    """Deleting ledger.db alone starts an empty ledger, although an old -wal file is still there."""
    with open_ledger(tmp_path, NOW)[0] as ledger:
        ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
        assert (tmp_path / "ledger.db-wal").stat().st_size > 0
        (tmp_path / "ledger.db").unlink()
        with open_ledger(tmp_path, NOW)[0] as new:
            assert new.scans(ROOT, [fingerprint()]) == {}


def test_missing_ledger_is_not_made_by_reading(tmp_path):
    """A command that only reads leaves no file behind, also where the state directory is missing."""
    assert open_existing_ledger(tmp_path) is None
    assert open_existing_ledger(tmp_path / "missing") is None
    assert list(tmp_path.iterdir()) == []


def test_missing_state_directory_is_an_error_with_a_way_out(tmp_path):
    """The ledger never invents its directory."""
    with pytest.raises(
        LedgerUnavailable, match=r"cannot use .*missing/ledger\.db: No such file or directory"
    ):
        open_ledger(tmp_path / "missing", NOW)


def test_newer_ledger_is_refused_and_kept(tmp_path):
    """A ledger of a newer ckptd is no damage: it stays, the error has exit code 3."""
    path = filled(tmp_path)
    execute(path, "INSERT INTO schema_version VALUES (7)")
    for opening in (lambda: open_ledger(tmp_path, NOW), lambda: open_existing_ledger(tmp_path)):
        with pytest.raises(
            LedgerUnavailable, match=r"made by a newer ckptd \(schema 7, this one knows 2\)"
        ) as caught:
            opening()
        assert caught.value.exit_code == 3
        assert not isinstance(caught.value, LedgerDamaged)
    assert [entry.name for entry in tmp_path.glob("*.damaged*")] == []


def test_older_ledger_is_brought_up_to_date_in_order(tmp_path, monkeypatch):
    """Each missing migration runs once, in order, and what was stored stays; a command changes nothing."""
    filled(tmp_path)
    steps = tuple(
        lambda connection, name=name: connection.exec_driver_sql(f"CREATE TABLE {name} (x INTEGER)")
        for name in ("third", "fourth")
    )
    for module in (ledger_schema, ledger_file):
        monkeypatch.setattr(module, "MIGRATIONS", (*ledger_schema.MIGRATIONS[:2], *steps))
    with pytest.raises(LedgerUnavailable, match="made by an older ckptd"):
        open_existing_ledger(tmp_path)
    for _ in range(2):
        ledger, report = open_ledger(tmp_path, NOW)
        with ledger:
            assert report is None
            assert ledger.scans(ROOT, [fingerprint("run/1.pdparams")])
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        assert database.execute("SELECT version FROM schema_version").fetchall() == [(1,), (2,), (3,), (4,)]


def test_ledger_without_readings_gets_them_and_keeps_its_scans(tmp_path):
    """A ledger from before files were read again is extended; what it knows stays."""
    path = filled(tmp_path)
    execute(path, "DROP TABLE readings")
    execute(path, "DELETE FROM schema_version WHERE version = 2")
    ledger, report = open_ledger(tmp_path, NOW)
    with ledger:
        known = fingerprint("run/1.pdparams")
        assert report is None
        assert ledger.scans(ROOT, [known])
        assert ledger.readings(ROOT, [known]) == {}
        ledger.record_scans(ROOT, {known: SCAN}, NOW)
        assert ledger.readings(ROOT, [known])[known].digest == SCAN.digest


def test_failed_migration_leaves_the_ledger_as_it_was(tmp_path, monkeypatch):
    """A migration that fails half-way is undone as a whole."""
    path = filled(tmp_path)

    def fail(connection):
        connection.exec_driver_sql("CREATE TABLE half (x INTEGER)")
        raise RuntimeError("stop")

    for module in (ledger_schema, ledger_file):
        monkeypatch.setattr(module, "MIGRATIONS", (*ledger_schema.MIGRATIONS[:2], fail))
    with pytest.raises(RuntimeError, match="stop"):
        open_ledger(tmp_path, NOW)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT max(version) FROM schema_version").fetchone() == (2,)
        assert not database.execute("SELECT * FROM sqlite_master WHERE name = 'half'").fetchall()


# Other processes, full disk


def test_locked_ledger_is_unavailable_not_damaged(tmp_path, monkeypatch):
    """A ledger that another process holds is an error with a way out, and is not set aside."""
    path = filled(tmp_path)
    monkeypatch.setattr(ledger_file, "_BUSY_SECONDS", 0.05)  # the wait itself is SQLite's
    with (
        open_ledger(tmp_path, NOW)[0] as ledger,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerUnavailable, match=r"locked by another process .*fuser") as caught:
            ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)
        assert not isinstance(caught.value, LedgerDamaged)
        with pytest.raises(LedgerUnavailable, match="locked by another process"):
            open_ledger(tmp_path, NOW)
        other.execute("ROLLBACK")
        ledger.record_scans(ROOT, {fingerprint(): SCAN}, NOW)


def test_full_disk_is_unavailable_and_passes(tmp_path, monkeypatch):
    """When SQLite finds no space the transaction is undone, and the ledger works on once there is some."""
    filled(tmp_path)
    with open_ledger(tmp_path, NOW)[0] as ledger:
        with ledger._file.reading() as connection:  # what this pooled connection may use from now on
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        many = {fingerprint(f"more/{number}.pdparams"): SCAN for number in range(3000)}
        with pytest.raises(LedgerUnavailable, match=r"no space left for .*ledger\.db"):
            ledger.record_scans(ROOT, many, NOW)
        assert ledger.scans(ROOT, many) == {}
        ledger.close()
        ledger.record_scans(ROOT, many, NOW)
        assert len(ledger.scans(ROOT, many)) == 3000


def test_unreadable_state_directory_is_unavailable(tmp_path):
    """A user who may not read the ledger is told so, with exit code 3."""
    filled(tmp_path)
    tmp_path.chmod(0o700)
    script = (
        "import os, sys; from pathlib import Path; from datetime import datetime, UTC\n"
        "from ckptd.shell.ledger import open_ledger, LedgerUnavailable\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: open_ledger(Path(sys.argv[1]), datetime.now(UTC))\n"
        "except LedgerUnavailable as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert "Permission denied" in done.stdout


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from ckptd.core.model import *
from ckptd.shell.ledger import open_ledger

state_dir, run, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ledger, damage = open_ledger(state_dir, datetime.now(UTC))
assert damage is None, damage
print("open", flush=True)
for number in range(count):
    entry = Entry(f"{run}/{number}", EntryKind.FILE, number, number, number)
    members = (Member(Role.PARAMS, entry),)
    checkpoint = CheckpointSet(run, str(number), "test", SetShape.STEM, members, frozenset())
    now = datetime.now(UTC)
    ledger.record_scans("/root", {entry.fingerprint: FileScan("pickle", number, None)}, now)
    ledger.record_judgements("/root", [(checkpoint, Judgement(Verdict.VALID, step=number))], now)
"""


def start_writer(state_dir, run, count):
    """Start a process that records scans and judgements of one run."""
    command = [sys.executable, "-c", WRITER, str(state_dir), run, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_create_and_write_at_once_lose_nothing(tmp_path):
    """Two processes start on no ledger at all and write at the same time: every row of both is there."""
    writers = [start_writer(tmp_path, run, 150) for run in ("a", "b")]
    for writer in writers:
        with writer:
            assert writer.wait(30) == 0
    with open_existing_ledger(tmp_path) as ledger:
        for run in ("a", "b"):
            assert len(ledger.last_judgements("/root", run)) == 150
            wanted = [Fingerprint(f"{run}/{number}", number, number, number) for number in range(150)]
            assert len(ledger.scans("/root", wanted)) == 150


def test_writer_killed_at_any_moment_leaves_a_whole_ledger(tmp_path):
    """After SIGKILL in the middle of writing, nothing is damaged and last judgement and history agree."""
    wal = tmp_path / "ledger.db-wal"
    for moment in range(4):
        writer = start_writer(tmp_path, f"run{moment}", 1_000_000)
        with writer:
            assert writer.stdout.readline() == "open\n"
            wait_until(lambda: wal.exists() and wal.stat().st_size, "a first commit")
            writer.send_signal(signal.SIGKILL)
        ledger, damage = open_ledger(tmp_path, NOW)
        with ledger:
            assert damage is None
            last = ledger.last_judgements("/root", f"run{moment}")
            for key, record in last.items():
                assert ledger.history("/root", key) == [record]
                number = int(key.name)
                assert ledger.scans("/root", [Fingerprint(f"run{moment}/{number}", number, number, number)])


def test_creation_killed_at_any_moment_is_finished_by_the_next(tmp_path):
    """A draft left by a crash during creation is neither taken for a ledger nor called damage."""
    (tmp_path / "ledger.db.new").write_bytes(b"half a page")
    (tmp_path / "ledger.db.new-wal").write_bytes(b"frames")
    ledger, damage = open_ledger(tmp_path, NOW)
    with ledger:
        assert damage is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.db", "ledger.db.lock"]
