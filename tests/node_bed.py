"""A node without a gateway: what pagurusd does, in a child of the test, asked by protocol messages.

The child is forked because the node wants a process with one thread, a mount namespace of its own, and every
child of that process for itself. Functions are written straight into the store: the builder has tests of its own.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import resource
import signal
import socket
import tempfile
import traceback
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rootfs_builder import environments
from rootfs_builder.environments import LayerFacts
from runtime import config, protocol, syscalls
from runtime.frames import HEADER, HEADER_BYTES, FrameKind, pack
from runtime.model import (
    Assignment,
    CodeId,
    Distribution,
    Environment,
    EnvironmentId,
    FunctionName,
    Limits,
    SandboxId,
    VersionId,
    ZygoteId,
    layer_id,
)
from runtime.node import Node
from runtime.parts import Parts, open_parts
from runtime.sandbox.sandbox import State
from runtime.syscalls import CloneFlag, MountFlag
from tests import leaks
from tests.leaks import Scope
from tests.slowness import patience_s

WAIT_S = patience_s(20.0)  # nothing takes so long: only a failing test waits for it
CHILD_S = round(patience_s(90))
OPEN_FILES = 65536  # pagurusd raises its limit, too; a shell or a service has 1024
INSTALLED = Path(os.environ.get("PAGURUS_STATE_DIR", "/var/lib/pagurus"))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker answered. `value`: the decoded payload."""

    kind: FrameKind
    value: Any
    import_us: int
    run_us: int


