"""Routes that look at this node: zygotes, status, health, the API's description."""

from typing import Any

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.api.openapi import DOCUMENT
from gateway.scheduler.quarantine import Suspicion
from gateway.scheduler.relief import Relief
from gateway.scheduler.zygotes import ZygoteEntry
from gateway.services import Services
from runtime.model import EnvironmentId
from runtime.protocol import NodeStatus

_OPENAPI = msgspec.json.encode(DOCUMENT)
_INDEX = msgspec.json.encode(
    {
        "service": "pagurus",
        "openapi": "/openapi.json",
        "functions": "/v1/functions",
        "status": "/v1/status",
    }
)


class NodeRoutes:
    """Handlers that only read."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def index(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /."""
        return web.Response(body=_INDEX, content_type="application/json")

    async def openapi(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /openapi.json."""
        return web.Response(body=_OPENAPI, content_type="application/json")

    async def healthz(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /healthz."""
        return _json({"status": "alive"})

    async def readyz(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /readyz."""
        if self._services.stopping.is_set():
            raise problems.problem("draining", "this node stops and takes no new work", headers={"Retry-After": "1"})
        if not self._services.keeper.has_base():
            reasons = "; ".join(self._services.keeper.missing())
            raise problems.problem("not-ready", reasons, headers={"Retry-After": "1"})
        return _json({"status": "ready", "missing": self._services.keeper.missing()})

    async def zygotes(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /v1/zygotes."""
        entries = self._services.keeper.zygotes.entries.values()
        kept_out = [self._kept_out(*one) for one in self._services.keeper.quarantine.kept_out.items()]
        return _json({"zygotes": [self._zygote(entry) for entry in entries], "kept_out": kept_out})

    async def status(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /v1/status."""
        services = self._services
        node = await node_status(services)
        fleet, welcome, settings = services.fleet, services.welcome, services.settings
        missing = services.keeper.missing()
        return _json(
            {
                "node": welcome.node,
                "run": welcome.run,
                "version": welcome.version,
                "runtimes": services.runtimes.names,
                "policy": services.keeper.policy.name,
                "uptime_s": services.clock.monotonic_s() - services.started_s,
                "state": "draining" if services.stopping.is_set() else "ready" if not missing else "starting",
                "missing": missing,
                "counts": {
                    "functions": len(services.registry.functions),
                    "sandboxes": len(fleet.pools.sandboxes),
                    "standbys": len(fleet.pools.sources.standbys),
                    "starting": fleet.pools.starting_count,
                    "zygotes": len(fleet.pools.sources.zygotes),
                    "running": fleet.running_count,
                    "waiting": fleet.pools.waiting_count,
                },
                "memory": _memory(services.keeper.relief),
                "start_kinds": dict(fleet.start_kinds),
                "failures": dict(fleet.failures),
                "records_lost": services.records.lost_count,
                "limits": {
                    "sandboxes_max": settings.sandboxes_max,
                    "function_concurrency": settings.function_concurrency,
                    "queue_per_function": settings.queue_per_function,
                    "zygotes_max": settings.zygotes_max,
                    "upload_bytes": settings.upload_bytes,
                    "idle_timeout_s": settings.idle_timeout_s,
                    "freeze_after_s": settings.freeze_after_s,
                },
                "counters": node.counters,
                "checks": msgspec.to_builtins(welcome.checks),
            }
        )

    def _kept_out(self, environment: EnvironmentId, suspicion: Suspicion) -> dict[str, Any]:
        return {
            "environment": environment,
            "functions": [
                name
                for name, function in self._services.registry.functions.items()
                if function.version.environment is not None and function.version.environment.id == environment
            ],
            "reason": suspicion.reason,
            "refusals": suspicion.times,
            "ends_in_s": max(0.0, suspicion.ends_s - self._services.clock.monotonic_s()),
        }

    def _zygote(self, entry: ZygoteEntry) -> dict[str, Any]:
        fleet = self._services.fleet
        live = fleet.pools.sources.zygotes.get(entry.id)
        environments = entry.spec.environments if entry.spec else sorted(live.environments) if live else ()
        runtime = entry.spec.runtime if entry.spec else live.runtime if live else None
        names = [
            function.name
            for function in self._services.registry.functions.values()
            if function.version.runtime == runtime
            and (function.version.environment.id in environments if function.version.environment else entry.is_base)
        ]
        return {
            "id": entry.id,
            "runtime": runtime,
            "state": entry.state,
            "tenants": sorted(live.tenants if live else entry.spec.tenants if entry.spec else ()),
            "reason": entry.reason,
            "tries": entry.tries,
            "environments": environments,
            "imports": entry.spec.imports if entry.spec else (),
            "functions": names,
            "meant_for": sorted(entry.spec.functions) if entry.spec else [],
            "owner": entry.spec.owner if entry.spec else None,
            "why": entry.spec.why if entry.spec else "",
            "standbys": sum(one.zygote == entry.id for one in fleet.pools.sources.standbys.values()),
            "start_ms": entry.start_ms,
            "memory_bytes": entry.memory_bytes,
            "import_ms": entry.import_ms,
            "failed_imports": entry.failed_imports,
        }


async def node_status(services: Services) -> NodeStatus:
    """What pagurusd says of its sandboxes; empty when it is too busy to."""
    try:
        return await services.node.status()
    except TimeoutError:
        return NodeStatus(ticket=0)  # show what we know


def _memory(relief: Relief) -> dict[str, Any]:
    """What is left, how short that is, and what was given up for it since the gateway began."""
    reading, pressure = relief.pressure.reading, relief.pressure
    return {
        "level": relief.level.name.lower(),
        "available_bytes": reading.available_bytes if reading else None,
        "total_bytes": reading.total_bytes if reading else None,
        "low_percent": pressure.low_percent,
        "critical_percent": pressure.critical_percent,
        "given_up": dict(relief.given_up),
    }


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
