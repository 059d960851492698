"""Two versions of Python on one node: side by side, added and removed while it runs."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.suites import SUITES
from tests import leaks
from tests.e2e.conftest import EXTRA
from tests.node_bed import INSTALLED, state_directory
from tests.pagurusd import Daemon

HOST = f"python{sys.version_info.major}.{sys.version_info.minor}"
OTHER = next((name for name in SUITES if name != HOST), "")
PURE = "import sys\n\ndef main(param):\n    return [*sys.version_info[:2], param]\n"
WITH_SIX = "import sys\nimport six\n\ndef main(param):\n    return [*sys.version_info[:2], six.__version__]\n"
BUILD_S = 120.0


def version(runtime: str) -> list[int]:
    return [int(part) for part in runtime.removeprefix("python").split(".")]


@pytest.fixture(scope="session")
def both() -> Iterator[dict[str, Path]]:
    """The folders of both bases: those that are installed, else made now."""
    if HOST not in SUITES:
        pytest.skip(f"no base rootfs for the host's {HOST}")
    found = {}
    with tempfile.TemporaryDirectory(prefix="pagurus-test-") as made:  # the builder passes through: not pytest's own
        Path(made).chmod(0o755)
        for name in SUITES:
            output = INSTALLED / "rootfs"
            if not (output / name / "manifest.json").is_file():
                output = Path(made)
                command = [sys.executable, "-P", "-m", "rootfs_builder", "base"]
                command += ["--runtime", name, "--output", str(output)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
                if done.returncode != 0:
                    pytest.skip(f"cannot bootstrap {name}: {json.loads(done.stdout.splitlines()[-1])['message']}")
            found[str(name)] = (output / name).resolve()
        yield found


@contextlib.contextmanager
def node(bases: dict[str, Path], **settings: object) -> Iterator[Daemon]:
    """A daemon with a rootfs folder of its own, in which these bases are linked."""
    with state_directory() as scope:
        rootfs = scope.state_dir / "rootfs"
        rootfs.unlink()
        rootfs.mkdir()
        for name, place in bases.items():
            (rootfs / name).symlink_to(place)
        with leaks.no_leaks(scope), Daemon(scope, **{**EXTRA, **settings}) as daemon:
            yield daemon
            assert [path.name for path in rootfs.iterdir() if path.name.startswith(".tmp")] == []


@pytest.fixture
def alone() -> Iterator[Daemon]:
    """A daemon with the host's runtime only."""
    installed = (INSTALLED / "rootfs" / HOST).resolve()
    if not (installed / "manifest.json").is_file():
        pytest.skip(f"no base rootfs of {HOST} in {INSTALLED}")
    with node({HOST: installed}) as daemon:
        yield daemon


def rows(daemon: Daemon) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in daemon.get("/v1/runtimes")["runtimes"]}


