"""A node without a gateway, in the benchmark's own process: what pagurusd does, timed from pagurusd."""

import asyncio
import io
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime import config, protocol
from runtime.frames import HEADER, HEADER_BYTES, FrameKind, pack
from runtime.model import Assignment, Environment, EnvironmentId, FunctionName, Limits, SandboxId, VersionId, ZygoteId
from runtime.node import Node
from runtime.parts import Parts, open_parts

from . import functions

NODE_STATE = Path(os.environ.get("PAGURUS_STATE_DIR", "/var/lib/pagurus"))
STATE = NODE_STATE.with_name(NODE_STATE.name + "-bench")
UID_BASE = 0x60000000  # away from a node in production on this machine
FREEZE_S = 0.01
HERE = Path(__file__).resolve().parent


class Bed:
    """The node and what it told its gateway. `open_bed` makes it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.node = Node(parts, self._take)
        self.runtime = parts.layers.runtimes()[0]
        self.assignments: dict[str, Assignment] = {}
        self.environments: dict[str, Environment | None] = {}
        self.standbys: dict[EnvironmentId | None, asyncio.Queue[SandboxId]] = {}
        self.sockets: dict[SandboxId, socket.socket] = {}
        self.offered: dict[int, asyncio.Future[SandboxId]] = {}
        self.phases: dict[SandboxId, dict[str, float]] = {}
        self._ends: dict[SandboxId, asyncio.Future[protocol.SandboxDied]] = {}
        self._waiting: dict[object, asyncio.Future[protocol.ToGateway]] = {}
        self._ticket = 0

    def _take(self, message: protocol.ToGateway, descriptors: list[int]) -> None:
        match message:
            case protocol.SandboxOffered():
                self._offered(message, descriptors)
            case protocol.SandboxAssigned():
                self.phases[message.sandbox] = message.phases_ms
            case protocol.SandboxDied():
                self._died(message)
            case protocol.ZygoteReady() | protocol.ZygoteFailed() | protocol.ZygoteDied():
                self._answer(message.zygote, message)
            case protocol.BuildSucceeded() | protocol.BuildFailed():
                self._answer(message.build, message)
            case protocol.SandboxRefused():
                self.offered[message.ticket].set_exception(RuntimeError(message.message))
            case _:
                pass

    def _offered(self, message: protocol.SandboxOffered, descriptors: list[int]) -> None:
        end = socket.socket(fileno=os.dup(descriptors[0]))
        end.setblocking(True)
        self.sockets[message.sandbox] = end
        if message.ticket is not None:
            self.offered[message.ticket].set_result(message.sandbox)
        else:
            self.standbys.setdefault(message.environment, asyncio.Queue()).put_nowait(message.sandbox)

    def _died(self, message: protocol.SandboxDied) -> None:
        end = self.sockets.pop(message.sandbox, None)
        if end is not None:
            end.close()
        future = self._ends.pop(message.sandbox, None)
        if future is not None:
            future.set_result(message)

    def _answer(self, key: object, message: protocol.ToGateway) -> None:
        future = self._waiting.pop(key, None)
        if future is not None:
            future.set_result(message)

    async def _ask(self, key: object, message: protocol.ToDaemon, descriptors: list[int]) -> protocol.ToGateway:
        future: asyncio.Future[protocol.ToGateway] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        self.node.handle(message, descriptors)
        return await future

    async def deploy(self, name: str) -> None:
        """Build one of functions.SOURCES with the real builder."""
        self._ticket += 1
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        with io.FileIO(fd, "w", closefd=False) as file:
            file.write(functions.archive(name))
        function = FunctionName(name)
        request = protocol.BuildVersion(build=self._ticket, function=function, runtime=self.runtime)
        result = await self._ask(self._ticket, request, [fd])
        if not isinstance(result, protocol.BuildSucceeded):
            raise SystemExit(f"cannot build {name}: {result}")
        self.environments[name] = result.environment
        self.assignments[name] = Assignment(
            function=function,
            version=VersionId(result.code),
            code=result.code,
            handler="main.main",
            environment=result.environment.id if result.environment else None,
            limits=Limits(),
        )

    async def zygote(self, zygote: str, names: list[str], standbys: int | None) -> protocol.ZygoteReady:
        """A zygote for these functions (none: the base zygote). standbys: for each environment; None: no pools."""
        known = [e for name in names if (e := self.environments[name]) is not None]
        targets: list[EnvironmentId | None] = [e.id for e in known] or [None]
        message = protocol.EnsureZygote(
            zygote=ZygoteId(zygote),
            runtime=self.runtime,
            environments=tuple(e.id for e in known),
            imports=tuple(m for e in known for m in e.imports),
            standbys=()
            if standbys is None
            else tuple(protocol.StandbyTarget(environment=t, count=standbys) for t in targets),
        )
        result = await self._ask(message.zygote, message, [])
        if not isinstance(result, protocol.ZygoteReady):
            raise SystemExit(f"cannot make zygote {zygote}: {result}")
        return result

    async def prepare(self, names: list[str]) -> None:
        """Build the functions; a base zygote, one a function with packages, and a base zygote without pools."""
        for name in names:
            print(f"building {name}", flush=True)
            await self.deploy(name)
        await self.zygote("base", [], 2)
        for name in names:
            if self.environments[name] is not None:
                await self.zygote(f"z-{name}", [name], 2)
        await self.zygote("base-unpooled", [], None)

    async def parked(self, environment: EnvironmentId | None) -> SandboxId:
        """A live standby, waiting for one if need be."""
        queue = self.standbys.setdefault(environment, asyncio.Queue())
        while True:
            sandbox = await queue.get()
            if sandbox in self.sockets:
                return sandbox

    def to_zygote(self, zygote: str, data: bytes, descriptors: list[int]) -> None:
        """Send a message that only bench_zygote.py knows. The baseline lives inside the zygote itself."""
        client = self.node._zygotes[ZygoteId(zygote)]._client
        assert client is not None
        client._control.send(data, descriptors)

    def pid(self, sandbox: SandboxId) -> int:
        """Host pid of a sandbox's first process."""
        return self.node._sandboxes[sandbox].pid

    def packages(self, name: str) -> str:
        """Where a function's packages lie, or ''."""
        environment = self.environments[name]
        return str(self.parts.layers.environment_lowers([environment.id])[0]) if environment else ""

    @property
    def rootfs(self) -> str:
        return str(self.parts.layers.root_lowers(self.runtime)[-1])

    def assign_and_call(self, sandbox: SandboxId, name: str) -> float:
        """Milliseconds from assignment to result, blocking: the event loop is not in the measured path."""
        end = self.sockets[sandbox]
        frame = pack(FrameKind.INVOKE, b"bench", functions.PARAM, 30_000)
        started_s = time.perf_counter()
        self.node.handle(protocol.AssignSandbox(sandbox=sandbox, assignment=self.assignments[name]), [])
        end.sendall(frame)
        answer = end.recv(65536)
        elapsed_s = time.perf_counter() - started_s
        _expect_result(answer)
        return elapsed_s * 1000

    def call(self, sandbox: SandboxId) -> float:
        """Milliseconds of an invocation of a sandbox that has its function."""
        frame = pack(FrameKind.INVOKE, b"bench", functions.PARAM, 30_000)
        end = self.sockets[sandbox]
        started_s = time.perf_counter()
        end.sendall(frame)
        answer = end.recv(65536)
        elapsed_s = time.perf_counter() - started_s
        _expect_result(answer)
        return elapsed_s * 1000

    async def freeze(self, sandbox: SandboxId) -> None:
        """Freeze it, and wait for longer than the kernel takes."""
        self.node.handle(protocol.FreezeSandbox(sandbox=sandbox, frozen=True), [])
        await asyncio.sleep(FREEZE_S)

    def thaw(self, sandbox: SandboxId) -> None:
        self.node.handle(protocol.FreezeSandbox(sandbox=sandbox, frozen=False), [])

    async def start_and_call(self, zygote: str, name: str) -> tuple[float, SandboxId]:
        """Milliseconds from StartSandbox to result, and the sandbox."""
        self._ticket += 1
        loop = asyncio.get_running_loop()
        self.offered[self._ticket] = loop.create_future()
        message = protocol.StartSandbox(ticket=self._ticket, zygote=ZygoteId(zygote), assignment=self.assignments[name])
        frame = pack(FrameKind.INVOKE, b"bench", functions.PARAM, 30_000)
        started_s = time.perf_counter()
        self.node.handle(message, [])
        sandbox = await self.offered[message.ticket]
        del self.offered[message.ticket]
        end = self.sockets[sandbox]
        end.setblocking(False)
        await loop.sock_sendall(end, frame)
        answer = await loop.sock_recv(end, 65536)
        elapsed_s = time.perf_counter() - started_s
        end.setblocking(True)
        _expect_result(answer)
        return elapsed_s * 1000, sandbox

    async def kill(self, sandbox: SandboxId) -> protocol.SandboxDied:
        """End a sandbox and wait until it is reaped."""
        self._ends[sandbox] = asyncio.get_running_loop().create_future()
        self.node.handle(protocol.KillSandbox(sandbox=sandbox, reason="bench"), [])
        return await self._ends[sandbox]


