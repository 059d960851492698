"""What uv resolved, file by file: which wheel of each package fits the runtime best, and the lock's text. Pure.

A lock names exact versions and the hashes of their files. A file of the user's own that has both already is
honoured as it is: nothing is resolved, only looked up.
"""

import platform
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from packaging import tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from rootfs_builder.requirements import Requirement, normalised
from rootfs_builder.suites import Suite
from runtime.errors import BuildError
from runtime.model import DIGEST_PATTERN, Locked

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600
_SDIST_SUFFIXES = (".tar.gz", ".zip")


def from_pylock(
    text: str, suite: Suite, allowed: Mapping[str, tuple[str, ...]] | None = None, *, takes_sources: bool = False
) -> tuple[Locked, ...]:
    """The best file of each package in a pylock.toml (PEP 751), sorted by name.

    allowed: hashes ("sha256:...") by name that the user's own lock permits; None permits all.
    takes_sources: an sdist is taken where no wheel fits. Raises BuildError of kind `requirements`.
    """
    ranks = {str(tag): rank for rank, tag in reversed(list(enumerate(supported_tags(suite))))}
    try:
        packages = tomllib.loads(text).get("packages", [])
        if allowed is not None:  # what a lock of the user's own lacks is not added
            packages = [package for package in packages if normalised(package["name"]) in allowed]
        chosen = [_choose(package, ranks, allowed, takes_sources=takes_sources) for package in packages]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # as TOML, or as PEP 751
        raise _refused(f"the lock cannot be read: {str(error)[:200]}", "look into the index's metadata") from error
    return tuple(sorted(chosen, key=lambda one: one.name))


def supported_tags(suite: Suite) -> Iterable[tags.Tag]:
    """Tags of wheels that the runtime can use, the best first: of its libc and interpreter, not the host's."""
    arch, platforms = platform.machine(), []
    for minor in range(int(suite.glibc.removeprefix("2_")), 4, -1):
        platforms.append(f"manylinux_2_{minor}_{arch}")
        if minor in _LEGACY:
            platforms.append(f"{_LEGACY[minor]}_{arch}")
    platforms.append(f"linux_{arch}")
    major, _, minor_text = suite.python.partition(".")
    version = (int(major), int(minor_text))
    yield from tags.cpython_tags(version, platforms=platforms)
    yield from tags.compatible_tags(version, interpreter=f"cp{major}{minor_text}", platforms=platforms)


def lock_text(locked: Iterable[Locked]) -> str:
    """A lock as a requirements file: sorted, one line and one hash each."""
    lines = sorted((one.name, f"{one.name}=={one.version} \\\n    --hash=sha256:{one.sha256}\n") for one in locked)
    return "".join(line for _, line in lines)


def allowed_hashes(requirements: Iterable[Requirement]) -> dict[str, tuple[str, ...]]:
    """The hashes of a lock of the user's own, by name."""
    found: dict[str, tuple[str, ...]] = {}
    for each in requirements:
        found[each.name] = (*found.get(each.name, ()), *each.hashes)
    return found


def _choose(
    package: Mapping[str, Any],
    ranks: Mapping[str, int],
    allowed: Mapping[str, tuple[str, ...]] | None,
    *,
    takes_sources: bool,
) -> Locked:
    name, version = normalised(package["name"]), str(package.get("version", ""))
    entries = list(package.get("wheels", []))
    if "archive" in package:
        entries.append(package["archive"])
        version = version or _version_of(_filename(package["archive"]))
    ranked = [(_rank(name, _filename(each), ranks), each) for each in entries]
    fitting = [(rank, _file(name, version, each)) for rank, each in ranked if rank is not None]
    if takes_sources and "sdist" in package:
        source = msgspec.structs.replace(_file(name, version, package["sdist"]), is_source=True)
        if source.filename.endswith(_SDIST_SUFFIXES):
            fitting.append((len(ranks), source))
    permitted = [
        (rank, one) for rank, one in fitting if allowed is None or f"sha256:{one.sha256}" in allowed.get(name, ())
    ]
    if not fitting:
        raise _refused(f"{name} {version} has no wheel for this Python and platform", "choose a version that has one")
    if not permitted:
        raise _refused(
            f"none of the hashes given for {name}=={version} is that of a file of the index that fits",
            "lock the requirements again, for this runtime",
        )
    return min(permitted, key=lambda pair: (pair[0], pair[1].filename))[1]


def _url(entry: Mapping[str, Any]) -> str:
    url = str(entry.get("url") or "")
    return f"file://{entry['path']}" if not url and "path" in entry else url


def _filename(entry: Mapping[str, Any]) -> str:
    return str(entry.get("name") or PurePosixPath(unquote(urlsplit(_url(entry)).path)).name)


def _file(name: str, version: str, entry: Mapping[str, Any]) -> Locked:
    url, filename = _url(entry), _filename(entry)
    if "/" in filename or filename.startswith(".") or not filename.isprintable():
        raise _refused(f"the index has a file named {filename[:100]!r}", "use another index")
    sha256 = str(entry.get("hashes", {}).get("sha256", "")).lower()
    if not DIGEST_PATTERN.fullmatch(sha256):
        raise _refused(f"the index gives no SHA-256 of {filename or name}", "use an index that does")
    size = entry.get("size", 0)
    return Locked(
        name=name,
        version=version,
        filename=filename,
        url=url,
        sha256=sha256,
        size=size if isinstance(size, int) and size > 0 else 0,
    )


def _rank(name: str, filename: str, ranks: Mapping[str, int]) -> int | None:
    """How well a wheel fits, 0 best; None when it does not, is another package's, or is no wheel."""
    try:
        of, _, _, found = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    if of != name or "/" in filename:
        return None
    return min((ranks[str(tag)] for tag in found if str(tag) in ranks), default=None)


def _version_of(filename: str) -> str:
    try:
        return str(parse_wheel_filename(filename)[1])
    except InvalidWheelFilename as error:
        raise _refused(f"{filename!r} is no wheel", "give the address of a wheel") from error


def _refused(message: str, hint: str) -> BuildError:
    return BuildError("requirements", message, hint=hint)
