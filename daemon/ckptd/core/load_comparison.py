"""What it means for a file that was scanned, how paddle.load dealt with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckptd.core.model import Finding, Role
from ckptd.core.names import listed, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptd.core.model import FileScan, KeyPath, Member

    Facts = tuple[KeyPath, tuple[int, ...], str]  # key, shape, dtype

FINDING_OF: Final = {
    "refused": "load_failed",
    "unfinished": "load_unfinished",
    "changed": "changed_while_reading",
}
"""The code for each outcome of a load that gave nothing."""

# A random state is no tensor, and paddle.load fails on it; an index needs the classes of Paddle's own loader.
_NOT_LOADED: Final = frozenset({Role.RNG, Role.INDEX, Role.OPAQUE, Role.EXTRA, Role.MARKER})
_CONTAINERS: Final = frozenset({"pickle", "safetensors"})
_NAMELESS: Final = "tensors"
# With any other finding, it is known that Paddle may see the file otherwise.
_SAME_TENSORS: Final = frozenset({"nonfinite_values"})


def is_loadable(member: Member, scan: FileScan) -> bool:
    """Whether paddle.load reads a file of this kind by itself, and is not known to refuse this one."""
    if member.role in _NOT_LOADED or any(one.code == "unloadable_value" for one in scan.findings):
        return False
    if scan.container == _NAMELESS:
        # A stream of several has no end of its own: Paddle takes the first, and the program tells the rest.
        return len(scan.tensors) == 1 and not member.entry.path.endswith(".pdiparams")
    return scan.container in _CONTAINERS


def load_differences(path: str, scan: FileScan, loaded: Iterable[Facts]) -> tuple[Finding, ...]:
    """Compare names, shapes and types; one finding if they differ.

    Args:
        path: the file.
        scan: what the scan found in it.
        loaded: the tensors that paddle.load returned.
    """
    if not {one.code for one in scan.findings} <= _SAME_TENSORS:
        return ()
    # numpy has no bfloat16, and a tensor in Paddle's binary form has no name.
    ours = {(_key(one.key, scan), one.shape, one.dtype.replace("bfloat16", "uint16")) for one in scan.tensors}
    theirs = {(_key(key, scan), shape, dtype) for key, shape, dtype in loaded}
    differences = [f"only the scan sees {_in_words(one)}" for one in sorted(ours - theirs, key=repr)]
    differences += [f"only Paddle sees {_in_words(one)}" for one in sorted(theirs - ours, key=repr)]
    return (Finding("load_differs", shown(path), listed(differences)),) if differences else ()


def _key(key: KeyPath, scan: FileScan) -> KeyPath:
    return () if scan.container == _NAMELESS else key


def _in_words(facts: Facts) -> str:
    key, shape, dtype = facts
    return f"{'.'.join(map(str, key)) or 'a tensor'} of type {dtype} and shape {shape}"
