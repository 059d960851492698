"""Ending idle sandboxes on request: of an operator, or of a benchmark that wants the next start to be no warm one."""

import asyncio
from enum import Enum, auto

from gateway.fleet import Fleet
from gateway.scheduler.pool import State
from runtime.model import FunctionName, SandboxId
from runtime.protocol import SandboxDied

GONE_WAIT_S = 5.0  # a sandbox that dies slower is still dying, and nothing will lease it


class Outcome(Enum):
    """What became of a request to end one sandbox."""

    ENDED = auto()
    BUSY = auto()
    UNKNOWN = auto()


class Evictions:
    """Ends idle sandboxes and standbys, and waits until pagurusd has reaped them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._waiting: dict[SandboxId, list[asyncio.Future[None]]] = {}

    def died(self, message: SandboxDied) -> None:
        """A sandbox is gone: tell the fleet, then who waits for it."""
        self._fleet.died(message)
        for future in self._waiting.pop(message.sandbox, ()):
            if not future.done():
                future.set_result(None)

    async def evict(self, sandbox_id: SandboxId) -> Outcome:
        """End one idle sandbox or standby; returns when it is gone, or after GONE_WAIT_S."""
        pools = self._fleet.pools
        sandbox = pools.sandboxes.get(sandbox_id)
        if sandbox is None and sandbox_id not in pools.sources.standbys:
            return Outcome.UNKNOWN
        if sandbox is not None and sandbox.state in (State.LEASED, State.ADOPTING):
            return Outcome.BUSY
        await self._end([sandbox_id])
        return Outcome.ENDED

    async def evict_function(self, name: FunctionName) -> int:
        """End all idle sandboxes of a function; how many. Those that run something stay."""
        found = self._fleet.pools.sandboxes.values()
        idle = [one.id for one in found if one.function == name and one.state is State.IDLE]
        await self._end(idle)
        return len(idle)

    async def _end(self, sandboxes: list[SandboxId]) -> None:
        loop = asyncio.get_running_loop()
        futures = []
        for sandbox in sandboxes:
            future = loop.create_future()
            self._waiting.setdefault(sandbox, []).append(future)
            futures.append(future)
            self._fleet.carry_out(self._fleet.pools.kill(sandbox, "evicted"))
        if futures:
            await asyncio.wait(futures, timeout=GONE_WAIT_S)