def deploy(daemon: Daemon, name: str, source: str, requirements: str, *options: str) -> dict[str, object]:
    """By the command line, as a user does."""
    folder = daemon.state / f"of-{name}"
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(source)
    (folder / "requirements.txt").write_text(requirements)
    done = daemon.cli("deploy", name, folder, "--json", *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def package_zygotes_are_ready(daemon: Daemon, count: int) -> bool:
    zygotes = daemon.get("/v1/zygotes")["zygotes"]
    return sum(one["state"] == "ready" and bool(one["environments"]) for one in zygotes) == count


@pytest.mark.parametrize("kind", ["cold", "helped"])
def test_the_same_function_runs_on_two_versions_side_by_side(kind: str, both: dict[str, Path]):
    # with room for the two base zygotes only, every start with packages is cold
    with node(both, zygotes_max=len(both) if kind == "cold" else 16) as daemon:
        for name in both:
            short = name.replace(".", "-")
            found = deploy(daemon, f"six-{short}", WITH_SIX, "six\n", "--runtime", name)
            assert found["runtime"] == name and len(found["distributions"]) == 1  # type: ignore[arg-type]
            deploy(daemon, f"pure-{short}", PURE, "", "--runtime", name)
        if kind == "helped":
            daemon.until(lambda: package_zygotes_are_ready(daemon, len(both)), "the zygotes with six")
        for name in both:
            short = name.replace(".", "-")
            answer = daemon.invoke(f"six-{short}")
            assert answer.status == 200, answer.body
            assert answer.headers["X-Pagurus-Start-Kind"] == kind
            assert answer.json[:2] == version(name) and answer.json[2]
            assert daemon.result(f"pure-{short}", 7) == [*version(name), 7]
        assert {str(row["name"]): row["state"] for row in rows(daemon).values()} == dict.fromkeys(both, "ready")
        assert deploy(daemon, "plain", PURE, "")["runtime"] == HOST, "the default is the host's own"
        locks = [daemon.cli("show", f"six-{name.replace('.', '-')}", "--lock").stdout for name in both]
        assert all(lock.startswith("six==") and "--hash=sha256:" in lock for lock in locks)


def test_an_update_moves_a_function_to_another_version(both: dict[str, Path]):
    with node(both) as daemon:
        for name in (HOST, OTHER, HOST):
            daemon.deploy("mover", PURE, runtime=name)
            assert daemon.result("mover") == [*version(name), None]
        shown = json.loads(daemon.cli("show", "mover", "--json").stdout)
        assert sorted(one["runtime"] for one in shown["versions"]) == sorted(both)


def test_a_runtime_is_added_while_the_node_runs_used_and_removed(alone: Daemon):
    (alone.state / "main.py").write_text(PURE)
    refused = alone.cli("deploy", "late", alone.state / "main.py", "--runtime", OTHER)
    assert refused.returncode == 1
    assert f"this node has {HOST}" in refused.stderr and f"pagurus runtimes add {OTHER}" in refused.stderr

    before = alone.gateway_pid()
    adding = [threading.Thread(target=lambda: done.append(alone.cli("runtimes", "add", OTHER))) for _ in range(2)]
    done: list[subprocess.CompletedProcess[str]] = []
    for thread in adding:
        thread.start()
    for thread in adding:
        thread.join(BUILD_S)
    if any("build-base" in one.stderr or "mmdebstrap" in one.stderr for one in done):
        pytest.skip(f"cannot bootstrap {OTHER}: {done[0].stderr}")
    assert [one.returncode for one in done] == [0, 0], done
    assert all(f"{OTHER}: ready" in one.stdout for one in done)
    assert alone.log().count(f"runtime={OTHER} built") == 1, "asked for twice at once, built once"
    assert alone.gateway_pid() == before

    row = rows(alone)[OTHER]
    assert (row["state"], row["zygote"], row["functions"], row["default"]) == ("ready", "ready", [], False)
    place = (alone.state / "rootfs" / OTHER).resolve()
    assert place.name == f"{OTHER}-{str(row['digest'])[:12]}"
    assert alone.cli("deploy", "late", alone.state / "main.py", "--runtime", OTHER).returncode == 0
    assert alone.result("late") == [*version(OTHER), None]

    needed = alone.cli("runtimes", "rm", OTHER)
    assert needed.returncode == 1 and "used by late" in needed.stderr
    assert alone.result("late") == [*version(OTHER), None]
    os.kill(alone.gateway_pid(), signal.SIGKILL)  # its successor knows the new runtime
    alone.until(lambda: alone.gateway_pid() not in (-1, before), "another gateway")
    alone.wait_ready()
    assert alone.result("late") == [*version(OTHER), None]
    assert alone.cli("rm", "late").returncode == 0
    assert alone.cli("runtimes", "rm", OTHER).returncode == 0
    assert rows(alone)[OTHER]["state"] == "not built"
    alone.until(lambda: not place.exists(), "the removal of the files")
    last = alone.cli("runtimes", "rm", HOST)
    assert last.returncode == 1 and "last runtime" in last.stderr


@pytest.mark.parametrize("who", ["client", "gateway", "pagurusd"])
def test_a_build_that_is_cut_off_leaves_nothing_and_another_can_begin(alone: Daemon, who: str):
    with begun(alone):
        if who == "gateway":
            os.kill(alone.gateway_pid(), signal.SIGKILL)
        elif who == "pagurusd":
            alone.kill()
    if who == "pagurusd":
        alone.start()
    alone.until(lambda: alone.gateway_pid() != -1, "a gateway")
    alone.wait_ready()
    alone.until(lambda: nothing_is_built(alone), "the end of the build")
    with begun(alone):
        pass
    alone.until(lambda: nothing_is_built(alone), "the end of the second build")
    assert not (alone.state / "rootfs" / OTHER).is_symlink()


@contextlib.contextmanager
def begun(daemon: Daemon) -> Iterator[None]:
    """While the block runs, a client adds a runtime, and mmdebstrap has begun; then the client leaves."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as client:
        accept = "Accept: application/x-ndjson"
        client.sendall(f"POST /v1/runtimes/{OTHER} HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n\r\n".encode())
        said = b""
        while b"apt-get" not in said:
            chunk = client.recv(65536)
            if not chunk or b'"problem"' in said:
                pytest.skip(f"cannot bootstrap {OTHER}: {said[-300:]!r}")
            said += chunk
        assert any(path.name.startswith(f".tmp-{OTHER}") for path in (daemon.state / "rootfs").iterdir())
        yield


def nothing_is_built(daemon: Daemon) -> bool:
    left = [path for path in (daemon.state / "rootfs").iterdir() if path.name.startswith(".tmp")]
    return not left and not any(_is_of_a_build(path) for path in daemon.scope.cgroups())


def _is_of_a_build(path: Path) -> bool:
    """base-python3.13-1a2b3c4d, and not base-python3.13-7, the cgroup of a zygote."""
    return path.name.startswith("base-python") and len(path.name.rpartition("-")[2]) == 8
