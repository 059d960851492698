"""The routes of the HTTP surface."""

from pathlib import Path

from gateway.access import Needs
from gateway.api.connections import ConnectionLimits
from gateway.api.functions import FunctionRoutes
from gateway.api.garbage import GarbageRoutes
from gateway.api.http import HostGuard, Route, Router, Server
from gateway.api.invocations import InvocationRoutes
from gateway.api.live import LiveRoutes
from gateway.api.node import NodeRoutes
from gateway.api.runtimes import RuntimeRoutes
from gateway.api.sandboxes import SandboxRoutes
from gateway.api.secrets import SecretRoutes
from gateway.services import Services
from runtime.config import is_loopback, listen_address


def make_router(services: Services, store_dir: Path) -> Router:
    """All routes; openapi.py describes each."""
    functions = FunctionRoutes(services, store_dir)
    invocations = InvocationRoutes(services)
    live = LiveRoutes(services)
    node = NodeRoutes(services)
    runtimes = RuntimeRoutes(services)
    sandboxes = SandboxRoutes(services)
    garbage = GarbageRoutes(services)
    secrets = SecretRoutes(services)
    return Router(
        [
            Route("GET", "/", node.index),
            Route("GET", "/v1/functions", functions.newest),
            Route("GET", "/v1/functions/{name}", functions.get),
            Route("PUT", "/v1/functions/{name}", functions.put),
            Route("DELETE", "/v1/functions/{name}", functions.delete),
            Route("GET", "/v1/functions/{name}/status", live.get),
            Route("POST", "/v1/functions/{name}/invocations", invocations.invoke, Needs.INVOKE),
            Route("GET", "/v1/invocations", invocations.newest),
            Route("GET", "/v1/invocations/{id}", invocations.get),
            Route("GET", "/v1/sandboxes", sandboxes.newest),
            Route("DELETE", "/v1/sandboxes", sandboxes.end_idle),
            Route("DELETE", "/v1/sandboxes/{id}", sandboxes.end),
            Route("GET", "/v1/runtimes", runtimes.all),
            Route("POST", "/v1/runtimes/{name}", runtimes.add),
            Route("DELETE", "/v1/runtimes/{name}", runtimes.remove),
            Route("GET", "/v1/zygotes", node.zygotes),
            Route("POST", "/v1/gc", garbage.collect),
            Route("POST", "/v1/rotate-key", secrets.rotate_key),
            Route("GET", "/v1/status", node.status),
            Route("GET", "/healthz", node.healthz, Needs.NOTHING),
            Route("GET", "/readyz", node.readyz, Needs.NOTHING),
            Route("GET", "/openapi.json", node.openapi),
        ]
    )


def make_server(services: Services, store_dir: Path) -> Server:
    """The HTTP server, not listening yet."""
    host, _ = listen_address(services.settings)
    guard = HostGuard(host, services.settings.hosts, is_local=is_loopback(services.settings))
    return Server(make_router(services, store_dir), guard, services.access, ConnectionLimits.of(services.settings))
