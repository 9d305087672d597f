from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptd.core.loose_files import (
    HEAD_BYTES,
    LOOSE_LAYOUTS,
    judge_loose,
    loose_sets,
    single_file,
    wants_look,
)
from ckptd.core.model import (
    EntryKind,
    ExpectedTensor,
    FileScan,
    Finding,
    Role,
    TensorFacts,
    Verdict,
)
from making import entry

PICKLE = b"\x80\x04}."
TENSOR = bytes(16) + b"\x04\0\0\0\x08\x05\x10\x03" + bytes(12)
PROGRAM = b"\x0a\xc6\x28\x08\x00\x10\xff"
PIR = b'{"base_code":{"magic":"pir"'
SAFETENSORS = b"\x08\0\0\0\0\0\0\0" + b'{"w":{} '
TEXT = b"words\n"


def tar_of(name):
    """The first block of a tar archive of a file."""
    return name.encode().ljust(257, b"\0") + b"ustar\x0000" + bytes(247)


def loose(heads, claimed=()):
    """What is made of files with these beginnings, by layout, run and name, and how many were left out."""
    found = loose_sets([entry(path) for path in heads], set(claimed), heads)
    return {
        (one.layout, one.run, one.name): [member.entry.path for member in one.members] for one in found.sets
    }, found.left_out


names = st.sampled_from(
    [
        *("a.pdiparams", "a.json", "a.pdmodel", "a.pdiparams.info", "__model__", "w_0", "w_1", "x.ckpt"),
        *("0.metadata", "0_0.distcp", "notes.txt", "training_args.bin", "y.pdparams.tar", ".hidden"),
    ]
)
some_heads = st.sampled_from([PICKLE, TENSOR, PROGRAM, PIR, SAFETENSORS, TEXT, b"", bytes(99), None])
trees = st.dictionaries(st.tuples(st.sampled_from(["", "d/"]), names).map("".join), some_heads)


@given(trees, st.data())
def test_loose_sets_take_every_file_once_or_leave_it_out(tree, data):
    """No file is in two sets, and what is in none is claimed already, or counted."""
    claimed = data.draw(st.sets(st.sampled_from(sorted(tree)))) if tree else set()
    found = loose_sets([entry(path) for path in tree], claimed, tree)
    taken = [member.entry.path for one in found.sets for member in one.members]
    assert len(taken) == len(set(taken))
    assert len(tree) == len({*taken} | claimed) + found.left_out
    assert {one.layout for one in found.sets} <= LOOSE_LAYOUTS


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (
            {"a.json": PIR, "a.pdiparams": TENSOR, "b.json": TEXT},
            {("inference", ".", "a"): ["a.json", "a.pdiparams"]},
        ),
        (
            {"a.pdmodel": PROGRAM, "a.pdiparams": TENSOR, "a.pdiparams.info": PICKLE},
            {("inference", ".", "a"): ["a.pdiparams", "a.pdiparams.info", "a.pdmodel"]},
        ),
        # One stream for several functions, and a function with its own.
        (
            {"a.json": PIR, "a.f.json": PIR, "a.g.json": PIR, "a.pdiparams": TENSOR, "a.g.pdiparams": TENSOR},
            {
                ("inference", ".", "a"): ["a.f.json", "a.json", "a.pdiparams"],
                ("inference", ".", "a.g"): ["a.g.json", "a.g.pdiparams"],
            },
        ),
        # A program by content alone has no stem to go by.
        ({"program": PROGRAM}, {("file", ".", "program"): ["program"]}),
        (
            {"m/__model__": PROGRAM, "m/w_0": TENSOR, "m/notes": TEXT},
            {("inference", ".", "m"): ["m/__model__", "m/w_0"]},
        ),
        (
            {"v/w_0": TENSOR, "v/w_1": b"", "v/w_2": bytes(9), "v/.keep": b"", "v/x.txt": TEXT},
            {("variables", ".", "v"): ["v/w_0", "v/w_1", "v/w_2"]},
        ),
        ({"v/w_0": TENSOR, "v/.keep": b""}, {("file", "v", "w_0"): ["v/w_0"]}),
        ({"empty": b"", "zeros": bytes(9)}, {}),
        (
            {"f/0.metadata": PICKLE, "f/0_0.distcp": PICKLE},
            {("flex", ".", "f"): ["f/0.metadata", "f/0_0.distcp"]},
        ),
        (
            {"s/m.safetensors.index.json": TEXT, "s/m-1-of-1.safetensors": SAFETENSORS},
            {("shards", ".", "s"): ["s/m-1-of-1.safetensors", "s/m.safetensors.index.json"]},
        ),
        ({"x.safetensors": SAFETENSORS}, {("file", ".", "x.safetensors"): ["x.safetensors"]}),
        ({"x": SAFETENSORS}, {("file", ".", "x"): ["x"]}),
        ({"x": PICKLE, "y": None}, {("file", ".", "x"): ["x"], ("file", ".", "y"): ["y"]}),
        ({"x.tar": tar_of("run/best.pdparams")}, {("file", ".", "x.tar"): ["x.tar"]}),
        ({"x.tar": tar_of("photo.jpg")}, {}),
        ({"training_args.bin": PICKLE, "saved_signal_0": b"1", "x": TEXT}, {}),
        ({"x.ckpt": TEXT}, {("file", ".", "x.ckpt"): ["x.ckpt"]}),
    ],
)
def test_loose_sets_are_what_belongs_together(heads, expected):
    """Models with their parameters, variables, shards with their index, and every other file of Paddle."""
    assert expected == loose(heads)[0]


