"""A build from request to last line, with a fake uv and a fake pagurusd."""

import importlib.util
import marshal
import os
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rootfs_builder import build, environments, trees, uv
from rootfs_builder.environments import LayerFacts
from rootfs_builder.events import Reporter
from runtime.errors import BuildError
from runtime.model import Distribution, EnvironmentId, EnvironmentManifest, Locked, RuntimeName, layer_id

SHA256 = "d" * 64
PYLOCK = f"""
[[packages]]
name = "Dep"
version = "2"
wheels = [{{ url = "https://index.test/Dep-2-py3-none-any.whl", size = 7, hashes = {{ sha256 = "{SHA256}" }} }}]
"""
LOCK = f"dep==2 \\\n    --hash=sha256:{SHA256}\n"
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


class Store:
    """What pagurusd answers: environments that it has, and layers of whatever is wanted."""

    def __init__(self, *known: EnvironmentId) -> None:
        self.known = known
        self.asked: list[EnvironmentId] = []
        self.wanted: list[Locked] = []
        self.files = {"dep/__init__.py": "x"}

    def is_known(self, environment: EnvironmentId) -> bool:
        self.asked.append(environment)
        return environment in self.known

    def layers(self, wanted: Sequence[Locked], bytes_max: int) -> bytes:
        self.wanted += wanted
        return msgspec.json.encode([self._facts(one) for one in wanted])

    def _facts(self, locked: Locked) -> LayerFacts:
        return LayerFacts(
            id=layer_id(RuntimeName(VERSION), locked.sha256),
            distribution=Distribution(locked.name, locked.version),
            sha256=locked.sha256,
            requires=(),
            imports=("dep",),
            files=self.files,
        )


