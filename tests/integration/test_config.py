from __future__ import annotations

import io
import json
import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.cli import config_command
from ckptd.cli.main import main
from ckptd.config import ConfigError, as_toml, effective, find, load, notes, paths, schema
from ckptd.config.schema import TABLES
from ckptd.core.model import MetricRule, Order, Policy, ProgressKeys, Role
from ckptd.core.settings import (
    DaemonSettings,
    InputSpec,
    LogSettings,
    ReleaseSettings,
    Settings,
    WatchSettings,
)

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config.toml"
KEYS = sorted({key for table in TABLES.values() for key in table.model_fields})

WATCH = '[[watch]]\npath = "out"\n'
BEST = '[watch.best]\nmetric = "acc"\norder = "max"\n'
RELEASE = """\
[watch.release]
deploy_dir = "deploy"
entrypoint = "nets:build"
input_spec = [{ shape = [-1, 4], dtype = "float32" }]
"""


def written(directory: Path, text: str | bytes) -> str:
    """The path of a configuration with this content."""
    path = directory / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def problems(directory: Path, text: str | bytes) -> list[str]:
    """What is wrong with a configuration, with the directory's name written as `DIR`."""
    path = written(directory, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    return [
        problem.removeprefix(f"{path}: ").replace(str(directory), "DIR") for problem in caught.value.problems
    ]


# Laws.


def as_inline_toml(value: object) -> str:
    """Any value as TOML on one line."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(key)} = {as_inline_toml(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(as_inline_toml, value)) + "]"
    if isinstance(value, str | bool):
        return json.dumps(value)
    return str(value)


TEXTS = st.text(st.characters(max_codepoint=0xD7FF, exclude_characters="\x7f"), max_size=6)
LEAVES = (
    st.integers()
    | st.floats()
    | st.booleans()
    | TEXTS
    | st.sampled_from(["5s", "max", "plan", "params", "a.b", "a:b", "auto", "..", "out", "/", "float32"])
)
NAMES = st.sampled_from(KEYS) | TEXTS
JUNK = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
WATCHES = st.lists(
    st.dictionaries(st.sampled_from([*TABLES["watch",].model_fields]) | TEXTS, JUNK, max_size=5), max_size=3
)
DOCUMENTS = st.dictionaries(NAMES, JUNK, max_size=4) | st.builds(
    lambda watch, rest: rest | {"watch": watch}, WATCHES, st.dictionaries(NAMES, JUNK, max_size=2)
)


@settings(max_examples=250, deadline=None)
@given(DOCUMENTS)
def test_load_of_any_tables_gives_settings_or_problems_in_our_words(tmp_path_factory, document):
    """Whatever well-formed TOML says, the outcome is settings or lines that name the file and a place."""
    directory = tmp_path_factory.getbasetemp()
    path = written(
        directory, "".join(f"{json.dumps(k)} = {as_inline_toml(v)}\n" for k, v in document.items())
    )
    said = re.compile(rf"{re.escape(path)}: .+: (expected|unknown key|missing|nothing|no rule|\").*")
    try:
        lines = tuple(f"{path}: {note}" for note in notes(load(path)))
        said = re.compile(f"{re.escape(path)}: .*")
    except ConfigError as error:
        lines = error.problems
    assert [] == [
        line for line in lines if not (said.match(line) and line.isprintable() and "pydantic" not in line)
    ]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_load_of_any_bytes_raises_nothing_but_a_config_error(tmp_path_factory, content):
    """No file content gets past the reader: none of these short ones is a whole configuration."""
    with pytest.raises(ConfigError):
        load(written(tmp_path_factory.getbasetemp(), content))


# What the settings are.


def test_load_of_a_minimal_file_fills_in_the_defaults(tmp_path):
    """One watch with a path is enough; everything else has the documented default."""
    assert load(written(tmp_path, WATCH)) == Settings(
        daemon=DaemonSettings(
            state_dir="/var/lib/ckptd",
            workers=1,
            settle=timedelta(seconds=5),
            sweep=timedelta(minutes=5),
            heartbeat=timedelta(minutes=1),
            scrub=timedelta(days=7),
            scrub_rate=50 << 20,
        ),
        log=LogSettings(format="auto", level="info"),
        watches=(
            WatchSettings(
                path=f"{tmp_path}/out",
                name="out",
                layout="auto",
                observer="auto",
                poll_interval=timedelta(seconds=10),
                require=frozenset({Role.PARAMS, Role.OPT}),
                progress=ProgressKeys(),
                best=None,
                retention=None,
                release=None,
            ),
        ),
    )


def test_load_of_a_full_file_carries_every_key_over(tmp_path):
    """Each key arrives in the settings, in the domain's own types and with absolute paths."""
    text = """
        [daemon]
        state_dir = "state"
        workers = 4
        settle = "0.5s"
        sweep = "1m"
        heartbeat = "2m"
        scrub = "1mo"
        scrub_rate = "4.5MiB"
        [log]
        format = "json"
        level = "debug"
        [[watch]]
        path = "/data/out/"
        name = "nightly"
        layout = "paddleseg"
        observer = "polling"
        poll_interval = "3s"
        require = ["params", "scaler"]
        step_key = "progress.step"
        epoch_key = "progress.epoch"
        [watch.best]
        metric = "eval.loss"
        order = "min"
        min_delta = 1
        [watch.retention]
        mode = "enforce"
        keep_last = 2
        keep_best = 3
        keep_every_steps = 4
        min_valid = 5
        min_age = "6s"
        trash_for = "7h"
        idle_after = "8d"
        [watch.release]
        deploy_dir = "deploy"
        exporter = "factory"
        entrypoint = "nets.big:Zoo.build"
        input_spec = [{ shape = [-1, 4], dtype = "int64", name = "ids" }, { shape = [], dtype = "bool" }]
        python = "venv/bin/python"
        pythonpath = ["src", "/opt/src"]
        params_key = "model_state"
        timeout = "1h"
        rtol = 0
        atol = 0.5
        keep = 9
    """
    assert load(written(tmp_path, text)) == Settings(
        daemon=DaemonSettings(
            state_dir=f"{tmp_path}/state",
            workers=4,
            settle=timedelta(seconds=0.5),
            sweep=timedelta(minutes=1),
            heartbeat=timedelta(minutes=2),
            scrub=timedelta(days=30),
            scrub_rate=9 << 19,
        ),
        log=LogSettings(format="json", level="debug"),
        watches=(
            WatchSettings(
                path="/data/out",
                name="nightly",
                layout="paddleseg",
                observer="polling",
                poll_interval=timedelta(seconds=3),
                require=frozenset({Role.PARAMS, Role.SCALER}),
                progress=ProgressKeys(step=("progress.step",), epoch=("progress.epoch",)),
                best=MetricRule(name="eval.loss", order=Order.MIN, min_delta=1.0),
                retention=Policy(
                    enforce=True,
                    min_valid=5,
                    min_age=timedelta(seconds=6),
                    trash_for=timedelta(hours=7),
                    idle_after=timedelta(days=8),
                    keep_last=2,
                    keep_best=3,
                    keep_every_steps=4,
                ),
                release=ReleaseSettings(
                    deploy_dir=f"{tmp_path}/deploy",
                    exporter="factory",
                    entrypoint="nets.big:Zoo.build",
                    input_spec=(InputSpec((-1, 4), "int64", "ids"), InputSpec((), "bool", "")),
                    python=f"{tmp_path}/venv/bin/python",
                    pythonpath=(f"{tmp_path}/src", "/opt/src"),
                    params_key="model_state",
                    timeout=timedelta(hours=1),
                    rtol=0.0,
                    atol=0.5,
                    keep=9,
                ),
            ),
        ),
    )


def test_load_with_a_link_in_a_path_keeps_the_link_and_its_meaning(tmp_path):
    """A symlink stays in the path, and `link/..` stays the parent of what the link leads to."""
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    text = '[[watch]]\npath = "link"\n[[watch]]\npath = "link/../out"\n[[watch]]\npath = "x/../y"\n'

    watched = [watch.path for watch in load(written(tmp_path, text)).watches]

    assert [f"{tmp_path}/link", f"{tmp_path}/link/../out", f"{tmp_path}/y"] == watched


# What is refused, and how it is said.

BAD = {
    "unknown top table": (
        '[watchdog]\n[[watch]]\npath = "out"',
        'watchdog: unknown key; did you mean "watch"?',
    ),
    "unknown key": (WATCH + "naem = 1", 'watch[1].naem: unknown key; did you mean "name"?'),
    "key of another table": (
        WATCH + "keep_last = 3",
        "watch[1].keep_last: unknown key; it belongs in [watch.retention]",
    ),
    "unknown far-off key": (
        WATCH + BEST + "zzz = 3",
        "watch[1].best.zzz: unknown key; known here: metric, order, min_delta",
    ),
    "key with blanks": (
        WATCH + '"a b\\n" = 3',
        'watch[1]."a b\\n": unknown key; known here: ' + ", ".join(TABLES["watch",].model_fields),
    ),
    "no watch": (
        "",
        "watch: nothing to watch; expected at least one [[watch]] table, in double brackets, with a path",
    ),
    "empty watch": (
        "watch = []",
        "watch: nothing to watch; expected at least one [[watch]] table, in double brackets, with a path",
    ),
    "single brackets": (
        '[watch]\npath = "out"',
        "watch: nothing to watch; expected at least one [[watch]] table, in double brackets, with a path",
    ),
    "value for a table": (WATCH + "best = 3", "watch[1].best: expected a table, got 3"),
    "value for an array": (WATCH + 'require = "params"', 'watch[1].require: expected an array, got "params"'),
    "missing path": (
        "[[watch]]",
        (
            "watch[1].path: missing; expected the path of a directory, such as"
            ' "/data/output" ("~" is not expanded)'
        ),
    ),
    "home": (
        '[[watch]]\npath = "~/out"',
        (
            'watch[1].path: expected the path of a directory, such as "/data/output" ("~" is not expanded),'
            ' got "~/out"'
        ),
    ),
    "missing order": (
        WATCH + '[watch.best]\nmetric = "acc"',
        'watch[1].best.order: missing; expected one of "min", "max"',
    ),
    "missing inputs": (
        WATCH + BEST + '[watch.release]\ndeploy_dir = "d"\nentrypoint = "a:b"',
        "watch[1].release.input_spec: missing; expected an array",
    ),
    "text for a number": (
        WATCH + '[watch.retention]\nkeep_last = "three"',
        'watch[1].retention.keep_last: expected a whole number ≥ 1, got "three"',
    ),
    "zero": (
        WATCH + "[watch.retention]\nkeep_last = 0",
        "watch[1].retention.keep_last: expected a whole number ≥ 1, got 0",
    ),
    "truth for a number": (
        WATCH + "[watch.retention]\nkeep_last = true",
        "watch[1].retention.keep_last: expected a whole number ≥ 1, got true",
    ),
    "huge number": (
        WATCH + f"[watch.retention]\nkeep_last = 0x{'f' * 5000}",
        "watch[1].retention.keep_last: expected a whole number ≥ 1, got a number beyond 64 bits",
    ),
    "date for a number": (
        "[daemon]\nworkers = 2026-11-24\n" + WATCH,
        "daemon.workers: expected a whole number from 1 to 16, got 2026-11-24",
    ),
    "too many workers": (
        "[daemon]\nworkers = 17\n" + WATCH,
        "daemon.workers: expected a whole number from 1 to 16, got 17",
    ),
    "bare number for a duration": (
        "[daemon]\nsettle = 5\n" + WATCH,
        'daemon.settle: expected a number with a unit (s, m, h, d, w, mo, y), such as "10m", got 5',
    ),
    "unknown unit": (
        '[daemon]\nsettle = "5min"\n' + WATCH,
        'daemon.settle: expected a number with a unit (s, m, h, d, w, mo, y), such as "10m", got "5min"',
    ),
    "too short": ('[daemon]\nsweep = "0s"\n' + WATCH, 'daemon.sweep: expected at least 1s, got "0s"'),
    "too long": ('[daemon]\nsweep = "1y"\n' + WATCH, 'daemon.sweep: expected at most 7d, got "1y"'),
    "round in another unit": (
        '[daemon]\nscrub = "weekly"\n' + WATCH,
        (
            "daemon.scrub: expected a number with a unit (s, m, h, d, w, mo, y), such as "
            '"10m", or "off", got "weekly"'
        ),
    ),
    "round too short": ('[daemon]\nscrub = "0s"\n' + WATCH, 'daemon.scrub: expected at least 1s, got "0s"'),
    "rate without a unit": (
        "[daemon]\nscrub_rate = 50\n" + WATCH,
        'daemon.scrub_rate: expected a number with a unit (B, KiB, MiB, GiB, TiB), such as "50MiB", got 50',
    ),
    "rate of nothing": (
        '[daemon]\nscrub_rate = "0B"\n' + WATCH,
        'daemon.scrub_rate: expected 4MiB to 1TiB, got "0B"',
    ),
    "beyond the calendar": (
        WATCH + '[watch.retention]\nkeep_last = 1\nmin_age = "200y"',
        'watch[1].retention.min_age: expected at most 100y, got "200y"',
    ),
    "unknown word": (
        WATCH + '[watch.best]\nmetric = "acc"\norder = "maximum"',
        'watch[1].best.order: expected one of "min", "max", got "maximum"; did you mean "max"?',
    ),
    "unknown layout": (
        WATCH + 'layout = "paddleocd"',
        (
            'watch[1].layout: expected one of "auto", "hapi", "paddleclas", "paddledetection", "paddlenlp",'
            ' "paddleocr", "paddleseg", "plain", got "paddleocd"; did you mean "paddleocr"?'
        ),
    ),
    "layout of another type": (
        WATCH + "layout = [1]",
        (
            'watch[1].layout: expected one of "auto", "hapi", "paddleclas", "paddledetection", "paddlenlp",'
            ' "paddleocr", "paddleseg", "plain", got an array'
        ),
    ),
    "unknown role": (
        WATCH + 'require = ["params", "shard"]',
        (
            'watch[1].require[2]: expected one of "params", "opt", "scaler", "meta", "ema", "scheduler",'
            ' "rng", got "shard"'
        ),
    ),
    "no weights": (
        WATCH + 'require = ["opt"]',
        'watch[1].require: expected "params" among the roles: a set without weights resumes nothing',
    ),
    "key path": (
        WATCH + 'step_key = "a..b"',
        'watch[1].step_key: expected a key path, such as "metric" or "eval.accuracy", got "a..b"',
    ),
    "name": (WATCH + 'name = "a/b"', 'watch[1].name: expected a printable name without "/", got "a/b"'),
    "not a number": (
        WATCH + BEST + "min_delta = nan",
        "watch[1].best.min_delta: expected a finite number ≥ 0, got nan",
    ),
    "negative": (
        WATCH + BEST + "min_delta = -0.5",
        "watch[1].best.min_delta: expected a finite number ≥ 0, got -0.5",
    ),
    "entrypoint": (
        WATCH + BEST + RELEASE.replace("nets:build", "nets.build"),
        (
            'watch[1].release.entrypoint: expected "package.module:function", a function that builds'
            ' the network, got "nets.build"'
        ),
    ),
    "exporter": (
        WATCH + BEST + RELEASE + 'exporter = "copy"',
        'watch[1].release.exporter: expected one of "factory", got "copy"',
    ),
    "interpreter from the search path": (
        WATCH + BEST + RELEASE + 'python = "python3"',
        (
            "watch[1].release.python: expected the path of a Python interpreter, such as"
            ' "/opt/train/bin/python", or "", got "python3"'
        ),
    ),
    "one release": (
        WATCH + BEST + RELEASE + "keep = 1",
        "watch[1].release.keep: expected a whole number ≥ 2, got 1",
    ),
    "no inputs": (
        WATCH + BEST + '[watch.release]\ndeploy_dir = "d"\nentrypoint = "a:b"\ninput_spec = []',
        "watch[1].release.input_spec: expected at least one element, got an empty array",
    ),
    "dimension": (
        WATCH + BEST + RELEASE.replace("[-1, 4]", "[-1, 0]"),
        "watch[1].release.input_spec[1].shape[2]: expected a whole number ≥ 1, or -1 for any size, got 0",
    ),
    "data type": (
        WATCH + BEST + RELEASE.replace("float32", "float23"),
        (
            'watch[1].release.input_spec[1].dtype: expected one of "float32", "float64", "float16", "int64",'
            ' "int32", "int8", "uint8", "bool", got "float23"; did you mean "float32"?'
        ),
    ),
    "input name": (
        WATCH + BEST + RELEASE.replace(" }", ', name = "a b" }'),
        'watch[1].release.input_spec[1].name: expected an identifier, such as "x", or "", got "a b"',
    ),
    "input names": (
        WATCH + BEST + RELEASE.replace("[{", '[{ shape = [1], dtype = "bool", name = "input_1" }, {'),
        'watch[1].release.input_spec: expected a different name for each input, got "input_1" more than once',
    ),
    "no keep rule": (
        WATCH + '[watch.retention]\nmode = "enforce"',
        (
            "watch[1].retention: no rule says what to keep; set keep_last, keep_best or keep_every_steps,"
            " or leave [watch.retention] out to remove nothing"
        ),
    ),
    "keep_best without best": (
        WATCH + "[watch.retention]\nkeep_best = 1",
        "watch[1].retention.keep_best: nothing says what is best; add [watch.best], or remove this key",
    ),
    "release without best": (
        WATCH + RELEASE,
        "watch[1].release: nothing says which set to release; add [watch.best]",
    ),
    "name twice": (
        WATCH + '[[watch]]\npath = "a/out"',
        'watch[2].name: "out" is the name of watch[1] too; give each its own',
    ),
    "root twice": (
        WATCH + '[[watch]]\npath = "x/../out"\nname = "b"',
        (
            'watch[2].path: "DIR/out" is the same directory as watch[1].path "DIR/out";'
            " watch only one of them, so that each set has one owner"
        ),
    ),
    "root within a later root": (
        WATCH + '[[watch]]\npath = "."',
        (
            'watch[1].path: "DIR/out" lies within watch[2].path "DIR";'
            " watch only one of them, so that each set has one owner"
        ),
    ),
    "root within an earlier root": (
        WATCH + '[[watch]]\npath = "out/a"',
        (
            'watch[2].path: "DIR/out/a" lies within watch[1].path "DIR/out";'
            " watch only one of them, so that each set has one owner"
        ),
    ),
    "root through a link": (
        WATCH + '[[watch]]\npath = "link/a"',
        (
            'watch[2].path: "DIR/link/a" (really "DIR/out/a") lies within watch[1].path "DIR/out";'
            " watch only one of them, so that each set has one owner"
        ),
    ),
    "deploy_dir within a root": (
        WATCH + BEST + RELEASE.replace('"deploy"', '"out/deploy"'),
        (
            'watch[1].release.deploy_dir: "DIR/out/deploy" lies within watch[1].path "DIR/out";'
            " keep training output and releases apart"
        ),
    ),
    "root within a deploy_dir": (
        WATCH + BEST + RELEASE.replace('"deploy"', '"."'),
        (
            'watch[1].path: "DIR/out" lies within watch[1].release.deploy_dir "DIR";'
            " keep training output and releases apart"
        ),
    ),
    "deploy_dir twice": (
        WATCH + BEST + RELEASE + WATCH.replace("out", "b") + BEST + RELEASE,
        (
            'watch[2].release.deploy_dir: "DIR/deploy" is the same directory as watch[1].release.deploy_dir'
            ' "DIR/deploy"; give each watch a deploy_dir of its own'
        ),
    ),
    "state_dir within a root": (
        '[daemon]\nstate_dir = "link/state"\n' + WATCH,
        (
            'daemon.state_dir: "DIR/link/state" (really "DIR/out/state") lies within watch[1].path "DIR/out";'
            " put it elsewhere, so that it is not taken for training output"
        ),
    ),
    "default state_dir within a root": (
        '[[watch]]\npath = "/"\nname = "all"',
        (
            'daemon.state_dir: "/var/lib/ckptd" lies within watch[1].path "/";'
            " put it elsewhere, so that it is not taken for training output"
        ),
    ),
    "syntax": ("[daemon]\nworkers = = 2", "line 2, column 11: no valid TOML: Invalid value"),
    "cut off": ("[daemon]\nworkers = ", "line 2, column 11: no valid TOML: Invalid value"),
    "key twice": (
        "[daemon]\n[daemon]\n",
        "line 2, column 8: no valid TOML: Cannot declare ('daemon',) twice",
    ),
    "endless number": (
        f"a = {'9' * 5000}",
        "it holds a number of thousands of digits; expected 64 bits at most",
    ),
    "deep nesting": (
        f"a = {'[' * 5000}",
        "it is nested too deeply; expected tables as in docs/configuration.md",
    ),
    "no text": (b"[daemon]\n# \xc3\xa9 \xe9", "line 2, column 5: expected UTF-8, got the byte 0xe9"),
    "a checkpoint": (bytes((1 << 20) + 1), "it is larger than 1 MiB; expected a configuration"),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_load_of_a_bad_file_says_place_value_and_way_out(tmp_path, text, expected):
    """Each rule has its own words: where it is broken, by what, and what would be right."""
    (tmp_path / "link").symlink_to("out")

    assert [expected] == problems(tmp_path, text)


def test_load_of_a_file_with_many_errors_lists_them_all(tmp_path):
    """Errors of values, of unknown keys and of rules between keys come together, in one go."""
    text = """
        [daemon]
        workers = "many"
        [[watch]]
        path = "out"
        colour = "blue"
        [watch.retention]
        keep_best = 1
        min_age = "soon"
        [[watch]]
        path = "out/inner"
        observer = 1
    """
    assert [
        'daemon.workers: expected a whole number from 1 to 16, got "many"',
        (
            'watch[1].retention.min_age: expected a number with a unit (s, m, h, d, w, mo, y), such as "10m",'
            ' got "soon"'
        ),
        "watch[1].colour: unknown key; known here: " + ", ".join(TABLES["watch",].model_fields),
        'watch[2].observer: expected one of "auto", "inotify", "polling", got 1',
        "watch[1].retention.keep_best: nothing says what is best; add [watch.best], or remove this key",
        (
            'watch[2].path: "DIR/out/inner" lies within watch[1].path "DIR/out";'
            " watch only one of them, so that each set has one owner"
        ),
    ] == problems(tmp_path, text)


def test_load_of_a_root_mounted_twice_refuses_the_second(tmp_path, monkeypatch):
    """A directory that is reached by two real paths, as with a bind mount, is known by device and inode."""
    (tmp_path / "out").mkdir()
    (tmp_path / "bound/inner").mkdir(parents=True)
    look = paths._device_and_inode
    bound, out = str(tmp_path / "bound"), str(tmp_path / "out")
    monkeypatch.setattr(paths, "_device_and_inode", lambda path: look(out if path == bound else path))

    assert [
        (
            'watch[2].path: "DIR/bound/inner" lies within watch[1].path "DIR/out";'
            " watch only one of them, so that each set has one owner"
        )
    ] == problems(tmp_path, WATCH + '[[watch]]\npath = "bound/inner"\n')


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("absent.toml", "there is no such file; name another with --config"),
        (".", "it cannot be read: Is a directory"),
    ],
)
def test_load_of_what_is_no_file_says_why(tmp_path, name, expected):
    """A path that cannot be read is a configuration error like any other."""
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / name}: {expected}")):
        load(str(tmp_path / name))


