"""Routes of functions: deploy, look, delete."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.api.bodies import read_deploy
from gateway.api.invocations import check_name, iso_time
from gateway.deployed import Version
from gateway.deploys import CheckError, DeploySettings
from gateway.invocation import Failure
from gateway.services import Services
from gateway.store.functions import StoredFunction
from runtime.errors import BuildError, StartError
from runtime.model import FunctionName

NDJSON = "application/x-ndjson"
BEAT_S = 0.9  # a line at least this often while a deploy streams; also how soon a lost client is seen
PROGRESS_QUEUE_MAX = 1000

Event = dict[str, Any]


class FunctionRoutes:
    """Handlers of /v1/functions and /v1/functions/{name}."""

    def __init__(self, services: Services, store_dir: Path) -> None:
        self._services = services
        self._store_dir = store_dir

    async def newest(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /v1/functions."""
        functions = sorted(self._services.registry.functions.values(), key=lambda one: one.name)
        return _json({"functions": [resource(function) for function in functions]})

    async def get(self, _: web.BaseRequest, name: str) -> web.StreamResponse:
        """GET /v1/functions/{name}."""
        function = self._services.registry.functions.get(check_name(name))
        if function is None:
            raise problems.problem("unknown-function", f"function {name} is not deployed")
        return _json(resource(function, with_versions=True))

    async def delete(self, _: web.BaseRequest, name: str) -> web.StreamResponse:
        """DELETE /v1/functions/{name}."""
        if not await self._services.deploys.delete(check_name(name)):
            raise problems.problem("unknown-function", f"function {name} is not deployed")
        return web.Response(status=204)

    async def put(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """PUT /v1/functions/{name}."""
        function = check_name(name)
        services = self._services
        if services.stopping.is_set():
            failure = Failure(word="draining", detail="this node stops and takes no new work", retry_after_s=1)
            raise problems.ProblemError(failure)
        settings, archive = await read_deploy(
            request,
            upload_bytes=services.settings.upload_bytes,
            store_dir=self._store_dir,
            runtimes=services.welcome.runtimes,
        )
        try:
            return await self._answer(request, function, settings, archive)
        finally:
            os.close(archive)

    async def _answer(
        self, request: web.BaseRequest, name: FunctionName, settings: DeploySettings, archive: int
    ) -> web.StreamResponse:
        events: asyncio.Queue[Event] = asyncio.Queue(PROGRESS_QUEUE_MAX)
        stream: web.StreamResponse | None = None
        if NDJSON in request.headers.get("Accept", ""):
            stream = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
            await stream.prepare(request)
        async with asyncio.TaskGroup() as group:
            deploy = group.create_task(self._deploy(name, settings, archive, events))
            try:
                await _relay(request, stream, events, deploy)
            except ConnectionError:
                deploy.cancel()  # the client has gone: nothing of it shall stay
                raise
        status, body, failure = deploy.result()
        if stream is None:
            return problems.respond(failure, status=status) if failure else _json(body, status=status)
        last = {"event": "problem", **body} if failure else {"event": "done", "function": body}
        await stream.write(msgspec.json.encode(last) + b"\n")
        await stream.write_eof()
        return stream

    async def _deploy(
        self, name: FunctionName, settings: DeploySettings, archive: int, events: asyncio.Queue[Event]
    ) -> tuple[int, dict[str, Any], Failure | None]:
        """Status, body and failure of a deploy."""

        def progress(phase: str, message: str, fraction: float | None) -> None:
            event = {"event": "progress", "phase": phase, "message": message, "fraction": fraction}
            with contextlib.suppress(asyncio.QueueFull):
                events.put_nowait(event)

        try:
            done = await self._services.deploys.deploy(name, settings, archive, progress)
            deploy_ms = {phase: round(spent_ms, 1) for phase, spent_ms in done.phases_ms.items()}
            body = {**resource(done.stored, with_versions=True), "deploy_ms": deploy_ms}
            return (201 if done.is_new else 200), body, None
        except CheckError as error:
            failure, status = error.failure, problems.DEPLOY_STATUS
        except BuildError as error:
            word = f"build-{error.kind}" if f"build-{error.kind}" in problems.TABLE else "build-internal"
            failure = Failure(word=word, detail=str(error))
            status = problems.TABLE[word][0]
        except StartError as error:
            detail = f"the import check could not start: {error.phase}: {error.message}"
            failure = Failure(word="start-failed", detail=detail, retry_after_s=1.0)
            status = problems.TABLE["start-failed"][0]
        return status, problems.document(failure, status=status), failure


async def _relay(
    request: web.BaseRequest,
    stream: web.StreamResponse | None,
    events: asyncio.Queue[Event],
    deploy: asyncio.Task[Any],
) -> None:
    """Write progress lines until the deploy has ended. Raises ConnectionError when the client has gone."""
    last: Event = {"event": "progress", "phase": "queue", "message": "accepted", "fraction": None}
    getter: asyncio.Task[Event] | None = None
    async with asyncio.TaskGroup() as group:
        try:
            while True:
                getter = getter or group.create_task(events.get())
                await asyncio.wait([getter, deploy], timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError("the client has gone")
                if getter.done():
                    last, getter = getter.result(), None
                elif deploy.done():
                    return
                if stream is not None:
                    await stream.write(msgspec.json.encode(last) + b"\n")
        finally:
            if getter is not None:
                getter.cancel()


def resource(function: StoredFunction, *, with_versions: bool = False) -> dict[str, Any]:
    """A function as the API shows it."""
    current = function.version
    found = {
        "name": function.name,
        "created": iso_time(function.created_s),
        "updated": iso_time(function.updated_s),
        **_version(current),
    }
    if with_versions:
        found["versions"] = [_version(version) for version in function.versions]
    return found


def _version(version: Version) -> dict[str, Any]:
    environment = version.environment
    return {
        "version": version.id,
        "deployed": iso_time(version.created_s),
        "runtime": version.runtime,
        "handler": version.handler,
        "limits": msgspec.to_builtins(version.limits),
        "environ": sorted(version.environ),  # names only: values may be secrets
        "requirements": version.requirements,
        "code": version.code,
        "environment": environment.id if environment else None,
        "distributions": [f"{one.name}=={one.version}" for one in environment.distributions] if environment else [],
        "imports": list(environment.imports) if environment else [],
        "import_costs": msgspec.to_builtins(version.import_costs),
        "conflicts": msgspec.to_builtins(version.conflicts),
    }


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
