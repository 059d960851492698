"""How modules are forgotten, and what the import system knew of them."""

import importlib.metadata
import os
import sys
import types
from pathlib import Path

import pytest

from runtime.fork import purge


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    """`sys.modules` with what would have been imported from an environment."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(purge, "_stash", [])
    for name in ("alpha", "alpha.part", "alpha.made", "beta", "loose"):
        sys.modules[name] = module = types.ModuleType(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def test_forgotten_modules_are_gone_from_their_parents_and_stay_alive(modules):
    part = sys.modules["alpha.part"]
    purge.purge(("alpha.part", "beta", "never.imported"))
    assert "alpha.part" not in sys.modules and "beta" not in sys.modules
    assert not hasattr(sys.modules["alpha"], "part") and hasattr(sys.modules["alpha"], "made")
    assert part in purge._stash, "no destructor of theirs runs in a helper"


def test_a_parent_and_its_children_can_be_forgotten_in_any_order(modules):
    purge.purge(("alpha", "alpha.part", "alpha.made"))
    assert not [name for name in sys.modules if name.startswith("alpha")]


def test_directories_of_the_environment_are_read_again(monkeypatch: pytest.MonkeyPatch):
    class Finder:
        count = 0

        def invalidate_caches(self) -> None:
            self.count += 1

    inside, outside = Finder(), Finder()
    cache = {"/opt/env": Finder(), "/opt/env/alpha": inside, "/opt/env/gone": None, "/usr/lib": outside}
    monkeypatch.setattr(sys, "path_importer_cache", cache)
    purge.forget_directories()
    assert set(cache) == {"/opt/env/alpha", "/usr/lib"}
    assert (inside.count, outside.count) == (1, 0)


def test_import_hooks_of_forgotten_modules_go_too_and_others_stay(modules, monkeypatch: pytest.MonkeyPatch):
    class Finder:
        pass

    def hook() -> None:
        pass

    Finder.__module__, hook.__module__ = "alpha", "beta"
    finder, kept = Finder(), list(sys.meta_path)
    monkeypatch.setattr(sys, "meta_path", [finder, Finder, *kept])
    monkeypatch.setattr(sys, "path_hooks", [*sys.path_hooks, hook])
    purge.purge(("beta",))
    assert sys.meta_path == [finder, Finder, *kept] and hook not in sys.path_hooks
    purge.purge(("alpha",))
    assert sys.meta_path == kept and finder in purge._stash and hook in purge._stash


def test_metadata_of_another_environment_at_the_same_path_is_read_anew(tmp_path: Path):
    def install(name: str) -> None:
        """As mounting another environment does: the folder's time of change stays."""
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        os.utime(tmp_path, ns=(0, 0))

    def found(name: str) -> list[str]:
        return [one.metadata["Name"] for one in importlib.metadata.distributions(name=name, path=[str(tmp_path)])]

    install("one")
    assert found("one") == ["one"]
    install("other")
    assert found("other") == [], "it is remembered"
    purge.purge(())
    assert found("other") == ["other"]
