"""The gateway as pagurusd's child: started, spoken to, restarted when it dies. Runs in pagurusd.

The listening socket belongs to pagurusd, so that connections wait in its queue while the gateway restarts.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime import gateway_room, packets, protocol, spawned
from runtime.config import Settings
from runtime.errors import ProtocolError
from runtime.packets import PacketSocket
from runtime.reaper import Exit, Reaper

if TYPE_CHECKING:
    from runtime.node import Node

log = logging.getLogger("pagurus.daemon")

RESTART_FIRST_S, RESTART_MAX_S = 0.05, 5.0
STOP_GRACE_S = 3.0  # after the drain: flush and exit


class GatewayProcess:
    """See the module. `keep` runs as long as the daemon; `send` drops messages while there is no gateway."""

    def __init__(
        self, settings: Settings, listener: socket.socket, welcome: Callable[[], protocol.Welcome], reaper: Reaper
    ) -> None:
        """welcome: what each new gateway is greeted with."""
        self._settings = settings
        self._listener = listener
        self._welcome = welcome
        self._reaper = reaper
        self._room = gateway_room.Room(self._settings)
        self._node: Node | None = None
        self._channel: PacketSocket | None = None
        self._pid = -1
        self._is_known = False
        self._stopping = False
        self._exited = asyncio.Event()
        self._exited.set()

    def attach(self, node: "Node") -> None:
        """Whom messages are for."""
        self._node = node

    def send(self, message: protocol.ToGateway, descriptors: list[int]) -> None:
        """Send one message; descriptors stay the caller's."""
        if self._channel is not None and self._is_known:
            self._channel.send(protocol.encode(message), descriptors)

    async def keep(self, *, on_ready: Callable[[], None]) -> None:
        """Start a gateway, and another one whenever it ends, until `stop`. `on_ready` is called once."""
        delay_s = RESTART_FIRST_S
        ready = on_ready
        while not self._stopping:
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            await self._run_one(ready)
            ready = _nothing
            if self._stopping:
                return
            delay_s = RESTART_FIRST_S if loop.time() - started_s > 10 else min(delay_s * 2, RESTART_MAX_S)
            log.error("the gateway ended; starting another in %.2f s", delay_s)
            assert self._node is not None
            self._node.counters["gateway_restarts"] += 1
            self._node.cancel_builds()
            await asyncio.sleep(delay_s)

    async def _run_one(self, on_ready: Callable[[], None]) -> None:
        ours, theirs = packets.packet_pair()
        packets.ask_for_sender(ours)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            with theirs:
                self._pid = spawned.start_confined(
                    self._settings.gateway_user,
                    [sys.executable, "-I", "-m", "gateway"],
                    self._room,
                    environ=gateway_room.environ(self._settings, os.environ),
                    descriptors=[null, 2, 2, theirs.fileno(), self._listener.fileno()],
                )
        finally:
            os.close(null)
        self._exited.clear()
        self._reaper.watch(self._pid, self._on_exit)
        with PacketSocket(ours) as channel:
            self._channel, self._is_known = channel, False
            try:
                await self._converse(channel, on_ready)
            except ProtocolError as error:
                log.error("the gateway broke the protocol: %s", error)
            finally:
                self._channel, self._is_known = None, False
                if not self._exited.is_set() and not self._stopping:
                    self.kill()
        await self._exited.wait()

    async def _converse(self, channel: PacketSocket, on_ready: Callable[[], None]) -> None:
        assert self._node is not None
        expected = (self._pid, pwd.getpwnam(self._settings.gateway_user).pw_uid)
        while True:
            packet = await channel.receive()
            if not packet.data:
                return
            if packet.sender is None or packet.sender[:2] != expected:
                for fd in packet.descriptors:
                    os.close(fd)
                raise ProtocolError(f"a message came from {packet.sender}, not from the gateway {expected}")
            try:
                message = protocol.decode_to_daemon(packet.data)
            except ProtocolError:
                for fd in packet.descriptors:
                    os.close(fd)
                raise
            if not self._is_known:
                self._greet(channel, message)
                on_ready()
                continue
            self._node.handle(message, packet.descriptors)

    def _greet(self, channel: PacketSocket, message: protocol.ToDaemon) -> None:
        if not isinstance(message, protocol.Hello) or message.protocol != protocol.VERSION:
            raise ProtocolError("the gateway did not say Hello in our version of the protocol")
        assert self._node is not None
        channel.send(protocol.encode(self._welcome()))
        self._is_known = True
        self._node.offer_all()

    async def stop(self, grace_s: float) -> None:
        """Let the gateway finish what it has, up to `grace_s`, and wait until it has ended."""
        self._stopping = True
        if self._exited.is_set():
            return
        self.send(protocol.Drain(grace_s=grace_s), [])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s + STOP_GRACE_S):
                await self._exited.wait()
        self.kill()
        await self._exited.wait()

    def kill(self) -> None:
        """End it at once. Nothing happens when it has ended."""
        if not self._exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def _on_exit(self, ended: Exit) -> None:
        if not self._stopping:
            log.error("the gateway ended with %s", ended.describe())
        self._exited.set()


def _nothing() -> None:
    return None
