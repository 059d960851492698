"""A node without a kernel: speaks pagurusd's protocol to a gateway, and runs workers that pretend.

What a worker does is the function part of the assignment's handler (`main.echo`): see FakeWorker. Runs on
the loop that makes it; for the gateway it makes no difference whether that is its own loop or a process.
"""

import array
import asyncio
import hashlib
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from runtime.config import Settings
from runtime.frames import HEADER, HEADER_BYTES, FrameKind, pack
from runtime.model import Assignment, Distribution, Environment
from runtime.protocol import (
    VERSION,
    AssignSandbox,
    Base,
    BuildFailed,
    BuildProgress,
    BuildRuntime,
    BuildSucceeded,
    BuildVersion,
    CancelBuild,
    Discard,
    Drain,
    DropRuntime,
    DropZygote,
    EnsureZygote,
    FreezeSandbox,
    GetNodeStatus,
    Hello,
    KillSandbox,
    NodeStatus,
    RuntimesChanged,
    SandboxAssigned,
    SandboxDied,
    SandboxOffered,
    SandboxRefused,
    SandboxStatus,
    StartSandbox,
    ToDaemon,
    ToGateway,
    Welcome,
    ZygoteDied,
    ZygoteFailed,
    ZygoteReady,
    decode_to_daemon,
    encode,
)

RUNTIME = "python3.11"


@dataclass(eq=False)
class FakeSandbox:
    """One sandbox: the gateway's three descriptors (kept, to offer them again) and its worker."""

    id: str
    zygote: str
    environment: str | None
    ends: list[int]
    worker: "FakeWorker"
    assignment: Assignment | None = None
    is_frozen: bool = False

    def close(self) -> None:
        self.worker.close()
        for end in self.ends:
            os.close(end)
        self.ends.clear()


