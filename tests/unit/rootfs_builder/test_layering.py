"""Layers from an index of the test's own to their facts, in this process, compiled by its own interpreter."""

import importlib.util
import json
import marshal
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rootfs_builder import downloads, layering
from rootfs_builder.environments import LayerFacts
from rootfs_builder.events import Reporter
from rootfs_builder.locks import Locked
from rootfs_builder.suites import Suite
from runtime.errors import BuildError
from runtime.model import Distribution, RuntimeName, layer_id
from tests.index import Fault, Index
from tests.wheels import packed, packed_sdist, record_hash, sdist_file, wheel, wheel_file
from tests.zips import zeros

RUNTIME = RuntimeName(f"python{sys.version_info[0]}.{sys.version_info[1]}")


class Inline(Executor):
    """A pool that does it at once; `breaks`: its process dies instead. `together`: so many end at the same time."""

    def __init__(self) -> None:
        self.breaks = False
        self.together = 1
        self._done: list[tuple[Future[Any], Any]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            if self.breaks:
                raise BrokenProcessPool
            self._done.append((future, function(*arguments, **names)))
        except BaseException as error:
            future.set_exception(error)
        if len(self._done) >= self.together:
            for each, result in self._done:
                each.set_result(result)
            self._done.clear()
        return future


class Boxes:
    """pagurusd, which builds wheels of sdists: `made`, file -> content."""

    def __init__(self, staging: Path) -> None:
        self._staging = staging
        self.made: dict[str, bytes] = {}
        self.fetched: dict[str, bytes] = {}

    def build(self, sources: Sequence[Locked]) -> None:
        for one in sources:
            self.fetched[one.filename] = (self._staging / "downloads" / one.filename).read_bytes()
        for file, content in self.made.items():
            (self._staging / "built" / file).write_bytes(content)


class Bench:
    """One run of layering in a staging folder of its own."""

    def __init__(self, place: Path, index: Index) -> None:
        self.place, self.index = place, index
        self.staging = place / "staging"
        self.staging.mkdir()
        self.pool, self.boxes = Inline(), Boxes(self.staging)
        self.events: list[dict[str, Any]] = []

    def locked(self, file: str, name: str = "a", version: str = "1.0", **changes: Any) -> Locked:
        content = self.index.files.get(file, b"")
        fields = {"name": name, "version": version, "filename": file, "url": self.index.file_url(file)}
        fields |= {"sha256": self.index.sha256(file), "size": len(content)}
        return Locked(**{**fields, **changes})

    def all_locked(self) -> list[Locked]:
        found = []
        for file in self.index.files:
            name, version = file.removesuffix(".tar.gz").split("-")[:2]
            found.append(self.locked(file, name, version, is_source=file.endswith(".tar.gz")))
        return found

    def run(self, wanted: Sequence[Locked] | None = None, *, environment_bytes: int = 1 << 20) -> None:
        request = layering.Request(
            runtime=RUNTIME,
            staging=str(self.staging),
            wanted=tuple(self.all_locked() if wanted is None else wanted),
            environment_bytes=environment_bytes,
            index_url=self.index.url,
            python=sys.executable,
        )
        with open(self.place / "events", "wb") as events:
            try:
                layering.run(request, self.pool, Reporter(events.fileno()), self.boxes)  # type: ignore[arg-type]
            finally:
                self.events = [json.loads(line) for line in (self.place / "events").read_bytes().splitlines()]

    def refused(self, *wanted: Locked, **limits: int) -> BuildError:
        with pytest.raises(BuildError) as caught:
            self.run(wanted or None, **limits)
        assert not self.facts_files()
        return caught.value

    def facts_files(self) -> list[Path]:
        return list(self.staging.glob("layers/*/layer.json"))

    def layer(self, locked: Locked) -> tuple[Path, LayerFacts]:
        layer = self.staging / "layers" / layer_id(RUNTIME, locked.sha256)
        return layer / "fs", msgspec.json.decode((layer / "layer.json").read_bytes(), type=LayerFacts)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    monkeypatch.setattr(layering, "suite_of", lambda runtime: Suite(runtime, "test", "2_36"))
    monkeypatch.setattr(layering.syscalls, "syncfs", lambda path: None)
    for name in ("HOME", "NETRC", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    for name in [name for name in os.environ if name.startswith("UV_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Index() as index:
        yield Bench(tmp_path, index)


FILES = {"a/__init__.py": "x = 1\n", "a/deep/mod.py": "y = 2\n", "a/data.txt": "z", "a/bad.py": "def (\n"}


def test_a_layer_is_the_wheel_s_content_with_its_facts_beside(bench: Bench):
    bench.index.files |= packed(
        "A",
        "1.0",
        FILES,
        ["b>=2", "c ; extra == 'fast'"],
        entry_points={"console_scripts": {"tool": "a:main"}},
        data={"scripts/old.py": "#!python\nprint 1\n"},
    )
    locked = bench.locked("A-1.0-py3-none-any.whl")
    bench.run([locked])
    root, facts = bench.layer(locked)
    assert (root / "a/deep/mod.py").read_text() == "y = 2\n"
    assert (root / "bin/tool").read_text().startswith(f"#!/usr/bin/{RUNTIME}\n")
    assert facts.id == layer_id(RUNTIME, locked.sha256) and facts.sha256 == locked.sha256
    assert facts.distribution == Distribution("a", "1.0")
    assert facts.requires == ("b>=2", "c ; extra == 'fast'")
    assert facts.imports == ("a",)
    assert facts.uncompiled == ("a/bad.py",), "scripts are no modules"
    assert facts.files["a/data.txt"] == record_hash(b"z").removeprefix("sha256=")
    assert set(facts.files) == {
        *FILES,
        "bin/tool",
        "bin/old.py",
        *(f"A-1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "entry_points.txt")),
    }
    assert facts.files["A-1.0.dist-info/RECORD"] == ""
    assert facts.size_bytes == sum(path.lstat().st_blocks * 512 for path in [*root.parent.rglob("*")]) - (
        (root.parent / "layer.json").stat().st_blocks * 512
    )


def test_byte_code_is_unchecked_and_names_the_place_that_sandboxes_see(bench: Bench):
    bench.index.files |= packed("a", "1.0", FILES)
    bench.run()
    root, _ = bench.layer(bench.all_locked()[0])
    for path in ("a/__init__.py", "a/deep/mod.py"):
        data = Path(importlib.util.cache_from_source(str(root / path))).read_bytes()
        assert int.from_bytes(data[4:8], "little") == 0b01  # hash-based, not checked
        assert marshal.loads(data[16:]).co_filename == f"/opt/env/{path}"
    assert len(list(root.rglob("*.pyc"))) == 2
    assert not list(root.glob("bin/**/*.pyc"))


def test_everything_has_harmless_modes(bench: Bench):
    bench.index.files |= packed("a", "1.0", FILES, entry_points={"console_scripts": {"tool": "a:main"}})
    before = os.umask(0o077)
    try:
        bench.run()
    finally:
        os.umask(before)
    root, _ = bench.layer(bench.all_locked()[0])
    for path in [root, *root.rglob("*")]:
        wanted = 0o755 if path.is_dir() or path.parent.name == "bin" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_many_layers_are_made_side_by_side_and_told(bench: Bench):
    for number in range(8):
        bench.index.files |= packed(f"p{number}", "1.0", requires=[f"p{number + 1}"])
    bench.run()
    assert len(bench.facts_files()) == 8
    assert os.listdir(bench.staging) == ["layers"], "downloads do not stay"
    done = bench.events[-1]
    assert done["event"] == "done" and done["layers"] == [layer_id(RUNTIME, one.sha256) for one in bench.all_locked()]
    assert done["install_ms"] >= 0 and done["compile_ms"] >= 0
    assert {event["phase"] for event in bench.events[:-1]} == {"download", "install", "compile"}
    assert all(0 <= event["fraction"] <= 1 for event in bench.events[:-1] if event["fraction"] is not None)
    assert bench.index.downloads == dict.fromkeys(bench.index.files, 1)


def test_the_same_wheel_gives_the_same_layer(bench: Bench, tmp_path: Path):
    bench.index.files |= packed("a", "1.0", FILES)
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", bench.index)
    for each in (bench, other):
        each.run()
    trees = []
    for each in (bench, other):
        root, facts = each.layer(each.all_locked()[0])
        contents = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        trees.append((facts, contents))
    assert trees[0] == trees[1]


def test_a_wheel_without_modules_is_a_layer_too(bench: Bench):
    bench.index.files |= packed("a", "1.0", {})
    bench.run()
    _, facts = bench.layer(bench.all_locked()[0])
    assert (facts.imports, facts.uncompiled) == ((), ())


# --- failures


def test_a_hostile_wheel_fails_the_run_in_words(bench: Bench):
    bench.index.files |= packed("a", "1.0", record="wrong-hash")
    bench.index.files |= packed("b", "1.0")
    error = bench.refused()
    assert error.kind == "install" and "wheel a-1.0-py3-none-any.whl has" in error.message


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Fault.NOT_FOUND, "it answers 404"), (Fault.DAMAGE, "another hash"), (Fault.CUT, "cannot download")],
)
def test_a_download_that_fails_fails_the_run_in_words(bench: Bench, fault: Fault, words: str):
    bench.index.files |= {**packed("a", "1.0"), **packed("b", "1.0")}
    bench.index.faults["a-1.0-py3-none-any.whl"] = fault
    assert words in bench.refused().message


@pytest.mark.parametrize("together", [1, 2])
def test_packages_are_limited_together(bench: Bench, together: int):
    bench.pool.together = together
    bench.index.files |= packed("a", "1.0", {"a/x": b"x" * 6000})
    bench.index.files |= packed("b", "1.0", {"b/x": b"x" * 6000})
    error = bench.refused(environment_bytes=10_000)
    assert error.kind == "limit" and "environment_bytes" in f"{error.message} {error.hint}"


def test_a_bomb_is_a_limit(bench: Bench):
    file = wheel_file("a", "1.0")
    bench.index.files[file] = wheel("a", "1.0", raw_members=[zeros("a/bomb", 1 << 28)])
    error = bench.refused(environment_bytes=1 << 21)
    assert (error.kind, "unpacks to more than" in error.message) == ("limit", True)


def test_a_process_that_dies_is_told(bench: Bench):
    bench.index.files |= packed("a", "1.0")
    bench.pool.breaks = True
    error = bench.refused()
    assert error.kind == "limit" and "process that installs packages died" in error.message


def test_an_interpreter_of_another_version_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        layering.compiling, "interpreter", lambda *_: layering.compiling.Interpreter((sys.executable,), "2.7", {})
    )
    bench.index.files |= packed("a", "1.0")
    assert "the runtime needs 2.7" in bench.refused().message


# --- sources


def test_an_sdist_is_fetched_and_verified_here_and_built_elsewhere(bench: Bench):
    bench.index.files |= {**packed_sdist("a_b", "1.0"), **packed("c", "1.0")}
    source = bench.locked(sdist_file("a_b", "1.0"), "a-b", is_source=True)
    bench.boxes.made = packed("A_b", "1.0", {"a_b.py": "x = 1\n"})
    bench.run([source, bench.locked(wheel_file("c", "1.0"), "c")])
    assert bench.boxes.fetched == {source.filename: bench.index.files[source.filename]}
    _, facts = bench.layer(source)
    assert facts.imports == ("a_b",) and facts.sha256 == source.sha256
    assert (
        bench.events[0]["phase"] == "build" and "1 package must be built from source: a-b" in bench.events[0]["message"]
    )


def test_an_sdist_with_another_hash_is_not_built(bench: Bench):
    bench.index.files |= packed_sdist("a", "1.0")
    assert (
        "another hash" in bench.refused(bench.locked(sdist_file("a", "1.0"), is_source=True, sha256="0" * 64)).message
    )
    assert not bench.boxes.fetched


def test_an_sdist_of_which_nothing_came_is_told(bench: Bench):
    bench.index.files |= packed_sdist("a", "1.0")
    bench.boxes.made = packed("b", "1.0")
    assert bench.refused().message == "a was not built"


def test_a_built_wheel_is_held_to_the_same_rules(bench: Bench):
    bench.index.files |= packed_sdist("a", "1.0")
    bench.boxes.made = packed("a", "1.0", record="missing-entry")
    assert "RECORD does not list" in bench.refused().message


def test_a_pool_has_its_processes_before_it_is_used():
    pool = layering.executor()
    try:
        assert pool.submit(os.getpid).result() != os.getpid()
    finally:
        pool.shutdown()
