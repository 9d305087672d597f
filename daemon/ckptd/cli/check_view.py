"""How `ckptd check` shows its verdicts: a tree for people, or one JSON object for each set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree as RichTree

from ckptd.cli import output
from ckptd.core.assessment import scans_of
from ckptd.core.findings import FINDINGS
from ckptd.core.loose_files import LOOSE_LAYOUTS
from ckptd.core.model import Severity
from ckptd.core.names import shown
from ckptd.core.units import shown_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptd.cli.check_places import Place
    from ckptd.core.model import CheckpointSet, Judgement

    Judged = tuple[CheckpointSet, Judgement]


def print_json(place: Place, judged: Sequence[Judged]) -> None:
    """Print each set as one object."""
    for one, judgement in judged:
        output.print_json(output.set_object(place.path, one, judgement, scans_of(one, place.scans)))


def print_tree(place: Place, judged: Sequence[Judged]) -> None:
    """Print the sets of a directory in training order, and what is no set below them."""
    tree = RichTree(Text(shown(place.path), style="bold"))
    for one, judgement in sorted(judged, key=_order):
        tree.add(_line(one, judgement))
    output.console().print(tree)


def left_out_line(count: int) -> str:
    """What is said of files that were not judged."""
    return f"{count} other {'file was' if count == 1 else 'files were'} left out: nothing that Paddle writes"


def _order(judged: Judged) -> tuple[bool, bool, int, int, str]:
    one, judgement = judged
    return one.layout in LOOSE_LAYOUTS, one.is_alias, judgement.step or 0, judgement.epoch or 0, one.name


def _line(one: CheckpointSet, judgement: Judgement) -> Text:
    where = f"step {judgement.step}" if judgement.step is not None else ""
    where = where or (f"epoch {judgement.epoch}" if judgement.epoch is not None else "")
    layout = "" if one.layout == "file" else one.layout
    facts = ", ".join(part for part in (shown_bytes(one.bytes), where, layout) if part)
    name = one.name + ("/" if one.directory is not None and not one.name.endswith("/") else "")
    line = Text.assemble(f"{shown(name)}  ", output.styled(judgement.verdict), f"  ({facts})")
    odd = [one for one in judgement.findings if FINDINGS[one.code].severity is not Severity.INFO]
    if odd:
        more = len(odd) - 1
        to_blame = [one for one in odd if FINDINGS[one.code].verdict is judgement.verdict]
        line.append(f"\n{output.in_words((*to_blame, *odd)[0])}")
        line.append(f"\nand {more} more; --json shows all" if more else "")
    return line
