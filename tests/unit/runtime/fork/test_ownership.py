"""Which modules belong to whom, who imported whom, and what a function may not inherit."""

import builtins
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.fork import ownership
from runtime.fork.ownership import ImportGraph, file_owners, foreign, module_owners

NOBODY: frozenset[str] = frozenset()
Add = Callable[[str, str | None], types.ModuleType]


def of(*names: str) -> frozenset[str]:
    return frozenset(names)


def install(root: Path, info: str, files: dict[str, str]) -> None:
    """A distribution's RECORD; `files`: path -> digest."""
    (root / f"{info}.dist-info").mkdir()
    rows = [f"{path},sha256={digest},1\n" for path, digest in files.items()]
    (root / f"{info}.dist-info" / "RECORD").write_text("".join(rows))


@pytest.fixture(autouse=True)
def modules_stay_as_they_were() -> Iterator[None]:
    kept = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(kept):
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Put a module into `sys.modules` as if it had been imported from the environment, which is tmp_path."""

    def add(name: str, path: str | None) -> types.ModuleType:
        module = types.ModuleType(name)
        if path:
            module.__file__ = str(tmp_path / path)
        sys.modules[name] = module
        return module

    return add


def owners_after(before: dict[str, types.ModuleType], root: Path) -> dict[str, frozenset[str]]:
    return module_owners(file_owners(str(root)), before, str(root))


# --- files


def test_names_are_normalised_as_pep_503_has_it():
    assert {ownership.normalised(name) for name in ("A.B", "a_b", "A--b", "a-._b")} == {"a-b"}


def test_owners_of_files_are_read_from_every_record(tmp_path: Path):
    for name, rows in {
        "Alpha_Beta-1.0.dist-info": "alpha/__init__.py,sha256=x,1\nalpha/part.py,,\n../../bin/x,,\nalpha/_c.so,,\n",
        "beta-2.0.dist-info": '"be,ta.py",,\n\nbeta//./x.py\n',
        "broken-1.dist-info": None,
        "other-data": "other.py,,\n",
    }.items():
        (tmp_path / name).mkdir()
        if rows is not None:
            (tmp_path / name / "RECORD").write_text(rows)
    assert file_owners(str(tmp_path)) == {
        "alpha/__init__.py": of("alpha-beta"),
        "alpha/part.py": of("alpha-beta"),
        "alpha/_c.so": of("alpha-beta"),
        "../../bin/x": of("alpha-beta"),
        "be,ta.py": of("beta"),
        "beta/x.py": of("beta"),
    }
    assert file_owners(str(tmp_path / "nowhere")) == {}


def test_a_file_that_several_have_the_same_is_of_all_of_them(tmp_path: Path):
    for name in ("a", "b", "c"):
        install(tmp_path, f"{name}-1", {"shared/x.py": "same"})
    assert file_owners(str(tmp_path)) == {"shared/x.py": of("a", "b", "c")}


@pytest.mark.parametrize("digests", [("x", "x", "y"), ("x", "y", "x"), ("y", "x", "x"), ("x", "y", "z")])
def test_a_file_that_several_have_differently_is_nobody_s(tmp_path: Path, digests: tuple[str, ...]):
    for name, digest in zip(("a", "b", "c"), digests, strict=True):
        install(tmp_path, f"{name}-1", {"shared.py": digest})
    assert file_owners(str(tmp_path)) == {"shared.py": NOBODY}


# --- modules


def test_owners_of_modules_are_those_of_their_files_or_parents(tmp_path: Path, add: Add):
    before = dict(sys.modules)
    install(tmp_path, "Alpha_Beta-1.0", {"alpha/__init__.py": "x", "alpha/part.py": "x"})
    install(tmp_path, "beta-2.0", {"beta.py": "x"})
    add("alpha", "alpha/__init__.py")
    add("alpha.part", "alpha/part.py")
    add("alpha.made", None)
    add("alpha.made.deeper", None)
    add("beta", "beta.py")
    add("loose", "loose.py")
    assert owners_after(before, tmp_path) == {
        "alpha": of("alpha-beta"),
        "alpha.part": of("alpha-beta"),
        "alpha.made": of("alpha-beta"),
        "alpha.made.deeper": of("alpha-beta"),
        "beta": of("beta"),
        "loose": NOBODY,
    }


def test_what_was_imported_before_or_from_elsewhere_is_not_listed(tmp_path: Path, add: Add):
    add("early", "early.py")
    before = dict(sys.modules)
    add("elsewhere", None).__file__ = "/usr/lib/elsewhere.py"
    add("beside", None).__file__ = f"{tmp_path}-beside/x.py"
    sys.modules["frozen_one"] = types.ModuleType("frozen_one")
    sys.modules["frozen_one"].__spec__ = importlib.machinery.ModuleSpec("frozen_one", None, origin="frozen")
    assert owners_after(before, tmp_path) == {}


def test_a_namespace_package_is_of_all_that_have_files_in_it(tmp_path: Path, add: Add):
    before = dict(sys.modules)
    install(tmp_path, "a-1", {"ns/a.py": "x", "ns/deep/a.py": "x"})
    install(tmp_path, "b-1", {"ns/b.py": "x", "nsx/other.py": "x"})
    install(tmp_path, "c-1", {"other.py": "x"})
    add("ns", None).__path__ = [str(tmp_path / "ns")]
    add("ns.deep", None).__path__ = ["/elsewhere", str(tmp_path / "ns" / "deep")]
    assert owners_after(before, tmp_path) == {"ns": of("a", "b"), "ns.deep": of("a")}


def test_an_injected_module_is_of_its_parent_s_distribution_or_of_nobody(tmp_path: Path, add: Add):
    before = dict(sys.modules)
    install(tmp_path, "six-1", {"six.py": "x"})
    add("six", "six.py")
    add("six.moves", None)
    add("injected", None)
    sys.modules["placeholder"] = None  # type: ignore[assignment]
    assert owners_after(before, tmp_path) == {
        "six": of("six"),
        "six.moves": of("six"),
        "injected": NOBODY,
        "placeholder": NOBODY,
    }


def test_modules_that_the_standard_library_makes_stay_where_they_are(tmp_path: Path):
    for name in [name for name in sys.modules if name.startswith(("xml", "pyexpat"))]:
        del sys.modules[name]
    before = dict(sys.modules)
    import xml.parsers.expat

    assert "xml.parsers.expat.errors" in sys.modules and not hasattr(xml.parsers.expat.errors, "__file__")
    assert owners_after(before, tmp_path) == {}


def test_a_module_that_raises_whatever_it_is_asked_is_nobody_s(tmp_path: Path, add: Add):
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise ImportError(name)

    before = dict(sys.modules)
    sys.modules["lazy"] = Lazy("lazy")
    assert owners_after(before, tmp_path) == {"lazy": NOBODY}


# --- who imports whom


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, set[str]]]]:
    """Write modules, import `top`; what each of them has imported."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def imported(sources: dict[str, str]) -> dict[str, set[str]]:
        for name, source in sources.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(source)
        importlib.invalidate_caches()
        with ImportGraph() as graph:
            __import__("top")
        found: dict[str, set[str]] = {}
        for name, importers in graph.importers.items():
            for importer in importers & {"top", "one", "pkg", "pkg.sub"}:
                found.setdefault(importer, set()).add(name)
        return found

    yield imported
    sys.path_importer_cache.pop(str(tmp_path), None)


