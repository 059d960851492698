"""Disk space as the deploy benchmark counts it."""

import importlib.util
import os
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[3] / "scripts/bench/lib/installs.py"
_spec = importlib.util.spec_from_file_location("bench_installs", FILE)
assert _spec and _spec.loader
installs = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = installs
_spec.loader.exec_module(installs)


def blocks(*paths: Path) -> int:
    return sum(os.lstat(path).st_blocks * 512 for path in paths)


def test_hard_links_count_once_and_symbolic_links_are_not_followed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(installs.os, "sync", lambda: None)
    (tmp_path / "one/deep").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "outside").write_bytes(os.urandom(100_000))
    (tmp_path / "one/deep/file").write_bytes(os.urandom(50_000))
    os.link(tmp_path / "one/deep/file", tmp_path / "two/link")
    (tmp_path / "two/symbolic").symlink_to(tmp_path / "outside")
    (tmp_path / "two/folder").symlink_to(tmp_path)
    found = installs.disk_bytes(tmp_path / "one", tmp_path / "two")
    inside = [tmp_path / path for path in ("one", "one/deep", "one/deep/file", "two", "two/symbolic", "two/folder")]
    assert found == blocks(*inside)
