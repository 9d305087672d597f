"""`ckptd release list`: what was released, and what is live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ckptd.cli import output, places
from ckptd.core.names import shown
from ckptd.core.releases import Damaged
from ckptd.errors import CkptdError
from ckptd.shell.deploy_directory import ListedRelease, list_releases

if TYPE_CHECKING:
    import argparse


def show(options: argparse.Namespace) -> int:
    """List the releases of every deploy directory, oldest first."""
    releases = [watch.release for watch in places.settings(options).watches if watch.release is not None]
    for deploy_dir in (release.deploy_dir for release in releases):
        try:
            found = list_releases(deploy_dir)
        except OSError as error:
            raise CkptdError(f"{shown(deploy_dir)}: {error.strerror}") from None
        if options.json:
            for one in found:
                output.print_json({"deploy_dir": shown(deploy_dir), **_object(one)})
        else:
            nothing = f"{shown(deploy_dir)}: nothing was released yet"
            output.console().print(_table(deploy_dir, found) if found else Text(nothing))
    if not releases and not options.json:
        output.console().print(Text("no [watch.release] in the configuration: nothing is ever released"))
    return 0


def _object(one: ListedRelease) -> dict[str, Any]:
    release = one.release
    if isinstance(release, Damaged):
        return {"version": one.version, "live": one.is_live, "damaged": release.reason}
    return {
        "version": one.version,
        "live": one.is_live,
        "run": shown(release.source.run),
        "set": shown(release.source.set_name),
        "step": release.source.step,
        "epoch": release.source.epoch,
        "metric": output.metric_object(release.source.metric),
        "published_at": release.published_at.isoformat(),
        "previous": release.previous,
    }


def _table(deploy_dir: str, found: tuple[ListedRelease, ...]) -> Table:
    table = Table(title=Text(shown(deploy_dir)), title_justify="left", box=None, header_style="bold")
    for column in ("", "version", "from", "metric", "published"):
        table.add_column(column)
    for one in found:
        release = one.release
        mark = Text("live", style="bold green") if one.is_live else Text("")
        if isinstance(release, Damaged):
            table.add_row(mark, one.version, Text(f"damaged: {release.reason}", style="red"), "", "")
            continue
        source = release.source
        table.add_row(
            mark,
            one.version,
            Text(shown(f"{source.run}/{source.set_name}")),
            Text(f"{source.metric.name} {source.metric.value:g}"),
            f"{release.published_at:%Y-%m-%d %H:%M:%S} UTC",
        )
    return table
