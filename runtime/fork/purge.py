"""How a helper forgets what it must not have inherited. Runs inside helpers: standard library only.

Removing modules is hygiene, not a boundary (DESIGN section 6): it makes a function behave the same however it was
started.
"""

import sys
from types import ModuleType
from typing import Any

ENVIRONMENT = "/opt/env"
_stash: list[object] = []  # forgotten modules stay alive here: no destructor of theirs runs in a helper


def purge(names: tuple[str, ...]) -> None:
    """Forget modules, on their parents too, their import hooks, and what the import system knows of directories."""
    modules = sys.modules
    for name in names:
        module = modules.pop(name, None)
        if module is None:
            continue
        _stash.append(module)
        parent, _, child = name.rpartition(".")
        if parent in modules:
            vars(modules[parent]).pop(child, None)
    _drop_hooks(sys.meta_path, set(names))
    _drop_hooks(sys.path_hooks, set(names))
    forget_directories()


def _drop_hooks(hooks: list[Any], forgotten: set[str]) -> None:
    _stash.extend(hook for hook in hooks if _is_of(hook, forgotten))
    hooks[:] = [hook for hook in hooks if not _is_of(hook, forgotten)]


def _is_of(hook: object, modules: set[str]) -> bool:
    return getattr(hook, "__module__", None) in modules or type(hook).__module__ in modules


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
    metadata: ModuleType | None = sys.modules.get("importlib.metadata")
    if metadata is not None:  # it remembers folders by their time of change, which two environments may share
        metadata.MetadataPathFinder().invalidate_caches()  # of an object: it is no class method before Python 3.12
