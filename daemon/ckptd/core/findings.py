"""The finding codes: one per way of being wrong, with the verdict each leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptd.core.model import Severity, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptd.core.model import Finding


@dataclass(frozen=True, slots=True)
class FindingSpec:
    """What a code means and what to do about it.

    `verdict` is what a set with such a finding is at best; None for a remark that leaves the set valid.
    """

    code: str
    verdict: Verdict | None
    meaning: str
    advice: str
    is_odd: bool = True  # False for a remark on what is often as it should be

    @property
    def severity(self) -> Severity:
        """Error where the verdict suffers, elsewhere a warning if it is odd."""
        if self.verdict is not None:
            return Severity.ERROR
        return Severity.WARNING if self.is_odd else Severity.INFO


_RETRAIN = "The file cannot be repaired. Resume from an older valid set."
_WAIT = "It is looked at again as soon as it changes."
_LOOK = "Look at the training before you rely on this set."
_ANOTHER = "Resume from another set."
_LEAVE = "ckptd leaves it alone. Move it away if it does not belong here."

FINDINGS: dict[str, FindingSpec] = {
    spec.code: spec
    for spec in (
        # The file could not be looked at.
        FindingSpec(
            "missing_file", Verdict.UNREADABLE, "the file vanished before or while it was read", _WAIT
        ),
        FindingSpec(
            "permission_denied",
            Verdict.UNREADABLE,
            "the service may not read the file",
            "Give its user read access, by group or by an ACL on the output directory.",
        ),
        FindingSpec(
            "read_error", Verdict.UNREADABLE, "the system failed to read the file", "Check the disk."
        ),
        FindingSpec("not_a_regular_file", Verdict.UNREADABLE, "a directory, FIFO, socket or device", _LEAVE),
        FindingSpec("symbolic_link", Verdict.UNREADABLE, "a symbolic link, which is never followed", _LEAVE),
        FindingSpec(
            "changed_while_reading", Verdict.UNREADABLE, "the file was rewritten during the scan", _WAIT
        ),
        FindingSpec(
            "scanner_failed",
            Verdict.UNREADABLE,
            "the scan process died or hung on this file",
            "Keep the file and report it: the scanner must answer for every file.",
        ),
        # The file is no checkpoint, or no whole one.
        FindingSpec("empty_file", Verdict.CORRUPT, "zero bytes: a save that was cut off at once", _RETRAIN),
        FindingSpec(
            "git_lfs_pointer",
            Verdict.CORRUPT,
            "a git-LFS pointer, not the file itself",
            "Run `git lfs pull`.",
        ),
        FindingSpec(
            "html_page", Verdict.CORRUPT, "an HTML page: a download that failed", "Download it again."
        ),
        FindingSpec(
            "all_zero",
            Verdict.CORRUPT,
            "zeros where the content should begin: blocks that were never written",
            _RETRAIN,
        ),
        FindingSpec(
            "sparse_file",
            Verdict.UNREADABLE,
            "more than 4 GiB of holes, which were never written or copied as such; they are not read through",
            "If the zeros are meant, write them out: cp --sparse=never FILE COPY.",
        ),
        FindingSpec(
            "unknown_container",
            Verdict.UNREADABLE,
            "no reader understands this file, so nothing is proved",
            _LEAVE,
        ),
        FindingSpec("truncated", Verdict.CORRUPT, "the file ends before its content does", _RETRAIN),
        FindingSpec("malformed", Verdict.CORRUPT, "the content contradicts its own format", _RETRAIN),
        FindingSpec(
            "size_mismatch", Verdict.CORRUPT, "a tensor's bytes do not fit its shape and type", _RETRAIN
        ),
        FindingSpec(
            "not_covered", Verdict.CORRUPT, "bytes that belong to no tensor, or to two at once", _RETRAIN
        ),
        FindingSpec("limit_exceeded", Verdict.CORRUPT, "more structure than any checkpoint has", _LEAVE),
        FindingSpec(
            "trailing_bytes",
            Verdict.SUSPECT,
            "bytes after the end: written over a longer file, or appended",
            _RETRAIN,
        ),
        FindingSpec("invalid_json", Verdict.CORRUPT, "the JSON does not parse", _RETRAIN),
        FindingSpec(
            "invalid_index",
            Verdict.CORRUPT,
            "the index of a sharded checkpoint contradicts itself or names no files beside it",
            _ANOTHER,
        ),
        # The file would do more than hold data.
        FindingSpec(
            "unsafe_global",
            Verdict.UNSAFE,
            "the pickle names a callable that no checkpoint needs; loading it would run code",
            "Do not load it. Find out who wrote it.",
        ),
        FindingSpec(
            "unsafe_opcode",
            Verdict.UNSAFE,
            "the pickle uses an instruction that calls code and that Paddle never writes",
            "Do not load it. Find out who wrote it.",
        ),
        FindingSpec(
            "unsafe_archive",
            Verdict.UNSAFE,
            "the archive holds a link, a device or a name that leads out of it: unpacking writes elsewhere",
            "Do not unpack it. Find out who wrote it.",
        ),
        # The numbers.
        FindingSpec(
            "nonfinite_values",
            Verdict.SUSPECT,
            "NaN or infinite values in the tensors: the training diverged",
            "Resume from an older valid set, with a lower learning rate or loss scaling.",
        ),
        FindingSpec(
            "unverified_tensor",
            Verdict.SUSPECT,
            "a tensor whose values could not be checked",
            "Save it again with paddle.save.",
        ),
        FindingSpec(
            "unloadable_value",
            Verdict.SUSPECT,
            "bytes or a frozen set among the values, which paddle.save writes and paddle.load refuses",
            "Save such values as text, lists or tensors.",
        ),
        # What had been read before.
        FindingSpec(
            "content_rotted",
            Verdict.SUSPECT,
            "the content changed although size, time and inode did not: the disk or the memory lost bits, or "
            "somebody wrote it and set the time back",
            "Restore the file from a copy, then check disk and memory (docs/operations.md, Rot).",
        ),
        # The set.
        FindingSpec(
            "missing_role", Verdict.INCOMPLETE, "a member that is needed to resume is not there", _WAIT
        ),
        FindingSpec(
            "missing_scaler",
            Verdict.INCOMPLETE,
            "earlier sets of this series have a GradScaler state, this one has none",
            _WAIT,
        ),
        FindingSpec(
            "missing_shard",
            Verdict.INCOMPLETE,
            "a shard is not there that the index names or the other shards count; on several machines, each"
            " may hold only its own",
            "Bring the shards of all machines together. It is looked at again as soon as it changes.",
        ),
        FindingSpec(
            "missing_index",
            Verdict.INCOMPLETE,
            "shards without the index that says which tensor is in which of them",
            _WAIT,
        ),
        FindingSpec(
            "missing_shard_tensor",
            Verdict.INCOMPLETE,
            "a shard lacks tensors that the index says are in it: one of the two is of another save",
            _ANOTHER,
        ),
        FindingSpec(
            "shard_mismatch",
            Verdict.CORRUPT,
            "a tensor in a shard has another shape or type than the index says: one is of another save",
            _ANOTHER,
        ),
        FindingSpec(
            "foreign_parameters",
            Verdict.CORRUPT,
            "the parameters of a deployed model are not those that its program needs",
            "Export the model again.",
        ),
        FindingSpec(
            "load_failed",
            Verdict.CORRUPT,
            "paddle.load refuses the file, although the scan found nothing wrong with it",
            "Resume from another set. Keep the file and report it: the scan must find what Paddle refuses.",
        ),
        FindingSpec(
            "load_differs",
            Verdict.UNREADABLE,
            "paddle.load reads other tensors than the scan did",
            "Keep the file and report it: the scan must read what Paddle reads.",
        ),
        FindingSpec(
            "load_unfinished",
            Verdict.UNREADABLE,
            "paddle.load died or did not finish within the limits that the file's size allows",
            "Check the memory of the machine, and try again without other work beside it.",
        ),
        FindingSpec(
            "uncovered_tensor",
            Verdict.INCOMPLETE,
            "the parts of a tensor leave gaps or overlap",
            _ANOTHER,
        ),
        FindingSpec(
            "unindexed_tensor",
            Verdict.SUSPECT,
            "shards hold tensors that no index names, and no loader would find: the index is of another save",
            "Save into an empty directory; an older index that is in the way is kept as it is.",
        ),
        FindingSpec(
            "empty_scaler_state",
            Verdict.SUSPECT,
            "the GradScaler state is empty, and earlier sets of this series have one",
            "Resume without it, or from an older set.",
        ),
        FindingSpec(
            "bad_rng_state",
            Verdict.SUSPECT,
            "the random state cannot be used: resumed training will not go on exactly as it was",
            "Resume without it, or from an older set.",
        ),
        FindingSpec(
            "progress_disagrees",
            Verdict.SUSPECT,
            "files of the set tell different epochs or steps: they are of different saves",
            _ANOTHER,
        ),
        FindingSpec(
            "tensors_lost",
            Verdict.SUSPECT,
            "weights that the previous set of this series has are not in this one",
            _LOOK,
        ),
        FindingSpec(
            "shapes_changed",
            Verdict.SUSPECT,
            "weights have other shapes than in the previous set of this series",
            _LOOK,
        ),
        FindingSpec(
            "dtypes_changed",
            Verdict.SUSPECT,
            "weights are of another type than in the previous set of this series",
            _LOOK,
        ),
        FindingSpec("no_tensors", Verdict.SUSPECT, "the weights file holds no tensor", _RETRAIN),
        FindingSpec(
            "foreign_optimizer",
            Verdict.SUSPECT,
            "the optimizer state belongs to other parameters",
            "Resume with this set's weights only, or from another set.",
        ),
        FindingSpec(
            "wrong_container",
            Verdict.SUSPECT,
            "a file is whole, but a program or an index where state has to be",
            _ANOTHER,
        ),
        FindingSpec(
            "bad_scaler_state",
            Verdict.SUSPECT,
            "the scaler file holds no GradScaler state",
            "Resume without it.",
        ),
        # Remarks.
        FindingSpec("metric_missing", None, "no value under the configured metric", "Check `best.metric`."),
        FindingSpec("metric_not_a_number", None, "the metric is no number", "Check `best.metric`."),
        FindingSpec(
            "metric_not_finite", None, "the metric is NaN or infinite and never ranks", "None needed."
        ),
        FindingSpec(
            "member_not_read",
            None,
            "a file of the set is open-ended by nature and proves nothing",
            "None needed.",
        ),
        FindingSpec(
            "tensors_added",
            None,
            "weights that the previous set of this series does not have",
            "None needed if the network was extended.",
        ),
        FindingSpec(
            "constant_tensors",
            None,
            "weights whose elements are all equal, as biases and scales are before they are trained",
            "None needed, unless these should have been trained.",
            is_odd=False,
        ),
    )
}

_BY_WEIGHT = (
    Verdict.UNSAFE,
    Verdict.CORRUPT,
    Verdict.UNREADABLE,
    Verdict.INCOMPLETE,
    Verdict.SUSPECT,
)


def worst_verdict(findings: Iterable[Finding]) -> Verdict:
    """The verdict on something with these findings: the heaviest one, or valid."""
    verdicts = {FINDINGS[finding.code].verdict for finding in findings}
    return next((verdict for verdict in _BY_WEIGHT if verdict in verdicts), Verdict.VALID)
