"""The deployed functions: in memory for invocations, in the store for ever, and what follows from a change."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.deployed import Version
from gateway.fleet import Fleet
from gateway.keeper import Keeper
from gateway.scheduler.zygotes import ZygoteState
from gateway.store.functions import FunctionStore, StoredFunction
from runtime.model import CodeId, EnvironmentId, FunctionName, ImportCost
from runtime.protocol import Discard, Keep, ToDaemon

log = logging.getLogger(__name__)

DISCARD_BATCH_MAX = 1000  # keeps Discard below protocol.MESSAGE_BYTES_MAX


class Registry:
    """All functions of this node. Changes reach the store first, then the fleet and the zygotes."""

    def __init__(self, store: FunctionStore, fleet: Fleet, keeper: Keeper, send: Callable[[ToDaemon], None]) -> None:
        self.functions: dict[FunctionName, StoredFunction] = {}
        self._store = store
        self._fleet = fleet
        self._keeper = keeper
        self._send = send
        self._building_count = 0
        self._is_collecting = False
        self._quiet = asyncio.Condition()
        self._old_codes: set[CodeId] = set()
        self._old_environments: set[EnvironmentId] = set()

    def load(self) -> None:
        """Read the store and plan for what it holds; blocks."""
        for function in self._store.load():
            self.functions[function.name] = function
            self._keeper.put_function(function.version)
        self._keeper.tick()

    async def put(self, version: Version) -> StoredFunction:
        """Make `version` the current one of its function."""
        stored = await self._store.put(version)
        before = self.functions.get(version.function)
        self.functions[version.function] = stored
        if before is not None:
            kept = {one.id for one in stored.versions}
            self.release(*(one for one in before.versions if one.id not in kept))
        self._keeper.put_function(stored.version)
        self._keeper.tick()
        return stored

    async def delete(self, name: FunctionName) -> bool:
        """Forget a function, end its sandboxes; whether there was one."""
        function = self.functions.pop(name, None)
        if function is None:
            return False
        self._keeper.remove_function(name)
        await self._store.delete(name)
        self.release(*function.versions)
        self._keeper.tick()
        return True

    async def change_key(self) -> tuple[str, int]:
        """Encrypt all secrets with a new key; its number, and how many there are. Raises SecretsError."""
        return await self._store.change_key()

    @asynccontextmanager
    async def building(self) -> AsyncIterator[None]:
        """While any build runs nothing is discarded: it may be about to reuse what seems unused."""
        async with self._quiet:
            await self._quiet.wait_for(lambda: not self._is_collecting)
            self._building_count += 1
        try:
            yield
        finally:
            self._building_count -= 1
            async with self._quiet:
                self._quiet.notify_all()

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[None]:
        """Waits for the builds that run, and holds back others: all that is needed is in `needed` then."""
        async with self._quiet:
            await self._quiet.wait_for(lambda: not self._is_collecting and not self._building_count)
            self._is_collecting = True
        try:
            yield
        finally:
            self._is_collecting = False
            async with self._quiet:
                self._quiet.notify_all()

    def needed(self) -> Keep:
        """Code and environments of all versions."""
        versions = [version for function in self.functions.values() for version in function.versions]
        return Keep(
            codes=frozenset(version.code for version in versions),
            environments=frozenset(version.environment.id for version in versions if version.environment),
        )

    def release(self, *versions: Version) -> None:
        """These versions are not needed any more."""
        for version in versions:
            self.release_content(version.code, version.environment.id if version.environment else None)

    def release_content(self, code: CodeId, environment: EnvironmentId | None) -> None:
        """Discard code and environment once nothing references or uses them."""
        self._old_codes.add(code)
        if environment is not None:
            self._old_environments.add(environment)

    def import_costs(self, environment: EnvironmentId) -> dict[str, ImportCost]:
        """What a deployed version measured of an environment, or nothing."""
        for function in self.functions.values():
            for version in function.versions:
                if version.environment is not None and version.environment.id == environment and version.import_costs:
                    return version.import_costs
        return {}

    def tick(self) -> None:
        """Discard what is unused by now."""
        if self._building_count or not (self._old_codes or self._old_environments) or self._has_old_sandboxes():
            return
        needed = self.needed()
        self._old_codes -= needed.codes
        self._old_environments -= needed.environments
        if any(entry.state is ZygoteState.ENDING for entry in self._keeper.zygotes.entries.values()):
            return
        mounted = {one for zygote in self._fleet.pools.sources.zygotes.values() for one in zygote.environments}
        codes = sorted(self._old_codes)[:DISCARD_BATCH_MAX]
        environments = sorted(self._old_environments - mounted)[:DISCARD_BATCH_MAX]
        if codes or environments:
            self._send(Discard(codes=tuple(codes), environments=tuple(environments)))
            self._old_codes.difference_update(codes)
            self._old_environments.difference_update(environments)

    def _has_old_sandboxes(self) -> bool:
        for sandbox in self._fleet.pools.sandboxes.values():
            function = self.functions.get(sandbox.function)
            if function is None or function.current != sandbox.version:
                return True
        return False