class Bed:
    """The node, what it told its gateway, and short ways of asking."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.node = Node(parts, self._take)
        self.runtime = parts.layers.runtimes()[0]
        self.received: list[protocol.ToGateway] = []
        self.standbys: dict[EnvironmentId | None, deque[SandboxId]] = {}
        self.sockets: dict[SandboxId, socket.socket] = {}
        self.outputs: dict[SandboxId, tuple[int, int]] = {}
        self.dead: dict[SandboxId, protocol.SandboxDied] = {}
        self._ticket = 0
        self._changed = asyncio.Event()

    def _take(self, message: protocol.ToGateway, descriptors: list[int]) -> None:
        self.received.append(message)
        if isinstance(message, protocol.SandboxOffered):
            self._close(message.sandbox)
            end = socket.socket(fileno=os.dup(descriptors[0]))
            end.setblocking(False)
            self.sockets[message.sandbox] = end
            self.outputs[message.sandbox] = (os.dup(descriptors[1]), os.dup(descriptors[2]))
            if message.state == "standby":
                self.standbys.setdefault(message.environment, deque()).append(message.sandbox)
        elif isinstance(message, protocol.SandboxDied):
            self.dead[message.sandbox] = message
            for pool in self.standbys.values():
                with contextlib.suppress(ValueError):
                    pool.remove(message.sandbox)
        self._changed.set()

    def _close(self, sandbox: SandboxId) -> None:
        end = self.sockets.pop(sandbox, None)
        if end is not None:
            end.close()
        for fd in self.outputs.pop(sandbox, ()):
            os.close(fd)

    def close(self) -> None:
        for sandbox in list(self.sockets):
            self._close(sandbox)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition, looked at after every message, holds; its value."""
        end_s = asyncio.get_running_loop().time() + WAIT_S
        while not (found := condition()):
            assert asyncio.get_running_loop().time() < end_s, f"waited in vain; the node is {self}"
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await self._changed.wait()
        return found

    def __repr__(self) -> str:
        """What the node has, for a test that fails."""
        node = self.node
        sandboxes = [(s.id, s.state.name, s.pid, s.reason, s.error) for s in node._sandboxes.values()]
        zygotes = [(h.id, h.pid, h.is_ended, sorted(h._living)) for h in node._zygotes.values()]
        graves = len(node._graves)
        last = [type(message).__name__ for message in self.received[-8:]]
        return f"{sandboxes=} {zygotes=} {graves=} {last=} {dict(node.counters)}"

    def told(self, kind: type, **wanted: object) -> list[Any]:
        """Messages of this kind with these fields, so far."""
        return [
            message
            for message in self.received
            if isinstance(message, kind) and all(getattr(message, key) == value for key, value in wanted.items())
        ]

    # --- the store

    def write_code(self, files: dict[str, str] | str) -> CodeId:
        """A code tree in the store; a text is its main.py."""
        if isinstance(files, str):
            files = {"main.py": files}
        code = CodeId(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())
        place = Path(self.parts.settings.state_dir) / "code" / code
        if not place.exists():  # else a sandbox may be reading it
            _write_tree(place, files)
        return code

    def write_layer(
        self, name: str, version: str, contents: dict[str, str], requires: Iterable[str] = ()
    ) -> LayerFacts:
        """One distribution's layer in the store, with the RECORD that an installer would have written."""
        files = dict(contents)
        digests = {path: _record_digest(text) for path, text in contents.items()}
        record = f"{name.replace('-', '_')}-{version}.dist-info/RECORD"
        metadata = f"{name.replace('-', '_')}-{version}.dist-info/METADATA"
        files[metadata] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        digests[metadata] = _record_digest(files[metadata])
        files[record] = "".join(f"{path},sha256={digest},\n" for path, digest in digests.items()) + f"{record},,\n"
        sha256 = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        facts = LayerFacts(
            id=layer_id(self.runtime, sha256),
            distribution=Distribution(name, version),
            sha256=sha256,
            requires=tuple(requires),
            imports=tuple(environments.importable(contents)),
            files={**digests, record: ""},
            size_bytes=sum(map(len, files.values())),
        )
        layers = self.parts.layers
        if not layers.has_layer(facts.id):
            staged = Path(self.parts.settings.state_dir) / "staging" / facts.id
            _write_tree(staged / "fs", files)
            (staged / "layer.json").write_bytes(msgspec.json.encode(facts))
            layers.adopt_layer(staged, facts.id)
        return facts

    def write_environment(
        self,
        distributions: dict[tuple[str, str], dict[str, str]],
        requires: dict[str, list[str]] | None = None,
        declared: Iterable[str] | None = None,
    ) -> Environment:
        """An environment in the store: {(name, version): {path: text}}, a layer each; all are declared unless said."""
        needs = requires or {}
        facts = [
            self.write_layer(name, version, contents, needs.get(name, ()))
            for (name, version), contents in distributions.items()
        ]
        lock = repr(sorted(one.sha256 for one in facts))
        names = [name for name, _ in distributions] if declared is None else declared
        manifest = environments.compose(facts, runtime=self.runtime, lock=lock, declared=names)
        self.parts.layers.put_environment(manifest)
        return manifest.environment

    def assignment(
        self,
        code: CodeId,
        *,
        handler: str = "main.main",
        environment: EnvironmentId | None = None,
        limits: Limits | None = None,
        environ: dict[str, str] | None = None,
        egress: tuple[str, ...] = (),
    ) -> Assignment:
        return Assignment(
            function=FunctionName("test"),
            version=VersionId(code),
            code=code,
            handler=handler,
            environment=environment,
            limits=limits or Limits(),
            environ=environ or {},
            egress=egress,
        )

    # --- builds

    def start_build(self, requirements: str, files: dict[str, str] | None = None) -> int:
        """BuildVersion; its number."""
        self._ticket += 1
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for path, text in (files or {"main.py": "def main(param):\n    return param\n"}).items():
                archive.writestr(path, text)
        fd = os.memfd_create("archive")
        os.write(fd, data.getvalue())
        os.lseek(fd, 0, os.SEEK_SET)
        message = protocol.BuildVersion(
            build=self._ticket, function=FunctionName("test"), runtime=self.runtime, requirements=requirements
        )
        self.node.handle(message, [fd])
        return self._ticket

    async def built(self, build: int) -> protocol.BuildSucceeded | protocol.BuildFailed:
        """How a build ended."""
        ends = (protocol.BuildSucceeded, protocol.BuildFailed)
        return await self.until(
            lambda: next((m for m in self.received if isinstance(m, ends) and m.build == build), None)
        )

    async def build(self, requirements: str, files: dict[str, str] | None = None) -> protocol.BuildSucceeded:
        """A build that must succeed."""
        result = await self.built(self.start_build(requirements, files))
        assert isinstance(result, protocol.BuildSucceeded), result
        return result

    async def refused(self, requirements: str) -> protocol.BuildFailed:
        """A build that must fail, and leave nothing."""
        before = self.stored()
        result = await self.built(self.start_build(requirements))
        assert isinstance(result, protocol.BuildFailed), result
        assert self.stored() == before
        return result

    def stored(self) -> tuple[set[str], ...]:
        """Ids of what is on the disk."""
        state = Path(self.parts.settings.state_dir)
        return tuple({path.name for path in (state / kind).iterdir()} for kind in ("layers", "environments", "code"))

    # --- zygotes and sandboxes

    async def zygote(
        self,
        name: str = "base",
        environments: Iterable[Environment] = (),
        *,
        standbys: int = 1,
        imports: Iterable[str] | None = None,
    ) -> protocol.ZygoteReady:
        """A zygote of the union of environments, with standbys for each of them. Fails when it cannot be made."""
        result = await self.try_zygote(name, environments, standbys=standbys, imports=imports)
        assert isinstance(result, protocol.ZygoteReady), result
        return result

    async def try_zygote(
        self,
        name: str,
        environments: Iterable[Environment] = (),
        *,
        standbys: int = 1,
        imports: Iterable[str] | None = None,
    ) -> protocol.ZygoteReady | protocol.ZygoteFailed:
        known = list(environments)
        targets: list[EnvironmentId | None] = [e.id for e in known] or [None]
        before = len(self.received)
        message = protocol.EnsureZygote(
            zygote=ZygoteId(name),
            runtime=self.runtime,
            environments=tuple(e.id for e in known),
            imports=tuple(m for e in known for m in e.imports) if imports is None else tuple(imports),
            standbys=tuple(protocol.StandbyTarget(environment=t, count=standbys) for t in targets),
        )
        self.node.handle(message, [])
        answers = (protocol.ZygoteReady, protocol.ZygoteFailed)

        def answer() -> Any:
            return next((m for m in self.received[before:] if isinstance(m, answers) and m.zygote == name), None)

        return await self.until(answer)

    async def parked(self, environment: EnvironmentId | None = None) -> SandboxId:
        """Take a standby, waiting for one if need be."""
        await self.until(lambda: self.standbys.get(environment))
        return self.standbys[environment].popleft()

    def assign(self, sandbox: SandboxId, assignment: Assignment) -> None:
        self.node.handle(protocol.AssignSandbox(sandbox=sandbox, assignment=assignment), [])

    async def run(self, source: dict[str, str] | str, param: object = None, **settings: Any) -> Answer:
        """Write code, give it to a standby, call it once; the sandbox is `last`."""
        assignment = self.assignment(self.write_code(source), **settings)
        self.last = await self.parked()
        self.assign(self.last, assignment)
        return await self.call(self.last, param)

    async def result(self, source: dict[str, str] | str, param: object = None, **settings: Any) -> Any:
        """`run`, which must succeed; its result."""
        answer = await self.run(source, param, **settings)
        assert answer.kind is FrameKind.RESULT, answer.value
        return answer.value

    async def start(self, zygote: str, assignment: Assignment) -> SandboxId:
        """StartSandbox; the sandbox that was offered."""
        self._ticket += 1
        ticket = self._ticket
        self.node.handle(protocol.StartSandbox(ticket=ticket, zygote=ZygoteId(zygote), assignment=assignment), [])
        offered = await self.until(lambda: self.told(protocol.SandboxOffered, ticket=ticket))
        return offered[0].sandbox

    def request(self, sandbox: SandboxId, param: object = None, *, kind: FrameKind = FrameKind.INVOKE) -> None:
        """Write a frame and do not wait."""
        self.sockets[sandbox].send(pack(kind, b"test", json.dumps(param).encode(), 30_000))

    async def call(self, sandbox: SandboxId, param: object = None) -> Answer:
        """One invocation. Raises EOFError when the sandbox ends without an answer."""
        self.request(sandbox, param)
        return await self.answer(sandbox)

    async def answer(self, sandbox: SandboxId) -> Answer:
        loop, end = asyncio.get_running_loop(), self.sockets[sandbox]
        data = b""
        async with asyncio.timeout(WAIT_S):
            while len(data) < HEADER_BYTES or len(data) < _frame_bytes(data):
                try:
                    chunk = await loop.sock_recv(end, 1 << 20)
                except ConnectionResetError:
                    chunk = b""
                if not chunk:
                    raise EOFError(f"{sandbox} ended without an answer")
                data += chunk
        _, kind, id_length, _, import_us, run_us = HEADER.unpack_from(data)
        payload = data[HEADER_BYTES + id_length :]
        return Answer(FrameKind(kind), json.loads(payload) if payload else None, import_us, run_us)

    def kill(self, sandbox: SandboxId, reason: str = "test") -> None:
        self.node.handle(protocol.KillSandbox(sandbox=sandbox, reason=reason), [])

    async def died(self, sandbox: SandboxId) -> protocol.SandboxDied:
        """Wait for a sandbox's end, close our ends of it, and say how it ended."""
        message = await self.until(lambda: self.dead.get(sandbox))
        self._close(sandbox)
        return message

    async def end(self, sandbox: SandboxId) -> protocol.SandboxDied:
        self.kill(sandbox)
        return await self.died(sandbox)

    def pid(self, sandbox: SandboxId) -> int:
        return self.node._sandboxes[sandbox].pid

    def paths(self, sandbox: SandboxId) -> dict[str, Path]:
        """The sandbox's cgroup directories by hierarchy."""
        return self.node._sandboxes[sandbox].cgroup._directories

    def state(self, sandbox: SandboxId) -> State:
        return self.node._sandboxes[sandbox].state


