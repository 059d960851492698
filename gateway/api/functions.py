"""Routes of functions: deploy, look, delete."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from gateway.api import problems, stream
from gateway.api.bodies import read_deploy, runtime_problem
from gateway.api.invocations import check_name, iso_time
from gateway.builds import Progress
from gateway.deployed import Version
from gateway.deploys import CheckError, DeploySettings
from gateway.invocation import Failure
from gateway.runtimes import UnknownRuntimeError
from gateway.services import Services
from gateway.store.functions import StoredFunction
from runtime import egress
from runtime.errors import BuildError, StartError
from runtime.model import FunctionName


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
        return _json({**resource(function, with_versions=True), "lock": function.version.lock})

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
            timeout_s=services.settings.upload_timeout_s,
            store_dir=self._store_dir,
            runtimes=services.runtimes,
        )
        try:
            if settings.egress and services.welcome.egress_refusal:
                reason = services.welcome.egress_refusal
                raise problems.problem("invalid-settings", f"egress: no function can have it on this node: {reason}")
            with services.runtimes.deploying(settings.runtime):
                return await stream.answer(request, partial(self._deploy, function, settings, archive))
        except UnknownRuntimeError as error:  # given up while the archive came
            raise runtime_problem(error) from error
        finally:
            os.close(archive)

    async def _deploy(
        self, name: FunctionName, settings: DeploySettings, archive: int, progress: Progress
    ) -> stream.Outcome:
        try:
            done = await self._services.deploys.deploy(name, settings, archive, progress)
        except CheckError as error:
            return stream.failed(error.failure, status=problems.DEPLOY_STATUS)
        except BuildError as error:
            return stream.failed_build(error)
        except StartError as error:
            return stream.failed_start(error, "the import check")
        deploy_ms = {phase: round(spent_ms, 1) for phase, spent_ms in done.phases_ms.items()}
        body = {**resource(done.stored, with_versions=True), "deploy_ms": deploy_ms}
        return stream.Outcome(201 if done.is_new else 200, "function", body)


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
        "secrets": version.secrets.names,
        "requirements": version.requirements,
        "policy": version.policy,
        "egress": egress.shown(version.egress),
        "tenant": version.tenant,
        "reuse": version.reuse,
        "code": version.code,
        "environment": environment.id if environment else None,
        "distributions": [f"{one.name}=={one.version}" for one in environment.distributions] if environment else [],
        "imports": list(environment.imports) if environment else [],
        "import_costs": msgspec.to_builtins(version.import_costs),
        "conflicts": msgspec.to_builtins(version.conflicts),
    }


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
