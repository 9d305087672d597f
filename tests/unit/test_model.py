from __future__ import annotations

from ckptd.core.model import (
    Action,
    CheckpointSet,
    Decision,
    EntryKind,
    FileScan,
    Fingerprint,
    Member,
    Plan,
    Role,
    SetKey,
    SetShape,
    TensorFacts,
    Verdict,
)
from making import entry


def a_set(*members: Member) -> CheckpointSet:
    """A set of these members, which nothing else is known of."""
    return CheckpointSet("run", "epoch_5", "plain", SetShape.STEM, members, frozenset())


def test_checkpoint_set_sums_up_its_members():
    """A set's size is that of its files alone, its time that of the youngest member."""
    whole = a_set(
        Member(Role.PARAMS, entry("run/epoch_5.pdparams", size=100, mtime_ns=7, inode=2)),
        Member(Role.OPT, entry("run/epoch_5.pdopt", size=4096, mtime_ns=9, kind=EntryKind.DIRECTORY)),
    )

    assert SetKey("run", "epoch_5") == whole.key
    assert (100, 9) == (whole.bytes, whole.mtime_ns)
    assert Fingerprint("run/epoch_5.pdparams", 100, 7, 2) == whole.fingerprints[1]
    assert (0, 0, ()) == (a_set().bytes, a_set().mtime_ns, a_set().fingerprints)


def test_checkpoint_set_fingerprints_do_not_depend_on_the_listing():
    """Equal files have equal fingerprints, in whatever order they were found."""
    members = [Member(Role.EXTRA, entry(f"run/a/{name}")) for name in "cab"]

    assert a_set(*members).fingerprints == a_set(*reversed(members)).fingerprints


def test_file_scan_counts_the_nonfinite_of_all_tensors():
    """One number says how many values of a file are no numbers."""
    tensors = tuple(TensorFacts((name,), (9,), "float32", 36, count) for name, count in (("a", 2), ("b", 3)))

    assert 5 == FileScan("pickle", 1, None, tensors=tensors).nonfinite


def test_plan_lists_the_decisions_of_one_kind_in_its_order():
    """A plan's removals come oldest first, as in the plan."""
    decisions = tuple(
        Decision(SetKey("run", name), Verdict.VALID, action, ("because",), 1)
        for name, action in (("a", Action.REMOVE), ("b", Action.KEEP), ("c", Action.REMOVE))
    )

    assert (decisions[0], decisions[2]) == Plan(decisions).with_action(Action.REMOVE)
    assert () == Plan().with_action(Action.KEEP)
