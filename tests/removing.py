"""Sets on a real disk, their removal, and ways to look at what came of it."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta

from ckptd.core.layouts import recognise
from ckptd.core.model import Action, Decision, Verdict
from ckptd.core.trash_entries import Removed, entry_id
from ckptd.shell import inventory, reaper

NOW = datetime(2026, 11, 24, 10, 55, tzinfo=UTC)
TRASH_FOR = timedelta(days=7)
ID = "20261124T105500Z-00000a"


def write(path, content=b"content"):
    """Write a file with a date of its own, and the directories that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    seconds = 1_700_000_000 + len(content)
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9 + 123_456_789))


def make_stem_set(root, run="run", stem="epoch_1"):
    """Write a set of three files side by side, and return it as it is recognised."""
    write(root / run / f"{stem}.pdopt", b"the optimizer state")
    write(root / run / f"{stem}.pdparams", b"the weights")
    write(root / run / f"{stem}.pdstates", b"the progress")
    return find_set(root, run, stem)


def make_directory_set(root, run="run", name="checkpoint-5"):
    """Write a set that is a directory with another one in it, and return it as it is recognised."""
    write(root / run / name / "model_state.pdparams", b"the weights")
    write(root / run / name / "optimizer.pdopt", b"the optimizer state")
    write(root / run / name / "tokenizer" / "vocabulary.txt", b"words")
    return find_set(root, run, name)


def find_set(root, run, name):
    """The set of that name as the listing shows it now."""
    found = recognise(inventory.look(str(root), run), run)
    return next(one for one in found if one.name == name)


def decided(doomed):
    """The decision to remove a set."""
    return Decision(doomed.key, Verdict.VALID, Action.REMOVE, ("no rule keeps it",), doomed.bytes)


def remove(root, doomed, name=ID):
    """Remove a set, whatever comes of it."""
    return reaper.remove(str(root), doomed, decided(doomed), name, now=NOW, trash_for=TRASH_FOR)


def removed(root, doomed, token="00000a"):  # noqa: S107 - six digits of a name
    """Remove a set that can be removed, and return the entry's id."""
    outcome = remove(root, doomed, entry_id(NOW, token))
    assert isinstance(outcome, Removed), outcome
    return outcome.entry_id


def snapshot(root):
    """All that lies in a directory, but for ckptd's own part: kinds, contents, and the dates of files."""
    found = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        if b".ckptd" in directories and os.path.samefile(directory, root):
            directories.remove(b".ckptd")
        for name in directories + files:
            path = os.path.join(directory, name)
            facts = os.lstat(path)
            content = None
            if stat.S_ISREG(facts.st_mode):
                with open(path, "rb") as file:
                    content = file.read(), facts.st_mtime_ns
            elif stat.S_ISLNK(facts.st_mode):
                content = os.readlink(path)
            found[os.path.relpath(path, os.fsencode(root))] = stat.S_IFMT(facts.st_mode), content
    return found


def trash_names(root):
    """The names in the trash."""
    trash = root / ".ckptd" / "trash"
    return sorted(os.listdir(trash)) if trash.is_dir() else []
