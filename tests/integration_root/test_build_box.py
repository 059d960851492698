"""Builds from source in a box: what a build gets, what it cannot do, and that nothing of it stays."""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import pwd
import signal
import socket
import tempfile
import time
import tomllib
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import box_root, build_box
from runtime.errors import BuildError
from tests import leaks
from tests.index_server import IndexServer
from tests.node_bed import INSTALLED, WAIT_S, Bed, open_bed, run_in_child, state_directory
from tests.sdists import sdist

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class Boxes:
    """Boxes of a node, with an index on loopback that has nothing but what the test puts there."""

    def __init__(self, bed: Bed, index: IndexServer, folder: Path) -> None:
        self.bed = bed
        self.index = index
        self.folder = folder
        self.lines: list[str] = []

    async def build(self, packed: bytes, *, name: str = "demo", version: str = "1.0", sha256: str = "") -> Path:
        path = self.folder / "input"
        path.write_bytes(packed)
        into = self.folder / "wheels"
        into.mkdir(exist_ok=True)
        return await build_box.build_wheel(
            self.bed.parts,
            self.bed.runtime,
            path,
            f"{name}-{version}.tar.gz",
            name=name,
            version=version,
            into=into,
            progress=self.lines.append,
            sha256=sha256,
        )

    async def build_of(self, name: str, packed: bytes) -> Path:
        fd = os.memfd_create(name)
        try:
            os.write(fd, packed)
            return await build_box.build_wheel(
                self.bed.parts,
                self.bed.runtime,
                fd,
                f"{name}-1.0.tar.gz",
                name=name,
                version="1.0",
                into=self.folder,
                progress=self.lines.append,
            )
        finally:
            os.close(fd)

    async def refused(self, packed: bytes, **settings: Any) -> BuildError:
        before = list((self.folder / "wheels").glob("*"))
        with pytest.raises(BuildError) as failed:
            await self.build(packed, **settings)
        assert list((self.folder / "wheels").glob("*")) == before
        return failed.value

    async def said(self, **expressions: str) -> dict[str, Any]:
        """What the build code finds these expressions to be, in one build."""
        body = f"""
            import json, os, socket, sys, urllib.request
            sys.stderr = sys.__stderr__
            found = {{name: eval(code) for name, code in {expressions!r}.items()}}
            raise SystemExit("<<" + json.dumps(found) + ">>")
        """
        error = await self.refused(sdist(body))
        assert "<<" in error.message, error.message
        return json.loads(error.message.partition("<<")[2].rpartition(">>")[0])

    async def resolve(self, requirements: str) -> str:
        return (await build_box.resolve(self.bed.parts, self.bed.runtime, requirements, self.lines.append)).text


@contextlib.asynccontextmanager
async def boxes(scope: leaks.Scope, settings: dict[str, Any]) -> AsyncIterator[Boxes]:
    async with IndexServer().serving() as index:
        with tempfile.TemporaryDirectory(prefix="pagurus-test-") as folder:
            settings = {"index_url": f"{index.url}/simple", "sdist_timeout_s": 60, **settings}
            async with open_bed(scope, settings) as bed:
                yield Boxes(bed, index, Path(folder))


