"""What this node owns, and what it does for each message of the gateway. Runs in pagurusd; mechanism only.

It knows zygotes, sandboxes and builds by id. It decides nothing about which function runs where: the gateway does.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from runtime import graves, protocol, reports, sealed
from runtime.attaching import attach
from runtime.base_builds import BaseBuilds
from runtime.builds import Builds
from runtime.errors import PagurusError, StartError
from runtime.garbage import Garbage
from runtime.graves import Graves
from runtime.model import CodeId, EnvironmentId, SandboxId, ZygoteId
from runtime.parts import Parts
from runtime.reaper import Exit
from runtime.sandbox.sandbox import Sandbox, State
from runtime.zygotes import ZygoteHost

log = logging.getLogger("pagurus.node")

IDLE_TICK_S = 0.25
Send = Callable[[protocol.ToGateway, list[int]], None]


class Node:
    """Zygotes, sandboxes, builds. `run` must be running while messages are handled."""

    def __init__(self, parts: Parts, send: Send) -> None:
        """send: hands a message, with borrowed descriptors, to the gateway if there is one."""
        self._parts = parts
        self._send = send
        self._zygotes: dict[ZygoteId, ZygoteHost] = {}
        self._sandboxes: dict[SandboxId, Sandbox] = {}
        self._hosts: dict[SandboxId, ZygoteHost] = {}
        self._builds = Builds(parts, lambda message: send(message, []))
        self.bases = BaseBuilds(parts, lambda message: send(message, []), self.mounted_bases)
        self._group: asyncio.TaskGroup | None = None
        self._is_ending = False
        self._emptied = asyncio.Event()
        self.counters: Counter[str] = Counter()
        self._graves = Graves(self.counters)
        self._garbage = Garbage(parts, self.bases, self._in_use)
        self._actions: dict[type, Callable[[Any], None]] = {
            protocol.AssignSandbox: partial(self._networked, self._assign),
            protocol.StartSandbox: partial(self._networked, self._start),
            protocol.FreezeSandbox: self._freeze,
            protocol.KillSandbox: self._kill,
            protocol.EnsureZygote: self._ensure,
            protocol.DropZygote: self._drop,
            protocol.BuildRuntime: lambda message: self.bases.start(self._tasks, message),
            protocol.DropRuntime: self.bases.drop,
            protocol.CancelBuild: self._cancel_build,
            protocol.Discard: self._garbage.discard,
            protocol.GetNodeStatus: lambda message: send(self.status(message.ticket), []),
        }
        parts.bury = self._graves.bury

    async def run(self) -> None:
        """Parent of all tasks of the node; returns when cancelled, after everything has ended."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                while True:
                    await asyncio.sleep(graves.RETRY_S if self._graves or self._is_ending else IDLE_TICK_S)
                    self._graves.dig()
                    if not self._builds.count:
                        self.bases.tick()
                    if self._is_ending and self.is_empty:
                        self._emptied.set()
        finally:
            self._group = None

    # --- messages of the gateway

    def handle(self, message: protocol.ToDaemon, descriptors: list[int]) -> None:
        """Do what one message says. `descriptors` are owned by the call. Raises ProtocolError."""
        try:
            if isinstance(message, protocol.BuildVersion) and len(descriptors) == 1:
                self._builds.start(self._tasks, message, descriptors.pop())
            elif isinstance(message, protocol.CollectGarbage) and len(descriptors) == 1:
                self._collect(message, sealed.unseal(descriptors[0], protocol.Keep))
        finally:
            for fd in descriptors:
                os.close(fd)
        action = self._actions.get(type(message))
        if action is not None:
            action(message)

    def offer_all(self) -> None:
        """Tell a new gateway what is alive: zygotes, standbys, sandboxes that have a function."""
        for host in self._zygotes.values():
            if host.ready is not None and not host.is_ended:
                self._send(host.ready, [])
        for sandbox in self._sandboxes.values():
            if sandbox.state is State.PARKED:
                self._offer(sandbox, "standby")
            elif sandbox.state is State.ASSIGNED:
                self._offer(sandbox, "assigned")

    def cancel_builds(self) -> None:
        """Builds of a gateway that is gone have nobody who waits for them."""
        self._builds.cancel_all()
        self.bases.cancel_all()

    def mounted_bases(self) -> set[str]:
        """Folder names of the base rootfs that a zygote or a sandbox has mounted."""
        return {host.base for host in (*self._zygotes.values(), *self._hosts.values())}

    def _cancel_build(self, message: protocol.CancelBuild) -> None:
        self._builds.cancel(message.build)
        self.bases.cancel(message.build)

    def status(self, ticket: int) -> protocol.NodeStatus:
        """What the kernel says of every sandbox, and the counters."""
        return protocol.NodeStatus(
            ticket=ticket,
            sandboxes=reports.rows(self._sandboxes.values()),
            counters={**self.counters, **self._parts.egress.counters},
        )

    # --- zygotes

    def _ensure(self, message: protocol.EnsureZygote) -> None:
        targets = {target.environment: target.count for target in message.standbys}
        host = self._zygotes.get(message.zygote)
        if host is not None:
            host.set_targets(targets, message.tenants)
            if host.ready is not None:
                self._send(host.ready, [])
            return
        host = ZygoteHost(
            message.zygote,
            runtime=message.runtime,
            environments=message.environments,
            imports=message.imports,
            tenants=message.tenants,
            parts=self._parts,
            on_parked=self._parked,
            on_end=self._zygote_ended,
            watch=self._watch,
        )
        self._zygotes[message.zygote] = host
        self._spawn_task(self._run_zygote(host, targets))

    async def _run_zygote(self, host: ZygoteHost, targets: dict[EnvironmentId | None, int]) -> None:
        try:
            ready = await host.start()
        except Exception as error:  # whatever it is, the gateway waits for an answer
            phase = error.phase if isinstance(error, StartError) else "fork"
            log.warning("zygote=%s cannot start: %s: %s", host.id, phase, error)
            self.counters["zygotes_failed"] += 1
            self._zygotes.pop(host.id, None)
            self._send(reports.zygote_failed(host.id, phase, error), [])
            if not isinstance(error, (PagurusError, OSError)):
                raise
            return
        log.info("zygote=%s ready in %.0f ms, pid %d", host.id, ready.start_ms, host.pid)
        self.counters["zygotes_started"] += 1
        self._send(ready, [])
        host.set_targets(targets)
        await host.run()

    def _zygote_ended(self, host: ZygoteHost, reason: str) -> None:
        for sandbox in [s for s in self._sandboxes.values() if self._hosts[s.id] is host]:
            if sandbox.state in (State.PARKED, State.SPAWNING):
                sandbox.kill("its zygote ended")
        if host.ready is None:
            return  # reported by _run_zygote
        log.info("zygote=%s ended: %s", host.id, reason)
        self._zygotes.pop(host.id, None)
        self._send(protocol.ZygoteDied(zygote=host.id, reason=reason, is_refused=host.is_refused), [])

    def _watch(self, host: ZygoteHost, sandbox: Sandbox, pid: int) -> None:
        """From here on the sandbox has a process, and is the node's until that is reaped: `host` may have ended."""
        self._sandboxes[sandbox.id] = sandbox
        self._hosts[sandbox.id] = host
        if pid > 0:
            self._parts.reaper.watch(pid, lambda ended: self._exited(sandbox, ended))
        else:
            asyncio.get_running_loop().call_soon(self._exited, sandbox, Exit(None, 9))

    def _parked(self, sandbox: Sandbox) -> None:
        self.counters["standbys_parked"] += 1
        self._offer(sandbox, "standby")

    def _offer(self, sandbox: Sandbox, state: str, ticket: int | None = None) -> None:
        host = self._hosts.get(sandbox.id) or self._zygotes[sandbox.zygote]
        sandbox.is_offered = True
        self._send(
            protocol.SandboxOffered(
                sandbox=sandbox.id,
                zygote=sandbox.zygote,
                runtime=host.runtime,
                state=state,
                ticket=ticket,
                environment=sandbox.environment,
                assignment=sandbox.assignment,
            ),
            sandbox.gateway_descriptors,
        )

    def _kill(self, message: protocol.KillSandbox) -> None:
        sandbox = self._sandboxes.get(message.sandbox)
        if sandbox is not None:
            sandbox.kill(message.reason)

    def _networked(
        self, action: Callable[[Any], None], message: protocol.AssignSandbox | protocol.StartSandbox
    ) -> None:
        """Do it now, or once the rules for the function's egress are loaded, which they are from its first start on."""
        egress = self._parts.egress
        if egress.is_ready(message.assignment.egress):
            action(message)
            return

        async def later() -> None:
            await egress.prepare(message.assignment.egress)
            action(message)

        self._spawn_task(later())

    def _assign(self, message: protocol.AssignSandbox) -> None:
        sandbox = self._sandboxes.get(message.sandbox)
        if sandbox is None or sandbox.state is not State.PARKED:
            return  # it died on the way; SandboxDied has been or will be sent
        started_s = self._parts.clock.monotonic_s()
        host = self._hosts[sandbox.id]
        host.standby_taken(sandbox)
        try:
            attach(self._parts, host, sandbox, message.assignment)
            sandbox.become(State.ASSIGNED)
        except (PagurusError, OSError) as error:
            sandbox.error = f"cannot assign: {error}"
            sandbox.kill("start failed")
            return
        self.counters["assigned"] += 1
        took_ms = (self._parts.clock.monotonic_s() - started_s) * 1000
        self._send(protocol.SandboxAssigned(sandbox=sandbox.id, phases_ms={"assign": took_ms}), [])

    def _start(self, message: protocol.StartSandbox) -> None:
        """Fork now. With an empty sandbox at hand the zygote is asked before this returns."""
        host = self._zygotes.get(message.zygote)
        if host is None or host.ready is None:
            self._start_failed(message.ticket, None, None, StartError("fork", f"zygote {message.zygote} is not alive"))
            return
        sandbox = host.take_empty_nowait(message.assignment.environment)
        started_s = self._parts.clock.monotonic_s()
        if sandbox is None:
            self.counters["shells_missed"] += 1
            self._spawn_task(self._start_unpooled(message, host, started_s))
        else:
            self._begin_start(message, host, sandbox, started_s)

    async def _start_unpooled(self, message: protocol.StartSandbox, host: ZygoteHost, started_s: float) -> None:
        try:
            sandbox = await host.take_empty(message.assignment.environment)
        except (PagurusError, OSError) as error:
            self._start_failed(message.ticket, host, None, error)
            return
        self._begin_start(message, host, sandbox, started_s)

    def _begin_start(
        self, message: protocol.StartSandbox, host: ZygoteHost, sandbox: Sandbox, started_s: float
    ) -> None:
        """Ask the zygote, then attach the function while it forks: the assignment waits in the helper's socket."""
        self._sandboxes[sandbox.id] = sandbox
        self._hosts[sandbox.id] = host
        try:
            forking = host.forking
            requested = forking.begin(sandbox, standby=False)
        except (PagurusError, OSError) as error:
            self._start_failed(message.ticket, host, sandbox, error)
            return
        self._offer(sandbox, "starting", message.ticket)
        try:
            attach(self._parts, host, sandbox, message.assignment)
        except (PagurusError, OSError) as error:
            # The zygote forks already: the helper is followed to its end, which carries this error.
            sandbox.error = f"cannot attach: {error}"
            sandbox.kill("start failed")
        plan_ms = (self._parts.clock.monotonic_s() - started_s) * 1000
        work = self._finish_start(message.ticket, host, sandbox, partial(forking.finish, sandbox, requested), plan_ms)
        self._spawn_task(work)

    async def _finish_start(
        self, ticket: int, host: ZygoteHost, sandbox: Sandbox, finish: Callable[..., Awaitable[None]], plan_ms: float
    ) -> None:
        def isolated(phases_ms: dict[str, float]) -> None:
            if sandbox.state is not State.SPAWNING:
                return  # killed meanwhile: _exited reports it
            sandbox.become(State.ASSIGNED)
            self.counters["forked"] += 1
            self._send(protocol.SandboxAssigned(sandbox=sandbox.id, phases_ms={"plan": plan_ms, **phases_ms}), [])

        try:
            await finish(isolated)
        except (PagurusError, OSError, TimeoutError) as error:
            self._start_failed(ticket, host, sandbox, error)

    def _start_failed(
        self, ticket: int, host: ZygoteHost | None, sandbox: Sandbox | None, error: BaseException
    ) -> None:
        """Report a start that went wrong. One that was begun counts as offered: it dies."""
        phase = error.phase if isinstance(error, StartError) else "fork"
        text = str(error) or type(error).__name__
        if sandbox is None or not sandbox.reason:  # else it was killed on its way, which is no failure
            log.warning("ticket=%d cannot start: %s: %s", ticket, phase, text)
            self.counters["starts_failed"] += 1
        if sandbox is None or host is None:
            self._send(protocol.SandboxRefused(ticket=ticket, phase=phase, message=text), [])
            return
        host.fail(sandbox, f"{phase}: {text}")
        if sandbox.state is not State.GONE:
            return  # it had a process: _exited reports it
        self._hosts.pop(sandbox.id, None)
        self._sandboxes.pop(sandbox.id, None)
        if sandbox.is_offered:
            self._send(protocol.SandboxDied(sandbox=sandbox.id, reason=sandbox.reason, error=sandbox.error), [])
        else:
            self._send(protocol.SandboxRefused(ticket=ticket, phase=phase, message=text), [])

    def _freeze(self, message: protocol.FreezeSandbox) -> None:
        sandbox = self._sandboxes.get(message.sandbox)
        if sandbox is not None and sandbox.state is State.ASSIGNED and sandbox.frozen != message.frozen:
            sandbox.freeze(frozen=message.frozen)

    def _exited(self, sandbox: Sandbox, ended: Exit) -> None:
        """The sandbox's first process is reaped; the kernel has killed the others of its pid namespace."""
        if not sandbox.was_ready:
            sandbox.error = sandbox.error or sandbox.start_failure()
        if sandbox.is_live:
            sandbox.become(State.DYING)
        sandbox.become(State.GONE)
        self.counters["sandboxes_ended"] += 1
        host = self._hosts.pop(sandbox.id)
        self._sandboxes.pop(sandbox.id, None)
        self._send(reports.death(sandbox, ended), [])
        sandbox.release()
        self._graves.bury(sandbox.cgroup)
        host.sandbox_gone(sandbox)

    def _collect(self, message: protocol.CollectGarbage, keep: protocol.Keep) -> None:
        async def collect() -> None:
            self._send(await self._garbage.collect(message, keep), [])

        self._spawn_task(collect())

    def _in_use(self) -> tuple[set[CodeId], set[EnvironmentId]]:
        """Code and environments that are mounted somewhere."""
        assigned = [s.assignment for s in self._sandboxes.values() if s.assignment is not None]
        mounted = {one for host in self._zygotes.values() for one in host.mounted}
        mounted |= {s.environment for s in self._sandboxes.values() if s.environment is not None}
        return {a.code for a in assigned}, mounted | {a.environment for a in assigned if a.environment is not None}

    def end_all(self) -> None:
        """Kill every sandbox and end every zygote; their exits are still to be reaped."""
        self._is_ending = True
        self.cancel_builds()
        for host in list(self._zygotes.values()):
            host.end("pagurusd stops")
        for sandbox in list(self._sandboxes.values()):
            sandbox.kill("pagurusd stops")

    async def wait_empty(self) -> None:
        """Wait until, after `end_all`, everything has ended and is removed."""
        await self._emptied.wait()

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours is left: no sandbox, no zygote, no build, no cgroup to remove."""
        return not (self._sandboxes or self._zygotes or self._graves or self._builds.count or self.bases.count)

    def _drop(self, message: protocol.DropZygote) -> None:
        host = self._zygotes.get(message.zygote)
        if host is not None:
            host.end("dropped")

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(self._survive(work))

    async def _survive(self, work: Coroutine[Any, Any, None]) -> None:
        """One broken start must not take all others' sandboxes along."""
        try:
            await work
        except Exception:
            log.exception("internal error")
            self.counters["internal_errors"] += 1

    @property
    def _tasks(self) -> asyncio.TaskGroup:
        assert self._group is not None, "Node.run is not running"
        return self._group
