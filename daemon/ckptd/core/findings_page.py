"""The table of findings as the page `docs/findings.md`."""

from __future__ import annotations

from ckptd.core.findings import FINDINGS
from ckptd.core.model import Verdict

_PAGE = """\
# Findings

This page is generated from the table in `daemon/ckptd/core/findings.py`.

A finding is one way in which a file or a set is wrong. It has a code, the path of the file or set, and a
detail in words. The verdict on a set is that of its heaviest finding; below, the heaviest come first. A set
with no finding, or with remarks only, is `valid`.

`ckptd check` shows the first finding of each set, `ckptd check --json` all of them; the daemon writes them to
its log and keeps them for `ckptd explain`.

{sections}
"""

_SECTION = """\
## {title}

{text}

| code | severity | meaning | what to do |
|---|---|---|---|
{rows}"""

# Heaviest first, as the verdicts outweigh each other.
_TEXTS: dict[Verdict | None, str] = {
    Verdict.UNSAFE: "To load this would run code that no checkpoint needs.",
    Verdict.CORRUPT: "The content is damaged, or is no checkpoint at all.",
    Verdict.UNREADABLE: "Nothing is known of the content. What may pass is looked at again.",
    Verdict.INCOMPLETE: "Something is missing that is needed to go on from this set.",
    Verdict.SUSPECT: "It can be loaded, but something says that this is not what you want to load.",
    None: "The set is valid all the same. An `info` is often as it should be, a `warning` is odd.",
}


def render_markdown() -> str:
    """The text of `docs/findings.md`."""
    sections = (_section(verdict) for verdict in _TEXTS)
    return _PAGE.format(sections="\n\n".join(sections))


def _section(verdict: Verdict | None) -> str:
    specs = sorted((spec for spec in FINDINGS.values() if spec.verdict is verdict), key=lambda one: one.code)
    rows = (f"| `{spec.code}` | {spec.severity} | {spec.meaning} | {spec.advice} |" for spec in specs)
    title = "Remarks" if verdict is None else f"`{verdict}`"
    return _SECTION.format(title=title, text=_TEXTS[verdict], rows="\n".join(rows))
