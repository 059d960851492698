"""The builder with real mirrors, a real package index and a real uv. Needs root and both of them."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootfs_builder.suites import SUITES

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
BUILD_LIMIT_S = 120.0
SECOND_BASE_LIMIT_S = 20.0

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]


def host_runtime() -> str:
    """python3.11 where /usr/bin/python3 is 3.11: the runtime that needs no other interpreter."""
    code = "import sys; print('python%d.%d' % sys.version_info[:2])"
    found = subprocess.run([SYSTEM_PYTHON, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if found not in SUITES:
        pytest.skip(f"no base rootfs for the host's {found}")
    return found


def base(output: Path, *options: str, prefix: tuple[str, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "rootfs_builder", "base", "--runtime", host_runtime(), "--output", str(output)]
    ended = subprocess.run([*prefix, *command, *options], capture_output=True, text=True, cwd=ROOT, check=False)
    assert not ended.stderr
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    output = tmp_path_factory.mktemp("rootfs")
    started = time.monotonic()
    status, events = base(output)
    assert status == 0, events[-1]
    assert events[-1]["path"] == str((output / host_runtime()).resolve())
    (output / "seconds").write_text(str(time.monotonic() - started))
    yield output
    shutil.rmtree(output)


def inside(root: Path, code: str) -> str:
    """What the rootfs's own interpreter prints, as nobody."""
    command = ["/usr/sbin/chroot", "--userspec=65534:65534", str(root), f"/usr/bin/{host_runtime()}", "-c", code]
    return subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout.strip()


def test_the_interpreter_of_a_rootfs_runs_as_nobody(rootfs: Path):
    root = rootfs / host_runtime() / "fs"
    code = "import ssl, sqlite3, ctypes, asyncio; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(inside(root, code)) > 50
    assert inside(root, "import json; print(json.__cached__)").endswith(".pyc")
    assert inside(root, "import subprocess; print(subprocess.check_output('echo hi', shell=True))") == "b'hi\\n'"
    assert inside(root, "import ctypes; ctypes.CDLL('libgomp.so.1'); ctypes.CDLL('libstdc++.so.6')") == ""


def test_a_rootfs_is_readable_by_all_and_has_nothing_special(rootfs: Path):
    manifest = json.loads((rootfs / host_runtime() / "manifest.json").read_text())
    assert manifest["runtime"] == host_runtime()
    assert manifest["suite"] == SUITES[host_runtime()].name  # type: ignore[index]
    assert {"python3", "libgomp1", "ca-certificates"} <= {package["name"] for package in manifest["packages"]}
    root = rootfs / host_runtime() / "fs"
    wrong = (
        "-perm /6000 -o -type b -o -type c -o -type p -o -type s -o ( ! -type l ! -perm -o+r )"
        " -o ( -type d ! -perm -o+x ) -o ( -perm /022 ! -type l ! -perm -1000 )"
    )
    found = subprocess.run(["find", root, *wrong.split()], capture_output=True, text=True, check=True)
    assert found.stdout == ""
    assert sorted(path.name for path in rootfs.iterdir() if path.name.startswith(".tmp")) == []


def test_a_second_run_does_nothing(rootfs: Path):
    before = (rootfs / host_runtime()).resolve().stat().st_mtime_ns
    status, events = base(rootfs)
    assert (status, [event["event"] for event in events]) == (0, ["done"])
    assert (rootfs / host_runtime()).resolve().stat().st_mtime_ns == before


def test_the_same_packages_give_the_same_digest_on_any_number_of_cores(rootfs: Path, tmp_path: Path):
    if float((rootfs / "seconds").read_text()) > SECOND_BASE_LIMIT_S:
        pytest.skip("one base takes too long here to build a second")
    core = str(min(os.sched_getaffinity(0)))
    status, _ = base(tmp_path, prefix=("taskset", "--cpu-list", core))
    assert status == 0
    one, two = (json.loads((place / host_runtime() / "manifest.json").read_text()) for place in (rootfs, tmp_path))
    if one["packages"] != two["packages"]:
        pytest.skip("the mirror changed meanwhile")
    assert one == two
    trees = [rootfs / host_runtime() / "fs", tmp_path / host_runtime() / "fs"]
    compared = subprocess.run(["diff", "-rq", "--no-dereference", *trees], capture_output=True, text=True, check=False)
    assert compared.stdout == ""


def test_one_that_is_there_needs_no_lock(rootfs: Path):
    with open(rootfs / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, events = base(rootfs)
    assert (status, events[-1]["event"]) == (0, "done")  # one that is there needs no lock
