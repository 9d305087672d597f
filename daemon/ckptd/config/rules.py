"""What no key can say by itself: rules between keys, and between the directories they name.

They look at the tables as they were read, so that they hold for all that is well-formed in a file that has
other errors too. Each yields problems of the form `place: what is wrong; the way out`.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptd.config.paths import Located, absolute, default_name, is_path, located
from ckptd.config.problems import quoted
from ckptd.config.schema import DaemonTable, RetentionTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KEEP_RULES = tuple(key for key in RetentionTable.model_fields if key.startswith("keep_"))
_LONGEST_PATH = 4096  # the system knows no longer one
_STATE_DIR = DaemonTable.model_fields["state_dir"].default


class _Watch(NamedTuple):
    place: str
    table: Mapping[str, Any]


def broken_rules(document: Mapping[str, Any], base: str) -> Iterator[str]:
    """All problems of a file whose relative paths start at `base`."""
    entries = document.get("watch")
    watches = [
        _Watch(f"watch[{number}]", entry)
        for number, entry in enumerate(entries if isinstance(entries, list) else [], start=1)
        if isinstance(entry, dict)
    ]
    for watch in watches:
        yield from _idle_policy(watch)
    yield from _shared_names(watches, base)
    yield from _tangled_directories(document, watches, base)


def _idle_policy(watch: _Watch) -> Iterator[str]:
    """Tables that could never have an effect, or not the one they promise."""
    retention, has_best = watch.table.get("retention"), "best" in watch.table
    if isinstance(retention, dict):
        where = f"{watch.place}.retention"
        if not any(rule in retention for rule in _KEEP_RULES):
            yield (
                f"{where}: no rule says what to keep; set {_listed(_KEEP_RULES)},"
                " or leave [watch.retention] out to remove nothing"
            )
        if "keep_best" in retention and not has_best:
            yield f"{where}.keep_best: nothing says what is best; add [watch.best], or remove this key"
    if "release" in watch.table and not has_best:
        yield f"{watch.place}.release: nothing says which set to release; add [watch.best]"


def _listed(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _shared_names(watches: list[_Watch], base: str) -> Iterator[str]:
    first: dict[str, str] = {}
    for place, table in watches:
        name = table.get("name")
        if name is None and is_path(table.get("path")):
            name = default_name(absolute(base, table["path"]))
        if isinstance(name, str) and (owner := first.setdefault(name, place)) != place:
            yield f"{place}.name: {quoted(name)} is the name of {owner} too; give each its own"


def _tangled_directories(document: Mapping[str, Any], watches: list[_Watch], base: str) -> Iterator[str]:
    roots = list(_located(base, ((f"{place}.path", table.get("path")) for place, table in watches)))
    deploys = list(
        _located(
            base,
            (
                (f"{place}.release.deploy_dir", release.get("deploy_dir"))
                for place, table in watches
                if isinstance(release := table.get("release"), dict)
            ),
        )
    )
    daemon = document.get("daemon", {})
    state_path = daemon.get("state_dir", _STATE_DIR) if isinstance(daemon, dict) else None
    states = list(_located(base, [("daemon.state_dir", state_path)]))

    for one, other in combinations(roots, 2):
        yield from _overlap(one, other, "watch only one of them, so that each set has one owner")
    for one, other in combinations(deploys, 2):
        yield from _overlap(one, other, "give each watch a deploy_dir of its own")
    for root in roots:
        for deploy in deploys:
            yield from _overlap(root, deploy, "keep training output and releases apart")
        for state in states:
            if state.is_within(root):
                yield _sentence(state, root, "put it elsewhere, so that it is not taken for training output")


def _located(base: str, paths: Any) -> Iterator[Located]:
    for place, path in paths:
        if is_path(path):
            yield located(place, absolute(base, path))


def _overlap(one: Located, other: Located, way_out: str) -> Iterator[str]:
    """At most one problem; it is put down to the inner directory, or to the later one of two equals."""
    if other.is_within(one):
        yield _sentence(other, one, way_out)
    elif one.is_within(other):
        yield _sentence(one, other, way_out)


def _sentence(inner: Located, outer: Located, way_out: str) -> str:
    relation = "is the same directory as" if inner.is_same_as(outer) else "lies within"
    return f"{inner.place}: {_shown(inner)} {relation} {outer.place} {_shown(outer)}; {way_out}"


def _shown(directory: Located) -> str:
    path, real = (quoted(text, longest=_LONGEST_PATH) for text in (directory.path, directory.real))
    return path if path == real else f"{path} (really {real})"
