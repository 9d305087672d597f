from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.model import Metric, MetricRule, Order
from ckptd.core.releases import (
    Damaged,
    Objection,
    Proof,
    PublishedFile,
    Release,
    Source,
    export_key,
    is_version,
    parse_answer,
    parse_manifest,
    removable,
    render_manifest,
    version_name,
    why_not,
)

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
VERSION = "20261124T105500Z-epoch_5"
ACC = MetricRule("acc", Order.MAX)
names = st.text(min_size=1, max_size=30)
digests = st.text("0123456789abcdef", min_size=32, max_size=32)
finite = st.floats(allow_nan=False, allow_infinity=False)
instants = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds
counters = st.none() | st.integers(0, 2**70)


def source(value: float = 0.9, *, name: str = "acc", order: Order = Order.MAX, digest: str = "a" * 32):
    """A set as it was judged."""
    return Source("/data/runs", "run", "epoch_5", 500, 5, Metric(name, value, order), (("run/m", digest),))


def release(version: str = VERSION, *, value: float = 0.9, minutes: int = 0, previous: str | None = None):
    """A release as its manifest describes it; a low digest, so that other sources differ from it."""
    return Release(
        version,
        source(value, digest="0" * 32),
        "key",
        (PublishedFile("inference.json", 7, "b" * 32),),
        Proof("3.3.1", 1e-7, (("import", 0.9),)),
        NOW + timedelta(minutes=minutes),
        previous,
    )


def settings(**changes):
    """Release settings, as far as an export's outcome depends on them."""
    spec = SimpleNamespace(shape=(-1, 4), dtype="float32", name="x")
    facts = {"entrypoint": "a:b", "input_spec": (spec,), "params_key": "", "rtol": 1e-4, "atol": 1e-5}
    facts |= {"python": "", "pythonpath": (), "timeout": timedelta(minutes=1), "keep": 3}
    return SimpleNamespace(**facts | changes)


@given(finite, finite, st.floats(0, 10), st.sampled_from(Order))
def test_why_not_of_two_values_admits_the_strictly_better_only(new, old, min_delta, order):
    """A set may replace the live one exactly if better by more than min_delta; never both ways."""
    rule = MetricRule("acc", order, min_delta)
    first, second = (
        why_not(
            source(value, order=order),
            replace(release(), source=source(other, order=order, digest="0" * 32)),
            rule,
        )
        for value, other in ((new, old), (old, new))
    )

    assert (first is None) == ((new - old if order is Order.MAX else old - new) > min_delta)
    assert first is not None or second is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("live", [None, release()])
def test_why_not_with_a_non_finite_metric_always_objects(value, live):
    """NaN and infinity never rank, not even against nothing."""
    assert f"acc is {value}, which never ranks" == why_not(source(value), live, ACC)


@pytest.mark.parametrize(
    ("candidate", "live", "rule", "expected"),
    [
        (source(), None, ACC, None),
        (source(0.95), release(), ACC, None),
        (
            source(0.9),
            release(),
            ACC,
            f"not better than the live {VERSION}: acc 0.9 against 0.9 (order max, min_delta 0)",
        ),
        (source(0.95, digest="0" * 32), release(), ACC, f"already live as {VERSION}"),
        (
            source(0.1, name="loss", order=Order.MIN),
            release(),
            MetricRule("loss", Order.MIN),
            (
                f"refusing to compare loss (min) with acc (max) of the live {VERSION} by the rule loss (min);"
                " set the rule back, or remove the link `current` to start afresh"
            ),
        ),
        (
            source(0.1),
            Damaged("v/manifest.json: gone"),
            ACC,
            (
                "refusing to replace a live release that cannot be compared with: v/manifest.json: gone;"
                " repair it, or remove the link `current` to start afresh"
            ),
        ),
    ],
    ids=["nothing live", "better", "equal", "same source", "other metric", "damaged"],
)
def test_why_not_says_the_reason(candidate, live, rule, expected):
    """Each way of not replacing the live release has its own words."""
    assert expected == why_not(candidate, live, rule)


