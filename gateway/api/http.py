"""The HTTP server below the routes: matching, the guard against foreign hosts, errors as problem documents.

aiohttp's low-level server, without its application layer: one dictionary step a request instead of a
router, middlewares and signals, which cost as much as a whole warm invocation.
"""

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.access import Access, AccessError, Needs
from gateway.api import problems
from gateway.api.connections import ConnectionLimits, Connections, ProblemHandler
from gateway.invocation import Failure
from runtime.errors import PagurusError

log = logging.getLogger(__name__)

HOSTS_CACHED_MAX = 64
SAFE_METHODS = ("GET", "HEAD")
FOREIGN_SITES = ("cross-site", "same-site")  # Fetch Metadata: what browsers say of a page that asks another origin
PATHS_CACHED_MAX = 1000

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
"""A handler gets the request and the value of the path's one parameter, or ''."""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `path` may have one {parameter} segment."""

    method: str
    path: str
    handler: Handler
    needs: Needs = Needs.ADMIN


class Router:
    """Finds the route of a path. Segments are split before they are decoded: %2F never splits."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._paths: list[tuple[list[str], dict[str, Route]]] = []
        for route in routes:
            segments = route.path.split("/")
            for known, methods in self._paths:
                if known == segments:
                    methods[route.method] = route
                    break
            else:
                self._paths.append((segments, {route.method: route}))
        self._paths.sort(key=lambda entry: -len(entry[0]))
        self._found: dict[tuple[str, str], tuple[Route, str]] = {}

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """Route and parameter. Raises ProblemError: not-found, method-not-allowed."""
        found = self._found.get((method, path))
        if found is None:
            found = self._search(method, path)
            if len(self._found) >= PATHS_CACHED_MAX:
                self._found.clear()
            self._found[method, path] = found
        return found

    def _search(self, method: str, path: str) -> tuple[Route, str]:
        segments = path.split("/")
        for known, methods in self._paths:
            if len(known) != len(segments):
                continue
            parameter = _match(known, segments)
            if parameter is None:
                continue
            route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
            if route is None:
                allowed = ", ".join(sorted(methods))
                raise problems.problem(
                    "method-not-allowed", f"{path} takes {allowed}, not {method}", headers={"Allow": allowed}
                )
            return route, parameter
        detail = f"there is nothing at {path[:200]}"
        if path.startswith("/v1/functions/"):
            detail += "; a function's name has no slash: a-z, then a-z, 0-9 or '-', at most 63 characters"
        raise problems.problem("not-found", detail)


class HostGuard:
    """Refuses requests that a web page of another origin made the browser send.

    Host: a name that is not ours may be one that was bound to our address on purpose (DNS rebinding). On loopback its
    names and addresses are ours; elsewhere every address, since nobody can rebind that, and the names of `hosts`.
    Origin: a page may ask only where it came from, so it must be the Host itself.
    """

    def __init__(self, listen_host: str, hosts: Sequence[str] = (), *, is_local: bool = True) -> None:
        self._names = {"localhost", listen_host.lower(), *(name.lower().rstrip(".") for name in hosts)}
        self._is_local = is_local
        self._good: set[str] = set()

    def check(self, request: web.BaseRequest) -> None:
        """Raises ProblemError forbidden-host."""
        headers = request.headers
        host = headers.get("Host", "localhost")
        if host not in self._good:
            self._admit(host)
        origin = headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise problems.problem("forbidden-host", f"Origin is {origin[:100]!r}: only a page of this node may ask it")
        if request.method not in SAFE_METHODS and headers.get("Sec-Fetch-Site") in FOREIGN_SITES:
            raise problems.problem("forbidden-host", "a page of another site made the browser send this")

    def _admit(self, host: str) -> None:
        if not self._is_ours(host):
            ours = "loopback names only" if self._is_local else "addresses, and to the names of the setting `hosts`"
            raise problems.problem("forbidden-host", f"Host is {host[:100]!r}: this node answers to {ours}")
        if len(self._good) < HOSTS_CACHED_MAX:
            self._good.add(host)

    def _is_ours(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name.lower().rstrip(".") in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or not self._is_local
        except ValueError:
            return False


class Server(web.Server):
    """Serves `router` behind `guard`."""

    def __init__(self, router: Router, guard: HostGuard, access: Access, limits: ConnectionLimits) -> None:
        super().__init__(self._dispatch)
        self._router = router
        self._guard = guard
        self._access = access
        self._limits = limits
        self.admission = Connections(limits.connections_max, limits.connections_per_address)

    def __call__(self) -> RequestHandler:
        return ProblemHandler(self, self._limits, self.admission)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._guard.check(request)
            path = request.raw_path.partition("?")[0]
            if not path.startswith("/"):
                path = request.rel_url.raw_path
            route, parameter = self._router.find(request.method, path)
            if self._access.is_required:
                self._access.check(request.headers.get("Authorization"), route.needs, parameter)
            return await route.handler(request, parameter)
        except problems.ProblemError as error:
            return problems.respond(error.failure, status=error.status, headers=error.headers)
        except AccessError as error:
            headers = {"WWW-Authenticate": error.challenge} if error.challenge else {}
            return problems.respond(error.failure, headers=headers)
        except web.HTTPException as error:
            return problems.respond(Failure(word="bad-request", detail=error.reason))
        except PagurusError as error:
            log.error("request failed: %s", error)
            return problems.respond(Failure(word="internal", detail=str(error)))


def _match(known: list[str], segments: list[str]) -> str | None:
    """The parameter ('' if the path has none), or None when the path is another."""
    parameter = ""
    for expected, found in zip(known, segments, strict=True):
        if expected == found:
            continue
        if not expected.startswith("{") or not found:
            return None
        parameter = unquote(found) if "%" in found else found
    return parameter
