"""Routes of runtimes: list, add, remove."""

from typing import Any

import msgspec
from aiohttp import web

from gateway.api import problems, stream
from gateway.builds import Progress
from gateway.invocation import Failure
from gateway.runtimes import Row, RuntimeInUseError, UnknownRuntimeError
from gateway.services import Services
from runtime.errors import BuildError, StartError
from runtime.model import RuntimeName


class RuntimeRoutes:
    """Handlers of /v1/runtimes and /v1/runtimes/{name}."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def all(self, _: web.BaseRequest, __: str) -> web.StreamResponse:
        """GET /v1/runtimes."""
        rows = [resource(row) for row in self._services.runtimes.rows()]
        return web.Response(body=msgspec.json.encode({"runtimes": rows}), content_type="application/json")

    async def add(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        """POST /v1/runtimes/{name}."""
        if self._services.stopping.is_set():
            raise problems.problem("draining", "this node stops and takes no new work", headers={"Retry-After": "1"})
        runtimes = self._services.runtimes

        async def work(progress: Progress) -> stream.Outcome:
            try:
                row, is_new = await runtimes.add(RuntimeName(name), progress)
            except UnknownRuntimeError as error:
                return stream.failed(Failure(word="unknown-runtime", detail=error.message[:300], hint=error.hint))
            except BuildError as error:
                return stream.failed_build(error)
            except StartError as error:
                return stream.failed_start(error, f"the base zygote of {name}")
            return stream.Outcome(201 if is_new else 200, "runtime", resource(row))

        return await stream.answer(request, work)

    async def remove(self, _: web.BaseRequest, name: str) -> web.StreamResponse:
        """DELETE /v1/runtimes/{name}."""
        try:
            await self._services.runtimes.remove(RuntimeName(name))
        except UnknownRuntimeError as error:
            failure = Failure(word="unknown-runtime", detail=error.message[:300], hint=error.hint)
            raise problems.ProblemError(failure) from error
        except RuntimeInUseError as error:
            failure = Failure(word="runtime-in-use", detail=error.message, hint=error.hint)
            raise problems.ProblemError(failure) from error
        except BuildError as error:
            raise problems.problem("build-base", str(error)) from error
        return web.Response(status=204)


def resource(row: Row) -> dict[str, Any]:
    """A runtime as the API shows it."""
    base = row.base
    return {
        "name": row.name,
        "suite": row.suite,
        "state": "building" if row.is_building and base is None else "ready" if base else "not built",
        "default": row.is_default,
        "python_version": base.python_version if base else None,
        "digest": base.digest if base else None,
        "disk_bytes": (base.disk_bytes or None) if base else None,
        "packages": base.packages if base else None,
        "functions": list(row.functions),
        "zygote": row.zygote,
        "zygote_reason": row.zygote_reason,
    }
