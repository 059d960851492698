"""A node without a gateway, in the benchmark's own process: what pagurusd does, timed from pagurusd."""

import asyncio
import io
import json
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from runtime import config, protocol
from runtime.frames import HEADER, HEADER_BYTES, FrameKind, pack
from runtime.model import Assignment, Environment, EnvironmentId, FunctionName, Limits, SandboxId, VersionId, ZygoteId
from runtime.node import Node
from runtime.parts import Parts, open_parts

from . import functions

STATE = Path("/var/lib/pagurus-bench")
HERE = Path(__file__).resolve().parent


class Bed:
    """The node and what it told its gateway. `open_bed` makes it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.node = Node(parts, self._take)
        self.runtime = parts.layers.runtimes()[0]
        self.assignments: dict[str, Assignment] = {}
        self.environments: dict[str, Environment | None] = {}
        self.standbys: dict[EnvironmentId | None, deque[SandboxId]] = {}
        self.sockets: dict[SandboxId, socket.socket] = {}
        self.offered: dict[int, asyncio.Future[SandboxId]] = {}
        self.phases: dict[SandboxId, dict[str, float]] = {}
        self.dead: dict[SandboxId, protocol.SandboxDied] = {}
        self._waiting: dict[object, asyncio.Future[protocol.ToGateway]] = {}
        self._ticket = 0

    def _take(self, message: protocol.ToGateway, descriptors: list[int]) -> None:
        match message:
            case protocol.SandboxOffered():
                end = socket.socket(fileno=os.dup(descriptors[0]))
                end.setblocking(True)
                self.sockets[message.sandbox] = end
                if message.ticket is not None:
                    self.offered[message.ticket].set_result(message.sandbox)
                else:
                    self.standbys.setdefault(message.environment, deque()).append(message.sandbox)
            case protocol.SandboxAssigned():
                self.phases[message.sandbox] = message.phases_ms
            case protocol.SandboxDied():
                self.dead[message.sandbox] = message
                end_or_none = self.sockets.pop(message.sandbox, None)
                if end_or_none is not None:
                    end_or_none.close()
                for pool in self.standbys.values():
                    if message.sandbox in pool:
                        pool.remove(message.sandbox)
            case protocol.ZygoteReady() | protocol.ZygoteFailed() | protocol.ZygoteDied():
                self._answer(message.zygote, message)
            case protocol.BuildSucceeded() | protocol.BuildFailed():
                self._answer(message.build, message)
            case protocol.SandboxRefused():
                self.offered[message.ticket].set_exception(RuntimeError(message.message))
            case protocol.BuildProgress():
                print(f"  {message.phase}: {message.message}", flush=True)
            case _:
                pass

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

    async def zygote(self, zygote: str, names: list[str], standbys: int) -> protocol.ZygoteReady:
        """A zygote for these functions (none: the base zygote), with standbys for each environment."""
        known = [e for name in names if (e := self.environments[name]) is not None]
        targets: list[EnvironmentId | None] = [e.id for e in known] or [None]
        message = protocol.EnsureZygote(
            zygote=ZygoteId(zygote),
            runtime=self.runtime,
            environments=tuple(e.id for e in known),
            imports=tuple(m for e in known for m in e.imports),
            standbys=tuple(protocol.StandbyTarget(environment=t, count=standbys) for t in targets),
        )
        result = await self._ask(message.zygote, message, [])
        if not isinstance(result, protocol.ZygoteReady):
            raise SystemExit(f"cannot make zygote {zygote}: {result}")
        return result

    async def parked(self, environment: EnvironmentId | None) -> SandboxId:
        """A standby, waiting for one if need be."""
        while not self.standbys.get(environment):
            await asyncio.sleep(0.002)
        return self.standbys[environment].popleft()

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
        self.node.handle(protocol.KillSandbox(sandbox=sandbox, reason="bench"), [])
        while sandbox not in self.dead:
            await asyncio.sleep(0.001)
        return self.dead.pop(sandbox)


def _expect_result(answer: bytes) -> None:
    _, kind, id_length, _, _, _ = HEADER.unpack_from(answer)
    if kind != FrameKind.RESULT:
        raise SystemExit(f"the function failed: {json.loads(answer[HEADER_BYTES + id_length :])}")


@asynccontextmanager
async def open_bed(*, module: str = "zygote", standbys: int = 2, empty: int = 2) -> AsyncIterator[Bed]:
    """A node with its own state directory, which keeps built functions for the next run."""
    rootfs = Path("/var/lib/pagurus/rootfs")
    if not rootfs.is_dir():
        raise SystemExit("no base root file system: run scripts/setup --bench first")
    STATE.mkdir(mode=0o711, exist_ok=True)
    if not (STATE / "rootfs").exists():
        (STATE / "rootfs").symlink_to(rootfs)
    settings = config.load(
        None,
        {},
        {
            "state_dir": str(STATE),
            "standbys_per_zygote": standbys,
            "shells_per_zygote": empty,
            "cgroup_parent": "pagurus-bench",
        },
    )
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
