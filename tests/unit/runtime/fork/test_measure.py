"""What imports cost, by distribution; measured on modules whose clock and memory the test holds."""

import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path

import pytest

from runtime.fork import measure, ownership
from runtime.fork.measure import OWN, Meter

MIB = 1 << 20
Costs = dict[str, tuple[float, int]]


class Spent:
    """A clock and a memory that only move when a module says so: `spend(ms, mib)`."""

    def __init__(self) -> None:
        self.ns, self.bytes = 0, 0

    def spend(self, ms: float, mib: float = 0) -> None:
        self.ns += int(ms * 1e6)
        self.bytes += int(mib * MIB)


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> Spent:
    found = Spent()
    monkeypatch.setattr(Meter, "_now", lambda self: (found.ns, found.bytes))
    monkeypatch.setattr("builtins.spend", found.spend, raising=False)
    return found


@pytest.fixture(autouse=True)
def modules_stay_as_they_were() -> Iterator[None]:
    kept = set(sys.modules)
    yield
    for name in set(sys.modules) - kept:
        del sys.modules[name]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, frozenset[str]]]:
    """Write modules of an environment: path -> (owner, source); gives the owners of files."""
    monkeypatch.setattr(ownership, "ENVIRONMENT", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(files: dict[str, tuple[str, str]]) -> dict[str, frozenset[str]]:
        for path, (_, source) in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(source)
        return {path: frozenset(owner.split()) for path, (owner, _) in files.items()}

    return write


def costs_of(owners: dict[str, frozenset[str]], *names: str) -> Costs:
    with Meter(owners) as meter:
        for name in names:
            __import__(name)
    return meter.costs()


def test_each_distribution_is_charged_its_own_share(environment, spent: Spent):
    owners = environment(
        {
            "top.py": ("top", "spend(1, 1)\nimport low\nspend(2, 1)\n"),
            "low.py": ("low", "spend(10, 5)\nimport lowest\n"),
            "lowest.py": ("lowest", "spend(100, 0.5)\n"),
        }
    )
    assert costs_of(owners, "top") == {
        OWN: (0.0, 0),
        "top": (3.0, 2 * MIB),
        "low": (10.0, 5 * MIB),
        "lowest": (100.0, MIB // 2),
    }


def test_modules_of_one_distribution_add_up(environment, spent: Spent):
    owners = environment(
        {
            "pkg/__init__.py": ("pkg", "spend(1)\nimport pkg.a, other, pkg.b\n"),
            "pkg/a.py": ("pkg", "spend(2)\n"),
            "pkg/b.py": ("pkg", "spend(4)\n"),
            "other.py": ("other", "spend(8)\nimport pkg.c\n"),
            "pkg/c.py": ("pkg", "spend(16)\n"),
        }
    )
    assert costs_of(owners, "pkg") == {OWN: (0.0, 0), "pkg": (23.0, 0), "other": (8.0, 0)}


def test_what_is_of_nobody_is_charged_to_who_imports_it(environment, spent: Spent):
    owners = environment({"pkg.py": ("pkg", "import loose\n"), "loose.py": ("", "spend(5)\n")})
    assert costs_of(owners, "pkg")["pkg"] == (5.0, 0)


def test_a_module_is_charged_once(environment, spent: Spent):
    owners = environment(
        {"a.py": ("a", "import shared"), "b.py": ("b", "import shared"), "shared.py": ("s", "spend(7)")}
    )
    assert costs_of(owners, "b", "a", "b") == {OWN: (0.0, 0), "a": (0.0, 0), "b": (0.0, 0), "s": (7.0, 0)}


def test_a_file_that_several_have_is_charged_to_one_of_them_always_the_same(environment, spent: Spent):
    assert set(costs_of(environment({"x.py": ("b a c", "spend(1)")}), "x")) == {OWN, "a"}


def test_the_function_s_own_code_is_what_is_left(environment, spent: Spent):
    owners = environment({"pkg.py": ("pkg", "spend(3)")})
    with Meter(owners) as meter:
        spent.spend(1, 1)
        __import__("pkg")
        spent.spend(4)
    assert meter.costs() == {OWN: (5.0, MIB), "pkg": (3.0, 0)}


def test_a_module_that_fails_is_charged_and_the_rest_goes_on(environment, spent: Spent):
    owners = environment({"bad.py": ("bad", "spend(2)\n1 / 0\n"), "good.py": ("good", "spend(4)\n")})
    with Meter(owners) as meter:
        with pytest.raises(ZeroDivisionError):
            __import__("bad")
        spent.spend(1)
        __import__("good")
    assert meter.costs() == {OWN: (1.0, 0), "bad": (2.0, 0), "good": (4.0, 0)}


def test_memory_that_an_import_gives_back_is_no_negative_cost(environment, spent: Spent):
    assert costs_of(environment({"x.py": ("x", "spend(1, -4)\n")}), "x")["x"] == (1.0, 0)


def test_a_second_round_adds_to_the_first(environment, spent: Spent):
    """The handler is imported in one, the declared modules in another."""
    meter = Meter(environment({"a.py": ("a", "spend(1)"), "b.py": ("a", "spend(2)")}))
    for name in ("a", "b"):
        with meter:
            __import__(name)
    assert meter.costs() == {OWN: (0.0, 0), "a": (3.0, 0)}


LOADERS = (
    (SourceFileLoader, "exec_module"),
    (ExtensionFileLoader, "create_module"),
    (ExtensionFileLoader, "exec_module"),
)


def test_the_loaders_are_themselves_again_afterwards(environment):
    before = [getattr(loader, name) for loader, name in LOADERS]
    meter = Meter({})
    for _ in range(2):
        with pytest.raises(KeyError), meter:
            assert [getattr(loader, name) for loader, name in LOADERS] != before
            raise KeyError
        assert [getattr(loader, name) for loader, name in LOADERS] == before


def test_imports_of_another_thread_are_not_measured_and_do_not_break(environment, spent: Spent):
    """One that is still importing when the measuring ends, as user code may leave it behind."""
    owners = environment({"slow.py": ("slow", "import builtins\nbuiltins.began.set()\nbuiltins.ended.wait(5)\n")})
    began, ended = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            __import__("slow")
        except BaseException as error:
            failures.append(error)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("builtins.began", began, raising=False)
        patched.setattr("builtins.ended", ended, raising=False)
        thread = threading.Thread(target=run)
        with Meter(owners) as meter:
            thread.start()
            assert began.wait(5)
            spent.spend(3)
        ended.set()
        thread.join()
    assert not failures
    assert meter.costs() == {OWN: (3.0, 0)}


def test_real_time_and_memory_are_what_the_kernel_says(environment):
    owners = environment({"big.py": ("big", "x = b'x' * (64 << 20)\n")})
    with Meter(owners) as meter:
        module = __import__("big")
    ms, size = meter.costs()["big"]
    assert ms > 0 and size >= 32 * MIB
    assert len(module.x) == 64 * MIB
    assert measure.OWN in meter.costs()
