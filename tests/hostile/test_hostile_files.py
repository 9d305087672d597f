from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptd.core.findings import FINDINGS
from ckptd.core.model import Role, Verdict
from hostile.archives import ARCHIVES
from hostile.callables import CALLABLES
from hostile.framing import CONTAINERS, FRAMING
from hostile.opcode_forms import OPCODE_FORMS
from hostile.rows import DECOY, DECOY_SOURCE

HERE = Path(__file__).parent
TABLES = {"callables": CALLABLES, "opcode forms": OPCODE_FORMS, "framing": FRAMING, "archives": ARCHIVES}
ROWS = {f"{table}: {name}": row for table, rows in TABLES.items() for name, row in rows.items()}
DIGEST_ONLY = {Role.OPAQUE, Role.EXTRA, Role.MARKER}  # never proof of anything, and so never judged

SECONDS = 5
PEAK_BYTES = 256 << 20


def run(program, *arguments, place, given=""):
    """Run one of the programs beside this file, with a decoy module at hand, in an empty directory."""
    modules, cwd = place / "modules", place / "cwd"
    modules.mkdir(exist_ok=True)
    cwd.mkdir(exist_ok=True)
    (modules / f"{DECOY}.py").write_text(DECOY_SOURCE)
    done = subprocess.run(
        [sys.executable, "-B", str(HERE / program), *map(str, arguments)],
        input=given,
        capture_output=True,
        check=True,
        encoding="utf-8",
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(modules)])},
        timeout=60,
    )
    return json.loads(done.stdout), sorted(path.name for path in cwd.iterdir())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Every hostile file, and under which name it lies there."""
    directory = tmp_path_factory.mktemp("corpus")
    names = {name: f"{number:04}.pdparams" for number, name in enumerate(ROWS)}
    for name, file in names.items():
        (directory / file).write_bytes(ROWS[name].data)
    return directory, names


@pytest.fixture(scope="module")
def judged(corpus, tmp_path_factory):
    """What the scanner says of every file in every role, and what is in its working directory then."""
    directory, names = corpus
    asked = [(name, role) for name in names for role in Role]
    outcomes, left = run(
        "judging.py",
        "together",
        directory,
        place=tmp_path_factory.mktemp("judged"),
        given=json.dumps([(names[name], role) for name, role in asked]),
    )
    return dict(zip(asked, outcomes, strict=True)), left


def is_valid(outcome):
    """Whether a set with such a file could be valid."""
    return all(FINDINGS[code].verdict is None for code in outcome["codes"])


@pytest.mark.parametrize("name", ROWS)
def test_hostile_file_has_its_finding(judged, name):
    """Each published way around a scanner ends with the finding that names it."""
    outcome = judged[0][name, Role.PARAMS]

    assert ROWS[name].code == outcome["codes"][0], outcome["details"]


def test_hostile_file_is_unsafe_or_corrupt():
    """Whatever could run is unsafe or corrupt; what nothing takes for a checkpoint may be not understood."""
    spared = {
        name
        for name, row in ROWS.items()
        if FINDINGS[row.code].verdict not in {Verdict.UNSAFE, Verdict.CORRUPT}
    }

    assert spared <= {f"framing: container: {name}" for name in CONTAINERS} | {
        "archives: a tar in a tar",
        "archives: a tar, compressed",
    }
    assert not any(ROWS[name].works for name in spared)


def test_hostile_file_is_valid_in_no_role(judged):
    """The same bytes prove nothing as optimizer, index, program or anything else that is judged."""
    valid = [asked for asked, outcome in judged[0].items() if is_valid(outcome)]

    assert [] == [(name, role) for name, role in valid if role not in DIGEST_ONLY]


def test_scan_of_hostile_files_does_nothing_but_read(judged):
    """By the interpreter's own audit, nothing is imported, run or written; the canary stays away."""
    outcomes, left = judged

    assert {} == {asked: outcome["seen"] for asked, outcome in outcomes.items() if outcome["seen"]}
    assert [] == left


def test_hostile_files_take_little_time_and_memory(judged):
    """No file takes 5 seconds, and all of them together stay below 256 MiB."""
    outcomes = judged[0].values()

    assert max(outcome["cpu_seconds"] for outcome in outcomes) < SECONDS
    assert max(outcome["peak_bytes"] for outcome in outcomes) < PEAK_BYTES


def test_payloads_work_where_they_are_loaded(corpus, tmp_path):
    """The table is not a straw man: pickle itself runs each payload that is said to work."""
    directory, names = corpus
    working = tmp_path / "working"
    working.mkdir()
    for name, row in ROWS.items():
        if row.works:
            os.link(directory / names[name], working / names[name])

    worked, _ = run("loading.py", working, tmp_path, place=tmp_path)
    assert sorted(path.name for path in working.iterdir()) == worked
