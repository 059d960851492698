"""Answers of operations that take a while: at their end, or as a stream of events when the client asks for it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.builds import Progress
from gateway.invocation import Failure
from runtime.errors import BuildError, StartError

NDJSON = "application/x-ndjson"
BEAT_S = 0.9  # a line at least this often while a build streams; also how soon a lost client is seen
PROGRESS_QUEUE_MAX = 1000

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended: the resource under `key`, or a failure with its document as `body`."""

    status: int
    key: str
    body: dict[str, Any]
    failure: Failure | None = None


Work = Callable[[Progress], Awaitable[Outcome]]


def failed(failure: Failure, *, status: int | None = None) -> Outcome:
    """The outcome of a failure."""
    document = problems.document(failure, status=status)
    return Outcome(document["status"], "problem", document, failure)


def failed_build(error: BuildError) -> Outcome:
    """The outcome of a build that failed."""
    word = f"build-{error.kind}" if f"build-{error.kind}" in problems.TABLE else "build-internal"
    return failed(Failure(word=word, detail=str(error)))


def failed_start(error: StartError, what: str) -> Outcome:
    """The outcome when `what` could not be started."""
    return failed(
        Failure(word="start-failed", detail=f"{what} could not start: {error.phase}: {error.message}", retry_after_s=1)
    )


async def answer(request: web.BaseRequest, work: Work) -> web.StreamResponse:
    """Do the work and answer with its outcome; with Accept: application/x-ndjson its progress goes before.

    A client that goes away cancels the work.
    """
    events: asyncio.Queue[Event] = asyncio.Queue(PROGRESS_QUEUE_MAX)
    stream: web.StreamResponse | None = None
    if NDJSON in request.headers.get("Accept", ""):
        stream = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
        await stream.prepare(request)

    def progress(phase: str, message: str, fraction: float | None) -> None:
        event = {"event": "progress", "phase": phase, "message": message, "fraction": fraction}
        with contextlib.suppress(asyncio.QueueFull):
            events.put_nowait(event)

    async def run() -> Outcome:
        return await work(progress)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        try:
            await _relay(request, stream, events, task)
        except ConnectionError:
            task.cancel()  # the client has gone: nothing of it shall stay
            raise
    outcome = task.result()
    if stream is None:
        if outcome.failure is not None:
            return problems.respond(outcome.failure, status=outcome.status)
        return web.Response(
            body=msgspec.json.encode(outcome.body), status=outcome.status, content_type="application/json"
        )
    last = {"event": "problem", **outcome.body} if outcome.failure else {"event": "done", outcome.key: outcome.body}
    await stream.write(msgspec.json.encode(last) + b"\n")
    await stream.write_eof()
    return stream


async def _relay(
    request: web.BaseRequest,
    stream: web.StreamResponse | None,
    events: asyncio.Queue[Event],
    work: asyncio.Task[Any],
) -> None:
    """Write progress lines until the work has ended. Raises ConnectionError when the client has gone."""
    last: Event = {"event": "progress", "phase": "queue", "message": "accepted", "fraction": None}
    getter: asyncio.Task[Event] | None = None
    async with asyncio.TaskGroup() as group:
        try:
            while True:
                getter = getter or group.create_task(events.get())
                await asyncio.wait([getter, work], timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError("the client has gone")
                if getter.done():
                    last, getter = getter.result(), None
                elif work.done():
                    return
                if stream is not None:
                    await stream.write(msgspec.json.encode(last) + b"\n")
        finally:
            if getter is not None:
                getter.cancel()
