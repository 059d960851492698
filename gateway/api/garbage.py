"""POST /v1/gc: give up what nothing needs, or list it."""

from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from gateway.api import problems
from gateway.api.invocations import iso_time
from gateway.services import Services
from runtime.protocol import GarbageCollected


class GarbageRoutes:
    """Handlers of /v1/gc."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def collect(self, request: web.BaseRequest, _: str) -> web.StreamResponse:
        """POST /v1/gc, with ?dry_run=true."""
        query = parse_qs(request.rel_url.raw_query_string, keep_blank_values=True)
        dry_run = query.pop("dry_run", ["false"])[-1]
        if query or dry_run not in ("true", "false"):
            raise problems.problem("invalid-query", "there may be one parameter: dry_run, true or false")
        registry, node = self._services.registry, self._services.node
        try:
            if dry_run == "true":
                found = await node.collect(registry.needed(), dry_run=True)
            else:
                async with registry.collecting():
                    found = await node.collect(registry.needed(), dry_run=False)
        except TimeoutError:
            raise problems.problem(
                "node-busy", "pagurusd did not answer in time", headers={"Retry-After": "5"}
            ) from None
        return web.Response(body=msgspec.json.encode(_document(found)), content_type="application/json")


def _document(found: GarbageCollected) -> dict[str, object]:
    return {
        "items": [
            {
                "kind": item.kind,
                "id": item.id,
                "label": item.label,
                "size_bytes": item.size_bytes,
                "used": iso_time(item.used_s) if item.used_s else None,
            }
            for item in found.items
        ],
        "count": found.count,
        "freed_bytes": found.freed_bytes,
        "layers_bytes": found.layers_bytes,
        "store_bytes": found.store_bytes,
    }
