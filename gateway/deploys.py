"""Deploying a function: build, import check in a real sandbox, store, switch. All or nothing."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from gateway.builds import Builds, Progress
from gateway.deployed import OWN_CODE, Version
from gateway.fleet import Fleet
from gateway.invocation import Failure, failure_of_answer, failure_of_death
from gateway.keeper import Keeper
from gateway.probe import Ending, Probe
from gateway.registry import Registry
from gateway.sandbox_link import Answer
from gateway.secret_key import SecretsError
from gateway.secrets import NO_SECRETS, SECRETS_BYTES_MAX, SECRETS_MAX, Secrets
from gateway.store.functions import StoredFunction
from runtime.clock import Clock
from runtime.errors import InvocationError, StartError
from runtime.frames import FrameKind
from runtime.model import DEFAULT_TENANT, FunctionName, ImportCost, Limits, RuntimeName, ZygoteId, version_id
from runtime.protocol import SandboxDied

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 60.0


class CheckError(InvocationError):
    """The new version's import check failed; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deploy that is done. phases_ms: where its time went, `total` last."""

    stored: StoredFunction
    is_new: bool
    phases_ms: dict[str, float]


class DeploySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks for, checked."""

    runtime: RuntimeName
    handler: str
    requirements: str
    limits: Limits
    environ: dict[str, str]
    policy: str = ""
    egress: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT
    reuse: bool = True
    secrets: dict[str, str | None] = {}  # changes: a value sets, None removes, what is not named stays

    def __repr__(self) -> str:
        return f"DeploySettings(handler={self.handler!r}, {len(self.secrets)} secrets)"


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

    async def deploy(self, name: FunctionName, settings: DeploySettings, archive: int, progress: Progress) -> Deployed:
        """Deploy. The archive's descriptor stays the caller's.

        Raises BuildError, CheckError, StartError. On these, and cancelled, nothing changes.
        """
        shortage = self._fleet.pools.room.shortage
        if shortage:  # the import check needs a sandbox, and a build more memory
            raise StartError("memory", shortage)
        async with self._turn(name):
            progress("queue", "waiting for a build slot", None)
            async with self._room, self._registry.building():
                return await self._deploy(name, settings, archive, progress)

    async def delete(self, name: FunctionName) -> bool:
        """Delete a function after the deploys of it that run; whether there was one."""
        async with self._turn(name):
            return await self._registry.delete(name)

    async def _deploy(self, name: FunctionName, settings: DeploySettings, archive: int, progress: Progress) -> Deployed:
        started_s = self._clock.monotonic_s()
        secrets = self._secrets(name, settings)
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
                policy=settings.policy,
                egress=settings.egress,
                tenant=settings.tenant,
                reuse=settings.reuse,
                secrets=secrets.id,
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
            policy=settings.policy,
            egress=settings.egress,
            tenant=settings.tenant,
            reuse=settings.reuse,
            conflicts=built.conflicts,
            secrets=secrets,
        )
        phases_ms = dict(built.phases_ms)
        before = self._registry.functions.get(name)
        if before is not None and before.current == version.id:
            phases_ms["total"] = self._since_ms(started_s)
            return Deployed(before, is_new=False, phases_ms=phases_ms)
        try:
            progress("check", "importing the handler and the declared packages", None)
            checked_s = self._clock.monotonic_s()
            costs = await self._check(version)
            phases_ms["check"] = self._since_ms(checked_s)
        except BaseException:
            self._registry.release(version)
            raise
        # From here on the deploy is accepted: a client that leaves does not undo it.
        version = msgspec.structs.replace(version, import_costs=costs)
        stored = await self._accept(version)
        phases_ms["total"] = self._since_ms(started_s)
        log.info("deployed version %s", version.id[:12], extra={"function": name})
        return Deployed(stored, is_new=before is None, phases_ms=phases_ms)

    async def _accept(self, version: Version) -> StoredFunction:
        try:
            return await asyncio.shield(self._registry.put(version))
        except SecretsError as error:
            self._registry.release(version)
            raise CheckError(Failure(word="secrets-unreadable", detail=error.message, hint=error.hint)) from error

    def _secrets(self, name: FunctionName, settings: DeploySettings) -> Secrets:
        """Those that the new version will have: the current one's with the changes. Raises CheckError."""
        before = self._registry.functions.get(name)
        held = before.version.secrets if before else NO_SECRETS
        try:
            found = held.changed(settings.secrets)
            if found.unreadable is not None:
                raise found.unreadable
        except SecretsError as error:
            raise CheckError(Failure(word="secrets-unreadable", detail=error.message, hint=error.hint)) from error
        both = sorted(set(found.names) & set(settings.environ))
        detail = (
            f"{both[0]} is both in environ and a secret"
            if both
            else f"the function would have {len(found.names)} secrets, the limit is {SECRETS_MAX}"
            if len(found.names) > SECRETS_MAX
            else f"the secrets have {found.size_bytes} bytes with their names, the limit is {SECRETS_BYTES_MAX}"
            if found.size_bytes > SECRETS_BYTES_MAX
            else ""
        )
        if detail:
            raise CheckError(Failure(word="invalid-settings", detail=detail))
        return found

    def _since_ms(self, began_s: float) -> float:
        return (self._clock.monotonic_s() - began_s) * 1000

    async def _check(self, version: Version) -> dict[str, ImportCost]:
        """What the imports cost. Raises CheckError or StartError when the version cannot serve.

        An environment that was measured before is checked in a helper of its zygote; what costs nothing there is
        taken from that measurement.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ending] = loop.create_future()

        def done(how: Ending) -> None:
            if not future.done():
                future.set_result(how)

        imports = version.environment.imports if version.environment else ()
        probe = Probe(done, payload=msgspec.json.encode(imports))
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                known = self._registry.import_costs(version.environment.id) if version.environment else {}
                zygote = (known and self._zygote_with(version)) or await self._keeper.wait_source(version.runtime)
                assignment = msgspec.structs.replace(version.assignment, is_check=True)
                self._fleet.probes.start(probe, next(self._fleet.tickets), zygote, assignment)
                how = await future
        except TimeoutError as error:
            detail = f"the import check did not end within {CHECK_TIMEOUT_S:g} s"
            raise CheckError(Failure(word="function-import-failed", detail=detail)) from error
        finally:
            self._fleet.probes.abandon(probe)
        costs = _judge(how, version)
        return {**known, OWN_CODE: costs[OWN_CODE]} if known and OWN_CODE in costs else costs

    def _zygote_with(self, version: Version) -> ZygoteId | None:
        """A zygote that has imported the version's environment."""
        assert version.environment is not None
        model = self._keeper.model_of(version)
        return next((one.id for one in self._fleet.pools.sources.covering(model)), None)

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


def _judge(how: Ending, version: Version) -> dict[str, ImportCost]:
    if isinstance(how, Answer):
        if how.kind == FrameKind.RESULT:
            return _costs(how.payload, version)
        raise CheckError(failure_of_answer(how.payload)[1])
    if isinstance(how, SandboxDied):
        if how.error:
            raise StartError("check", how.error)
        raise CheckError(failure_of_death(how))
    raise StartError("check", how)


def _costs(payload: bytes, version: Version) -> dict[str, ImportCost]:
    """What the sandbox measured. It may lie: of its own environment only, and within what the check allows."""
    try:
        found = msgspec.json.decode(payload, type=dict[str, tuple[float, int]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    names = {OWN_CODE, *(one.name for one in version.environment.distributions)} if version.environment else {OWN_CODE}
    return {
        name: ImportCost(min(max(ms, 0.0), CHECK_TIMEOUT_S * 1000), min(max(size, 0), version.limits.memory_bytes))
        for name, (ms, size) in found.items()
        if name in names
    }