def test_why_not_with_another_order_in_the_candidate_refuses():
    """A candidate that was ranked by another order than the rule's is not compared."""
    assert why_not(source(0.95, order=Order.MIN), release(), ACC).startswith("refusing to compare")


@given(
    st.builds(
        Release,
        version=st.just(VERSION),
        source=st.builds(
            Source,
            root=names,
            run=names,
            set_name=names,
            step=counters,
            epoch=counters,
            metric=st.builds(Metric, names, finite, st.sampled_from(Order)),
            digests=st.dictionaries(names, digests, max_size=3).map(
                lambda found: tuple(sorted(found.items()))
            ),
        ),
        export_key=digests,
        files=st.just((PublishedFile("a.json", 1, "c" * 32), PublishedFile("a.pdiparams", 2**40, "d" * 32))),
        proof=st.builds(
            Proof,
            names,
            finite,
            st.dictionaries(names, finite, max_size=3).map(lambda found: tuple(found.items())),
        ),
        published_at=instants,
        previous=st.none() | st.just("20261124T105400Z-epoch_4"),
    )
)
def test_manifest_survives_the_round_trip(whole):
    """What is written is read back the same, whatever the names hold."""
    assert whole == parse_manifest(render_manifest(whole), VERSION)


@given(st.binary(max_size=200))
def test_parse_manifest_of_any_bytes_gives_a_value(data):
    """No bytes raise."""
    assert isinstance(parse_manifest(data, VERSION), Damaged)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_parse_manifest_with_one_foreign_value_gives_a_value(data):
    """Any value in any place gives a release or a reason, never an exception."""
    manifest = json.loads(render_manifest(release()))
    place = data.draw(st.sampled_from([manifest, manifest["metric"], manifest["proof"], manifest["files"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)

    assert isinstance(parse_manifest(json.dumps(manifest).encode(), VERSION), Damaged | Release)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema 2 is not 1"),
        ({"schema": True}, "'schema' is bool"),
        ({"version": "another"}, "it describes 'another'"),
        ({"metric": {"name": "acc", "value": 10**400, "order": "max"}}, "'value' is not finite"),
        ({"metric": {"name": "acc", "value": math.nan, "order": "max"}}, "'value' is not finite"),
        ({"metric": {"name": "acc", "value": 1.0, "order": "up"}}, "'up' is not a valid Order"),
        ({"metric": {"name": "acc", "value": "1"}}, "'value' is str"),
        ({"metric": {}}, "'name' is missing"),
        ({"files": {}}, "it names no file"),
        ({"files": {"../x": {}}}, "'../x' is no name of a published file"),
        ({"files": {"manifest.json": {}}}, "'manifest.json' is no name of a published file"),
        ({"files": {"a": 1}}, "'bytes' is missing"),
        ({"source": {"m": 5}}, "5 is no xxh3-128 digest"),
        ({"source": {"m": "A"}}, "'A' is no xxh3-128 digest"),
        ({"root": "\\Uffffffff"}, ""),
        ({"previous": "../.."}, "'previous' '../..' is no version"),
        ({"published_at": "2026-11-24T10:55:00"}, "'published_at' '2026-11-24T10:55:00' has no time zone"),
        ({"published_at": "0001-01-01T00:00:00+14:00"}, ""),
    ],
    ids=str,
)
def test_parse_manifest_with_a_bad_field_names_it(change, reason):
    """The reason says which field is wrong, and where."""
    manifest = json.loads(render_manifest(release())) | change

    damaged = parse_manifest(json.dumps(manifest).encode(), VERSION)

    assert isinstance(damaged, Damaged)
    assert damaged.reason.startswith(f"{VERSION}/manifest.json: {reason}")


def test_parse_manifest_of_deep_nesting_is_damage():
    """A file made to exhaust the parser's stack is damage like any other."""
    assert isinstance(parse_manifest(b"[" * 200_000, VERSION), Damaged)


@given(st.lists(names, max_size=8), instants)
def test_version_name_is_a_new_version_each_time(set_names, now):
    """Names are versions, differ from all that exist, and sort by time across seconds."""
    taken: list[str] = []
    for set_name in [*set_names, *set_names]:
        taken.append(version_name(now, set_name, taken))

    assert len(set(taken)) == len(taken)
    assert all(is_version(version) for version in taken)
    later = version_name(now + timedelta(seconds=1), "", ())
    assert all(version < later for version in taken)


@pytest.mark.parametrize(
    ("set_name", "existing", "expected"),
    [
        ("epoch_5", (), VERSION),
        ("epoch_5", (VERSION,), f"{VERSION}-2"),
        ("epoch_5", (VERSION, f"{VERSION}-2"), f"{VERSION}-3"),
        ("../a b/\n\udcff", (), "20261124T105500Z-a-b"),
        ("模型", (), "20261124T105500Z-set"),
    ],
)
def test_version_name_of_a_set_is_readable_and_harmless(set_name, existing, expected):
    """The set's name is in the version, without anything that means something to a shell or a path."""
    assert expected == version_name(NOW.astimezone(timezone(timedelta(hours=8))), set_name, existing)


@pytest.mark.parametrize("name", ["", "..", "current", "20261124T105500Z", f"{VERSION}/x", f"{VERSION}\n"])
def test_is_version_of_anything_else_is_false(name):
    """Only what `version_name` gives counts as a version."""
    assert not is_version(name)


@given(st.integers(1, 8), st.integers(0, 7), st.none() | st.integers(0, 7), st.integers(1, 9))
def test_removable_spares_live_previous_and_the_newest(count, live_at, previous_at, keep):
    """Never the live one or the one before it; otherwise the oldest, until `keep` are left."""
    previous = None if previous_at is None else f"v{previous_at}"
    releases = [release(f"v{number}", minutes=number, previous=previous) for number in range(count)]
    live = releases[live_at % count]

    gone = removable(reversed(releases), live, keep)

    left = [one.version for one in releases if one.version not in gone]
    spared = {live.version, previous} & {one.version for one in releases}
    assert spared <= set(left)
    assert len(left) == max(min(keep, count), len(spared))
    others = [one.version for one in releases if one.version not in spared]
    assert list(gone) == others[: len(gone)]


def test_export_key_tells_every_difference_that_matters():
    """The same bytes exported the same way have one key, in any order; each other setting has its own."""
    pairs = [("a", "1"), ("b", "2")]
    spec = SimpleNamespace(shape=(1, 4), dtype="float32", name="x")
    keys = [
        export_key(found, how)
        for found, how in [
            (pairs, settings()),
            (pairs[:1], settings()),
            (pairs, settings(entrypoint="a:c")),
            (pairs, settings(input_spec=(spec,))),
            (pairs, settings(params_key="model")),
            (pairs, settings(rtol=1e-3)),
            (pairs, settings(atol=1e-3)),
            (pairs, settings(python="/opt/bin/python")),
            (pairs, settings(pythonpath=("/src",))),
            (pairs, settings(timeout=timedelta(minutes=2))),
        ]
    ]

    assert keys[0] == export_key(reversed(pairs), settings(keep=5))
    assert len(set(keys)) == len(keys)


@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_parse_answer_of_anything_else_is_an_objection(data):
    """Whatever stands in place of the worker's answer is an objection that asks to be reported."""
    objection = parse_answer(data)

    assert isinstance(objection, Objection)
    assert objection.reason.startswith("the worker's answer is damaged: ")


def test_parse_answer_gives_the_proof_or_the_objection():
    """The worker's two answers arrive as they were meant."""
    good = {"ok": True, "paddle_version": "3.3.1", "max_abs_difference": 0, "seconds": {"import": 1}}
    bad = {"ok": False, "reason": "why", "way_out": "Do this.", "show_output": False, "seconds": {}}

    assert Proof("3.3.1", 0.0, (("import", 1.0),)) == parse_answer(json.dumps(good).encode())
    assert Objection("why", "Do this.", show_output=False) == parse_answer(json.dumps(bad).encode())
