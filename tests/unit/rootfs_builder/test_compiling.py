"""Byte code: whose path it names, that it is unchecked, and what happens to files that do not compile."""

import importlib.util
import marshal
import sys
from pathlib import Path

import pytest

from rootfs_builder import compiling
from runtime.errors import BuildError

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = compiling.Interpreter((sys.executable,), VERSION, {})


def compile_here(root: Path, **extra: object) -> int:
    ticks: list[tuple[int, int]] = []
    count = compiling.compile_tree(
        HERE,
        root,
        inside=f"{root}/",
        seen="/opt/env/",
        tick=lambda done, total: ticks.append((done, total)),
        **extra,  # type: ignore[arg-type]
    )
    assert ticks[-1] == (count, count)
    return count


def test_byte_code_is_unchecked_and_names_the_path_of_sandboxes(tmp_path: Path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/good.py").write_text("def f(): return {1, 2, 'a'}\n")
    (tmp_path / "pkg/bad.py").write_text("def (\n")
    (tmp_path / "bin.py").write_text("1\n")
    assert compile_here(tmp_path, wanted=lambda path: path != b"bin.py") == 2
    compiled = Path(importlib.util.cache_from_source(str(tmp_path / "pkg/good.py")))
    data = compiled.read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b01  # hash-based, not checked
    assert marshal.loads(data[16:]).co_filename == "/opt/env/pkg/good.py"
    assert [path.name for path in compiled.parent.iterdir()] == [compiled.name]


def test_byte_code_beyond_its_limit_is_left_out(tmp_path: Path):
    (tmp_path / "bomb.py").write_text('x = ("a" * 4000, ' + ", ".join(f'"{n}" + "b" * 4000' for n in range(50)) + ")\n")
    (tmp_path / "tiny.py").write_text("1\n")
    assert compile_here(tmp_path, bytes_max=50_000) == 2
    assert not Path(importlib.util.cache_from_source(str(tmp_path / "bomb.py"))).exists()


def test_what_stands_in_the_way_of_byte_code_is_no_failure(tmp_path: Path):
    (tmp_path / "__pycache__").write_text("a file")
    (tmp_path / "m.py").write_text("1\n")
    assert compile_here(tmp_path) == 1
    assert (tmp_path / "__pycache__").read_text() == "a file"


def test_byte_code_is_the_same_each_time(tmp_path: Path):
    found = []
    for number in range(2):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "m.py").write_text("x = {'a', 'b', 'c'}\ndef f(k): return k in {'p', 'q', 'r'}\n")
        compile_here(root)
        found.append(Path(importlib.util.cache_from_source(str(root / "m.py"))).read_bytes())
    assert found[0] == found[1]


def test_nothing_to_compile_starts_nothing(tmp_path: Path):
    assert compiling.compile_tree(HERE, tmp_path, inside="/x/", seen="/x/", tick=lambda done, total: None) == 0


def test_another_interpreter_than_promised_is_refused(tmp_path: Path):
    (tmp_path / "m.py").write_text("")
    other = compiling.Interpreter((sys.executable,), "3.99", {})
    with pytest.raises(BuildError, match=f"is Python {VERSION}, the runtime needs 3.99"):
        compiling.compile_tree(other, tmp_path, inside=f"{tmp_path}/", seen="/x/", tick=lambda done, total: None)


def test_a_full_disk_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "m.py").write_text("")
    full = "import errno, sys\nprint('.'); print(f'!{errno.ENOSPC}'); sys.exit(4)"
    monkeypatch.setattr(compiling, "WORKER", full)
    with pytest.raises(BuildError, match="disk is full") as caught:
        compiling.compile_tree(HERE, tmp_path, inside=f"{tmp_path}/", seen="/x/", tick=lambda done, total: None)
    assert caught.value.kind == "limit"


def test_a_rootfs_without_interpreter_is_refused(tmp_path: Path):
    with pytest.raises(BuildError, match="no interpreter"):
        compiling.rootfs_interpreter(tmp_path, "3.11")


def test_the_interpreter_of_a_rootfs_runs_by_its_own_loader(tmp_path: Path):
    for name in ("lib64", "usr/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x/ld.so")
    (tmp_path / "usr/bin/python3.11").write_text("")
    found = compiling.rootfs_interpreter(tmp_path, "3.11")
    assert found.argv[0] == f"{tmp_path}/lib/x/ld.so"
    assert found.argv[-1] == f"{tmp_path}/usr/bin/python3.11"
    assert found.environ == {"PYTHONHOME": f"{tmp_path}/usr"}