# Which file is read.


@pytest.mark.parametrize(
    ("explicit", "variable", "present", "expected"),
    [
        ("a.toml", "b.toml", "system here", "a.toml"),
        (None, "b.toml", "system here", "b.toml"),
        (None, "", "system here", "{}/system"),
        (None, None, "here", "{}/config.toml"),
    ],
)
def test_find_takes_the_first_of_option_variable_system_and_directory(
    tmp_path, explicit, variable, present, expected
):
    """What is named counts without a look at it; of the usual places the first that has a file."""
    for name in present.replace("here", "config.toml").split():
        (tmp_path / name).touch()
    environ = {} if variable is None else {"CKPTD_CONFIG": variable}

    found = find(explicit, environ, str(tmp_path), system_path=str(tmp_path / "system"))

    assert expected.format(tmp_path) == found


def test_find_of_a_system_file_that_cannot_be_looked_at_does_not_pass_it_over(tmp_path):
    """Another configuration than the system's is never taken silently."""
    (tmp_path / "system").symlink_to("system")
    (tmp_path / "config.toml").touch()

    assert str(tmp_path / "system") == find(None, {}, str(tmp_path), system_path=str(tmp_path / "system"))


def test_find_without_any_file_says_where_it_looked(tmp_path):
    """The error names the variable, both usual places and the option."""
    with pytest.raises(ConfigError) as caught:
        find(None, {}, str(tmp_path), system_path="/nowhere/config.toml")

    assert (
        "no configuration: $CKPTD_CONFIG is not set, and there is none at /nowhere/config.toml"
        f" nor at {tmp_path}/config.toml; name one with --config"
    ) == str(caught.value)


