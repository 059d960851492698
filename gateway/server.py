"""Wires the gateway's parts and runs them until pagurusd ends or drains them.

Started by pagurusd as an unprivileged process: descriptor 3 is the socket to pagurusd, 4 the listening
TCP socket.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from gateway.access import Access
from gateway.api.app import make_server
from gateway.api.connections import Connections
from gateway.builds import Builds
from gateway.decision_log import DecisionLog
from gateway.deploys import Deploys
from gateway.evictions import Evictions
from gateway.fleet import Fleet
from gateway.keeper import Keeper
from gateway.node_link import NodeLink
from gateway.nodes import NodeQuestions
from gateway.policies import make_policy
from gateway.registry import Registry
from gateway.runtimes import Runtimes
from gateway.scheduler.pressure import Pressure
from gateway.secret_key import FILE_NAME as KEY_FILE_NAME
from gateway.services import Services
from gateway.store.database import Database
from gateway.store.functions import FunctionStore
from gateway.store.records import RecordStore
from gateway.store.secrets import Safe
from runtime import logs, protocol, syscalls
from runtime.clock import Clock, SystemClock
from runtime.config import Settings, is_loopback
from runtime.errors import PagurusError, ProtocolError
from runtime.protocol import Drain, Hello, ToDaemon, ToGateway, Welcome

log = logging.getLogger(__name__)

NODE_DESCRIPTOR = 3
LISTEN_DESCRIPTOR = 4
WELCOME_TIMEOUT_S = 30.0
TICK_S = 0.25
SWITCH_INTERVAL_S = 0.0005
GC_ALLOCATIONS = 20_000
SHUTDOWN_S = 1.0  # for connections to close after the drain


class Gateway:
    """One gateway process. `run` returns the exit status."""

    def __init__(
        self,
        node: socket.socket,
        listener: socket.socket,
        *,
        clock: Clock,
        trusted_uid: int | None = 0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._listener = listener
        self._link = NodeLink(node, self._loop, self._node_ended, trusted_uid=trusted_uid)
        self._welcome: asyncio.Future[Welcome] = self._loop.create_future()
        self._stop = asyncio.Event()
        self._grace_s: float | None = None  # None: settings.drain_s
        self._exit_status = 0
        self.services: Services | None = None
        self.admission: Connections | None = None

    async def run(self) -> int:
        """Serve until pagurusd goes, says Drain, or SIGTERM comes."""
        self._loop.add_signal_handler(signal.SIGTERM, self._ask_drain, None)
        try:
            welcome = await self._handshake()
            settings = msgspec.convert(welcome.settings, Settings)
            logs.configure(settings.log_level)
            store_dir = Path(settings.state_dir) / "store"
            store_dir.mkdir(mode=0o700, exist_ok=True)
            database = Database(store_dir / "pagurus.sqlite3")
            try:
                await self._serve(welcome, settings, store_dir, database)
            finally:
                database.close()
        finally:
            self._loop.remove_signal_handler(signal.SIGTERM)
            self._link.end("the gateway ends")
        return self._exit_status

    async def _serve(self, welcome: Welcome, settings: Settings, store_dir: Path, database: Database) -> None:
        records = RecordStore(database, settings.records_kept)
        services = self.services = self._wire(welcome, settings, database, records)
        services.registry.load()
        server = make_server(services, store_dir)
        self.admission = server.admission
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(records.run()), group.create_task(self._tick(services))]
            await web.SockSite(runner, self._listener, backlog=1024).start()
            log.info("serving %s", settings.listen)
            try:
                await self._until_stop(services, settings)
            finally:
                self._link.listen(_refuse)
                services.fleet.close()
                await runner.cleanup()
                for task in tasks:
                    task.cancel()
        await records.flush()

    async def _until_stop(self, services: Services, settings: Settings) -> None:
        await self._stop.wait()
        if self._exit_status:
            return
        grace_s = settings.drain_s if self._grace_s is None else self._grace_s
        log.info("draining: %d invocations run", services.fleet.running_count)
        services.stopping.set()
        services.fleet.is_draining = True
        try:
            async with asyncio.timeout(grace_s):
                await services.fleet.wait_empty()
        except TimeoutError:
            log.warning("%d invocations were cut off", services.fleet.running_count)

    def _wire(self, welcome: Welcome, settings: Settings, database: Database, records: RecordStore) -> Services:
        clock, send = self._clock, self._send
        policy = DecisionLog(make_policy(settings, [base.runtime for base in welcome.runtimes]))
        fleet = Fleet(settings, policy, clock, self._loop, send, records.add, self._link.poll)
        evictions = Evictions(fleet)
        pressure = Pressure(settings.memory_low_percent, settings.memory_critical_percent)
        keeper = Keeper(clock, fleet, policy, pressure, send, settings.trusted_packages)
        registry = Registry(FunctionStore(database, Safe(database.path.with_name(KEY_FILE_NAME))), fleet, keeper, send)
        builds = Builds(self._link.send, registry.release_content)
        runtimes = Runtimes(welcome.runtimes, settings.default_runtime, keeper, registry, builds)
        questions = NodeQuestions(self._link.send)
        is_forced = settings.auth == "always" or not is_loopback(settings)
        access = Access(welcome.tokens, is_forced=is_forced, wall_s=clock.wall_s)
        handlers = {
            protocol.ZygoteReady: keeper.ready,
            protocol.ZygoteFailed: keeper.failed,
            protocol.ZygoteDied: keeper.died,
            protocol.SandboxAssigned: fleet.assigned,
            protocol.SandboxRefused: fleet.refused,
            protocol.SandboxDied: evictions.died,
            protocol.BuildProgress: builds.progressed,
            protocol.BuildSucceeded: builds.succeeded,
            protocol.BuildFailed: builds.failed,
            protocol.RuntimesChanged: runtimes.changed,
            protocol.NodeStatus: questions.answered,
            protocol.GarbageCollected: questions.answered,
            protocol.MemoryReading: keeper.memory,
            protocol.TokensChanged: lambda message: access.put(message.tokens),
            protocol.Drain: self._ask_drain,
        }

        def dispatch(message: ToGateway, descriptors: list[int]) -> None:
            if isinstance(message, protocol.SandboxOffered):
                fleet.offered(message, descriptors)
                return
            handler = handlers.get(type(message))
            if handler is None:
                self._link.end(f"pagurusd sent {type(message).__name__} at the wrong time")
            else:
                handler(message)  # type: ignore[operator]

        self._loop.call_soon(self._link.listen, dispatch)
        deploys = Deploys(clock, fleet, keeper, registry, builds, settings.builds_at_once)
        return Services(
            settings=settings,
            clock=clock,
            welcome=welcome,
            fleet=fleet,
            evictions=evictions,
            keeper=keeper,
            registry=registry,
            runtimes=runtimes,
            deploys=deploys,
            records=records,
            node=questions,
            access=access,
            started_s=clock.monotonic_s(),
        )

    async def _handshake(self) -> Welcome:
        """Say Hello, wait for Welcome; what comes behind it stays in the socket."""

        def first(message: ToGateway, _: list[int]) -> None:
            if isinstance(message, Welcome):
                self._link.pause()
                self._welcome.set_result(message)
            else:
                self._link.end(f"pagurusd sent {type(message).__name__} before Welcome")

        self._link.listen(first)
        self._send(Hello())
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            welcome = await self._welcome
        if welcome.protocol != protocol.VERSION:
            raise ProtocolError(f"pagurusd speaks protocol {welcome.protocol}, this gateway {protocol.VERSION}")
        return welcome

    async def _tick(self, services: Services) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            services.fleet.tick()
            services.keeper.tick()
            services.registry.tick()

    def _send(self, message: ToDaemon) -> None:
        self._link.send(message)

    def _ask_drain(self, message: Drain | None) -> None:
        if message is not None:
            self._grace_s = message.grace_s
        self._stop.set()

    def _node_ended(self, reason: str) -> None:
        if not self._welcome.done():
            self._welcome.set_exception(ProtocolError(f"no Welcome: {reason}"))
        if not self._stop.is_set():
            log.warning("the node link ended: %s", reason)
            self._exit_status = 1
            self._stop.set()


def _refuse(_: ToGateway, descriptors: list[int]) -> None:
    """What comes while the gateway ends: the next one is offered it again."""
    for descriptor in descriptors:
        os.close(descriptor)


async def _run(descriptors: Sequence[int]) -> int:
    node = socket.socket(fileno=descriptors[0])
    listener = socket.socket(fileno=descriptors[1])
    listener.setblocking(False)
    return await Gateway(node, listener, clock=SystemClock()).run()


def main() -> int:
    """Entry of `python -m gateway`; the exit status."""
    os.umask(0o077)
    syscalls.forbid_dumps()  # it holds keys and secrets
    logs.configure("info")
    # Both measured with wrk, together 8 % of the warm requests: the store's thread must not keep the event
    # loop waiting for the default 5 ms, and what is imported by now never becomes garbage.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 10, 50)
    try:
        return uvloop.run(_run((NODE_DESCRIPTOR, LISTEN_DESCRIPTOR)))
    except (PagurusError, OSError, TimeoutError) as error:
        log.error("the gateway cannot run: %s", error)
        return 1
    finally:
        sys.stderr.flush()