class FakeWorker:
    """The other end of a sandbox's descriptors. `main.hold` answers when the node's `let_go` is called."""

    def __init__(self, node: "FakeNode", sandbox: str, stream: socket.socket, out: int, err: int) -> None:
        self.node, self.sandbox, self.stream, self.out, self.err = node, sandbox, stream, out, err
        self.assignment: Assignment | None = None
        self.buffer = bytearray()
        self.backlog = bytearray()
        self.served = 0
        self.held: list[tuple[bytes, bytes]] = []
        self.is_open = True
        self.is_deaf = False
        stream.setblocking(False)
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        node.loop.add_reader(stream.fileno(), self.readable)

    def readable(self) -> None:
        try:
            chunk = self.stream.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.node.loop.remove_reader(self.stream.fileno())
            return
        self.buffer += chunk
        self.take()

    def take(self) -> None:
        while self.is_open and not self.is_deaf and self.assignment and len(self.buffer) >= HEADER_BYTES:
            _, kind, id_bytes, payload_bytes, _, _ = HEADER.unpack_from(self.buffer)
            end = HEADER_BYTES + id_bytes + payload_bytes
            if len(self.buffer) < end:
                return
            frame_id = bytes(self.buffer[HEADER_BYTES : HEADER_BYTES + id_bytes])
            payload = bytes(self.buffer[HEADER_BYTES + id_bytes : end])
            del self.buffer[:end]
            self.handle(kind, frame_id, payload)

    def handle(self, kind: int, frame_id: bytes, payload: bytes) -> None:
        action = self.assignment.handler.split(".")[-1]
        if kind == FrameKind.PING:
            self.send(FrameKind.PONG, frame_id)
        elif action in ("import_error", "no_handler"):
            word = "import" if action == "import_error" else "handler"
            self.error(frame_id, word, "ModuleNotFoundError", "No module named 'nope'")
            self.end(exit_status=1)
        elif kind == FrameKind.CHECK:
            self.check(action, frame_id)
        else:
            self.served += 1
            getattr(self, f"do_{action}", self.do_echo)(frame_id, payload)

    def check(self, action: str, frame_id: bytes) -> None:
        if action == "check_crash":
            self.end(signal=11)
        elif action != "check_hang":
            self.send(FrameKind.RESULT, frame_id, b"null", 1000)

    def do_echo(self, frame_id: bytes, payload: bytes) -> None:
        self.send(FrameKind.RESULT, frame_id, payload, 1500 if self.served == 1 else 0, 10)

    def do_raise(self, frame_id: bytes, payload: bytes) -> None:
        self.error(frame_id, "exception", "ValueError", "no good")

    def do_exit(self, frame_id: bytes, payload: bytes) -> None:
        self.error(frame_id, "exit", "SystemExit", "3")
        self.end(exit_status=3)

    def do_late_import(self, frame_id: bytes, payload: bytes) -> None:
        self.error(frame_id, "import", "ImportError", "no")
        self.end(exit_status=1)

    def do_late_handler(self, frame_id: bytes, payload: bytes) -> None:
        self.error(frame_id, "handler", "TypeError", "not callable")
        self.end(exit_status=1)

    def do_not_json(self, frame_id: bytes, payload: bytes) -> None:
        self.error(frame_id, "result", "TypeError", "set is not JSON")

    def do_big_result(self, frame_id: bytes, payload: bytes) -> None:
        self.error(frame_id, "result-size", "ValueError", "7000000 bytes")

    def do_crash(self, frame_id: bytes, payload: bytes) -> None:
        self.end(signal=11)

    def do_os_exit(self, frame_id: bytes, payload: bytes) -> None:
        self.end(exit_status=7)

    def do_out_of_memory(self, frame_id: bytes, payload: bytes) -> None:
        self.end(signal=9, out_of_memory=True)

    def do_answer_and_die(self, frame_id: bytes, payload: bytes) -> None:
        self.send(FrameKind.RESULT, frame_id, payload)
        self.end(exit_status=0)

    def do_never_ready(self, frame_id: bytes, payload: bytes) -> None:
        self.end(error="mount: no space left on device")

    def do_hold(self, frame_id: bytes, payload: bytes) -> None:
        self.held.append((frame_id, payload))

    def do_wrong_id(self, frame_id: bytes, payload: bytes) -> None:
        self.send(FrameKind.RESULT, b"0" * len(frame_id), payload)

    def do_garbage(self, frame_id: bytes, payload: bytes) -> None:
        self.write(b"\xff" * 64)

    def do_too_long(self, frame_id: bytes, payload: bytes) -> None:
        self.write(HEADER.pack(0x5067, FrameKind.RESULT, len(frame_id), 1 << 31, 0, 0) + frame_id)

    def do_print(self, frame_id: bytes, payload: bytes) -> None:
        os.write(self.out, b"hello\n")
        os.write(self.err, b"careful\n")
        self.do_echo(frame_id, payload)

    def do_chatter(self, frame_id: bytes, payload: bytes) -> None:
        os.write(self.out, b"x" * 50_000)
        self.do_echo(frame_id, payload)

    def do_flood(self, frame_id: bytes, payload: bytes) -> None:
        try:
            while True:
                os.write(self.out, b"x" * 65536)
        except BlockingIOError:
            self.node.loop.call_soon(self.do_flood, frame_id, payload)
        except OSError:
            pass

    def let_go(self) -> None:
        for frame_id, payload in self.held:
            self.do_echo(frame_id, payload)
        self.held.clear()

    def error(self, frame_id: bytes, kind: str, name: str, message: str) -> None:
        body = {"kind": kind, "type": name, "message": message, "traceback": ["Traceback", f"{name}: {message}"]}
        self.send(FrameKind.ERROR, frame_id, json.dumps(body).encode(), 0, 20)

    def send(self, kind: int, frame_id: bytes, payload: bytes = b"", a: int = 0, b: int = 0) -> None:
        self.write(pack(kind, frame_id, payload, a, b))

    def write(self, content: bytes) -> None:
        if not self.is_open:
            return
        if not self.backlog:
            try:
                content = content[self.stream.send(content) :]
            except BlockingIOError:
                pass
            except OSError:
                return
            if not content:
                return
            self.node.loop.add_writer(self.stream.fileno(), self.writable)
        self.backlog += content

    def writable(self) -> None:
        try:
            del self.backlog[: self.stream.send(self.backlog)]
        except BlockingIOError:
            return
        except OSError:
            self.backlog.clear()
        if not self.backlog:
            self.node.loop.remove_writer(self.stream.fileno())

    def end(self, **cause: object) -> None:
        self.node.sandbox_died(self.sandbox, **cause)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.node.loop.remove_reader(self.stream.fileno())
            self.node.loop.remove_writer(self.stream.fileno())
            self.stream.close()
            os.close(self.out)
            os.close(self.err)