def _expect_result(answer: bytes) -> None:
    _, kind, id_length, _, _, _ = HEADER.unpack_from(answer)
    if kind != FrameKind.RESULT:
        raise SystemExit(f"the function failed: {json.loads(answer[HEADER_BYTES + id_length :])}")


@asynccontextmanager
async def open_bed(*, module: str = "zygote", standbys: int = 2, empty: int = 2) -> AsyncIterator[Bed]:
    """A node with its own state directory, which keeps built functions for the next run."""
    rootfs = NODE_STATE / "rootfs"
    if not rootfs.is_dir():
        raise SystemExit("no base root file system: run scripts/setup --bench first")
    STATE.mkdir(mode=0o711, exist_ok=True)
    if not (STATE / "rootfs").exists():
        (STATE / "rootfs").symlink_to(rootfs)
    overrides = {
        "state_dir": str(STATE),
        "standbys_per_zygote": standbys,
        "shells_per_zygote": empty,
        "cgroup_parent": STATE.name,
        "uid_base": UID_BASE,
    }
    settings = config.load(None, {}, overrides)
    inside = {"fork/bench_zygote.py": (HERE / "bench_zygote.py").read_bytes()}
    parts = open_parts(settings, inside)
    parts.module = module
    bed = Bed(parts)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(bed.node.run())
        await asyncio.sleep(0)
        try:
            yield bed
        finally:
            bed.node.end_all()
            await asyncio.wait_for(bed.node.wait_empty(), 20)
            running.cancel()
            parts.close()
