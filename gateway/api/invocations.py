"""Routes of invocations: run one, look at those that ran."""

import time
from typing import Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from gateway.api import problems
from gateway.api.bodies import read_parameter
from gateway.invocation import Invocation
from gateway.services import Services
from gateway.store.records import Record
from runtime.model import FUNCTION_NAME_PATTERN, FunctionName

LIST_DEFAULT = 50
LIST_MAX = 1000

# Order of phases in Server-Timing: as they happen.
_PHASES_LAST = ("imports", "run", "total")


class InvocationRoutes:
    """Handlers below /v1/invocations and of /v1/functions/{name}/invocations."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._functions = services.registry.functions

    async def invoke(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """POST /v1/functions/{name}/invocations."""
        function = self._functions.get(FunctionName(name))
        if function is None:
            check_name(name)
            raise problems.problem("unknown-function", f"function {name} is not deployed")
        version = self._services.fleet.current(function.name)
        if version.secrets.unreadable is not None:
            raise problems.unreadable_secrets(version.secrets.unreadable)
        payload = await read_parameter(
            request, version.limits.request_bytes, timeout_s=self._services.settings.body_timeout_s
        )
        invocation = await self._services.fleet.invoke(version, payload)
        headers = {
            "X-Pagurus-Invocation-Id": invocation.id,
            "X-Pagurus-Start-Kind": invocation.kind or "none",
            "Server-Timing": server_timing(invocation),
        }
        if invocation.failure is not None:
            return problems.respond(invocation.failure, invocation=invocation.id, headers=headers)
        headers["Content-Type"] = "application/json"
        return web.Response(body=invocation.result, headers=CIMultiDict(headers))

    async def get(self, _: web.BaseRequest, invocation_id: str) -> web.StreamResponse:
        """GET /v1/invocations/{id}."""
        record = await self._services.records.get(invocation_id)
        if record is None:
            raise problems.problem("unknown-invocation", "no record has this id; old ones are forgotten")
        return web.json_response(body=msgspec.json.encode(_resource(record, with_output=True)))

    async def newest(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """GET /v1/invocations?function=&limit=."""
        query = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
        unknown = set(query) - {"function", "limit"}
        if unknown:
            raise problems.problem("invalid-query", f"unknown parameter {min(unknown)}; there are function, limit")
        limit = query.get("limit", [str(LIST_DEFAULT)])[-1]
        if not limit.isascii() or not limit.isdigit() or len(limit) > 6 or not 1 <= int(limit) <= LIST_MAX:
            raise problems.problem("invalid-query", f"limit is {limit[:20]!r}: it must be 1 to {LIST_MAX}")
        function = query.get("function", [""])[-1] or None
        records = await self._services.records.newest(function, int(limit))
        found = {"invocations": [_resource(record, with_output=False) for record in records]}
        return web.json_response(body=msgspec.json.encode(found))


def check_name(name: str) -> FunctionName:
    """The name, if it keeps the rule. Raises ProblemError invalid-name."""
    if not FUNCTION_NAME_PATTERN.fullmatch(name):
        detail = f"{name[:80]!r}: a function's name is a-z, then a-z, 0-9 or '-', at most 63 characters"
        raise problems.problem("invalid-name", detail)
    return FunctionName(name)


def server_timing(invocation: Invocation) -> str:
    """The phases as a Server-Timing header: queue, the start's phases, imports, run, total; in ms."""
    phases = invocation.phases_ms
    parts = [f"queue;dur={phases['queue']:.3f}"]
    if len(phases) > 3:
        parts += [f"{name};dur={ms:.3f}" for name, ms in phases.items() if name not in ("queue", *_PHASES_LAST)]
    parts += [f"{name};dur={phases[name]:.3f}" for name in _PHASES_LAST if name in phases]
    return ", ".join(parts)


def iso_time(wall_s: float) -> str:
    """Seconds since the epoch as RFC 3339, with ms."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall_s)) + f".{int(wall_s * 1000) % 1000:03d}Z"


def _resource(record: Record, *, with_output: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": record.id,
        "function": record.function,
        "version": record.version,
        "status": record.status,
        "start_kind": record.start_kind,
        "start_note": record.start_note,
        "started": iso_time(record.started_s),
        "duration_ms": record.duration_ms,
        "phases_ms": record.phases,
        "error_type": record.error_type,
        "error": problems.user_error(record.error) if record.error else None,
    }
    if with_output:
        found |= {"stdout": record.stdout, "stderr": record.stderr}
    return found