@dataclass(eq=False)
class FakeNode:
    """pagurusd's side. `gateway_end()` gives a gateway its socket; again for a gateway's successor."""

    settings: Settings
    runtimes: tuple[str, ...] = (RUNTIME,)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    is_zygotes_work: bool = True
    is_build_held: bool = False
    is_start_refused: bool = False
    is_fork_only: bool = False
    is_assigned_late: bool = False  # SandboxAssigned comes after the first answer
    is_standby_killed: bool = False  # the next assignment finds its standby dead
    received: list[ToDaemon] = field(default_factory=list)
    zygotes: dict[str, EnsureZygote] = field(default_factory=dict)
    sandboxes: dict[str, FakeSandbox] = field(default_factory=dict)
    builds: dict[int, BuildVersion] = field(default_factory=dict)
    base_builds: dict[int, BuildRuntime] = field(default_factory=dict)
    archives: list[bytes] = field(default_factory=list)
    _socket: socket.socket | None = None
    _backlog: list[tuple[bytes, list[int]]] = field(default_factory=list)
    _numbers: int = 0

    def gateway_end(self) -> socket.socket:
        """A new connection; an old one is closed."""
        self.disconnect()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        self.loop.add_reader(ours.fileno(), self._readable)
        return theirs

    def disconnect(self) -> None:
        if self._socket is not None:
            self.loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """End all sandboxes and the connection."""
        for sandbox in self.sandboxes.values():
            sandbox.close()
        self.sandboxes.clear()
        self.disconnect()

    def sent(self, kind: type) -> list[ToDaemon]:
        """All messages of one type that came from gateways."""
        return [message for message in self.received if isinstance(message, kind)]

    def worker_of(self, function: str) -> FakeWorker:
        """The worker of the function's first sandbox."""
        return next(
            one.worker for one in self.sandboxes.values() if one.assignment and one.assignment.function == function
        )

    def let_go(self) -> None:
        """Answer all held invocations."""
        for sandbox in list(self.sandboxes.values()):
            sandbox.worker.let_go()

    def send(self, message: ToGateway, descriptors: list[int] | None = None) -> None:
        self._backlog.append((encode(message), descriptors or []))
        self._flush()

    def _flush(self) -> None:
        while self._backlog and self._socket is not None:
            packet, descriptors = self._backlog[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                self._socket.sendmsg([packet], rights)
            except BlockingIOError:
                self.loop.call_later(0.001, self._flush)
                return
            except OSError:
                self._backlog.clear()
                return
            self._backlog.pop(0)

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._socket, 300_000, 4)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self.disconnect()
                return
            message = decode_to_daemon(packet)
            self.received.append(message)
            handler: Callable[..., None] = getattr(self, f"on_{type(message).__name__}")
            if descriptors:
                handler(message, descriptors)
            else:
                handler(message)

    # --- messages ----------------------------------------------------------------------------------------

    def on_Hello(self, _: Hello) -> None:
        self.send(
            Welcome(
                protocol=VERSION,
                node="node-1",
                run="run-1",
                version="0.1.0",
                settings=msgspec.to_builtins(self.settings),
                runtimes=self.bases(),
                egress_refusal="" if self.settings.egress_subnet else "egress_subnet is empty",
            )
        )
        for ensured in self.zygotes.values():
            self.send(self._ready(ensured))
        for sandbox in self.sandboxes.values():
            self._offer(sandbox, "assigned" if sandbox.assignment else "standby")

    def on_EnsureZygote(self, message: EnsureZygote) -> None:
        if not self.is_zygotes_work:
            self.send(ZygoteFailed(zygote=message.zygote, phase="imports", message="it does not work"))
            return
        self.zygotes[message.zygote] = message
        self.send(self._ready(message))
        self._fill(message)

    def on_DropZygote(self, message: DropZygote) -> None:
        self.zygotes.pop(message.zygote, None)
        for sandbox in list(self.sandboxes.values()):
            if sandbox.zygote == message.zygote and sandbox.assignment is None:
                self.sandbox_died(sandbox.id)
        self.send(ZygoteDied(zygote=message.zygote, reason="dropped"))

    def on_AssignSandbox(self, message: AssignSandbox) -> None:
        sandbox = self.sandboxes.get(message.sandbox)
        if sandbox is None:
            return
        assert sandbox.assignment is None
        if self.is_standby_killed:
            self.is_standby_killed = False
            self.sandbox_died(sandbox.id, signal=9)
            return
        self._assign(sandbox, message.assignment)
        ensured = self.zygotes.get(sandbox.zygote)
        if ensured is not None:
            self._fill(ensured)

    def on_StartSandbox(self, message: StartSandbox) -> None:
        if self.is_start_refused or message.zygote not in self.zygotes:
            self.send(SandboxRefused(ticket=message.ticket, phase="fork", message="no memory"))
            return
        sandbox = self._new_sandbox(message.zygote, None)
        self._offer(sandbox, "starting", message.ticket)
        self._assign(sandbox, message.assignment)

    def on_FreezeSandbox(self, message: FreezeSandbox) -> None:
        sandbox = self.sandboxes.get(message.sandbox)
        if sandbox is not None:
            sandbox.is_frozen = message.frozen
            sandbox.worker.is_deaf = message.frozen
            sandbox.worker.take()

    def on_KillSandbox(self, message: KillSandbox) -> None:
        self.sandbox_died(message.sandbox, signal=9, reason=message.reason)

    def on_BuildVersion(self, message: BuildVersion, descriptors: list[int]) -> None:
        with os.fdopen(descriptors[0], "rb") as file:
            self.archives.append(file.read())
        self.builds[message.build] = message
        self.send(BuildProgress(build=message.build, phase="resolve", message="resolving", fraction=0.5))
        if not self.is_build_held:
            self.finish_build(message.build)

    def finish_build(self, build: int) -> None:
        message = self.builds.pop(build)
        if message.requirements.startswith("fail:"):
            kind = message.requirements[5:]
            self.send(BuildFailed(build=build, kind=kind, message=f"it failed: {kind}", hint="try another"))
            return
        names = [line.partition("==") for line in message.requirements.split()]
        environment = None
        if names:
            environment = Environment(
                id=hashlib.sha256(message.requirements.encode()).hexdigest(),
                runtime=message.runtime,
                distributions=tuple(Distribution(name, version) for name, _, version in names),
                imports=tuple(name for name, _, _ in names),
            )
        code = hashlib.sha256(self.archives[-1]).hexdigest()
        self.send(BuildSucceeded(build=build, code=code, environment=environment, lock=message.requirements))

    def bases(self) -> tuple[Base, ...]:
        return tuple(
            Base(runtime=name, suite="bookworm", python_version=f"{name[6:]}.2", digest="d" * 64, packages=50)
            for name in self.runtimes
        )

    def on_BuildRuntime(self, message: BuildRuntime) -> None:
        self.send(BuildProgress(build=message.build, phase="base", message="bootstrapping", fraction=0.5))
        self.base_builds[message.build] = message
        if not self.is_build_held:
            self.finish_base(message.build)

    def finish_base(self, build: int, failure: str = "") -> None:
        message = self.base_builds.pop(build)
        if failure:
            self.send(BuildFailed(build=build, kind="base", message=failure, hint="mend the mirror"))
            return
        self.runtimes = tuple(sorted({*self.runtimes, message.runtime}))
        self.send(RuntimesChanged(build=build, runtimes=self.bases()))

    def on_DropRuntime(self, message: DropRuntime) -> None:
        self.runtimes = tuple(name for name in self.runtimes if name != message.runtime)
        self.send(RuntimesChanged(build=message.build, runtimes=self.bases()))

    def on_CancelBuild(self, message: CancelBuild) -> None:
        self.base_builds.pop(message.build, None)
        if self.builds.pop(message.build, None):
            self.send(BuildFailed(build=message.build, kind="internal", message="cancelled"))

    def on_Discard(self, _: Discard) -> None:
        pass

    def on_GetNodeStatus(self, message: GetNodeStatus) -> None:
        rows = [
            SandboxStatus(
                sandbox=one.id,
                zygote=one.zygote,
                state="assigned" if one.assignment else "standby",
                memory_bytes=1000,
                pid=1,
                uid=2,
                frozen=one.is_frozen,
            )
            for one in self.sandboxes.values()
        ]
        self.send(NodeStatus(ticket=message.ticket, sandboxes=tuple(rows), counters={"forks": self._numbers}))

    def drain(self, grace_s: float) -> None:
        self.send(Drain(grace_s=grace_s))

    # --- inside ------------------------------------------------------------------------------------------

    def sandbox_died(self, sandbox_id: str, **cause: object) -> None:
        sandbox = self.sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            sandbox.close()
            self.send(SandboxDied(sandbox=sandbox_id, **cause))

    def zygote_died(self, zygote: str, reason: str = "killed") -> None:
        """A zygote and its standbys end by themselves."""
        self.zygotes.pop(zygote)
        for sandbox in list(self.sandboxes.values()):
            if sandbox.zygote == zygote and sandbox.assignment is None:
                self.sandbox_died(sandbox.id)
        self.send(ZygoteDied(zygote=zygote, reason=reason))

    def _ready(self, ensured: EnsureZygote) -> ZygoteReady:
        return ZygoteReady(
            zygote=ensured.zygote,
            runtime=ensured.runtime,
            environments=ensured.environments,
            start_ms=20.0,
            memory_bytes=10_000_000,
            import_ms={name: 1.0 for name in ensured.imports},
        )

    def _fill(self, ensured: EnsureZygote) -> None:
        if self.is_fork_only:
            return
        for target in ensured.standbys:
            have = sum(
                one.zygote == ensured.zygote and one.assignment is None and one.environment == target.environment
                for one in self.sandboxes.values()
            )
            for _ in range(target.count - have):
                self._offer(self._new_sandbox(ensured.zygote, target.environment), "standby")

    def _new_sandbox(self, zygote: str, environment: str | None) -> FakeSandbox:
        self._numbers += 1
        number = f"s{self._numbers}"
        ours, theirs = socket.socketpair()
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        worker = FakeWorker(self, number, ours, out_end, err_end)
        sandbox = FakeSandbox(number, zygote, environment, [theirs.detach(), out, err], worker)
        self.sandboxes[number] = sandbox
        return sandbox

    def _offer(self, sandbox: FakeSandbox, state: str, ticket: int | None = None) -> None:
        message = SandboxOffered(
            sandbox=sandbox.id,
            zygote=sandbox.zygote,
            runtime=ensured.runtime if (ensured := self.zygotes.get(sandbox.zygote)) else RUNTIME,
            state=state,
            ticket=ticket,
            environment=sandbox.environment,
            assignment=sandbox.assignment,
        )
        self.send(message, list(sandbox.ends))

    def _assign(self, sandbox: FakeSandbox, assignment: Assignment) -> None:
        sandbox.assignment = assignment
        assigned = SandboxAssigned(sandbox=sandbox.id, phases_ms={"fork": 0.5, "rootfs": 0.1})
        if self.is_assigned_late:
            self.loop.call_later(0.02, self.send, assigned)
        else:
            self.send(assigned)
        sandbox.worker.assignment = assignment
        sandbox.worker.take()