def test_loose_sets_look_at_members_of_sets_for_their_neighbours_only():
    """A program that is judged in its set still belongs to its stream, and by itself is not judged again."""
    heads = {"a.pdmodel": PROGRAM, "a.pdiparams": TENSOR, "b.pdmodel": PICKLE, "notes": TEXT}
    found, left_out = loose(heads, claimed={"a.pdmodel", "b.pdmodel"})
    assert {("inference", ".", "a"): ["a.pdiparams", "a.pdmodel"]} == found
    assert 1 == left_out


def test_loose_sets_take_links_by_their_name():
    """What is no regular file is judged if its name is Paddle's, and left out otherwise."""
    links = [entry(path, kind=EntryKind.SYMLINK) for path in ("a.pdz", "b")]
    found = loose_sets(links, set(), {})
    assert (["a.pdz"], 1) == ([one.name for one in found.sets], found.left_out)


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("a", EntryKind.FILE, True),
        ("a.json", EntryKind.FILE, True),
        ("a.PNG", EntryKind.FILE, False),
        ("a.yaml", EntryKind.FILE, False),
        ("a", EntryKind.SYMLINK, False),
        ("a", EntryKind.OTHER, False),
    ],
)
def test_wants_look_is_for_files_whose_name_does_not_tell(path, kind, expected):
    """Only regular files are opened, and none that is plainly something else."""
    assert expected is wants_look(entry(path, kind=kind))


@pytest.mark.parametrize(
    ("path", "head", "role"),
    [
        ("x", TEXT, Role.PARAMS),
        ("x.txt", None, Role.PARAMS),
        ("x", PROGRAM, Role.PROGRAM),
        ("x.pdopt", b"", Role.OPT),
    ],
)
def test_single_file_is_taken_for_weights_if_nothing_else_is_known(path, head, role):
    """A file that was asked for gets a role, whatever it is."""
    (member,) = single_file(entry(f"d/{path}"), head).members
    assert role is member.role


def tensor(name, shape=(2,), dtype="float32"):
    """A tensor of a file."""
    return TensorFacts((name,), shape, dtype, 8, 0)


def needed(name, shape=(2,), dtype="float32"):
    """A parameter of a program."""
    return ExpectedTensor(name, "", shape, dtype=dtype)


def scan(container, *tensors, expected=(), codes=()):
    """A scan with these contents."""
    findings = tuple(Finding(code, "x", "") for code in codes)
    return FileScan(container, 9, "", findings, tensors, (), tuple(expected))


def judged(heads, scans):
    """The judgement of the one set that these files are."""
    (one,) = loose_sets([entry(path) for path in heads], set(), heads).sets
    return judge_loose(one, dict(zip(heads, scans, strict=True)))


