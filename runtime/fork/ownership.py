"""Which modules of a zygote belong to which distribution, and which of them a function may find imported.

Runs inside zygotes: standard library only. A function must behave the same however it was started (DESIGN section
3), so it may only inherit modules that are as its own environment would have made them: of its own distributions,
from files that no other distribution has differently, and not importing anything that it does not have (a package
that finds an optional dependency at import is another package than one that does not).
"""

import builtins
import csv
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from itertools import islice
from typing import Any

ENVIRONMENT = "/opt/env"
_EXTENSION = ".so"


def normalised(name: str) -> str:
    """Distribution name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def file_owners(directory: str = ENVIRONMENT) -> dict[str, frozenset[str]]:
    """Path below `directory` -> distributions that have this file, from every RECORD there.

    Nobody (an empty set) for a file that several have with different content.
    """
    owners: dict[str, frozenset[str]] = {}
    digests: dict[str, str] = {}
    for entry in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        if not entry.endswith(".dist-info"):
            continue
        name = normalised(entry[: -len(".dist-info")].rpartition("-")[0])
        for path, digest in _recorded(f"{directory}/{entry}/RECORD"):
            if path not in owners:
                owners[path], digests[path] = frozenset((name,)), digest
            elif digests[path] != digest or not owners[path]:
                owners[path] = frozenset()
            else:
                owners[path] |= {name}
    return owners


def _recorded(record: str) -> Iterable[tuple[str, str]]:
    try:
        with open(record, newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except OSError:
        return
    for row in rows:
        yield os.path.normpath(row[0]), row[1] if len(row) > 1 else ""


def module_owners(
    files: Mapping[str, frozenset[str]],
    before: Collection[str] = (),
    directory: str = ENVIRONMENT,
    creators: Mapping[str, str] | None = None,
) -> dict[str, frozenset[str]]:
    """Imported module -> the distributions it is of, for modules that came from `directory`.

    before: names that were imported before anything of it. creators: of modules that others have made by hand. A
    namespace package is of all that have files in it; a module without a file is of its creator's or parent's
    distributions, or the standard library's (xml.parsers.expat.errors); one that is of no known file is of nobody.
    """
    made = creators or {}
    found: dict[str, frozenset[str]] = {}
    prefix = directory + "/"
    for name, module in sorted(sys.modules.items()):
        if name in before:
            continue
        file = _asked(module, "__file__")
        if isinstance(file, str):
            if file.startswith(prefix):
                found[name] = files.get(file[len(prefix) :], frozenset())
        elif (below := _namespace(module, prefix)) is not None:
            found[name] = frozenset(owner for path, own in files.items() if path.startswith(below) for owner in own)
        elif (parent := name.rpartition(".")[0]) in found:
            found[name] = found[parent]
        elif name in made:
            found[name] = _owners_of_file(sys.modules.get(made[name]), files, prefix)
        elif not _is_builtin(module) and name.partition(".")[0] not in sys.stdlib_module_names:
            found[name] = frozenset()
    return found


def _owners_of_file(module: object, files: Mapping[str, frozenset[str]], prefix: str) -> frozenset[str]:
    file = str(getattr(module, "__file__", ""))
    return files.get(file[len(prefix) :], frozenset()) if file.startswith(prefix) else frozenset()


def _namespace(module: object, prefix: str) -> str | None:
    """The folder of a namespace package below prefix, with a slash; None for any other module."""
    try:
        places = [place for place in _asked(module, "__path__") or () if isinstance(place, str)]
    except Exception:
        return None
    return next((place[len(prefix) :] + "/" for place in places if place.startswith(prefix)), None)


def _is_builtin(module: object) -> bool:
    return _asked(_asked(module, "__spec__"), "origin") in ("built-in", "frozen")


def _asked(module: object, name: str) -> Any:
    """An attribute of whatever a package has put into sys.modules; None when it has none or raises."""
    try:
        return getattr(module, name, None)
    except Exception:
        return None


class ImportGraph:
    """Records, while it is entered, which module imports which, and which makes others by hand."""

    def __init__(self) -> None:
        self.importers: dict[str, set[str]] = {}  # imported -> importers
        self.creators: dict[str, str] = {}  # made by hand -> the module whose execution made it
        self._loaders = [(kind, kind.exec_module) for kind in (SourceFileLoader, ExtensionFileLoader)]
        self._import = builtins.__import__
        self._import_module = importlib.import_module
        self._find_spec = importlib.util.find_spec

    def __enter__(self) -> "ImportGraph":
        builtins.__import__ = self._recorded_import
        importlib.import_module = self._recorded_import_module
        importlib.util.find_spec = self._recorded_find_spec
        for kind, original in self._loaders:
            kind.exec_module = self._recorded_exec(original)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        builtins.__import__ = self._import
        importlib.import_module = self._import_module
        importlib.util.find_spec = self._find_spec
        for kind, original in self._loaders:
            kind.exec_module = original  # type: ignore[method-assign]

    def _recorded_exec(self, original: Callable[..., None]) -> Callable[..., None]:
        def exec_module(loader: Any, module: Any) -> None:
            count = len(sys.modules)
            try:
                original(loader, module)
            finally:
                for name in list(islice(reversed(sys.modules), max(0, len(sys.modules) - count))):
                    if getattr(sys.modules.get(name), "__spec__", None) is None:
                        self.creators.setdefault(name, module.__name__)

        return exec_module

    def _note(self, importer: object, imported: str) -> None:
        if isinstance(importer, str) and imported != importer:
            self.importers.setdefault(imported, set()).add(importer)

    def _recorded_import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        module = self._import(name, globals, locals, fromlist, level)
        # a call of __import__ names no globals
        importer = (sys._getframe(1).f_globals if globals is None else globals).get("__name__")
        base = getattr(module, "__name__", name) if fromlist or level else name
        self._note(importer, base)
        children = fromlist or ()
        if "*" in children:
            children = (*children, *getattr(module, "__all__", ()))
        for child in children:
            if isinstance(child, str) and f"{base}.{child}" in sys.modules:
                self._note(importer, f"{base}.{child}")
        return module

    def _recorded_import_module(self, name: str, package: str | None = None) -> Any:
        module = self._import_module(name, package)
        self._note(sys._getframe(1).f_globals.get("__name__"), getattr(module, "__name__", name))
        return module

    def _recorded_find_spec(self, name: str, package: str | None = None) -> Any:
        spec = self._find_spec(name, package)
        if spec is not None:
            self._note(sys._getframe(1).f_globals.get("__name__"), spec.name)
        return spec


def foreign(
    owners: Mapping[str, frozenset[str]],
    importers: Mapping[str, Collection[str]],
    declared: Collection[str],
    creators: Mapping[str, str] | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a function with these distributions must not inherit: modules to forget; and of them its own extensions.

    Forgotten are modules of others, all below or made by a forgotten one, and all that have imported one. Its own
    are imported again in the helper; an extension mostly cannot be, so then the zygote is none for the function.
    """
    children: dict[str, list[str]] = {}
    for name in owners:
        children.setdefault(name.rpartition(".")[0], []).append(name)
    for name, creator in (creators or {}).items():
        if name in owners:
            children.setdefault(creator, []).append(name)
    wanted = set(declared)
    forgotten: set[str] = set()
    pending = [name for name, of in owners.items() if wanted.isdisjoint(of)]
    while pending:
        name = pending.pop()
        if name in forgotten:
            continue
        forgotten.add(name)
        pending += children.get(name, ())
        pending += (one for one in importers.get(name, ()) if one in owners)
    own = {name for name in forgotten if not wanted.isdisjoint(owners[name])}
    extensions = [name for name in own if str(getattr(sys.modules.get(name), "__file__", "")).endswith(_EXTENSION)]
    return tuple(name for name in owners if name in forgotten), tuple(sorted(extensions))
