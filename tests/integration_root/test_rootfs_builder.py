"""The builder with real mirrors, a real package index and a real uv. Needs root and both of them."""

import contextlib
import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootfs_builder.environments import SEEN_AT
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


class Build:
    """One build as pagurusd starts it: another user, an inherited archive, lines both ways."""

    def __init__(self, place: Path, cache: Path, requirements: str) -> None:
        place.chmod(0o755)
        user = pwd.getpwnam("nobody")
        self.staging = place / "staging"
        for directory in (self.staging, cache):
            directory.mkdir(exist_ok=True)
            os.chown(directory, user.pw_uid, user.pw_gid)
        with zipfile.ZipFile(place / "code.zip", "w") as archive:
            archive.writestr("main.py", "import requests\ndef main(p): return requests.__version__\n")
        archive_fd = os.open(place / "code.zip", os.O_RDONLY)
        passed = {name: value for name, value in os.environ.items() if name.startswith(("SSL_", "UV_", "PIP_"))}
        passed |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, archive_fd)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rootfs_builder", "build"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[archive_fd],
                cwd=ROOT,
                env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **passed},
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
            )
        self.request = {
            "runtime": host_runtime(),
            "requirements": requirements,
            "staging": str(self.staging),
            "archive_fd": archive_fd,
            "cache_dir": str(cache),
            "index_url": "",
            "unpacked_bytes": 10_000_000,
            "archive_entries": 100,
            "python": f"/usr/bin/{host_runtime()}",
        }

    def __enter__(self) -> "Build":
        self.say(json.dumps(self.request))
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def events(self, answer: str = "build") -> list[dict[str, Any]]:
        """All lines, with the answer given at `locked`; never a silence of more than two seconds."""
        assert self.process.stdout is not None
        seen = []
        while True:
            assert select.select([self.process.stdout], [], [], 2.0)[0], "silent for too long"
            line = self.process.stdout.readline()
            if not line:
                return seen
            seen.append(json.loads(line))
            if seen[-1]["event"] == "locked":
                self.say(answer)


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """A cache that the builds share. Not below tmp_path, which other users cannot enter."""
    with tempfile.TemporaryDirectory(prefix="pagurus-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "uv"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one build."""
    with tempfile.TemporaryDirectory(prefix="pagurus-test-") as name:
        yield Path(name)


def test_a_function_with_requests_is_built_and_imports(rootfs: Path, cache: Path, place: Path):
    with Build(place, cache, "requests") as build:
        events = build.events()
        assert build.process.wait() == 0
    done = events[-1]
    assert done["event"] == "done"
    assert done["environment"]["imports"] == ["requests"]
    assert "urllib3" in {each["name"] for each in done["environment"]["distributions"]}
    phases = list(dict.fromkeys(event["phase"] for event in events if event["event"] == "progress"))
    assert phases == ["unpack", "resolve", "install", "compile"]
    installed = build.staging / "environment/fs"
    root = place / "root"
    shutil.copytree(rootfs / host_runtime() / "fs", root, symlinks=True)
    shutil.copytree(installed, root / SEEN_AT.strip("/"), dirs_exist_ok=True)
    shutil.copytree(build.staging / "code", root / "code")
    code = "import sys; sys.path[:0] = ['/code', '%s']; import main, requests; print(requests.__cached__, main.main(1))"
    assert f"{SEEN_AT}requests/__pycache__/" in inside(root, code % SEEN_AT)
    assert all(path.lstat().st_nlink == 1 for path in installed.rglob("*.py")), "shared with the cache"


def test_a_known_environment_is_skipped(cache: Path, place: Path):
    with Build(place, cache, "requests") as build:
        locked, done = build.events("skip")[-2:]
    assert (locked["event"], done["event"]) == ("locked", "done")
    assert done["environment"] == {"id": locked["environment"], "runtime": host_runtime()}
    assert os.listdir(build.staging) == ["code"]


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        ("requests==2.31.0\nurllib3==1.20", ("requests==2.31.0 depends on urllib3>=1.21.1,<3", "urllib3==1.20")),
        ("no-such-package-of-pagurus", ("no-such-package-of-pagurus", "not found")),
        ("requests==9999", ("no version of requests==9999",)),
    ],
)
def test_what_cannot_be_resolved_is_told_in_uv_s_words(
    requirements: str, words: tuple[str, ...], cache: Path, place: Path
):
    with Build(place, cache, requirements) as build:
        failed = build.events()[-1]
        assert build.process.wait() == 1
    assert (failed["event"], failed["kind"]) == ("failed", "requirements")
    assert failed["hint"]
    for word in words:
        assert word in failed["message"]


def test_sigterm_ends_a_build_and_its_children(cache: Path, place: Path):
    with Build(place, cache, "requests") as build:
        assert build.process.stdout is not None
        while b"resolving" not in build.process.stdout.readline():
            pass
        build.process.send_signal(signal.SIGTERM)
        assert build.process.wait(timeout=5) == 143
    mine = str(build.staging).encode()
    deadline = time.monotonic() + 5
    while any(mine in cmdline(pid) for pid in os.listdir("/proc") if pid.isdigit()):
        assert time.monotonic() < deadline, "a child outlived the build"


def cmdline(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def test_one_that_is_there_needs_no_lock(rootfs: Path):
    with open(rootfs / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, events = base(rootfs)
    assert (status, events[-1]["event"]) == (0, "done")  # one that is there needs no lock