class Bench:
    """One build in a directory of its own; `events` are the lines it wrote."""

    def __init__(self, place: Path, **files: str) -> None:
        self.staging = place / "staging"
        self.staging.mkdir()
        with zipfile.ZipFile(place / "a.zip", "w") as archive:
            archive.writestr("main.py", "def main(p): return p\n")
            for name, text in files.items():
                archive.writestr(name.replace("__", "."), text)
        self.place = place
        self.events: list[dict[str, Any]] = []
        self.store = Store()

    def run(self, **changes: Any) -> None:
        archive = os.open(self.place / "a.zip", os.O_RDONLY)
        fields = {
            "runtime": VERSION,
            "staging": str(self.staging),
            "archive_fd": archive,
            "cache_dir": str(self.place),
            "unpacked_bytes": 1000,
            "archive_entries": 10,
            "python": sys.executable,
        }
        request = msgspec.convert({**fields, **changes}, build.Request)
        with open(self.place / "out", "wb") as out:
            try:
                build.run(request, Reporter(out.fileno()), self.store)  # type: ignore[arg-type]
            finally:
                os.close(archive)
                self.events = [msgspec.json.decode(line) for line in (self.place / "out").read_bytes().splitlines()]

    def manifest(self) -> EnvironmentManifest:
        return msgspec.convert(self.events[-1]["environment"], EnvironmentManifest)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What the fake uv was given to resolve: the lines, and whether they list their dependencies."""
    seen: list[tuple[str, bool]] = []

    def compile_(
        self: uv.Uv, requirements: Path, output: Path, reporter: Reporter, *, has_dependencies: bool = False
    ) -> None:
        seen.append((requirements.read_text(), has_dependencies))
        output.write_text(PYLOCK)

    monkeypatch.setattr(uv.Uv, "compile", compile_)
    monkeypatch.setattr(build, "suite_of", lambda runtime: build.Suite(runtime, "test", "2_36"))
    return seen


@pytest.fixture
def bench(tmp_path: Path, resolved: list[tuple[str, bool]]) -> Bench:
    return Bench(tmp_path)


def test_a_function_without_requirements_has_no_environment(bench: Bench):
    bench.run()
    done = bench.events[-1]
    assert done == {"event": "done", "code": done["code"], "environment": None, "lock": ""}
    assert os.listdir(bench.staging) == ["code"]
    assert {event["phase"] for event in bench.events[:-1]} == {"unpack"}
    assert not bench.store.asked


def test_code_has_byte_code_that_its_id_does_not_depend_on(bench: Bench):
    bench.run()
    code = bench.staging / "code"
    compiled = Path(importlib.util.cache_from_source(str(code / "main.py")))
    data = compiled.read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b01  # hash-based, not checked
    assert marshal.loads(data[16:]).co_filename == "/code/main.py"
    shutil.rmtree(compiled.parent)
    assert bench.events[-1]["code"] == trees.digest(code)


def test_code_that_does_not_compile_is_no_failure_of_the_build(tmp_path: Path, bench: Bench):
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", bad__py="def (\n", deep__py="(" * 900 + ")" * 900)
    other.run(runtime=VERSION, unpacked_bytes=10_000)
    assert other.events[-1]["event"] == "done"


def test_without_an_interpreter_code_stays_as_it_is(bench: Bench):
    bench.run(python="/nonexistent", requirements="dep>=1")
    assert bench.events[-1]["event"] == "done"
    assert os.listdir(bench.staging / "code") == ["main.py"]
    assert bench.manifest().layers, "layers are compiled by another process"


def test_code_ids_depend_on_content_only(tmp_path: Path):
    codes = []
    for number, text in enumerate(("1", "1", "2")):
        (tmp_path / str(number)).mkdir()
        bench = Bench(tmp_path / str(number), extra__py=text)
        bench.run(runtime="python3.11")
        codes.append(bench.events[-1]["code"])
    assert codes[0] == codes[1] != codes[2]
    assert len(codes[0]) == 64


def test_an_environment_is_locked_and_stacked_from_layers(bench: Bench, resolved: list[tuple[str, bool]]):
    bench.run(requirements="dep>=1")
    assert resolved == [("dep>=1\n", False)]
    (locked,) = bench.store.wanted
    assert (locked.name, locked.version, locked.sha256, locked.size) == ("dep", "2", SHA256, 7)
    manifest = bench.manifest()
    assert manifest.lock == bench.events[-1]["lock"] == LOCK
    assert bench.store.asked == [manifest.environment.id]
    assert manifest.environment.id == environments.environment_id(RuntimeName(VERSION), LOCK)
    assert manifest.environment.imports == ("dep",)
    assert manifest.environment.distributions == (Distribution("dep", "2"),)
    assert manifest.layers == (layer_id(RuntimeName(VERSION), SHA256),)
    assert os.listdir(bench.staging) == ["code"]
    phases = list(dict.fromkeys(event["phase"] for event in bench.events if event["event"] == "progress"))
    assert phases == ["unpack", "resolve"]


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"requirements__txt": "dep>=1\n"}, "dep>=1\n"),
        ({"pyproject__toml": '[project]\ndependencies = ["dep>=2"]\n'}, "dep>=2\n"),
        ({"requirements__txt": "dep>=1\n", "pyproject__toml": '[project]\ndependencies = ["dep>=2"]\n'}, "dep>=1\n"),
    ],
)
def test_requirements_of_the_archive_are_taken(
    files: dict[str, str], line: str, tmp_path: Path, resolved: list[tuple[str, bool]]
):
    bench = Bench(tmp_path, **files)
    bench.run()
    assert resolved == [(line, False)]
    assert bench.manifest().environment.imports == ("dep",)


def test_requirements_of_the_request_come_before_those_of_the_archive(tmp_path: Path, resolved: list[tuple[str, bool]]):
    Bench(tmp_path, requirements__txt="other\n").run(requirements="dep<3")
    assert resolved == [("dep<3\n", False)]


def test_a_known_environment_is_not_stacked_again(bench: Bench):
    bench.store.known = (environments.environment_id(RuntimeName(VERSION), LOCK),)
    bench.run(requirements="dep>=1")
    done = bench.events[-1]
    assert (done["environment"], done["lock"]) == (None, LOCK)
    assert not bench.store.wanted
    assert os.listdir(bench.staging) == ["code"]


def test_a_known_lock_of_the_user_is_not_even_looked_up(bench: Bench, resolved: list[tuple[str, bool]]):
    bench.store.known = (environments.environment_id(RuntimeName(VERSION), LOCK),)
    bench.run(requirements=f"Dep==2 --hash=sha256:{SHA256}")
    assert bench.events[-1]["lock"] == LOCK
    assert not resolved
    assert os.listdir(bench.staging) == ["code"]


def test_a_lock_of_the_user_is_looked_up_and_nothing_is_added_to_it(bench: Bench, resolved: list[tuple[str, bool]]):
    bench.run(requirements=f"dep==2 --hash=sha256:{SHA256} --hash=sha256:{'e' * 64}")
    assert resolved == [("dep==2\n", True)]
    assert [one.sha256 for one in bench.store.wanted] == [SHA256]
    assert bench.manifest().lock == f"dep==2 \\\n    --hash=sha256:{SHA256} \\\n    --hash=sha256:{'e' * 64}\n"


def test_a_lock_whose_hashes_the_index_does_not_have_is_refused(bench: Bench):
    with pytest.raises(BuildError, match="none of the hashes given for dep==2") as caught:
        bench.run(requirements=f"dep==2 --hash=sha256:{'e' * 64}")
    assert caught.value.kind == "requirements"
    assert not bench.store.wanted


def test_addresses_are_taken_where_the_operator_allows_them(bench: Bench, resolved: list[tuple[str, bool]]):
    line = f"dep @ https://host.test/dep-2-py3-none-any.whl#sha256={SHA256}"
    with pytest.raises(BuildError, match="is a URL"):
        bench.run(requirements=line)
    shutil.rmtree(bench.staging / "code")
    bench.run(requirements=line, url_requirements=True)
    assert resolved == [(f"{line}\n", False)]


@pytest.mark.parametrize("text", ["\xff\xfe", "a" * 70_000])
def test_a_requirements_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path):
    bench = Bench(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("requirements.txt", text.encode("latin-1"))
    with pytest.raises(BuildError, match=r"requirements\.txt"):
        bench.run(unpacked_bytes=10**6, runtime="python3.11")


def test_an_unknown_runtime_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(BuildError) as caught:
        Bench(tmp_path).run(runtime="python2.7")
    assert "python3.11, python3.13" in caught.value.hint