# What is valid and has no effect.


def test_notes_name_what_is_not_there_yet(tmp_path):
    """Missing directories and an idle rule are no errors, and are said."""
    (tmp_path / "file").touch()
    text = (
        WATCH
        + BEST
        + "[watch.retention]\nkeep_every_steps = 1\n"
        + RELEASE
        + 'python = "venv/python"\npythonpath = [".", "src"]\n'
        + '[[watch]]\npath = "file"\n'
    )
    assert (
        f"watch[1].path: {tmp_path}/out does not exist; it is watched as soon as it does",
        "watch[1].retention.keep_every_steps: 1 keeps every valid set that has a step",
        f"watch[1].release.python: {tmp_path}/venv/python is no file; releases fail without it",
        f"watch[1].release.pythonpath[2]: {tmp_path}/src is no directory, so adds nothing",
        f"watch[2].path: {tmp_path}/file is no directory; it is watched as soon as it is one",
    ) == notes(load(written(tmp_path, text)))


def test_notes_of_a_configuration_whose_parts_are_all_there_are_empty(tmp_path):
    """Nothing is said where there is nothing to say."""
    (tmp_path / "out").mkdir()

    assert () == notes(load(written(tmp_path, WATCH + BEST + RELEASE)))


# The shipped file.


def uncommented() -> str:
    """The shipped file with every commented key in force."""
    return re.sub(r"^#(?=[^ \n])", "", SHIPPED.read_text("utf-8"), flags=re.MULTILINE)


