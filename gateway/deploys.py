"""Deploying a function: build, import check in a real sandbox, store, switch. All or nothing."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from gateway.builds import Builds, Progress
from gateway.deployed import Version
from gateway.fleet import Fleet
from gateway.invocation import Failure, failure_of_answer, failure_of_death
from gateway.keeper import Keeper
from gateway.probe import Ending, Probe
from gateway.registry import Registry
from gateway.sandbox_link import Answer
from gateway.store.functions import StoredFunction
from runtime.clock import Clock
from runtime.errors import InvocationError, StartError
from runtime.frames import FrameKind
from runtime.model import FunctionName, Limits, RuntimeName, ZygoteId, version_id
from runtime.protocol import SandboxDied

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 60.0


class CheckError(InvocationError):
    """The new version's import check failed; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class DeploySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks for, checked."""

    runtime: RuntimeName
    handler: str
    requirements: str
    limits: Limits
    environ: dict[str, str]


class Deploys:
    """Runs deploys: of one function one after another, of all at most `builds_at_once` at a time."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        keeper: Keeper,
        registry: Registry,
        builds: Builds,
        builds_at_once: int,
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._keeper = keeper
        self._registry = registry
        self._builds = builds
        self._room = asyncio.Semaphore(builds_at_once)
        self._locks: dict[FunctionName, asyncio.Lock] = {}
        self._waiting: Counter[FunctionName] = Counter()

    async def deploy(
        self, name: FunctionName, settings: DeploySettings, archive: int, progress: Progress
    ) -> tuple[StoredFunction, bool]:
        """Deploy; the function and whether it is new. The archive's descriptor stays the caller's.

        Raises BuildError, CheckError, StartError. On these, and cancelled, nothing changes.
        """
        async with self._turn(name):
            progress("queue", "waiting for a build slot", None)
            async with self._room:
                with self._registry.building():
                    return await self._deploy(name, settings, archive, progress)

    async def delete(self, name: FunctionName) -> bool:
        """Delete a function after the deploys of it that run; whether there was one."""
        async with self._turn(name):
            return await self._registry.delete(name)

    async def _deploy(
        self, name: FunctionName, settings: DeploySettings, archive: int, progress: Progress
    ) -> tuple[StoredFunction, bool]:
        built = await self._builds.build(name, settings.runtime, settings.requirements, archive, progress)
        environment = built.environment
        version = Version(
            function=name,
            id=version_id(
                code=built.code,
                environment=environment.id if environment else None,
                runtime=settings.runtime,
                handler=settings.handler,
                limits=settings.limits,
                environ=settings.environ,
            ),
            code=built.code,
            environment=environment,
            runtime=settings.runtime,
            handler=settings.handler,
            limits=settings.limits,
            environ=settings.environ,
            requirements=settings.requirements,
            lock=built.lock,
            created_s=self._clock.wall_s(),
        )
        before = self._registry.functions.get(name)
        if before is not None and before.current == version.id:
            return before, False
        try:
            progress("check", "importing the handler and the declared packages", None)
            await self._check(version)
        except BaseException:
            self._registry.release(version)
            raise
        # From here on the deploy is accepted: a client that leaves does not undo it.
        stored = await asyncio.shield(self._registry.put(version))
        log.info("deployed version %s", version.id[:12], extra={"function": name})
        return stored, before is None

    async def _check(self, version: Version) -> None:
        """Raises CheckError or StartError when the version cannot serve."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ending] = loop.create_future()

        def done(how: Ending) -> None:
            if not future.done():
                future.set_result(how)

        imports = version.environment.imports if version.environment else ()
        probe = Probe(done, payload=msgspec.json.encode(imports))
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                zygote = await self._zygote_for(version)
                self._fleet.probes.start(probe, next(self._fleet.tickets), zygote, version.assignment)
                how = await future
        except TimeoutError as error:
            detail = f"the import check did not end within {CHECK_TIMEOUT_S:g} s"
            raise CheckError(Failure(word="function-import-failed", detail=detail)) from error
        finally:
            self._fleet.probes.abandon(probe)
        _judge(how)

    async def _zygote_for(self, version: Version) -> ZygoteId:
        if version.environment is not None:
            for zygote in self._fleet.pools.sources.zygotes.values():
                if version.environment.id in zygote.environments:
                    return zygote.id
        return await self._keeper.wait_source(version.runtime)

    @asynccontextmanager
    async def _turn(self, name: FunctionName) -> AsyncIterator[None]:
        """One at a time for each function."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._waiting[name] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._locks[name]


def _judge(how: Ending) -> None:
    if isinstance(how, Answer):
        if how.kind == FrameKind.RESULT:
            return
        raise CheckError(failure_of_answer(how.payload)[1])
    if isinstance(how, SandboxDied):
        if how.error:
            raise StartError("check", how.error)
        raise CheckError(failure_of_death(how))
    raise StartError("check", how)
