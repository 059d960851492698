"""Route of a function's live view: its pool, who can help it, how it started last, and what the policy thinks of it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.api.invocations import check_name, iso_time
from gateway.api.sandboxes import state_of
from gateway.scheduler.pool import Pool
from gateway.scheduler.pools import Pools
from gateway.scheduler.sources import LiveZygote
from gateway.scheduler.zygotes import ZygoteState
from gateway.services import Services
from gateway.store.records import Record
from runtime.model import FunctionName, StartKind

RECORDS_LOOKED_AT = 500  # for the last start of each kind


class LiveRoutes:
    """Handler of /v1/functions/{name}/status."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def get(self, _: web.BaseRequest, name: str) -> web.StreamResponse:
        """GET /v1/functions/{name}/status."""
        services = self._services
        function = services.registry.functions.get(check_name(name))
        if function is None:
            raise problems.problem("unknown-function", f"function {name} is not deployed")
        records = await services.records.newest(function.name, RECORDS_LOOKED_AT)
        pools = services.fleet.pools
        pool = pool_of(pools, function.name)
        if pool is None:  # deleted while the records were read
            raise problems.problem("unknown-function", f"function {name} is not deployed")
        found = {
            "name": function.name,
            "version": function.version.id,
            "runtime": function.version.runtime,
            "environment": pool.spec.environment,
            "tenant": pool.spec.tenant,
            "obstacle": pool.spec.obstacle,
            "pool": pool_counts(pool, pools),
            "next_start": next_start(pool, pools),
            "zygotes": self._zygotes(pool),
            "last_starts": last_starts(records),
            "policy": pools.policy.name,
            "decisions": pools.policy.explain(function.name, services.clock.monotonic_s()),
        }
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    def _zygotes(self, pool: Pool) -> list[dict[str, Any]]:
        """Those that can start the function, the preferred one first, base zygotes last."""
        pools, entries = self._services.fleet.pools, self._services.keeper.zygotes.entries
        best = next_start(pool, pools)
        rows = []
        for zygote in pools.sources.zygotes.values():
            kind = kind_from(zygote, pool)
            if kind is None:
                continue
            entry = entries.get(zygote.id)
            spec = entry.spec if entry else None
            rows.append(
                {
                    "id": zygote.id,
                    "state": entry.state if entry else ZygoteState.ENDING,
                    "kind": kind,
                    "is_preferred": best is not None and best["zygote"] == zygote.id,
                    "is_meant": pool.spec.name in zygote.functions,
                    "saves_ms": zygote.saves_ms.get(pool.spec.environment, 0.0) if pool.spec.environment else 0.0,
                    "owner": spec.owner if spec else None,
                    "why": spec.why if spec else "",
                    "standbys": sum(
                        one.zygote == zygote.id and one.environment in (pool.spec.environment, None)
                        for one in pools.sources.standbys.values()
                    ),
                }
            )
        rows.sort(key=lambda row: (not row["is_preferred"], row["kind"] != StartKind.HELPED, row["id"]))
        return rows


def pool_of(pools: Pools, name: FunctionName) -> Pool | None:
    """The pool of a function."""
    return pools._pools.get(name)


def kind_from(zygote: LiveZygote, pool: Pool) -> StartKind | None:
    """The kind of a start of the function from this zygote; None: it cannot start it."""
    spec = pool.spec
    if zygote.runtime != spec.runtime or not zygote.may_help(spec):
        return None
    if spec.environment is None:
        return StartKind.HELPED if zygote.is_base else None
    if spec.environment in zygote.environments:
        return StartKind.HELPED
    return StartKind.COLD if zygote.is_base or spec.environment in zygote.saves_ms else None


def pool_counts(pool: Pool, pools: Pools) -> dict[str, int]:
    """Sandboxes by state (idle ones are not frozen yet), forks on their way, who waits, and standbys that fit."""
    spec = pool.spec
    states = Counter(state_of(one) for one in pool.sandboxes.values())
    fitting = sum(
        one.runtime == spec.runtime and one.environment == spec.environment for one in pools.sources.standbys.values()
    )
    return {
        "idle": states["idle"],
        "frozen": states["frozen"],
        "busy": states["busy"],
        "starting": states["starting"] + len(pool.starting),
        "dying": states["dying"],
        "waiting": len(pool.waiting),
        "standbys": fitting,
    }


def next_start(pool: Pool, pools: Pools) -> dict[str, Any] | None:
    """What a start of the function would take now; None: nothing can start it."""
    source = pools.sources.choose(pool.spec)
    return {"kind": source.kind, "zygote": source.zygote, "standby": source.standby} if source else None


def last_starts(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """The newest record of each start kind. records: newest first."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        if record.start_kind is not None and record.start_kind not in found:
            found[record.start_kind] = {
                "invocation": record.id,
                "started": iso_time(record.started_s),
                "status": record.status,
                "duration_ms": record.duration_ms,
                "phases_ms": record.phases,
            }
    return found