def test_shipped_file_is_valid_and_removes_nothing():
    """From a fresh clone the file works as it is, and in plan mode."""
    loaded = load(str(SHIPPED))

    assert str(ROOT / "state") == loaded.daemon.state_dir
    assert [(str(ROOT / "output"), False)] == [
        (watch.path, watch.retention and watch.retention.enforce) for watch in loaded.watches
    ]


def test_shipped_file_has_every_key_of_the_schema(tmp_path):
    """No key is missing from the file; those that are commented out are valid too."""
    document = tomllib.loads(uncommented())
    load(written(tmp_path, uncommented()))

    watch = document["watch"][0]
    tables = {
        (): document,
        ("daemon",): document["daemon"],
        ("log",): document["log"],
        ("watch",): watch,
        ("watch", "best"): watch["best"],
        ("watch", "retention"): watch["retention"],
        ("watch", "release"): watch["release"],
        ("watch", "release", "input_spec"): watch["release"]["input_spec"][0],
    }
    assert {where: set(table.model_fields) for where, table in TABLES.items()} == {
        where: set(table) for where, table in tables.items()
    }


def test_shipped_file_has_the_defaults_in_its_comments(tmp_path):
    """Taking the `#` from a key with a default changes nothing."""
    shipped, full = (
        effective(load(written(tmp_path, text))) for text in (SHIPPED.read_text("utf-8"), uncommented())
    )
    without_default = {"step_key", "release"}

    assert {"keep_every_steps"} == {
        key
        for key, value in full["watch"][0]["retention"].items()
        if shipped["watch"][0]["retention"][key] != value
    }
    assert without_default == {
        key
        for key, value in full["watch"][0].items()
        if key != "retention" and shipped["watch"][0][key] != value
    }
    assert (shipped["daemon"], shipped["log"]) == (full["daemon"], full["log"])
    fields = TABLES["watch", "release"].model_fields
    assert {"deploy_dir", "entrypoint", "input_spec", "params_key"} == {
        key for key, value in full["watch"][0]["release"].items() if fields[key].default != value
    }