Scenario = Callable[[Bed], Awaitable[None]]


@contextmanager
def state_directory() -> Iterator[Scope]:
    """Scope of a node: a folder that all users can pass through, unlike pytest's own, with the installed rootfs."""
    if not (INSTALLED / "rootfs").is_dir():
        pytest.skip(f"no base root file system in {INSTALLED}: run scripts/setup")
    with tempfile.TemporaryDirectory(prefix="pagurus-test-") as name:
        state = Path(name)
        state.chmod(0o711)
        (state / "rootfs").symlink_to(INSTALLED / "rootfs")
        scope = Scope.new(state)
        try:
            yield scope
        finally:
            scope.release()


def in_node(**settings: Any) -> Callable[[Scenario], Callable[[], None]]:
    """Make a test of a coroutine that gets a Bed. settings: of the node. Ends with the leak check."""

    def decorate(scenario: Scenario) -> Callable[[], None]:
        def test() -> None:
            with state_directory() as scope, leaks.no_leaks(scope):
                run_in_child(lambda: asyncio.run(_live(scenario, scope, settings)))

        test.__name__, test.__qualname__, test.__doc__ = scenario.__name__, scenario.__qualname__, scenario.__doc__
        test.__module__ = scenario.__module__
        return test

    return decorate


def run_in_child(body: Callable[[], None]) -> None:
    """Run `body` in a forked child; its failure or skip is raised here as if it had happened here."""
    memory = os.memfd_create("report")  # not a pipe: whoever outlives the child would keep that open
    pid = os.fork()
    if pid == 0:
        report = {"outcome": "passed", "text": ""}
        signal.alarm(CHILD_S)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
        log = io.StringIO()
        logging.basicConfig(stream=log, force=True)
        try:
            body()
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):  # of the node's TaskGroup
                error = error.exceptions[0]
            report = {"outcome": "failed", "text": "".join(traceback.format_exception(error)) + log.getvalue()}
            if isinstance(error, pytest.skip.Exception):
                report = {"outcome": "skipped", "text": str(error)}
        os.write(memory, json.dumps(report).encode())
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(memory, "rb") as file:
        file.seek(0)
        text = file.read()
    if not text:
        raise AssertionError(f"the node's process ended with wait status {status} and said nothing")
    report = json.loads(text)
    if report["outcome"] == "skipped":
        pytest.skip(report["text"])
    if report["outcome"] == "failed":
        raise AssertionError(report["text"])


