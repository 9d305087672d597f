from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ckptd
from ckptd.core.events import EVENTS, KEYS, VERDICT_EVENTS, event_for, mismatch
from ckptd.core.events_page import render_markdown
from ckptd.core.model import Verdict

PACKAGE = Path(ckptd.__file__).parent
REGENERATE = (
    'python -c "from ckptd.core.events_page import render_markdown; '
    "print(render_markdown(), end='')\" > docs/events.md"
)


def emit_calls():
    """Every `….emit(…)` call of the package, with the module that it stands in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "emit"
            ):
                yield pytest.param(tree, node, id=f"{path.relative_to(PACKAGE)}:{node.lineno}")


def keys_given_by(tree, call):
    """The keys of a log call; `**names()` counts if a function of the module returns them as one literal."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg
            continue
        assert isinstance(keyword.value, ast.Call), "keys are written out, so that this test can see them"
        called = keyword.value.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id
        [function] = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name
        ]
        [returned] = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        assert isinstance(returned, ast.Dict), f"{name} returns its keys as one literal"
        yield from (key.value for key in returned.keys)


def events_named_by(argument):
    """The events that the first argument of a log call may name."""
    if isinstance(argument, ast.Constant):
        return {argument.value}
    assert isinstance(argument, ast.Call), "an event is named by a literal or by event_for(verdict)"
    assert isinstance(argument.func, ast.Name)
    assert argument.func.id == "event_for"
    return set(VERDICT_EVENTS.values())


@pytest.mark.parametrize(("tree", "call"), list(emit_calls()))
def test_log_call_fits_the_table(tree, call):
    """Each log call in the package names an event of the table and gives exactly its keys."""
    assert len(call.args) == 1
    names = frozenset(keys_given_by(tree, call))
    for event in events_named_by(call.args[0]):
        assert event in EVENTS
        assert mismatch(EVENTS[event], names) is None


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
def test_event_is_named_and_explained(event):
    """An event is `noun.past_verb`, says what it means and what to do, and needs no key that the line has."""
    assert re.fullmatch(r"[a-z]+\.[a-z]+", event.name)
    assert event.meaning
    assert event.advice
    assert not {field.name for field in event.fields} & {"schema", "ts", "level", "event"}


def test_every_key_is_used():
    """The table explains no key that no event has."""
    assert {field.name for event in EVENTS.values() for field in event.fields} == set(KEYS)


def test_final_verdicts_and_only_they_have_an_event():
    """Each final verdict has an event of its own; a set that still changes is not told."""
    unsettled = {Verdict.WRITING, Verdict.PENDING}
    assert {
        verdict: EVENTS[event_for(verdict)].name for verdict in set(Verdict) - unsettled
    } == VERDICT_EVENTS
    assert len(set(VERDICT_EVENTS.values())) == len(VERDICT_EVENTS)
    for verdict in unsettled:
        with pytest.raises(KeyError):
            event_for(verdict)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"root", "observer"}, None),
        ({"root"}, "watch.started lacks observer"),
        ({"root", "observer", "b", "a"}, "watch.started has no key a, b"),
        ({"colour"}, "watch.started lacks observer, root and has no key colour"),
    ],
)
def test_mismatch_names_what_is_wrong_with_a_call(keys, expected):
    """A log call that does not fit is told which keys are missing and which are unknown."""
    assert mismatch(EVENTS["watch.started"], frozenset(keys)) == expected


def test_optional_key_may_be_missing():
    """An optional key is no mismatch, given or not."""
    event = EVENTS["config.noted"]
    assert mismatch(event, frozenset({"message"})) is None
    assert mismatch(event, frozenset({"message", "root"})) is None


def test_page_is_what_the_table_renders():
    """`docs/events.md` tells exactly what the table holds."""
    page = PACKAGE.parents[1] / "docs" / "events.md"
    assert page.read_text("utf-8") == render_markdown(), f"run: {REGENERATE}"


def test_page_rows_have_as_many_cells_as_their_heads():
    """No text in the table breaks a Markdown row."""
    lines = [line for line in render_markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6, 4}
