"""The deploy directory as it is: `releases/<version>/`, the link `current` to the live one, and `.staging/`.

Readers go through `current`. Nothing found here is trusted before its manifest was parsed and, where it
counts, its files were read again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from ckptd.core.releases import MANIFEST_NAME, Damaged, PublishedFile, Release, is_version, parse_manifest
from ckptd.shell import durable
from ckptd.shell.durable import held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CURRENT = "current"
RELEASES = "releases"
STAGING = ".staging"

_SMALL_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ListedRelease:
    """An entry of `releases/`."""

    version: str
    release: Release | Damaged
    is_live: bool


def live(deploy_dir: str) -> Release | Damaged | None:
    """What `current` points at; None if there is no `current`."""
    try:
        with held(durable.open_directory(deploy_dir)) as deploy_fd:
            return live_in(deploy_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Damaged(f"{deploy_dir} cannot be read: {error.strerror}", "let the service read it")


def list_releases(deploy_dir: str) -> tuple[ListedRelease, ...]:
    """Everything in `releases/` that is named like a version, oldest first.

    Raises:
        OSError: the directory cannot be read; one that does not exist is empty.
    """
    try:
        with held(durable.open_directory(deploy_dir)) as deploy_fd:
            current = version_of_current(deploy_fd)
            return tuple(
                ListedRelease(version, read_release(deploy_fd, version), version == current)
                for version in versions_in(deploy_fd)
            )
    except FileNotFoundError:
        return ()


def live_in(deploy_fd: int) -> Release | Damaged | None:
    """As `live`, for an open deploy directory."""
    try:
        target = os.readlink(CURRENT, dir_fd=deploy_fd)
    except FileNotFoundError:
        return None
    except OSError:
        return Damaged(f"`{CURRENT}` is no symbolic link", "move it away")
    version = version_of_current(deploy_fd)
    if version is None:
        return Damaged(
            f"`{CURRENT}` points at {target!r}, which is none of `{RELEASES}/`", f"remove `{CURRENT}`"
        )
    return read_release(deploy_fd, version)


def version_of_current(deploy_fd: int) -> str | None:
    """The version that `current` names, whether it is there or not."""
    try:
        directory, _, version = os.readlink(CURRENT, dir_fd=deploy_fd).rpartition("/")
    except OSError:
        return None
    return version if directory == RELEASES and is_version(version) else None


def versions_in(deploy_fd: int) -> list[str]:
    """The entries of `releases/` that are named like a version, oldest first."""
    try:
        with held(open_in(deploy_fd, RELEASES)) as releases_fd:
            return sorted(filter(is_version, os.listdir(releases_fd)))
    except FileNotFoundError:
        return []


def read_release(deploy_fd: int, version: str) -> Release | Damaged:
    """What a release's manifest says."""
    try:
        with held(open_in(deploy_fd, RELEASES, version)) as release_fd:
            return parse_manifest(read_small(release_fd, MANIFEST_NAME), version)
    except OSError as error:
        return Damaged(f"{version}/{MANIFEST_NAME}: {error.strerror}")


def why_not_whole(release_fd: int, release: Release) -> str | None:
    """How a release's files differ from its manifest; None if they do not."""
    wanted = {file.name: file for file in release.files}
    present = set(os.listdir(release_fd)) - {MANIFEST_NAME}
    if present != set(wanted):
        return f"it holds {sorted(present)}, not {sorted(wanted)}"
    different = [name for name, file in wanted.items() if digested(release_fd, name) != file]
    return f"the content of {different[0]} differs" if different else None


def digested(directory_fd: int, name: str, on_chunk: Callable[[], None] = lambda: None) -> PublishedFile:
    """Read a regular file once and describe it; `on_chunk` is called every so often and may raise.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    digest, size = xxhash.xxh3_128(), 0
    with open_file(directory_fd, name) as file_fd:
        while chunk := os.read(file_fd, _CHUNK_BYTES):
            on_chunk()
            digest.update(chunk)
            size += len(chunk)
    return PublishedFile(name, size, digest.hexdigest())


@contextlib.contextmanager
def open_file(directory_fd: int, name: str) -> Iterator[int]:
    """Open a regular file for reading, following no link.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    with held(os.open(name, _READ, dir_fd=directory_fd)) as file_fd:
        if not stat.S_ISREG(os.fstat(file_fd).st_mode):
            raise OSError(None, "not a regular file", name)
        yield file_fd


def read_small(directory_fd: int, name: str) -> bytes:
    """The content of a small file; of a larger one, too much of it to be parsed.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_file(directory_fd, name) as file_fd, open(file_fd, "rb", closefd=False) as file:
        return file.read(_SMALL_BYTES)


def open_in(deploy_fd: int, *parts: str) -> int:
    """Open a directory below this one, following no link."""
    return durable.open_beneath(deploy_fd, "/".join(parts))
