"""The installed packages of one lock: their id, their tree made harmless, and what they are. Builder."""

import csv
import hashlib
import keyword
import os
from collections.abc import Iterable
from email.parser import BytesHeaderParser
from pathlib import Path, PurePosixPath

import msgspec

from rootfs_builder import trees
from rootfs_builder.requirements import normalised
from runtime.errors import BuildError
from runtime.model import Distribution, Environment, EnvironmentId, RuntimeName

FORMAT = 1  # raise it when the same lock gives another tree, so that old trees are not taken for new ones
SEEN_AT = "/opt/env/"  # where sandboxes have an environment mounted (DESIGN section 3)
IMPORTS_PER_DISTRIBUTION_MAX = 16
_EXTENSION_SUFFIXES = (".so",)
_NOT_IMPORTED = {"tests", "test", "docs", "doc", "examples", "example"}


def environment_id(runtime: RuntimeName, lock: str) -> EnvironmentId:
    """Digest of all that decides what is installed; equal inputs, equal id."""
    return EnvironmentId(hashlib.sha256(msgspec.json.encode([FORMAT, runtime, lock])).hexdigest())


def sanitise(root: Path) -> None:
    """Make an installed tree fit to be a layer: modes normalised, leftovers removed.

    Raises BuildError of kind `install` for links, devices, pipes and sockets: no wheel can hold them.
    """
    (root / ".lock").unlink(missing_ok=True)
    for entry in trees.walk(root):
        if not entry.is_file and not entry.is_directory:
            raise BuildError("install", f"the installed packages have {entry.name!r}, which is no file or directory")
        trees.normalise(entry)


def describe(root: Path, *, runtime: RuntimeName, lock: str, declared: Iterable[str]) -> Environment:
    """What is installed below root. `declared`: normalised names whose modules count as imports."""
    found = {distribution.name: (distribution, directory) for distribution, directory in _installed(root)}
    imports: set[str] = set()
    for name in declared:
        if name in found:
            imports.update(importable(_recorded(found[name][1])))
    return Environment(
        id=environment_id(runtime, lock),
        runtime=runtime,
        distributions=tuple(sorted(distribution for distribution, _ in found.values())),
        imports=tuple(sorted(imports)),
    )


def importable(files: Iterable[str]) -> list[str]:
    """The modules to import for a distribution with these files (paths of its RECORD), sorted, without private ones.

    A package or module at the top counts; only when there is none, the first real packages below namespace
    packages (`google.cloud.storage`), and only when there is none of these either, modules in them.
    """
    packages: set[tuple[str, ...]] = set()
    modules: set[tuple[str, ...]] = set()
    for file in files:
        path = PurePosixPath(file)
        stem, is_module = path.name.split(".")[0], path.suffix in (".py", *_EXTENSION_SUFFIXES)
        if not is_module or path.is_absolute() or not all(_is_public(part) for part in path.parent.parts):
            continue
        if stem == "__init__":
            packages.add(path.parent.parts)
        elif _is_public(stem):
            modules.add((*path.parent.parts, stem))
    packages.discard(())
    top = {each for each in packages | modules if len(each) == 1}
    outermost = {each for each in packages if not any(each[:depth] in packages for depth in range(1, len(each)))}
    chosen = top or outermost or modules
    return sorted(".".join(each) for each in chosen)[:IMPORTS_PER_DISTRIBUTION_MAX]


def manifest(environment: Environment, lock: str) -> bytes:
    """The content of manifest.json: the Environment, and its lock."""
    return msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(environment), "lock": lock}), indent=1)


def _is_public(name: str) -> bool:
    return (
        name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_") and name not in _NOT_IMPORTED
    )


def _installed(root: Path) -> Iterable[tuple[Distribution, Path]]:
    for directory in sorted(root.glob("*.dist-info")):
        try:
            headers = BytesHeaderParser().parsebytes((directory / "METADATA").read_bytes())
        except OSError as error:
            raise BuildError("install", f"{directory.name} has no METADATA: {os.strerror(error.errno or 0)}") from error
        name, version = headers.get("Name"), headers.get("Version")
        if not name or not version:
            raise BuildError("install", f"{directory.name} does not say its name and version")
        yield Distribution(normalised(str(name).strip()), str(version).strip()), directory


def _recorded(directory: Path) -> list[str]:
    try:
        text = (directory / "RECORD").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [row[0] for row in csv.reader(text.splitlines()) if row]