PAIR = {"d/a.json": PIR, "d/a.pdiparams": TENSOR}
SEPARATE = {"m/__model__": PROGRAM, "m/w": TENSOR, "m/b": TENSOR}


@pytest.mark.parametrize(
    ("heads", "scans", "verdict", "codes"),
    [
        (PAIR, [scan("pir", expected=[needed("w")]), scan("tensors", tensor(0))], Verdict.VALID, []),
        (
            PAIR,
            [scan("pir", expected=[needed("w", (3,))]), scan("tensors", tensor(0))],
            Verdict.CORRUPT,
            ["foreign_parameters"],
        ),
        # What could not be understood is not compared.
        (
            PAIR,
            [scan("pir", codes=["malformed"]), scan("tensors", tensor(0))],
            Verdict.CORRUPT,
            ["malformed"],
        ),
        (
            PAIR,
            [scan("pir", expected=[needed("w")]), scan("tensors", codes=["truncated"])],
            Verdict.CORRUPT,
            ["truncated"],
        ),
        ({"a.pdiparams": TENSOR}, [scan("tensors", tensor(0))], Verdict.INCOMPLETE, ["missing_role"]),
        ({"a.pdiparams": TENSOR}, [scan("pickle")], Verdict.INCOMPLETE, ["no_tensors", "missing_role"]),
        ({"a.json": PIR}, [scan("pir", expected=[needed("w")])], Verdict.INCOMPLETE, ["missing_role"]),
        ({"a.json": PIR}, [scan("pir")], Verdict.VALID, []),
        ({"a.pdmodel": PICKLE}, [scan("pickle", tensor("w"))], Verdict.VALID, []),
        # Of several programs on one stream, none tells all that is in it.
        (
            {"a.json": PIR, "a.f.json": PIR, "a.pdiparams": TENSOR},
            [scan("pir"), scan("pir", expected=[needed("w")]), scan("tensors", tensor(0))],
            Verdict.VALID,
            [],
        ),
        (
            SEPARATE,
            [scan("program", expected=[needed("w"), needed("b")]), *[scan("tensors", tensor(0))] * 2],
            Verdict.VALID,
            [],
        ),
        (
            SEPARATE,
            [scan("program", expected=[needed("w"), needed("c")]), *[scan("tensors", tensor(0))] * 2],
            Verdict.CORRUPT,
            ["foreign_parameters"],
        ),
        (
            SEPARATE,
            [scan("program", expected=[needed("w", (3,)), needed("b")]), *[scan("tensors", tensor(0))] * 2],
            Verdict.CORRUPT,
            ["foreign_parameters"],
        ),
        (
            {"m/__model__": PROGRAM, "m/__params__": TENSOR},
            [scan("program", expected=[needed("b"), needed("w")]), scan("tensors", tensor(0), tensor(1))],
            Verdict.VALID,
            [],
        ),
        (
            {"f/0.metadata": PICKLE, "f/0_0.distcp": PICKLE},
            [
                scan(
                    "pickle", expected=[ExpectedTensor("w", "0_0.distcp"), ExpectedTensor("v", "1_0.distcp")]
                ),
                scan("pickle", tensor("w")),
            ],
            Verdict.INCOMPLETE,
            ["missing_shard"],
        ),
        ({"x": PICKLE}, [scan("pickle", codes=["nonfinite_values"])], Verdict.SUSPECT, ["nonfinite_values"]),
        ({"x.pdparams.tar": b""}, [scan("tar")], Verdict.SUSPECT, ["no_tensors"]),
    ],
)
def test_judge_loose_holds_files_against_each_other(heads, scans, verdict, codes):
    """A model is valid if its parameters are those its program needs, and shards if they are all there."""
    judgement = judged(heads, scans)
    assert (verdict, codes) == (judgement.verdict, [one.code for one in judgement.findings])


def test_judge_loose_of_what_is_never_read_is_not_valid():
    """A file that is open-ended by nature proves nothing by itself."""
    one = single_file(entry("training_args.bin"), PICKLE)
    assert Verdict.UNREADABLE is judge_loose(one, {"training_args.bin": scan("opaque")}).verdict


def test_head_is_enough_for_every_kind():
    """The beginning that is read suffices to tell a tar archive, which needs the most."""
    assert HEAD_BYTES >= len(tar_of("x"))
