from __future__ import annotations

import json
import logging
import os
import pty
import re
import threading
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptd.core.events import EVENTS
from ckptd.core.model import Finding, Metric, Order, Verdict
from ckptd.core.names import from_shown, shown
from ckptd.shell.logs import Log, configure


class Output:
    """A real file that a log writes to."""

    def __init__(self, path):
        self.stream = path.open("w+", encoding="ascii")  # the log writes UTF-8 all the same

    @property
    def text(self):
        """All that was written so far."""
        return os.pread(self.stream.fileno(), 1 << 20, 0).decode("utf-8")

    @property
    def lines(self):
        """All lines so far, each read as the one JSON object that it is."""
        return [json.loads(line) for line in self.text.splitlines()]

    def clear(self):
        """Forget what was written."""
        os.ftruncate(self.stream.fileno(), 0)
        os.lseek(self.stream.fileno(), 0, os.SEEK_SET)


@pytest.fixture
def output(tmp_path):
    """A file to log to."""
    result = Output(tmp_path / "log")
    with result.stream:
        yield result


@pytest.fixture
def log(output):
    """A log of JSON lines."""
    return Log(output.stream, format="json", level="debug", journal=None)


def test_event_is_one_json_object_with_stable_order(log, output):
    """A line is schema, time, level, event, then the event's keys in order."""
    log.emit("watch.started", root="/data", observer="inotify")
    [line] = output.lines
    assert list(line) == ["schema", "ts", "level", "event", "observer", "root"]
    assert line == {
        "schema": 1,
        "ts": line["ts"],
        "level": "info",
        "event": "watch.started",
        "observer": "inotify",
        "root": "/data",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["ts"])
    assert datetime.fromisoformat(line["ts"]).tzinfo is not None


def test_judgement_is_told_with_its_structure(log, output):
    """Metric and findings are objects, other enumerations their text, and seconds are rounded."""
    log.emit(
        "set.suspected",
        root="/data",
        run=".",
        set="epoch_1",
        verdict=Verdict.SUSPECT,
        bytes=12,
        step=None,
        metric=Metric("acc", 0.5, Order.MAX),
        findings=(Finding("nonfinite_values", "a\n.pdparams", "3 of\t8"),),
        seconds=0.123456,
    )
    [line] = output.lines
    assert line["verdict"] == "suspect"
    assert line["metric"] == {"name": "acc", "value": 0.5, "order": "max"}
    assert line["findings"] == [
        {"code": "nonfinite_values", "path": "a\\x0a.pdparams", "detail": "3 of\\x098"}
    ]
    assert line["seconds"] == 0.123
    assert "step" not in line


anything = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(anything, anything)
def test_any_name_and_text_gives_one_line_of_valid_json(log, output, name, text):
    """No name and no text can break a line, forge one, or stop the log; names can be read back."""
    output.clear()
    log.emit("run.failed", root="/data", run=name, reason=text)
    written = output.text
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    line = json.loads(written)
    assert line["run"] == shown(name)
    assert from_shown(line["run"]) == from_shown(shown(name))


def test_console_cannot_be_forged(output):
    """On a terminal, too, a hostile name stays within its line and changes no colour."""
    console = Log(output.stream, format="console", level="debug", journal=None)
    console.emit("run.failed", root="/data", run="a\n2026 [info] \x1b[31mset.validated", reason="x\ry\u2028z")
    assert len(output.text.splitlines()) == 1
    assert output.text.rstrip("\n").isprintable()


def test_console_tells_findings_and_metric_as_text(output):
    """On a terminal structured values read as text."""
    console = Log(output.stream, format="console", level="debug", journal=None)
    finding = Finding("truncated", "a.pdparams", "ends at 5")
    console.emit(
        "set.corrupt",
        root="/data",
        run=".",
        set="a",
        verdict=Verdict.CORRUPT,
        bytes=1,
        metric=Metric("acc", 0.5, Order.MAX),
        findings=(finding, finding),
    )
    assert "truncated (a.pdparams: ends at 5), truncated (a.pdparams: ends at 5)" in output.text
    assert "acc 0.5" in output.text


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**63, 10**5000], ids=["nan", "inf", "2^63", "10^5000"]
)
def test_number_that_json_cannot_hold_becomes_text(log, output, value):
    """Numbers from hostile files give valid JSON that every reader takes for the same value."""
    log.emit("best.changed", root="/", run=".", set="a", metric=Metric("acc", value, Order.MAX))
    [line] = output.lines
    assert isinstance(line["metric"]["value"], str)


def test_line_is_never_too_long_for_the_journal(log, output):
    """The longest names and thousands of findings stay below the 48 KiB at which the journal cuts."""
    path = "\udcff" * 4096
    findings = tuple(Finding("malformed", path, "x" * 10_000) for _ in range(1000))
    log.emit(
        "set.corrupt",
        root="/",
        run=path[:2000],
        set=path[:2096],
        verdict="corrupt",
        bytes=1,
        findings=findings,
    )
    assert len(output.text) < 48 * 1024
    assert len(output.lines[0]["findings"]) == 10


