"""The gateway's end of the SEQPACKET socket to pagurusd: typed messages, with descriptors.

The event loop reads it; a send that would block waits in a bounded queue. When the connection ends or the
peer breaks the protocol, the gateway has nothing to serve with: it ends, and pagurusd starts a new one.
"""

import array
import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from runtime.errors import ProtocolError
from runtime.protocol import (
    DESCRIPTORS_MAX,
    MESSAGE_BYTES_MAX,
    SandboxOffered,
    ToDaemon,
    ToGateway,
    decode_to_gateway,
    encode,
)

log = logging.getLogger(__name__)

OUT_QUEUE_MAX = 10_000
READS_PER_TURN = 64
_INT_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * _INT_BYTES)

Handler = Callable[[ToGateway, list[int]], None]


class NodeLink:
    """One connection to pagurusd. Owns the socket.

    handler: gets each message with its descriptors (for SandboxOffered: the handler owns them from then on).
    on_end: called once with the reason when the connection is no more.
    """

    def __init__(
        self,
        connection: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[str], None],
        *,
        trusted_uid: int | None = 0,
    ) -> None:
        self._socket = connection
        self._loop = loop
        self._on_end = on_end
        self._handler: Handler | None = None
        self._buffer = bytearray(MESSAGE_BYTES_MAX + 1)
        self._view = memoryview(self._buffer)
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()
        self._is_open = True
        connection.setblocking(False)
        if trusted_uid is not None:
            _check_peer(connection, trusted_uid)

    def listen(self, handler: Handler) -> None:
        """Deliver messages from now on to `handler`."""
        if self._handler is None and self._is_open:
            self._loop.add_reader(self._socket.fileno(), self.poll)
        self._handler = handler

    def pause(self) -> None:
        """Leave messages in the socket until the next `listen`."""
        if self._handler is not None and self._is_open:
            self._loop.remove_reader(self._socket.fileno())
        self._handler = None

    def send(self, message: ToDaemon, descriptors: Sequence[int] = ()) -> None:
        """Send in order. The descriptors are duplicated: the caller may close its own.

        Dropped when the connection has ended. Raises ProtocolError for a message that is too long.
        """
        packet = encode(message)
        if not self._is_open:
            return
        if not self._waiting:
            try:
                self._send_packet(packet, descriptors)
                return
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._flush)
            except OSError as error:
                self.end(f"cannot send to pagurusd: {error}")
                return
        if len(self._waiting) >= OUT_QUEUE_MAX:
            self.end(f"pagurusd does not read: {OUT_QUEUE_MAX} messages wait")
            return
        self._waiting.append((packet, tuple(os.dup(one) for one in descriptors)))

    def poll(self) -> None:
        """Deliver what has arrived, without waiting."""
        for _ in range(READS_PER_TURN):
            if self._handler is None or not self._is_open:
                return
            try:
                size, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._view], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self.end(f"cannot read from pagurusd: {error}")
                return
            descriptors = _descriptors(ancillary)
            if size == 0:
                _close_all(descriptors)
                self.end("pagurusd closed the connection")
                return
            self._deliver(size, flags, descriptors)

    def end(self, reason: str) -> None:
        """Close the connection and tell on_end why. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        while self._waiting:
            _close_all(self._waiting.popleft()[1])
        self._on_end(reason)

    def _deliver(self, size: int, flags: int, descriptors: list[int]) -> None:
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ProtocolError("a message of pagurusd was cut short")
            message = decode_to_gateway(bytes(self._view[:size]))
        except ProtocolError as error:
            _close_all(descriptors)
            self.end(str(error))
            return
        if descriptors and not isinstance(message, SandboxOffered):
            log.warning("%s came with descriptors that nobody expects", type(message).__name__)
            _close_all(descriptors)
            descriptors = []
        assert self._handler is not None
        self._handler(message, descriptors)

    def _flush(self) -> None:
        while self._waiting:
            packet, descriptors = self._waiting[0]
            try:
                self._send_packet(packet, descriptors)
            except BlockingIOError:
                return
            except OSError as error:
                self.end(f"cannot send to pagurusd: {error}")
                return
            self._waiting.popleft()
            _close_all(descriptors)
        self._loop.remove_writer(self._socket.fileno())

    def _send_packet(self, packet: bytes, descriptors: Sequence[int]) -> None:
        if descriptors:
            rights = array.array("i", descriptors)
            self._socket.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        else:
            self._socket.send(packet)


def _check_peer(connection: socket.socket, uid: int) -> None:
    """Raises ProtocolError when the process that made the connection does not run as `uid`."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, peer_uid, _ = struct.unpack("3i", credentials)
    if peer_uid != uid:
        raise ProtocolError(f"the peer of the node socket has uid {peer_uid}, not {uid}")


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % _INT_BYTES])
    return list(found)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
