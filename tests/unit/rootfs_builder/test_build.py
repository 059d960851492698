"""A build from request to last line, with a fake uv."""

import importlib.util
import marshal
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rootfs_builder import build, trees, uv
from rootfs_builder.events import Reporter
from runtime.errors import BuildError
from runtime.model import Environment

PYLOCK = '[[packages]]\nname = "dep"\nversion = "2"\nwheels = [{ hashes = { sha256 = "%s" } }]\n' % ("d" * 64)
VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


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

    def run(self, answer: str = "build\n", **changes: Any) -> None:
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
                build.run(request, Reporter(out.fileno()), lambda: answer)
            finally:
                os.close(archive)
                self.events = [msgspec.json.decode(line) for line in (self.place / "out").read_bytes().splitlines()]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    def compile_(self: uv.Uv, requirements: Path, output: Path, reporter: Reporter) -> None:
        assert requirements.read_text() == "dep>=1\n"
        output.write_text(PYLOCK)

    def install(self: uv.Uv, lock: Path, target: Path, reporter: Reporter) -> None:
        assert "dep==2" in lock.read_text()
        for name, text in {
            "dep/__init__.py": "x = 1\n",
            "dep-2.dist-info/METADATA": "Name: Dep\nVersion: 2\n\n",
            "dep-2.dist-info/RECORD": "dep/__init__.py,,\n",
        }.items():
            (target / name).parent.mkdir(exist_ok=True)
            (target / name).write_text(text)

    monkeypatch.setattr(uv.Uv, "compile", compile_)
    monkeypatch.setattr(uv.Uv, "install", install)
    monkeypatch.setattr(build, "suite_of", lambda runtime: build.Suite(runtime, "test", "2_36"))
    return Bench(tmp_path)


def test_a_function_without_requirements_has_no_environment(bench: Bench):
    bench.run()
    done = bench.events[-1]
    assert done == {"event": "done", "code": done["code"], "environment": None, "lock": ""}
    assert os.listdir(bench.staging) == ["code"]
    assert {event["phase"] for event in bench.events[:-1]} == {"unpack"}


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
    bench.run(python="/nonexistent")
    assert bench.events[-1]["event"] == "done"
    assert os.listdir(bench.staging / "code") == ["main.py"]


def test_code_ids_depend_on_content_only(tmp_path: Path):
    codes = []
    for number, text in enumerate(("1", "1", "2")):
        (tmp_path / str(number)).mkdir()
        bench = Bench(tmp_path / str(number), extra__py=text)
        bench.run(runtime="python3.11")
        codes.append(bench.events[-1]["code"])
    assert codes[0] == codes[1] != codes[2]
    assert len(codes[0]) == 64


def test_an_environment_is_locked_installed_compiled_and_described(bench: Bench):
    bench.run(requirements="dep>=1")
    names = [event["event"] for event in bench.events if event["event"] != "progress"]
    assert names == ["locked", "done"]
    done = bench.events[-1]
    environment = msgspec.convert(done["environment"], Environment)
    assert environment.imports == ("dep",)
    assert [(each.name, each.version) for each in environment.distributions] == [("dep", "2")]
    root = bench.staging / "environment"
    assert msgspec.json.decode((root / "manifest.json").read_bytes(), type=Environment) == environment
    assert msgspec.json.decode((root / "manifest.json").read_bytes())["lock"] == done["lock"]
    assert os.listdir(root / "fs/dep/__pycache__")
    assert sorted(os.listdir(bench.staging)) == ["code", "environment"]
    phases = list(dict.fromkeys(event["phase"] for event in bench.events if event["event"] == "progress"))
    assert phases == ["unpack", "resolve", "install", "compile"]


def test_requirements_of_the_archive_are_taken(tmp_path: Path, bench: Bench):
    (tmp_path / "b").mkdir()
    other = Bench(tmp_path / "b", requirements__txt="dep>=1\n")
    other.run()
    assert other.events[-1]["environment"]["imports"] == ["dep"]


def test_a_known_environment_is_skipped_at_once(bench: Bench):
    bench.run("skip\n", requirements="dep>=1")
    locked, done = bench.events[-2:]
    assert done["environment"] == {"id": locked["environment"], "runtime": VERSION}
    assert done["lock"].startswith("dep==2")
    assert os.listdir(bench.staging) == ["code"]


@pytest.mark.parametrize("answer", ["", "perhaps\n"])
def test_another_answer_ends_the_build(answer: str, bench: Bench):
    with pytest.raises(BuildError, match="not build or skip"):
        bench.run(answer, requirements="dep>=1")


def test_a_lock_of_the_user_is_not_resolved_again(bench: Bench):
    bench.run("skip\n", requirements=f"dep==2 --hash=sha256:{'d' * 64}")
    assert bench.events[-1]["lock"] == f"dep==2 \\\n    --hash=sha256:{'d' * 64}\n"


@pytest.mark.parametrize("text", ["\xff\xfe", "a" * 70_000])
def test_a_requirements_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path):
    bench = Bench(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("requirements.txt", text.encode("latin-1"))
    with pytest.raises(BuildError, match=r"requirements\.txt"):
        bench.run(unpacked_bytes=10**6, runtime="python3.11")


def test_without_an_interpreter_nothing_is_built(bench: Bench):
    with pytest.raises(BuildError, match="no interpreter"):
        bench.run(requirements="dep>=1", python="/nonexistent")


def test_an_unknown_runtime_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(BuildError) as caught:
        Bench(tmp_path).run(runtime="python2.7")
    assert "python3.11, python3.13" in caught.value.hint
