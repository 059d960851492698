"""One client's connection: how long it may take, how much it may hold, and how many there may be.

A client that sends its request's head drop by drop, or does not read its answer, is cut off; it holds no sandbox
meanwhile, since an answer is whole, and its sandbox free, before its first byte goes out.
"""

import asyncio
import ipaddress
import logging
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.api import problems
from gateway.invocation import Failure
from runtime.config import Settings

log = logging.getLogger(__name__)

LINGERING_S = 3.0  # read and drop the rest of a refused body, so that the client sees the answer
STALL_BYTES = 16 * 1024  # an answer that waits for its client must shrink by this in each write_timeout_s


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """See the settings of the same names. header_bytes: of the request line, and of each header."""

    head_timeout_s: float
    write_timeout_s: float
    keep_alive_s: float
    header_bytes: int
    headers_max: int
    connections_max: int
    connections_per_address: int

    @classmethod
    def of(cls, settings: Settings) -> "ConnectionLimits":
        return cls(**{name: getattr(settings, name) for name in cls.__slots__})


class Connections:
    """Counts the open ones. Loopback has no limit of its own: a proxy there speaks for many."""

    def __init__(self, total_max: int, per_address_max: int) -> None:
        self._total_max = total_max
        self._per_address_max = per_address_max
        self._by_address: Counter[str] = Counter()
        self.refused_count = 0

    @property
    def count(self) -> int:
        """Open connections."""
        return self._by_address.total()

    def refusal(self, address: str) -> str:
        """Why one more from this address is too many; '' when it is counted in."""
        reason = ""
        if self._by_address.total() >= self._total_max:
            reason = f"connections_max is {self._total_max}"
        elif self._by_address[address] >= self._per_address_max and not _is_loopback(address):
            reason = f"connections_per_address is {self._per_address_max}"
        if reason:
            self.refused_count += 1
        else:
            self._by_address[address] += 1
        return reason

    def left(self, address: str) -> None:
        """One that was counted in has closed."""
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]


class ProblemHandler(RequestHandler):
    """One connection: its protocol errors are problem documents, and it is not let hang."""

    __slots__ = ("_address", "_connections", "_head_timer", "_limits", "_pipe", "_stall_timer")

    def __init__(self, manager: web.Server, limits: ConnectionLimits, connections: Connections) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.keep_alive_s,
            lingering_time=LINGERING_S,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=limits.headers_max,
            access_log=None,  # type: ignore[arg-type]
        )
        self._limits = limits
        self._connections = connections
        self._address: str | None = None  # while it is counted
        self._pipe: asyncio.Transport | None = None  # the base class forgets its own too early
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "get_write_buffer_size")
        self._pipe = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        reason = self._connections.refusal(address)
        if reason:
            self._refuse(reason)
            return
        self._address = address
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._stall_timer = _cancelled(self._stall_timer)
        self._pipe = None
        if self._address is None:
            return  # it was refused: nothing was begun
        self._connections.left(self._address)
        self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A head that has begun must be whole in time; the one before it started the keep-alive."""
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None and self._waiter is not None:
            self._start_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_stall()

    def resume_writing(self) -> None:
        self._stall_timer = _cancelled(self._stall_timer)
        super().resume_writing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):  # the client has hung up in its body: nobody reads the answer
            log.debug("request cut off: %s", exc)
            failure = Failure(word="bad-request", detail="the connection ended before the request's body")
        elif status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request failed", exc_info=exc)
            failure = Failure(word="internal", detail="the gateway failed; its log has the reason")
        else:
            failure = Failure(word="bad-request", detail=str(message or exc or "malformed HTTP")[:300])
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun: it cannot become a problem document")
        response = problems.respond(failure)
        response.force_close()
        return response

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(self._limits.head_timeout_s, self._head_too_slow)

    def _head_too_slow(self) -> None:
        self._head_timer = None
        self.force_close()

    def _watch_stall(self) -> None:
        """Look again after write_timeout_s whether the client has read anything worth naming."""
        pipe = self._pipe
        if pipe is not None:
            self._stall_timer = self._loop.call_later(
                self._limits.write_timeout_s, self._check_stall, pipe, pipe.get_write_buffer_size()
            )

    def _check_stall(self, pipe: asyncio.Transport, before: int) -> None:
        self._stall_timer = None
        if before - pipe.get_write_buffer_size() < STALL_BYTES:
            pipe.abort()  # close would wait for the client to read
        else:
            self._watch_stall()

    def _refuse(self, reason: str) -> None:
        self._force_close = True
        assert self._pipe is not None
        self._pipe.write(refusal(reason))
        self._pipe.close()


def refusal(reason: str) -> bytes:
    """The whole answer to a connection too many."""
    response = problems.respond(
        Failure(word="too-many-connections", detail=f"too many connections are open: {reason}", retry_after_s=1)
    )
    body = response.body
    assert isinstance(body, bytes)
    head = (
        f"HTTP/1.1 {response.status} Service Unavailable\r\nContent-Type: {problems.CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True  # a unix socket or none: of this machine


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What is left of a timer that is not wanted any more: None."""
    if timer is not None:
        timer.cancel()
    return None