@asynccontextmanager
async def open_bed(scope: Scope, settings: dict[str, Any]) -> AsyncIterator[Bed]:
    """A node that has ended and left nothing when the block is over."""
    before = set(leaks.descriptors())
    parts = open_parts(config.load(None, {}, {**scope.settings, **settings}))
    bed = Bed(parts)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(bed.node.run())
            await asyncio.sleep(0)
            try:
                yield bed
            finally:
                bed.node.end_all()
                async with asyncio.timeout(WAIT_S):
                    await bed.node.wait_empty()
                running.cancel()
    finally:
        bed.close()
        parts.close()
    counters = bed.node.counters
    assert not counters["internal_errors"] and not counters["cgroups_left"], counters
    stayed = set(leaks.descriptors()) - before
    assert not stayed, f"the node left descriptors open: {sorted(stayed)}"


def on_small_disk(scenario: Scenario, disk_bytes: int, **settings: Any) -> None:
    """Run a scenario whose state directory is a file system of this size."""

    def body(scope: Scope) -> None:
        syscalls.unshare(CloneFlag.NEWNS)
        syscalls.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        rootfs = os.readlink(scope.state_dir / "rootfs")
        syscalls.mount("none", str(scope.state_dir), "tmpfs", MountFlag(0), f"size={disk_bytes},mode=711")
        (scope.state_dir / "rootfs").symlink_to(rootfs)
        asyncio.run(_live(scenario, scope, settings))

    with state_directory() as scope, leaks.no_leaks(scope):
        run_in_child(lambda: body(scope))


async def _live(scenario: Scenario, scope: Scope, settings: dict[str, Any]) -> None:
    async with open_bed(scope, settings) as bed:
        await scenario(bed)


def _frame_bytes(data: bytes) -> int:
    _, _, id_length, payload_length, _, _ = HEADER.unpack_from(data)
    return HEADER_BYTES + int(id_length) + int(payload_length)


def _record_digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def _write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