def in_boxes(**settings: Any) -> Callable[[Callable[[Boxes], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine that gets Boxes. Ends with the leak check."""

    def decorate(scenario: Callable[[Boxes], Awaitable[None]]) -> Callable[[], None]:
        async def live(scope: leaks.Scope) -> None:
            async with boxes(scope, settings) as given:
                await scenario(given)

        def test() -> None:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                os.environ.pop(name, None)
            with state_directory() as scope, leaks.no_leaks(scope):
                run_in_child(lambda: asyncio.run(live(scope)))

        test.__name__, test.__qualname__, test.__doc__ = scenario.__name__, scenario.__qualname__, scenario.__doc__
        test.__module__ = scenario.__module__
        return test

    return decorate


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@in_boxes()
async def test_a_pure_sdist_becomes_one_wheel_of_the_builder_s_user(boxes: Boxes) -> None:
    packed = sdist("print('hello from the backend')")
    path = await boxes.build(packed, sha256=hashlib.sha256(packed).hexdigest())
    assert path.name == "demo-1.0-py3-none-any.whl"
    assert path.stat().st_uid == pwd.getpwnam(boxes.bed.parts.settings.builder_user).pw_uid
    with zipfile.ZipFile(path) as wheel:
        assert wheel.read("demo.py") == b"answer = 42\n"
    assert boxes.lines
    assert not boxes.index.seen


@in_boxes()
async def test_a_build_gets_its_requirements_from_the_index_and_reaches_nothing_else(boxes: Boxes) -> None:
    boxes.index.files["backend-help"] = {"backend_help-1.0.tar.gz": sdist(name="backend-help")}
    packed = sdist("import backend_help\nassert backend_help.answer == 42\n", build_requires=("backend-help",))
    assert (await boxes.build(packed)).name == "demo-1.0-py3-none-any.whl"
    assert {path for path, _ in boxes.index.seen} == {"/simple/backend-help/", "/pool/backend_help-1.0.tar.gz"}
    with socket.create_server(("127.0.0.1", 0)) as server:  # the host's loopback
        found = await boxes.said(
            host=f"socket.socket().connect_ex(('127.0.0.1', {server.getsockname()[1]}))",
            world="socket.socket().connect_ex(('192.0.2.1', 80))",
            interfaces="[name for _, name in socket.if_nameindex()]",
            listening="[line.split()[1] for line in open('/proc/net/tcp') if line.split()[3] == '0A']",
            page="urllib.request.urlopen('http://127.0.0.1:3141/simple/backend-help/').status",
        )
    assert found == {
        "host": errno.ECONNREFUSED,
        "world": errno.ENETUNREACH,
        "interfaces": ["lo"],
        "listening": ["0100007F:0C45"],
        "page": 200,
    }


@in_boxes()
async def test_a_build_has_no_power_and_sees_no_host(boxes: Boxes) -> None:
    host = boxes.folder / "secret"
    host.write_text("secret")
    host.chmod(0o644)
    boxes.folder.chmod(0o755)
    paths = [str(host), "/work", "/var/lib/pagurus", "/etc/shadow", "/root/.netrc", boxes.bed.parts.settings.state_dir]
    found = await boxes.said(
        status="{k: v.split() for k, v in (l.split(':') for l in open('/proc/self/status') if ':' in l)}",
        pids="sorted(int(p) for p in os.listdir('/proc') if p.isdigit())",
        init="open('/proc/1/cmdline').read()",
        uid_map="open('/proc/self/uid_map').read().split()",
        mounts="open('/proc/self/mountinfo').read()",
        cgroup="{line.rpartition(':')[2].strip() for line in open('/proc/self/cgroup')} - {'/'} == set()",
        environ="sorted(os.environ)",
        empty="os.listdir('/code') + os.listdir('/opt/env') + os.listdir('/sys')",
        there=f"[path for path in {paths!r} if os.path.exists(path)]",
        descriptors="[os.readlink(f'/proc/2/fd/{f}') for f in range(3)]",
        name="socket.gethostname()",
    )
    status = found["status"]
    assert (status["Uid"], status["Gid"], status["Groups"]) == (["1000"] * 4, ["1000"] * 4, [])
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert {int(status[f"Cap{kind}"][0], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert found["pids"][:2] == [1, 2] and len(found["pids"]) < 40
    assert (found["init"], found["name"]) == ("pagurus-init\0", "box")
    assert int(found["uid_map"][1]) >= boxes.bed.parts.settings.uid_base
    for secret in (boxes.bed.parts.settings.state_dir, "/opt/pagurus", str(boxes.folder)):
        assert secret not in found["mounts"]
    assert not [name for name in found["environ"] if name.startswith(("PIP", "PAGURUS"))]
    assert found["empty"] == found["there"] == []
    assert found["cgroup"]
    assert found["descriptors"][0] == "/dev/null"
    assert found["descriptors"][1] == found["descriptors"][2]


REFUSED = {
    "a file in the root": "open('/etc/new', 'w')",
    "a file in its base": "open('/usr/lib/python3.11/os.py', 'a')",
    "uv itself": "open('/opt/uv', 'r+b')",
    "setuid": "os.setuid(0)",
    "a user namespace": "ctypes_call(272, 0x10000000)",
    "a mount": "ctypes_call(165, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "ptrace": "ctypes_call(101, 16, 1, 0, 0)",
    "bpf": "ctypes_call(321, 0, 0, 0)",
    "keyctl": "ctypes_call(250, 0, -3, 0)",
    "AF_VSOCK": "socket.socket(40, socket.SOCK_STREAM)",
    "AF_ALG": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "init's end": "os.kill(1, 9)",
    "more user namespaces": "open('/proc/sys/user/max_user_namespaces', 'w')",
}


@in_boxes()
async def test_what_a_build_must_not_do_is_refused(boxes: Boxes) -> None:
    body = f"""
        import ctypes, os, socket
        libc = ctypes.CDLL(None, use_errno=True)

        def ctypes_call(*arguments):
            if libc.syscall(*arguments) < 0:
                raise OSError(ctypes.get_errno(), "refused")

        for name, code in {REFUSED!r}.items():
            try:
                eval(code)
            except OSError:
                continue
            raise SystemExit("allowed: " + name)
    """
    await boxes.build(sdist(body))


@in_boxes()
async def test_a_failing_build_is_told_with_its_traceback(boxes: Boxes) -> None:
    error = await boxes.refused(sdist("def on_build(directory):\n    raise RuntimeError('no \\x1b[31mluck\\x07')\n"))
    assert error.kind == "sdist"
    assert error.message.startswith("cannot build demo-1.0.tar.gz:\n")
    assert "Traceback (most recent call last)" in error.message
    assert "RuntimeError: no luck" in error.message
    assert "wheel" in error.hint
    assert "--toolchain" not in error.hint


@in_boxes()
async def test_a_broken_sdist_or_another_than_expected_is_refused(boxes: Boxes) -> None:
    assert (await boxes.refused(b"not an archive")).kind == "sdist"
    error = await boxes.refused(sdist(), sha256="0" * 64)
    assert "sha256" in error.message
    for version in ("../demo", "/x", "1\n"):
        with pytest.raises(BuildError, match="no name of an sdist"):
            await boxes.build(sdist(), version=version)
    error = await boxes.refused(sdist(), name="other")
    assert "name other" in error.message


@in_boxes()
async def test_results_that_are_not_the_one_wheel_are_refused(boxes: Boxes) -> None:
    results = {
        "write_wheel(directory, version='2.0'); return write_wheel(directory)": "2 files '*.whl' instead of one",
        "return write_wheel(directory, name='other')": "the wheel declares name other",  # uv's words
        "n = write_wheel(directory); p = directory + '/' + n; os.rename(p, '/build/w'); os.symlink('/build/w', p);"
        " return n": "is no regular file",
        "n = write_wheel(directory); os.truncate(directory + '/' + n, 1 << 40); return n": "the limit is",
    }
    for statement, words in results.items():
        error = await boxes.refused(sdist(f"def on_build(directory):\n    {statement}\n"))
        assert error.kind == "sdist"
        assert words in error.message, error.message


@in_boxes(sdist_timeout_s=1)
async def test_a_build_that_never_ends_is_ended(boxes: Boxes) -> None:
    error = await boxes.refused(sdist("import time\ntime.sleep(1000)\n"))
    assert error.kind == "limit"
    assert "sdist_timeout_s" in error.message


@in_boxes()
async def test_a_fork_bomb_meets_the_limit_and_nothing_of_it_stays(boxes: Boxes) -> None:
    bomb = """
        import signal
        while True:
            if os.fork() == 0:
                os.setsid()
                for fd in range(3):  # uv waits for the end of the backend's output
                    os.close(fd)
                signal.pause()
    """
    error = await boxes.refused(sdist(bomb))
    assert "Resource temporarily unavailable" in error.message


@in_boxes(sdist_memory_bytes=128 << 20)
async def test_too_much_memory_is_told_as_that(boxes: Boxes) -> None:
    error = await boxes.refused(sdist("kept = [bytearray(1 << 20) for _ in range(1000)]\n"))
    assert error.kind == "limit"
    assert "128 MiB" in error.message
    assert error.hint == "raise sdist_memory_bytes"


@in_boxes(sdist_memory_bytes=128 << 20)
async def test_files_are_bounded_too(boxes: Boxes) -> None:
    body = "for n in range(1000):\n    open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))\n"
    error = await boxes.refused(sdist(body))
    assert error.kind == "limit"


@in_boxes()
async def test_a_flood_of_output_ends_the_build(boxes: Boxes) -> None:
    error = await boxes.refused(sdist("while True:\n    print('x' * 10_000)\n"))
    assert error.kind == "limit"
    assert "output" in error.message
    assert len(error.message) < 50_000
    assert max(map(len, boxes.lines)) <= 500


@in_boxes()
async def test_a_process_that_is_left_behind_dies_with_its_box(boxes: Boxes) -> None:
    body = """
        import signal
        if os.fork() == 0:
            os.setsid()
            for fd in range(3):  # uv waits for the end of the backend's output
                os.close(fd)
            for number in range(1, 32):
                if number not in (9, 19):
                    signal.signal(number, signal.SIG_IGN)
            while True:
                signal.pause()
    """
    await boxes.build(sdist(body))


@in_boxes()
async def test_a_cancelled_build_leaves_nothing(boxes: Boxes) -> None:
    boxes.index.silent.add("/simple/never/")
    building = asyncio.create_task(boxes.build(sdist(build_requires=("never",))))
    await boxes.bed.until(lambda: boxes.index.seen)  # uv runs, in its box
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building


def test_a_box_does_not_outlive_a_pagurusd_that_is_killed() -> None:
    async def live(scope: leaks.Scope) -> None:
        async with boxes(scope, {}) as given:
            given.index.silent.add("/simple/never/")
            building = asyncio.create_task(given.build(sdist(build_requires=("never",))))
            await given.bed.until(lambda: given.index.seen)
            assert len(list(scope.processes())) >= 3, building  # init, uv, proxy
            os.kill(os.getpid(), signal.SIGKILL)

    with state_directory() as scope:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                asyncio.run(live(scope))
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        wait_until(lambda: not any((path / "cgroup.procs").read_text() for path in scope.cgroups()))
        for path in sorted(scope.cgroups(), key=lambda path: -len(path.parts)):
            path.rmdir()  # as the next pagurusd would


@in_boxes(sdists=False)
async def test_a_node_can_refuse_to_build(boxes: Boxes) -> None:
    error = await boxes.refused(sdist())
    assert error.kind == "sdist"
    assert "sdists = true" in error.hint


@in_boxes()
async def test_boxes_run_side_by_side(boxes: Boxes) -> None:
    packed = {name: sdist(name=name) for name in ("one", "two", "three")}
    paths = await asyncio.gather(*(boxes.build_of(name, data) for name, data in packed.items()))
    assert {path.name for path in paths} == {f"{name}-1.0-py3-none-any.whl" for name in packed}


@in_boxes()
async def test_requirements_without_wheels_are_resolved_to_the_index_s_own_urls(boxes: Boxes) -> None:
    data = sdist(name="top", requires=("below>=1",))
    boxes.index.files["top"] = {"top-1.0.tar.gz": data}
    boxes.index.files["below"] = {"below-1.0.tar.gz": sdist(name="below")}
    text = await boxes.resolve("top\n")
    packages = tomllib.loads(text)["packages"]
    assert [(each["name"], each["version"]) for each in packages] == [("below", "1.0"), ("top", "1.0")]
    assert packages[1]["sdist"]["url"] == f"{boxes.index.url}/pool/top-1.0.tar.gz"
    assert packages[1]["sdist"]["hashes"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert "3141" not in text


@in_boxes()
async def test_what_cannot_be_resolved_is_told_in_uv_s_words(boxes: Boxes) -> None:
    boxes.index.files["top"] = {"top-1.0.tar.gz": sdist(name="top", requires=("absent",))}
    with pytest.raises(BuildError) as failed:
        await boxes.resolve("top\n")
    assert "absent" in failed.value.message
    assert failed.value.kind == "requirements"


@in_boxes()
async def test_a_lock_that_build_code_has_forged_is_refused(boxes: Boxes) -> None:
    forged = '[[packages]]\nname = "top"\nversion = "1.0"\nsdist = { url = "https://evil.test/top-1.0.tar.gz", '
    forged += f'hashes = {{ sha256 = "{"0" * 64}" }} }}\n'

    async def take_lock(*_: object) -> str:
        return forged

    boxes.index.files["top"] = {"top-1.0.tar.gz": sdist(name="top")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_box, "_take_lock", take_lock)
        with pytest.raises(BuildError, match="not from the index"):
            await boxes.resolve("top\n")


EXTENSION = """
    import subprocess, sysconfig

    SOURCE = r'''
    #include <Python.h>
    static PyObject *answer(PyObject *self, PyObject *unused) { return PyLong_FromLong(42); }
    static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, 0}, {0}};
    static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", 0, -1, methods};
    PyMODINIT_FUNC PyInit_native(void) { return PyModule_Create(&module); }
    '''

    def on_build(directory):
        pathlib.Path("native.c").write_text(SOURCE)
        built = "native" + sysconfig.get_config_var("EXT_SUFFIX")
        include = "-I" + sysconfig.get_path("include")
        cc = sysconfig.get_config_var("CC").split()
        subprocess.run([*cc, "-shared", "-fPIC", include, "native.c", "-o", built], check=True)
        import native
        assert native.answer() == 42
        FILES[built] = pathlib.Path(built).read_bytes()
        return write_wheel(directory)
"""


@in_boxes()
async def test_a_c_extension_is_built_with_the_toolchain(boxes: Boxes) -> None:
    if not (INSTALLED / "rootfs" / f"{boxes.bed.runtime}-{box_root.TOOLCHAIN}").exists():
        pytest.skip("no compilers for build boxes here: run scripts/setup --toolchain")
    with zipfile.ZipFile(await boxes.build(sdist(EXTENSION))) as wheel:
        (native,) = (name for name in wheel.namelist() if name.startswith("native"))
        assert wheel.read(native).startswith(b"\x7fELF")


@in_boxes()
async def test_a_missing_compiler_is_told_with_what_to_run(boxes: Boxes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_root, "TOOLCHAIN", "absent")
        error = await boxes.refused(sdist(EXTENSION))
    assert "gcc" in error.message
    assert error.hint.startswith("run scripts/setup --toolchain")