def test_reference_page_has_every_key_with_its_default():
    """docs/configuration.md names each key of each table once, with the default that holds."""
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|", page, flags=re.MULTILINE))
    expected = {}
    for where, table in TABLES.items():
        for key, field in table.model_fields.items():
            if (*where, key) not in TABLES or key == "input_spec":
                required = "**required**" if field.is_required() else "not set"
                default = None if field.is_required() else field.default
                expected[".".join((*where, key))] = (
                    required if default is None else f"`{json.dumps(default)}`"
                )

    assert expected == rows


# Showing it.


def test_effective_as_toml_is_the_same_configuration_again(tmp_path):
    """What `config show` prints can be saved and means the same, wherever it is saved."""
    odd = 'path = "a \\"b\\" \\\\ \\n é"\nname = "tr é\\\\"\n'
    first = load(written(tmp_path, uncommented() + f"\n[[watch]]\n{odd}"))
    (tmp_path / "elsewhere").mkdir()

    assert first == load(written(tmp_path / "elsewhere", as_toml(effective(first))))


def test_effective_of_a_directory_that_is_no_utf8_can_be_printed(tmp_path):
    """A path with undecodable bytes is shown in escapes, as everywhere else."""
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    directory.mkdir()

    document = effective(load(written(directory, WATCH)))

    assert f"{tmp_path}/\\dff/out" == document["watch"][0]["path"]


