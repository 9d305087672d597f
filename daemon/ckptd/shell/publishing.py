"""Publication: a release is written in `.staging`, flushed, moved into `releases`, read back, pointed at.

Each step leaves rubbish at most when a crash follows it: in `.staging`, which `clean_up` empties, or a whole
release that nothing points at, which `find_unpointed` finds again. `current` changes by one rename.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptd.core.releases import (
    MANIFEST_NAME,
    Damaged,
    Proof,
    PublishedFile,
    Release,
    Source,
    is_version,
    removable,
    render_manifest,
    why_not,
)
from ckptd.shell import durable
from ckptd.shell.deploy_directory import (
    CURRENT,
    RELEASES,
    STAGING,
    live_in,
    open_file,
    open_in,
    read_release,
    version_of_current,
    versions_in,
    why_not_whole,
)
from ckptd.shell.durable import held

if TYPE_CHECKING:
    from datetime import datetime

    from ckptd.core.model import MetricRule

MODEL = "model"
"""Within a staging directory: what becomes the release, and nothing else."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A proven model that waits to be published."""

    version: str
    source: Source
    export_key: str
    files: tuple[PublishedFile, ...]
    proof: Proof
    is_staged: bool = True  # False: it is in `releases/` already, where a crash has left it


@dataclass(frozen=True, slots=True)
class Published:
    """What is live now."""

    release: Release
    removed: tuple[str, ...] = ()  # versions beyond `keep`
    problem: str | None = None  # what went wrong after the swap; it is made good at the next start or release


def clean_up(deploy_dir: str) -> None:
    """Remove what an interrupted export has left in `.staging`; for the start, when no export runs.

    Raises:
        OSError: it could not be removed.
    """
    try:
        with (
            held(durable.open_directory(deploy_dir)) as deploy_fd,
            held(open_in(deploy_fd, STAGING)) as staging_fd,
        ):
            for name in os.listdir(staging_fd):
                if is_version(name):
                    durable.remove_tree(staging_fd, name)
    except FileNotFoundError:
        return


def make_ready(deploy_dir: str) -> int:
    """Open the deploy directory for an export, making what is missing of it; its parent must exist.

    Raises:
        OSError: it cannot be made or opened.
    """
    parent, name = os.path.split(os.path.abspath(deploy_dir))
    if not os.path.lexists(deploy_dir):
        with held(durable.open_directory(parent)) as parent_fd:
            durable.make_directory(parent_fd, name)
    deploy_fd = durable.open_directory(deploy_dir)
    try:
        if durable.make_directory(deploy_fd, RELEASES):
            with held(open_in(deploy_fd, RELEASES)) as releases_fd:
                os.fchmod(releases_fd, readers_mode(deploy_fd))
        durable.make_directory(deploy_fd, STAGING, 0o700)
    except BaseException:
        os.close(deploy_fd)
        raise
    return deploy_fd


def readers_mode(deploy_fd: int) -> int:
    """The mode for a directory of a release: as open as the deploy directory itself."""
    return stat.S_IMODE(os.fstat(deploy_fd).st_mode) & 0o2777


def find_unpointed(deploy_fd: int, source: Source, export_key: str) -> Exported | None:
    """A whole release of this very export that a crash has kept from being pointed at; the newest."""
    current = version_of_current(deploy_fd)
    for version in reversed(versions_in(deploy_fd)):
        release = read_release(deploy_fd, version)
        if isinstance(release, Damaged) or version == current:
            continue
        if (release.export_key, release.source.digests) == (export_key, source.digests):
            with held(open_in(deploy_fd, RELEASES, version)) as release_fd:
                if why_not_whole(release_fd, release) is None:
                    return Exported(
                        version, source, export_key, release.files, release.proof, is_staged=False
                    )
    return None


def publish(
    deploy_dir: str, exported: Exported, rule: MetricRule, keep: int, now: datetime
) -> Published | str:
    """Make a proven model the live release, unless the live one is no worse; a string says why not.

    Raises:
        OSError: it could not be done; the old release is still live.
    """
    with held(durable.open_directory(deploy_dir)) as deploy_fd:
        old = live_in(deploy_fd)
        reason = why_not(exported.source, old, rule)
        if reason is not None:
            return reason
        release = Release(
            version=exported.version,
            source=exported.source,
            export_key=exported.export_key,
            files=exported.files,
            proof=exported.proof,
            published_at=now,
            previous=old.version if isinstance(old, Release) else None,
        )
        _place(deploy_fd, release, is_staged=exported.is_staged)
        with held(open_in(deploy_fd, RELEASES, release.version)) as release_fd:
            damage = why_not_whole(release_fd, release)
        if damage is not None:
            _discard(deploy_fd, release.version)
            return f"refusing to point at a release that reads back differently ({damage}); check the disk"
        try:
            durable.swap_symlink(deploy_fd, CURRENT, f"{RELEASES}/{release.version}")
            return Published(release, removed=_tidy_up(deploy_fd, release, keep))
        except OSError as error:
            if version_of_current(deploy_fd) != release.version:
                raise
            return Published(release, problem=str(error))  # readers see it already


def drop_staged(deploy_fd: int, version: str) -> None:
    """Remove a staging directory, if it is there.

    Raises:
        OSError: it could not be removed.
    """
    with held(open_in(deploy_fd, STAGING)) as staging_fd:
        if version in os.listdir(staging_fd):
            durable.remove_tree(staging_fd, version)


def _place(deploy_fd: int, release: Release, *, is_staged: bool) -> None:
    """Write the manifest and put the release into `releases`, all of it on disk."""
    if not is_staged:
        with held(open_in(deploy_fd, RELEASES, release.version)) as release_fd:
            _write_manifest(deploy_fd, release_fd, release)
        return
    with held(open_in(deploy_fd, STAGING, release.version)) as staged_fd:
        with held(open_in(staged_fd, MODEL)) as model_fd:
            _write_manifest(deploy_fd, model_fd, release)
            durable.sync_tree(model_fd)
        with held(open_in(deploy_fd, RELEASES)) as releases_fd:
            durable.move(staged_fd, MODEL, releases_fd, release.version)


def _write_manifest(deploy_fd: int, directory_fd: int, release: Release) -> None:
    durable.write_file(directory_fd, MANIFEST_NAME, render_manifest(release))
    with open_file(directory_fd, MANIFEST_NAME) as file_fd:  # whatever the service's umask is
        os.fchmod(file_fd, readers_mode(deploy_fd) & 0o666)


def _tidy_up(deploy_fd: int, current: Release, keep: int) -> tuple[str, ...]:
    """Remove the used staging directory and old releases; only what holds our manifest counts as one."""
    drop_staged(deploy_fd, current.version)
    found = (read_release(deploy_fd, version) for version in versions_in(deploy_fd))
    versions = removable((one for one in found if isinstance(one, Release)), current, keep)
    for version in versions:
        _discard(deploy_fd, version)
    return versions


def _discard(deploy_fd: int, version: str) -> None:
    """Take a release out of `releases` by one rename, then remove it: never half a release is left there."""
    drop_staged(deploy_fd, version)
    with (
        held(open_in(deploy_fd, STAGING)) as staging_fd,
        held(open_in(deploy_fd, RELEASES)) as releases_fd,
    ):
        durable.move(releases_fd, version, staging_fd, version)
    drop_staged(deploy_fd, version)
