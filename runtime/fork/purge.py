"""Which modules of a zygote belong to which distribution, and how a helper forgets what it did not declare.

Runs inside zygotes and helpers: standard library only. Removing modules is hygiene, not a boundary (DESIGN
section 6): it makes a function behave the same however it was started.
"""

import csv
import os
import re
import sys
from types import ModuleType

ENVIRONMENT = "/opt/env"
_stash: list[ModuleType] = []  # purged modules stay alive here: no destructor of theirs runs in a helper


def normalised(name: str) -> str:
    """Distribution name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def file_owners(directory: str = ENVIRONMENT) -> dict[str, tuple[str, str]]:
    """Path below `directory` -> (distribution, version), from every RECORD there."""
    owners: dict[str, tuple[str, str]] = {}
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        if not entry.endswith(".dist-info"):
            continue
        stem, _, version = entry[: -len(".dist-info")].partition("-")
        owner = (normalised(stem), version)
        try:
            with open(f"{directory}/{entry}/RECORD", newline="") as record:
                for row in csv.reader(record):
                    if row:
                        owners[os.path.normpath(row[0])] = owner
        except OSError:
            continue
    return owners


def module_owners(owners: dict[str, tuple[str, str]], directory: str = ENVIRONMENT) -> dict[str, tuple[str, str]]:
    """Imported module -> its distribution, for modules whose file lies below `directory`.

    A module without a file (namespace package, built by another module) belongs to its parent's
    distribution; one that has no owner at all counts as undeclared by everybody.
    """
    found: dict[str, tuple[str, str]] = {}
    prefix = directory + "/"
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(prefix):
            found[name] = owners.get(file[len(prefix) :], ("", ""))
    for name, module in list(sys.modules.items()):
        if name in found or "." not in name or getattr(module, "__file__", None):
            continue
        parent = name.rpartition(".")[0]
        if parent in found:
            found[name] = found[parent]
    return found


def undeclared(modules: dict[str, tuple[str, str]], declared: set[tuple[str, str]]) -> tuple[str, ...]:
    """Names of imported modules that a function with these distributions must not see."""
    return tuple(name for name, owner in modules.items() if owner not in declared)


def purge(names: tuple[str, ...]) -> None:
    """Forget modules, on their parents too, and what the import system remembers of directories."""
    modules = sys.modules
    for name in names:
        module = modules.pop(name, None)
        if module is None:
            continue
        _stash.append(module)
        parent, _, child = name.rpartition(".")
        if parent in modules:
            vars(modules[parent]).pop(child, None)
    forget_directories()


def forget_directories(prefix: str = ENVIRONMENT) -> None:
    """Make the import system read directories below `prefix` again."""
    cache = sys.path_importer_cache
    for path, finder in list(cache.items()):
        if path.startswith(prefix):
            if finder is None or path == prefix:
                del cache[path]
            else:
                invalidate = getattr(finder, "invalidate_caches", None)
                if invalidate is not None:
                    invalidate()
