"""Has files read again, the one read longest ago first, to find what has rotted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptd.core.assessment import is_read
from ckptd.core.scrubbing import due, files_of
from ckptd.shell.scanner import ScanRequest

if TYPE_CHECKING:
    from datetime import timedelta

    from ckptd.core.model import Fingerprint, Role
    from ckptd.core.scrubbing import Budget
    from ckptd.reconcile.assessor import Assessor, Moment
    from ckptd.shell.ledger import Ledger
    from ckptd.shell.prober import Prober


@dataclass(slots=True)
class ScrubStep:
    """The rounds over the files of all roots.

    They read one file at a time, in a process of their own: a new set never waits for one, and what has begun
    goes on at its slow pace beside the scan of the new set.
    """

    assessors: tuple[Assessor, ...]
    ledger: Ledger
    scrubber: Prober
    round_length: timedelta
    bytes_per_second: int
    budget: Budget
    is_marked: bool = False  # it is time to look whether a file is due
    _next: deque[ScanRequest] = field(default_factory=deque)

    def proceed(self, moment: Moment) -> None:
        """Have the next file read, unless one is being read; to be called when no new set waits."""
        if len(self.scrubber):
            return
        if not self._next and self.is_marked:
            self.is_marked = False
            self._next.extend(self._chosen(moment))
        if self._next:
            self.scrubber.submit(self._next.popleft())

    def _chosen(self, moment: Moment) -> list[ScanRequest]:
        roles = {
            (assessor.watch.path, key): role
            for assessor in self.assessors
            for key, role in _judged_files(assessor).items()
        }
        files = [
            one
            for assessor in self.assessors
            for one in files_of(
                assessor.watch.path,
                self.ledger.readings(
                    assessor.watch.path, [key for root, key in roles if root == assessor.watch.path]
                ),
            )
        ]
        chosen, self.budget = due(
            files,
            self.budget,
            now=moment.now,
            monotonic=moment.monotonic,
            round_length=self.round_length,
            bytes_per_second=self.bytes_per_second,
        )
        return [ScanRequest(one.root, roles[one.root, one.fingerprint], one.fingerprint) for one in chosen]


def _judged_files(assessor: Assessor) -> dict[Fingerprint, Role]:
    """What was read of the root's sets that have settled."""
    return {
        member.entry.fingerprint: member.role
        for state in assessor.runs.values()
        if state.assessment is not None
        for key in state.assessment.alone
        for member in state.sets[key].members
        if is_read(member)
    }