@pytest.mark.parametrize(
    ("event", "fields", "complaint"),
    [
        ("set.exploded", {}, "no event is called 'set.exploded'"),
        ("watch.started", {"root": "/"}, "watch.started lacks observer"),
        ("watch.started", {"root": "/", "observer": None}, "watch.started lacks observer"),
        ("watch.recovered", {"root": "/", "colour": 1}, "watch.recovered has no key colour"),
    ],
)
def test_call_that_does_not_fit_the_table_raises(log, output, event, fields, complaint):
    """A wrong log call is a mistake in the program, and nothing is written."""
    with pytest.raises(ValueError, match=complaint):
        log.emit(event, **fields)
    assert not output.text


def test_level_drops_what_matters_less(output):
    """Below the configured level nothing is written."""
    log = Log(output.stream, format="json", level="warning", journal=None)
    log.emit("watch.recovered", root="/")
    log.emit("watch.degraded", root="/", reason="no space for watches")
    assert [line["event"] for line in output.lines] == ["watch.degraded"]


# The journal and terminals


@pytest.mark.parametrize(
    ("event", "prefix"),
    [
        ("watch.recovered", "<6>{"),
        ("ledger.rebuilt", "<4>{"),
        ("watch.degraded", "<3>{"),
        ("set.unsafe", "<2>{"),
    ],
)
def test_line_to_the_journal_starts_with_its_priority(output, event, prefix):
    """When the stream is the one that systemd connected, each line says its syslog priority."""
    status = os.fstat(output.stream.fileno())
    log = Log(output.stream, format="auto", level="debug", journal=f"{status.st_dev}:{status.st_ino}")
    fields = {field.name: "x" for field in EVENTS[event].fields if not field.is_optional}
    log.emit(event, **fields)
    assert output.text.startswith(prefix)


@pytest.mark.parametrize("journal", [None, "", "1:2", "nonsense"])
def test_line_to_anything_else_has_no_prefix(output, journal):
    """JOURNAL_STREAM is inherited by children whose output is redirected; it must match the stream."""
    Log(output.stream, format="auto", level="debug", journal=journal).emit("watch.recovered", root="/")
    assert output.text.startswith("{")


def test_auto_is_console_with_colour_on_a_terminal():
    """On a terminal, "auto" writes for people, in colour."""
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as stream:
        Log(stream, format="auto", level="info", journal=None).emit("watch.recovered", root="/data")
        shown_line = screen.read(1000).decode()
    assert "watch.recovered" in shown_line
    assert "\x1b[" in shown_line
    assert not shown_line.startswith("{")


# Nothing stops the service


def test_reader_that_went_away_is_no_error():
    """A closed pipe loses lines, and neither raises now nor at the exit."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        log = Log(stream, format="json", level="info", journal=None)
        for _ in range(3):
            log.emit("watch.recovered", root="/")


def test_full_disk_is_no_error():
    """A log on a full disk loses lines and does not raise."""
    with open("/dev/full", "w", encoding="utf-8") as stream:
        Log(stream, format="json", level="info", journal=None).emit("watch.recovered", root="/")


def test_stream_closed_under_the_log_is_no_error(output):
    """A descriptor that somebody closed loses lines and does not raise."""
    log = Log(output.stream, format="json", level="info", journal=None)
    output.stream.close()
    log.emit("watch.recovered", root="/")


def test_threads_do_not_mix_their_lines():
    """Lines longer than a pipe takes at once stay whole while several threads write."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "w") as stream:
        log = Log(stream, format="json", level="info", journal=None)
        threads = [
            threading.Thread(
                target=lambda name: [log.emit("watch.recovered", root=name * 9000) for _ in range(20)],
                args=[name],
            )
            for name in "abc"
        ]
        for thread in threads:
            thread.start()
        lines = [json.loads(source.readline()) for _ in range(60)]
        for thread in threads:
            thread.join()
    assert sorted(line["root"] for line in lines) == sorted(name * 9000 for name in "abc" * 20)


# Libraries


@pytest.fixture
def quiet_root_logger():
    """Take away what a test adds to Python's own logging."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield root
    root.handlers[:] = before


def configured(output):
    """A log that libraries are led into."""
    return configure(output.stream, format="json", level="info", journal=None)


def test_library_warning_becomes_an_event(output, quiet_root_logger):
    """What a library complains about is one line of the same log; what it chats about is not."""
    configured(output)
    configured(output)  # again after a reload: still one line
    logger = logging.getLogger("apscheduler.executors")
    logger.info("job done")
    logger.warning("missed by %s\nseconds", 5)
    assert [(line["event"], line["logger"], line["message"]) for line in output.lines] == [
        ("library.warned", "apscheduler.executors", "missed by 5\\x0aseconds")
    ]


def test_library_exception_is_named(output, quiet_root_logger):
    """The exception that a library logs is part of the message."""
    configured(output)
    try:
        os.close(-1)
    except OSError:
        logging.getLogger("watchdog").exception("thread died")
    assert output.lines[0]["message"] == "thread died: OSError(9, 'Bad file descriptor')"


def test_library_that_logs_wrongly_is_logged_all_the_same(output, quiet_root_logger):
    """A format that does not fit its arguments gives the bare format, not an error."""
    configured(output)
    logger = logging.getLogger("careless")
    logger.addHandler(quiet_root_logger.handlers[-1])
    logger.propagate = False  # pytest's own handlers would raise
    arguments = ("one",)
    logger.warning("%d of %s", *arguments)
    assert output.lines[0]["message"] == "%d of %s"
