"""Routes of sandboxes: look at them, end idle ones."""

from typing import Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.api.invocations import check_name
from gateway.api.node import node_status
from gateway.evictions import Outcome
from gateway.scheduler.pool import PooledSandbox, State
from gateway.services import Services
from runtime.model import SandboxId

_STATES = {State.ADOPTING: "starting", State.IDLE: "idle", State.LEASED: "busy", State.DYING: "dying"}


class SandboxRoutes:
    """Handlers of /v1/sandboxes and /v1/sandboxes/{id}."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def newest(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /v1/sandboxes."""
        pools = self._services.fleet.pools
        kernel = {one.sandbox: one for one in (await node_status(self._services)).sandboxes}
        rows: list[dict[str, Any]] = []
        for sandbox in pools.sandboxes.values():
            rows.append(
                {
                    "id": sandbox.id,
                    "state": state_of(sandbox),
                    "function": sandbox.function,
                    "version": sandbox.version,
                    "kind": sandbox.kind,
                    "zygote": sandbox.zygote,
                    "environment": None,
                }
            )
        for standby in pools.sources.standbys.values():
            rows.append(
                {
                    "id": standby.sandbox,
                    "state": "standby",
                    "function": None,
                    "version": None,
                    "kind": None,
                    "zygote": standby.zygote,
                    "environment": standby.environment,
                }
            )
        for row in rows:
            found = kernel.get(row["id"])
            row["memory_bytes"] = found.memory_bytes if found else None
            row["pid"] = found.pid if found else None
            row["uid"] = found.uid if found else None
        return _json({"sandboxes": rows})

    async def end(self, _: web.BaseRequest, sandbox: str) -> web.StreamResponse:
        """DELETE /v1/sandboxes/{id}."""
        outcome = await self._services.evictions.evict(SandboxId(sandbox))
        if outcome is Outcome.UNKNOWN:
            raise problems.problem("unknown-sandbox", f"no sandbox has the id {sandbox[:80]!r}")
        if outcome is Outcome.BUSY:
            raise problems.problem("sandbox-busy", f"an invocation runs in sandbox {sandbox}, or it is just starting")
        return web.Response(status=204)

    async def end_idle(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """DELETE /v1/sandboxes?function=NAME."""
        query = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
        if set(query) != {"function"}:
            raise problems.problem("invalid-query", "there must be one parameter: function, whose idle sandboxes end")
        name = check_name(query["function"][-1])
        if name not in self._services.registry.functions:
            raise problems.problem("unknown-function", f"function {name} is not deployed")
        return _json({"ended": await self._services.evictions.evict_function(name)})


def state_of(sandbox: PooledSandbox) -> str:
    """The state as the API calls it."""
    return "frozen" if sandbox.frozen else _STATES[sandbox.state]


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
