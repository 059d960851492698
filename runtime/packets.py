"""SEQPACKET sockets that carry descriptors, for the event loop and for blocking children. A leaf."""

import asyncio
import os
import socket
from collections import deque
from types import TracebackType
from typing import Self

from runtime.errors import ProtocolError

PACKET_BYTES_MAX = 1 << 20
DESCRIPTORS_MAX = 16
QUEUE_MAX = 10_000
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; not in the socket module


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected SEQPACKET sockets with room for PACKET_BYTES_MAX; the caller closes both."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    for end in pair:
        # root may exceed wmem_max; an unprivileged end keeps what its creator gave it
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, PACKET_BYTES_MAX)
    return pair


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its descriptors (close-on-exec, the caller's). b'' at the end of the stream.

    Raises BlockingIOError on an empty non-blocking socket, ProtocolError for one that was cut off.
    """
    data, descriptors, flags, _ = socket.recv_fds(end, PACKET_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in descriptors:
            os.close(fd)
        raise ProtocolError("a packet was longer than its reader expects")
    return data, descriptors


class PacketSocket:
    """The event loop's end of a SEQPACKET socket. Owns the socket.

    `receive` yields packets in order and b'' once the peer has gone. `send` never waits: what the kernel does not
    take is queued; more than QUEUE_MAX packets mean a peer that does not read, and raise ProtocolError.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()
        self._incoming: deque[tuple[bytes, list[int]]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, data: bytes, descriptors: list[int] | None = None) -> None:
        """Send one packet; descriptors stay the caller's, who may close them after the call."""
        if self._is_closed:
            return
        if not self._outgoing:
            try:
                socket.send_fds(self._end, [data], descriptors or [])
                return
            except BlockingIOError:
                pass
            except OSError:
                return  # the peer has gone; receive() says so
        if len(self._outgoing) >= QUEUE_MAX:
            raise ProtocolError(f"the peer has not read {QUEUE_MAX} packets")
        self._outgoing.append((data, [os.dup(fd) for fd in descriptors or []]))
        self._loop.add_writer(self._end.fileno(), self._writable)

    async def receive(self) -> tuple[bytes, list[int]]:
        """The next packet and its descriptors, which the caller owns; b'' when the peer has gone."""
        while not self._incoming:
            if self._is_closed:
                return b"", []
            assert self._waiter is None, "one reader only"
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._incoming.popleft()

    def close(self) -> None:
        """Close the socket and every descriptor still queued. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        for _, descriptors in (*self._outgoing, *self._incoming):
            for fd in descriptors:
                os.close(fd)
        self._outgoing.clear()
        self._incoming.clear()
        self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _readable(self) -> None:
        try:
            data, descriptors = receive(self._end)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            data, descriptors = b"", []
        self._incoming.append((data, descriptors))
        if not data:
            self._loop.remove_reader(self._end.fileno())
        self._wake()

    def _writable(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            try:
                socket.send_fds(self._end, [data], descriptors)
            except BlockingIOError:
                return
            except OSError:
                pass
            self._outgoing.popleft()
            for fd in descriptors:
                os.close(fd)
        self._loop.remove_writer(self._end.fileno())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
