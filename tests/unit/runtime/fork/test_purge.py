"""Which modules belong to whom, and how they are forgotten."""

import sys
import types
from pathlib import Path

import pytest

from runtime.fork import purge


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """An environment with two distributions, one of them with a compiled and a vendored module."""
    for path in ("alpha/__init__.py", "alpha/part.py", "alpha/_c.so", "beta.py", "loose.py"):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    for name, rows in {
        "Alpha_Beta-1.0.dist-info": "alpha/__init__.py,sha256=x,1\nalpha/part.py,,\n../../bin/x,,\nalpha/_c.so,,\n",
        "beta-2.0.dist-info": '"beta.py",,\n\n',
        "broken-1.dist-info": "",
        "other-data": "",
    }.items():
        (tmp_path / name).mkdir()
        if name != "broken-1.dist-info":
            (tmp_path / name / "RECORD").write_text(rows)
    return tmp_path


@pytest.fixture
def modules(env: Path, monkeypatch: pytest.MonkeyPatch):
    """`sys.modules` with what would have been imported from it."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(purge, "_stash", [])

    def add(name: str, path: str | None) -> types.ModuleType:
        module = types.ModuleType(name)
        if path:
            module.__file__ = str(env / path)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        return module

    add("alpha", "alpha/__init__.py")
    add("alpha.part", "alpha/part.py")
    add("alpha.made", None)
    add("beta", "beta.py")
    add("loose", "loose.py")
    return add


def test_names_are_normalised_as_pep_503_has_it():
    assert {purge.normalised(name) for name in ("A.B", "a_b", "A--b", "a-._b")} == {"a-b"}


def test_owners_of_files_are_read_from_every_record(env: Path):
    assert purge.file_owners(str(env)) == {
        "alpha/__init__.py": ("alpha-beta", "1.0"),
        "alpha/part.py": ("alpha-beta", "1.0"),
        "alpha/_c.so": ("alpha-beta", "1.0"),
        "../../bin/x": ("alpha-beta", "1.0"),
        "beta.py": ("beta", "2.0"),
    }
    assert purge.file_owners(str(env / "nowhere")) == {}


def test_owners_of_modules_are_those_of_their_files_or_parents(env: Path, modules):
    found = purge.module_owners(purge.file_owners(str(env)), str(env))
    assert found == {
        "alpha": ("alpha-beta", "1.0"),
        "alpha.part": ("alpha-beta", "1.0"),
        "alpha.made": ("alpha-beta", "1.0"),
        "beta": ("beta", "2.0"),
        "loose": ("", ""),
    }


def test_undeclared_are_all_but_the_exact_versions():
    owners = {"a": ("a", "1"), "b": ("b", "2"), "c": ("", "")}
    assert purge.undeclared(owners, {("a", "1"), ("b", "3")}) == ("b", "c")
    assert purge.undeclared(owners, set()) == ("a", "b", "c")


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
