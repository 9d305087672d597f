"""The words of the domain as frozen values; what every other module passes around.

Paths are relative to the watch root, `/`-joined, and may hold bytes that are no UTF-8 as lone surrogates
(`os.fsdecode`); `core.names.shown` makes them printable. Times are aware UTC, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta

Scalar = str | int | float | bool | None
"""A leaf of a progress file."""

KeyPath = tuple[str | int, ...]
"""Where a value sits in a nested container: mapping keys and sequence indices from the outside in."""


class EntryKind(StrEnum):
    """What a directory entry is, as `lstat` says it."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"  # FIFO, socket, device


class Role(StrEnum):
    """What a member is for."""

    PARAMS = "params"
    OPT = "opt"
    SCALER = "scaler"
    SCHEDULER = "scheduler"
    EMA = "ema"
    META = "meta"
    RNG = "rng"
    SHARD = "shard"
    INDEX = "index"
    MARKER = "marker"
    PROGRAM = "program"
    OPAQUE = "opaque"  # open-ended by nature (pickled arguments): neither read nor counted as proof
    EXTRA = "extra"  # belongs to a directory set, carries no training state


class Verdict(StrEnum):
    """The judgement of a set."""

    WRITING = "writing"  # its files still change
    PENDING = "pending"  # settled, not scanned yet
    VALID = "valid"
    SUSPECT = "suspect"
    INCOMPLETE = "incomplete"
    CORRUPT = "corrupt"
    UNSAFE = "unsafe"
    UNREADABLE = "unreadable"


class Order(StrEnum):
    """Which end of a metric is the good one."""

    MIN = "min"
    MAX = "max"


class Action(StrEnum):
    """What a plan wants done with a set."""

    KEEP = "keep"
    REMOVE = "remove"
    LEAVE = "leave"  # not ours to judge for removal


class Fingerprint(NamedTuple):
    """What identifies a file's content without reading it."""

    path: str
    bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory entry, as one `lstat` saw it."""

    path: str
    kind: EntryKind
    bytes: int
    mtime_ns: int
    inode: int

    @property
    def fingerprint(self) -> Fingerprint:
        """The cache key of this entry's scan."""
        return Fingerprint(self.path, self.bytes, self.mtime_ns, self.inode)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a set, with what it is for."""

    role: Role
    entry: Entry


class SetShape(StrEnum):
    """How the members of a set belong together."""

    STEM = "stem"  # files side by side that share a name before the suffix
    DIRECTORY = "directory"  # all that one directory holds


class SetKey(NamedTuple):
    """What names a set within its root."""

    run: str  # "." is the root itself
    name: str


@dataclass(frozen=True, slots=True)
class CheckpointSet:
    """One checkpoint as the directory listing shows it: recognised, not yet judged."""

    run: str
    name: str
    layout: str
    shape: SetShape
    members: tuple[Member, ...]
    required: frozenset[Role]
    step: int | None = None  # as the name says it
    epoch: int | None = None
    is_alias: bool = False  # rewritten in place: latest, best_model, a stem without a number
    trainer_prunes: bool = False  # the trainer removes old sets itself and may trip over a missing one
    directory: str | None = None  # path of a directory set
    family: str = (
        ""  # sets of one run whose names differ only in a number; `gen_1` and `disc_1` are two families
    )

    @property
    def key(self) -> SetKey:
        """The set's name within its root."""
        return SetKey(self.run, self.name)

    @property
    def bytes(self) -> int:
        """The size of all member files together."""
        return sum(member.entry.bytes for member in self.members if member.entry.kind is EntryKind.FILE)

    @property
    def mtime_ns(self) -> int:
        """When the youngest member was last written."""
        return max((member.entry.mtime_ns for member in self.members), default=0)

    @property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """The set's identity on disk: equal fingerprints, equal judgement."""
        return tuple(sorted(member.entry.fingerprint for member in self.members))


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"  # the set is not valid
    WARNING = "warning"  # the set is valid, something about it is odd
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One coded way in which a file or a set is wrong; `core.findings` holds the codes."""

    code: str
    path: str
    detail: str


class TensorFacts(NamedTuple):
    """One tensor that a file holds; a plain tuple, as a model has thousands.

    `parameter` is Paddle's internal name (`linear_0.w_0`) if the file has it; optimizer state is keyed by it.
    """

    key: KeyPath
    shape: tuple[int, ...]
    dtype: str  # numpy name: "float32"; a pickle keeps bfloat16 as "uint16", and it stays so here
    bytes: int
    nonfinite: int
    parameter: str | None = None
    is_constant: bool = False  # of at least two elements, and all of them equal


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A tensor, or a part of one, that an index says is in a file beside it."""

    name: str
    file: str  # relative to the directory of the index
    shape: tuple[int, ...] | None = None  # of this part; None where the index does not tell
    offset: tuple[int, ...] | None = None  # of this part within the whole tensor, one number per dimension
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class FileScan:
    """What one complete pass over one file found.

    `values` are the plain leaves of the file's tree (progress, learning-rate schedules), without the tensors.
    """

    container: str  # a name of `core.containers`, "unknown", or "none" (could not be opened)
    bytes: int
    digest: str | None  # xxh3-128 over the whole file, hexadecimal
    findings: tuple[Finding, ...] = ()
    tensors: tuple[TensorFacts, ...] = ()
    values: tuple[tuple[KeyPath, Scalar], ...] = ()
    expected: tuple[ExpectedTensor, ...] = ()  # of an index: what must be in the shards

    @property
    def nonfinite(self) -> int:
        """How many elements of all tensors are NaN or infinite."""
        return sum(tensor.nonfinite for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured value that ranks sets."""

    name: str
    value: float  # finite
    order: Order


@dataclass(frozen=True, slots=True)
class MetricRule:
    """How sets are ranked: the key path of the value, its good end, and how much better counts as better."""

    name: str
    order: Order
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class ProgressKeys:
    """Key paths under which a set's own step and epoch are looked up, first hit first."""

    step: tuple[str, ...] = ("global_step", "step", "iter", "iteration")
    epoch: tuple[str, ...] = ("epoch",)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on a set, with all that led to it."""

    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    step: int | None = None
    epoch: int | None = None
    metric: Metric | None = None
    roles: frozenset[Role] = (
        frozenset()
    )  # what the content provides: a combined dict is params and opt in one


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set as retention and selection see it."""

    key: SetKey
    verdict: Verdict
    saved_at: datetime
    bytes: int
    step: int | None = None
    epoch: int | None = None
    metric: Metric | None = None
    is_alias: bool = False
    is_pinned: bool = False
    is_released: bool = False  # the live release was made from it, or one is being made
    trainer_prunes: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run's sets are kept for. Every `keep_*` is a reason of its own; a set with none may go."""

    enforce: bool
    min_valid: int
    min_age: timedelta
    trash_for: timedelta
    idle_after: timedelta  # a run without a new set for so long is over: its trainer tracks nothing any more
    keep_last: int | None = None
    keep_best: int | None = None
    keep_every_steps: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with one set, and every reason for it."""

    key: SetKey
    verdict: Verdict
    action: Action
    reasons: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions for one run, oldest set first."""

    decisions: tuple[Decision, ...] = field(default=())

    def with_action(self, action: Action) -> tuple[Decision, ...]:
        """The decisions of one kind, in the plan's order."""
        return tuple(decision for decision in self.decisions if decision.action is action)