PACKAGE = {"pkg/__init__.py": "", "pkg/sub.py": "x = 1\n", "one.py": "x = 1\n"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import one", {"one"}),
        ("import one as other", {"one"}),
        ("import pkg.sub", {"pkg.sub"}),
        ("from pkg import sub", {"pkg", "pkg.sub"}),
        ("from pkg.sub import x", {"pkg.sub"}),
        ("from one import *", {"one"}),
        ("import importlib\nimportlib.import_module('pkg.sub')", {"importlib", "pkg.sub"}),
        ("import importlib\nimportlib.import_module('.sub', 'pkg')", {"importlib", "pkg.sub"}),
        ("from importlib import import_module\nimport_module('one')", {"importlib", "one"}),
        ("import importlib.util\nassert importlib.util.find_spec('one')", {"importlib.util", "one"}),
        ("import importlib.util\nassert not importlib.util.find_spec('absent')", {"importlib.util"}),
        ("__import__('one')", {"one"}),
        ("try:\n    import absent\nexcept ImportError:\n    import one", {"one"}),
        ("def later():\n    import one\nlater()", {"one"}),
    ],
)
def test_imports_are_recorded_however_they_are_written(tree, source: str, found: set[str]):
    assert tree({**PACKAGE, "top.py": source})["top"] == found


