"""The base root file systems on disk: which there are, which are old, how one is given up. Runs in pagurusd.

The builder makes them (rootfs_builder/base.py): ROOTFS/RUNTIME-DIGEST12/{fs/,manifest.json}, and the link
ROOTFS/RUNTIME to the one in use. Here they are only read, unlinked and listed for removal.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runtime.errors import BuildError
from runtime.model import RUNTIME_NAME_PATTERN, RuntimeName
from runtime.protocol import Base

_FOLDER_PATTERN = re.compile(rf"{RUNTIME_NAME_PATTERN.pattern}-[0-9a-f]{{12}}")


class _Manifest(msgspec.Struct, frozen=True):
    """What this side reads of a manifest.json."""

    runtime: RuntimeName
    suite: str
    digest: str
    python_version: str
    packages: tuple[dict[str, str], ...]
    disk_bytes: int = 0


def built(rootfs: Path) -> tuple[Base, ...]:
    """What the links name, sorted by version. A link to what is not whole is passed over."""
    found = [_read(path) for path in _links(rootfs) if RUNTIME_NAME_PATTERN.fullmatch(path.name)]
    return tuple(sorted((base for base in found if base is not None), key=lambda base: _version(base.runtime)))


def unlink(rootfs: Path, runtime: RuntimeName) -> str:
    """Give a runtime up: nothing new can be made of it. The name of its folder, which stays: see `old`.

    Raises BuildError when it is not there.
    """
    link = rootfs / runtime
    try:
        folder = link.resolve().name
        link.unlink()
    except FileNotFoundError:
        raise BuildError("base", f"runtime {runtime} is not built") from None
    return folder


def old(rootfs: Path, in_use: Collection[str]) -> list[Path]:
    """Folders of base rootfs that no link names and that are not `in_use` (names of folders that are mounted).

    None when ROOTFS is itself a link: then it is shared with other nodes, whose mounts nobody here knows.
    """
    if rootfs.is_symlink() or not rootfs.is_dir():
        return []
    linked = {link.resolve() for link in _links(rootfs)}
    return [
        path
        for path in sorted(rootfs.iterdir())
        if _FOLDER_PATTERN.fullmatch(path.name)
        and path.is_dir()
        and not path.is_symlink()
        and path.resolve() not in linked
        and path.name not in in_use
    ]


def leftovers(rootfs: Path) -> list[Path]:
    """What a builder that was killed has left. To be called within `exclusive` only: another may be at work."""
    return sorted(rootfs.glob(".tmp-*"))


@contextmanager
def exclusive(rootfs: Path) -> Iterator[bool]:
    """Hold the builder's lock, if no builder does: whether it is held."""
    try:
        descriptor = os.open(rootfs / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _links(rootfs: Path) -> list[Path]:
    return [path for path in sorted(rootfs.iterdir()) if path.is_symlink()] if rootfs.is_dir() else []


def _read(link: Path) -> Base | None:
    try:
        found = msgspec.json.decode((link / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    if found.runtime != link.name or not (link / "fs/usr/bin" / link.name).is_file():
        return None
    return Base(
        runtime=found.runtime,
        suite=found.suite,
        python_version=found.python_version,
        digest=found.digest,
        disk_bytes=found.disk_bytes,
        packages=len(found.packages),
    )


def _version(runtime: RuntimeName) -> tuple[int, ...]:
    return tuple(int(part) for part in runtime.removeprefix("python").split("."))