def test_scrubbing_that_is_switched_off_is_shown_so(tmp_path):
    """`scrub = "off"` means no rounds at all, and is shown as it is written."""
    settings = load(written(tmp_path, '[daemon]\nscrub = "off"\n' + WATCH))

    assert settings.daemon.scrub is None
    assert "off" == effective(settings)["daemon"]["scrub"]


def test_schema_is_plain_json_with_a_description_for_every_key():
    """The JSON schema can be printed, and no key in it goes unexplained."""
    definitions = json.loads(json.dumps(schema()))["$defs"].values()

    assert set() == {
        name
        for table in definitions
        for name, key in table["properties"].items()
        if not key.get("description")
    }


def test_check_of_a_valid_file_exits_with_0_and_says_what_has_no_effect(tmp_path):
    """People get one line for the file and one for each note; nothing goes to standard error."""
    path, out, err = written(tmp_path, WATCH), io.StringIO(), io.StringIO()

    assert 0 == config_command.check(path, as_json=False, out=out, err=err)
    assert (
        (
            f"{path}: note: watch[1].path: {tmp_path}/out does not exist; it is watched as soon as it does\n"
            f"{path}: valid\n"
        ),
        "",
    ) == (out.getvalue(), err.getvalue())


def test_check_of_a_bad_file_exits_with_2_and_prints_each_problem(tmp_path):
    """Problems go to standard error, or into one JSON object."""
    path, out, err = written(tmp_path, WATCH + "a = 1\nnaem = 2"), io.StringIO(), io.StringIO()

    assert 2 == config_command.check(path, as_json=False, out=out, err=err)
    lines = err.getvalue().splitlines()
    assert (2, "") == (len(lines), out.getvalue())
    assert 2 == config_command.check(path, as_json=True, out=out, err=err)
    assert {"schema": 1, "file": path, "valid": False, "problems": lines, "notes": []} == json.loads(
        out.getvalue()
    )


def test_show_and_schema_commands_print_what_the_functions_give(tmp_path, capsys):
    """`ckptd config show --json` and `schema` print JSON; a bad file makes `show` exit with 2."""
    path = written(tmp_path, WATCH)

    assert 0 == main(["--config", path, "config", "show", "--json"])
    assert {"schema": 1, **effective(load(path))} == json.loads(capsys.readouterr().out)
    assert 0 == main(["--config", path, "config", "show"])
    assert as_toml(effective(load(path))) == capsys.readouterr().out
    assert 0 == main(["--config", path, "config", "schema"])
    assert schema() == json.loads(capsys.readouterr().out)
    written(tmp_path, "")
    assert 2 == main(["--config", path, "config", "show"])
    assert capsys.readouterr().err.startswith(f"{path}: watch: nothing to watch")
    assert 2 == main(["--config", path, "config", "check"])
