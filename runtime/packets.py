"""SEQPACKET sockets that carry descriptors, for the event loop and for blocking children. A leaf."""

import array
import asyncio
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from runtime.errors import ProtocolError

PACKET_BYTES_MAX = 1 << 20
DESCRIPTORS_MAX = 16
QUEUE_MAX = 10_000
UNREAD_MAX = 64  # packets taken from the kernel before their reader asks for them
_UCRED = struct.Struct("iii")  # struct ucred: pid, uid, gid
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; not in the socket module


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected SEQPACKET sockets with room for PACKET_BYTES_MAX; the caller closes both."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    for end in pair:
        # root may exceed wmem_max; an unprivileged end keeps what its creator gave it
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, PACKET_BYTES_MAX)
    return pair


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet. `descriptors` are close-on-exec and the receiver's; `sender` is (pid, uid, gid) by the kernel,

    if the receiving end asked for it (`ask_for_sender`).
    """

    data: bytes
    descriptors: list[int]
    sender: tuple[int, int, int] | None = None


def ask_for_sender(end: socket.socket) -> None:
    """Let the kernel attach the sender's credentials to every packet that `end` receives."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive(end: socket.socket) -> Packet:
    """One packet; its data is b'' at the end of the stream.

    Raises BlockingIOError on an empty non-blocking socket, ProtocolError for one that was cut off.
    """
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4) + socket.CMSG_SPACE(_UCRED.size)
    data, ancillary, flags, _ = end.recvmsg(PACKET_BYTES_MAX, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    sender: tuple[int, int, int] | None = None
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        elif kind == socket.SCM_CREDENTIALS:
            sender = _UCRED.unpack(content[: _UCRED.size])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in descriptors:
            os.close(fd)
        raise ProtocolError("a packet was longer than its reader expects")
    return Packet(data, list(descriptors), sender)


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
        self._incoming: deque[Packet] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False
        self._is_at_end = False
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, data: bytes, descriptors: list[int] | None = None) -> None:
        """Send one packet; descriptors stay the caller's, who may close them after the call.

        Raises OSError when the kernel refuses it for another reason than that the peer has gone, which is silent.
        """
        if self._is_closed:
            return
        if not self._outgoing:
            try:
                socket.send_fds(self._end, [data], descriptors or [])
                return
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionError):
                return  # the peer has gone; receive() says so
        if len(self._outgoing) >= QUEUE_MAX:
            raise ProtocolError(f"the peer has not read {QUEUE_MAX} packets")
        self._outgoing.append((data, [os.dup(fd) for fd in descriptors or []]))
        self._loop.add_writer(self._end.fileno(), self._writable)

    async def receive(self) -> Packet:
        """The next packet, whose descriptors the caller owns; its data is b'' when the peer has gone."""
        while not self._incoming:
            if self._is_closed:
                return Packet(b"", [])
            assert self._waiter is None, "one reader only"
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if len(self._incoming) == UNREAD_MAX:
            self.resume()
        if not self._incoming[0].data:
            return self._incoming[0]  # the end stays the end, however often it is asked for
        return self._incoming.popleft()

    def pause(self) -> None:
        """Leave what arrives in the socket until `resume`: the event loop is not woken for it."""
        if not self._is_closed:
            self._loop.remove_reader(self._end.fileno())

    def resume(self) -> None:
        """Read again. Nothing happens when it was not paused, or the peer has gone."""
        if not self._is_closed and not self._is_at_end:
            self._loop.add_reader(self._end.fileno(), self._readable)

    def peek(self) -> Packet:
        """The next packet, left in place; its data is b'' when none has come."""
        if not self._incoming and not self._is_closed:
            self._readable()
        return self._incoming[0] if self._incoming else Packet(b"", [])

    def close(self) -> None:
        """Close the socket and every descriptor still queued. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        queued = [*(fds for _, fds in self._outgoing), *(packet.descriptors for packet in self._incoming)]
        for fd in (fd for fds in queued for fd in fds):
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
            packet = self._take()
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            packet = Packet(b"", [])
        self._incoming.append(packet)
        if len(self._incoming) == UNREAD_MAX:
            self.pause()  # the peer's sends wait in the kernel, which bounds them
        if not packet.data:
            self._is_at_end = True
            self._loop.remove_reader(self._end.fileno())
        self._wake()

    def _take(self) -> Packet:
        try:
            return receive(self._end)
        except ConnectionResetError:
            # The peer ended without reading all of ours. The kernel says that first, once; what the peer had
            # sent before (why it ended) comes after it.
            return receive(self._end)

    def _writable(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            try:
                socket.send_fds(self._end, [data], descriptors)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionError):
                pass
            self._outgoing.popleft()
            for fd in descriptors:
                os.close(fd)
        self._loop.remove_writer(self._end.fileno())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
