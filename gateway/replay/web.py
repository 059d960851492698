"""The replay's HTTP: one aiohttp session to the node, for requests and for looking at it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import msgspec

from gateway.replay.outcomes import UNANSWERED, Outcome, parse_server_timing
from gateway.replay.sender import Pacer
from gateway.replay.timetable import Entry

ANSWER_TIMEOUT_S = 120.0
LOOK_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 30.0  # shorter than the gateway's: it never closes what we are about to use

_T = TypeVar("_T")


class _Problem(msgspec.Struct):
    type: str = ""


class Web:
    """Requests to one gateway. mode: of the functions, `sleep` or `compute`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, mode: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._mode = mode
        self._pacer: Pacer | None = None

    def start(self, pacer: Pacer) -> None:
        """Outcomes are on this clock from now on."""
        self._pacer = pacer

    async def invoke(self, entry: Entry) -> Outcome:
        """One invocation to its outcome, whatever that is."""
        assert self._pacer is not None, "not started"
        parameter = msgspec.json.encode({"duration_s": entry.service_s, "mode": self._mode})
        begun_s = self._pacer.now_s()
        moment = SimpleNamespace(written_s=begun_s, pacer=self._pacer)
        url = f"{self._url}/v1/functions/{entry.function}/invocations"
        status, kind, phases, failure = 0, "", {}, ""
        try:
            async with self._session.post(url, data=parameter, trace_request_ctx=moment) as answer:
                body = await answer.read()
                status = answer.status
                kind = answer.headers.get("X-Pagurus-Start-Kind", "")
                phases = parse_server_timing(answer.headers.get("Server-Timing", ""))
                failure = "" if status == 200 else _word(status, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = f"{UNANSWERED}: {type(error).__name__}"
        return Outcome(
            at_s=entry.at_s,
            function=entry.function,
            late_ms=(moment.written_s - entry.at_s) * 1000,
            end_to_end_ms=(self._pacer.now_s() - moment.written_s) * 1000,
            status=status,
            kind="" if kind == "none" else kind,
            phases_ms=phases,
            failure=failure,
        )

    async def look(self, path: str, form: type[_T]) -> _T | None:
        """The JSON at `path`, as far as `form` has it; None when it cannot be had."""
        try:
            timeout = aiohttp.ClientTimeout(total=LOOK_TIMEOUT_S)
            async with self._session.get(self._url + path, timeout=timeout) as answer:
                body = await answer.read()
                return msgspec.json.decode(body, type=form) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None


@asynccontextmanager
async def open_web(url: str, mode: str) -> AsyncIterator[Web]:
    """A session with as many connections as there are requests at once."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_written)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trace_configs=[trace]) as session:
        yield Web(session, url, mode)
    await asyncio.sleep(0)  # transports close in the loop's next turn


async def _note_written(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceRequestHeadersSentParams) -> None:
    moment = context.trace_request_ctx
    if moment is not None:
        moment.written_s = moment.pacer.now_s()


def _word(status: int, body: bytes) -> str:
    """The word of a problem document, or the status."""
    try:
        word = msgspec.json.decode(body, type=_Problem).type.rpartition(":")[2]
    except msgspec.DecodeError:
        word = ""
    return word or f"status-{status}"