def test_relative_imports_are_recorded_by_their_full_names(tree):
    package = {"pkg/__init__.py": "from . import sub\nfrom .low import x\n", "pkg/sub.py": "from .low import x\n"}
    found = tree({"top.py": "import pkg", **package, "pkg/low.py": "x = 1"})
    assert found == {"top": {"pkg"}, "pkg": {"pkg.sub", "pkg.low"}, "pkg.sub": {"pkg.low"}}


def test_a_star_takes_the_modules_that_the_package_lists(tree):
    package = {"pkg/__init__.py": "__all__ = ['sub', 'x']\nx = 1\n", "pkg/sub.py": ""}
    assert tree({"top.py": "from pkg import *", **package})["top"] == {"pkg", "pkg.sub"}


def test_imports_in_a_circle_are_recorded_both_ways(tree):
    assert tree({"top.py": "import one", "one.py": "import top"}) == {"top": {"one"}, "one": {"top"}}


def test_an_import_that_fails_raises_as_ever_and_the_originals_come_back(tree):
    originals = (builtins.__import__, importlib.import_module, importlib.util.find_spec)
    with pytest.raises(ZeroDivisionError):
        tree({"top.py": "1 / 0"})
    assert (builtins.__import__, importlib.import_module, importlib.util.find_spec) == originals
    with pytest.raises(KeyError), ImportGraph():
        assert builtins.__import__ is not originals[0]
        raise KeyError
    assert (builtins.__import__, importlib.import_module, importlib.util.find_spec) == originals


# --- what a function must not inherit

OWNERS = {
    "a": of("a"),
    "a.sub": of("a"),
    "a.plugin": of("b"),
    "b": of("b"),
    "c": of("c"),
    "d": of("d"),
    "ns": of("a", "c"),
    "odd": NOBODY,
}


def forgotten(declared: set[str], importers: dict[str, set[str]] | None = None) -> set[str]:
    return set(foreign(OWNERS, importers or {}, declared)[0])


def test_modules_of_others_are_forgotten_in_an_order_that_is_always_the_same():
    assert foreign(OWNERS, {}, {"a", "b"}) == (("c", "d", "odd"), ())
    assert foreign(OWNERS, {}, set()) == (tuple(OWNERS), ())


def test_everything_below_a_forgotten_module_is_forgotten():
    assert forgotten({"b"}) == {"a", "a.sub", "a.plugin", "c", "d", "ns", "odd"}


def test_a_module_that_several_have_stays_for_each_of_them():
    assert "ns" not in forgotten({"a"})
    assert "ns" not in forgotten({"c"})
    assert "ns" in forgotten({"b", "d"})


def test_what_has_found_something_that_the_function_lacks_is_forgotten_with_all_that_uses_it():
    optional = {"b": {"a.sub"}, "a.sub": {"c"}, "c": {"d", "somebody.else"}}
    assert forgotten({"a", "c", "d"}, optional) == {"b", "a.plugin", "a.sub", "c", "d", "odd"}
    assert forgotten({"a", "b", "c", "d"}, optional) == {"odd"}


def test_a_package_that_imports_what_is_in_it_goes_with_it():
    assert forgotten({"a"}, {"a.plugin": {"a"}}) >= {"a", "a.sub", "a.plugin"}


def test_circles_of_imports_end():
    assert forgotten({"a", "c", "d"}, {"b": {"c"}, "c": {"d"}, "d": {"c"}}) == {"b", "a.plugin", "c", "d", "odd"}


def test_extensions_of_its_own_that_it_would_have_to_import_again_are_reported(add: Add):
    for name, path in {"a": "a/__init__.py", "a.sub": "a/sub.abi3.so", "b": "b.so", "c": "c.so"}.items():
        add(name, path)
    assert foreign(OWNERS, {}, {"a"})[1] == (), "those of others do not matter"
    assert foreign(OWNERS, {"b": {"a.sub", "c"}}, {"a", "c"})[1] == ("a.sub", "c")
