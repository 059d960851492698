"""The environment of one lock: which layers, in which order, and what they make together. Pure but `sanitise`.

Overlapping files are decided as pip would: it installs what others need first, and what is installed later
overwrites. An overlay shows the uppermost layer's file, so the stack is that order upside down.
"""

import hashlib
import keyword
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import msgspec
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement
from packaging.requirements import Requirement as Required

from rootfs_builder import trees
from rootfs_builder.requirements import normalised
from runtime.errors import BuildError
from runtime.model import (
    Conflict,
    Distribution,
    Environment,
    EnvironmentId,
    EnvironmentManifest,
    LayerId,
    RuntimeName,
)

FORMAT = 3  # raise it when the same lock gives another environment, so that old ones are not taken for new ones
SEEN_AT = "/opt/env/"  # where sandboxes have an environment mounted (DESIGN section 3)
IMPORTS_PER_DISTRIBUTION_MAX = 16
CONFLICTS_MAX = 100  # kept of one environment
_EXTENSION_SUFFIXES = (".so",)
_NOT_IMPORTED = {"tests", "test", "docs", "doc", "examples", "example"}
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]*)['"]""")


class LayerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one layer: the content of its layer.json.

    requires: Requires-Dist of its METADATA. files: path -> digest, from RECORD, without byte code. uncompiled:
    sources that the compiler refused. size_bytes: on the disk.
    """

    id: LayerId
    distribution: Distribution
    sha256: str
    requires: tuple[str, ...]
    imports: tuple[str, ...]
    files: dict[str, str]
    uncompiled: tuple[str, ...] = ()
    size_bytes: int = 0


def environment_id(runtime: RuntimeName, lock: str) -> EnvironmentId:
    """Digest of all that decides what is installed; equal inputs, equal id."""
    return EnvironmentId(hashlib.sha256(msgspec.json.encode([FORMAT, runtime, lock])).hexdigest())


def compose(
    facts: Sequence[LayerFacts],
    *,
    runtime: RuntimeName,
    lock: str,
    declared: Iterable[str],
    foreign: Iterable[str] = (),
) -> EnvironmentManifest:
    """Stack layers. `declared`: normalised names whose modules count as imports. `foreign`: not from the index.

    Raises BuildError of kind `install` where no stack can show what pip would have made.
    """
    by_name = {one.distribution.name: one for one in facts}
    order = [by_name[name] for name in reversed(install_order(facts, runtime))]
    imports = {name for each in declared if each in by_name for name in by_name[each].imports}
    environment = Environment(
        id=environment_id(runtime, lock),
        runtime=runtime,
        distributions=tuple(sorted(one.distribution for one in facts)),
        imports=tuple(sorted(imports)),
        modules={one.distribution.name: one.imports for one in facts if one.imports},
        requires={one.distribution.name: tuple(sorted(_needed(one, runtime) & by_name.keys())) for one in facts},
        layers={one.distribution.name: one.id for one in facts},
        foreign=tuple(sorted(foreign)),
    )
    return EnvironmentManifest(
        environment=environment,
        lock=lock,
        layers=tuple(one.id for one in order),
        conflicts=tuple(find_conflicts(order))[:CONFLICTS_MAX],
    )


def install_order(facts: Sequence[LayerFacts], runtime: RuntimeName) -> list[str]:
    """Names in the order in which pip would install them.

    As pip's get_installation_order: what needs nothing that is left goes first, of equals the last by name. Of a
    circle pip takes the one farthest from what the user asked for; here it is the last by name.
    """
    names = {one.distribution.name for one in facts}
    needs = {one.distribution.name: _needed(one, runtime) & names - {one.distribution.name} for one in facts}
    order: list[str] = []
    while needs:
        ready = [name for name, needed in needs.items() if not needed] or _innermost(needs)
        order += sorted(ready, reverse=True)
        for name in ready:
            del needs[name]
        for needed in needs.values():
            needed.difference_update(ready)
    return order


def _innermost(needs: Mapping[str, set[str]]) -> list[str]:
    """Names in circles that need nothing outside their circle."""
    reached: dict[str, set[str]] = {}
    for name in needs:
        found, pending = set[str](), list(needs[name])
        while pending:
            if (needed := pending.pop()) not in found:
                found.add(needed)
                pending += needs[needed]
        reached[name] = found
    return [name for name, found in reached.items() if all(name in reached[needed] for needed in found)]


def find_conflicts(order: Sequence[LayerFacts]) -> list[Conflict]:
    """Files that more than one layer has with different content; the first layer is seen. Raises BuildError."""
    tops: dict[str, list[LayerFacts]] = defaultdict(list)
    for one in order:
        for top in {path.partition("/")[0] for path in one.files}:
            tops[top].append(one)
    found = []
    for top, layers in sorted(tops.items()):
        if len(layers) > 1:
            found += _conflicts_below(top, layers)
    return found


def _conflicts_below(top: str, layers: Sequence[LayerFacts]) -> list[Conflict]:
    found, seen, folders = [], dict[str, LayerFacts](), dict[str, LayerFacts]()
    for one in layers:
        own = [path for path in one.files if path == top or path.startswith(f"{top}/")]
        own_folders = {str(parent) for path in own for parent in PurePosixPath(path).parents}
        for path in own:
            _refuse_unless(path not in folders, path, one, folders.get(path))
            first = seen.setdefault(path, one)
            if first is not one and first.files[path] != one.files[path]:
                # Its byte code would be taken for that of the file above it, which has none.
                _refuse_unless(path not in first.uncompiled, path, one, first)
                used, hidden = first.distribution.name, one.distribution.name
                found.append(Conflict(path=path, used=used, hidden=hidden))
        for folder in own_folders:
            _refuse_unless(folder not in seen, folder, one, seen.get(folder))
            folders.setdefault(folder, one)
    return found


def _refuse_unless(is_fine: bool, path: str, one: LayerFacts, other: LayerFacts | None) -> None:
    if not is_fine and other is not None:
        names = " and ".join(sorted((one.distribution.name, other.distribution.name)))
        raise BuildError(
            "install", f"{names} both have {path!r} and cannot be used together", hint="do without one of them"
        )


def _needed(facts: LayerFacts, runtime: RuntimeName) -> set[str]:
    """Names that a distribution requires on this runtime, with any of its extras."""
    version = runtime.removeprefix("python")
    environment = {key: str(value) for key, value in default_environment().items()}
    environment |= {"python_version": version, "python_full_version": f"{version}.0"}
    found = set()
    for line in facts.requires:
        try:
            required = Required(line)
        except InvalidRequirement:
            continue
        extras = ["", *_EXTRA.findall(line)]
        if required.marker is None or any(required.marker.evaluate({**environment, "extra": e}) for e in extras):
            found.add(normalised(required.name))
    return found


def sanitise(root: Path) -> None:
    """Make an installed tree fit to be a layer: modes normalised.

    Raises BuildError of kind `install` for links, devices, pipes and sockets: no wheel can hold them.
    """
    for entry in trees.walk(root):
        if not entry.is_file and not entry.is_directory:
            raise BuildError("install", f"the installed packages have {entry.name!r}, which is no file or directory")
        trees.normalise(entry)


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


def _is_public(name: str) -> bool:
    return (
        name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_") and name not in _NOT_IMPORTED
    )
