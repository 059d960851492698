"""Whether there is room for one more sandbox, and who gives way to it: limits of the node and memory. Pure."""

from collections.abc import Collection, Iterable

from gateway.scheduler.pool import Limits, Pool, PooledSandbox, State
from gateway.scheduler.waiting import Waiting
from runtime.errors import MemoryShortError
from runtime.model import SandboxId

MEMORY_RETRY_S = 2.0  # giving up idle sandboxes takes some steps of half a second


class Room:
    """Looks at the pools' own collections; changes nothing but its note of what is evicted.

    shortage: why no new sandboxes are made at the moment, '' when they are.
    """

    def __init__(
        self,
        limits: Limits,
        sandboxes: Collection[SandboxId],
        starts: Collection[int],
        waiting: Waiting,
        idle: Iterable[PooledSandbox],
    ) -> None:
        self.shortage = ""
        self._limits = limits
        self._sandboxes = sandboxes
        self._starts = starts
        self._waiting = waiting
        self._idle = idle
        self._evicting: set[SandboxId] = set()

    @property
    def is_full(self) -> bool:
        """Whether the node has all the sandboxes it may have."""
        return len(self._sandboxes) + len(self._starts) >= self._limits.sandboxes_max

    def is_for(self, pool: Pool) -> bool:
        """Whether the function may get one more sandbox now."""
        return not self.shortage and not self._is_at_its_limit(pool) and not self.is_full

    def victim_for(self, pool: Pool) -> PooledSandbox | None:
        """The idle sandbox of another function that makes room on a full node; no more than requests wait."""
        if self.shortage or self._is_at_its_limit(pool) or len(self._evicting) >= self._waiting.count:
            return None
        victim = next((one for one in self._idle if one.function != pool.spec.name), None)
        if victim is not None:
            self._evicting.add(victim.id)
        return victim

    def is_owed(self, pool: Pool, sandbox: SandboxId) -> bool:
        """Whether this sandbox, just released, is to go: a function without any has waited longer than its pool."""
        if not self._waiting or not self.is_full or self._evicting:
            return False
        oldest = self._waiting.oldest
        owes = oldest is not pool and not oldest.sandboxes and not oldest.starting
        if owes:
            self._evicting.add(sandbox)
        return owes

    def gone(self, sandbox: SandboxId) -> None:
        """A sandbox has died."""
        self._evicting.discard(sandbox)

    def refuse_if_short(self, pool: Pool) -> None:
        """Raise MemoryShortError for a request that only a new sandbox could serve, when there will be none."""
        if not self.shortage:
            return
        if pool.spec.reuse and any(one.state is not State.DYING for one in pool.sandboxes.values()):
            return  # it waits for one of these
        raise MemoryShortError(self.shortage, retry_after_s=MEMORY_RETRY_S)

    def is_beyond_queue(self, pool: Pool) -> bool:
        """Whether more requests wait than may."""
        return len(pool.waiting) - len(pool.starting) > self._limits.queue_per_function

    def why_full(self, pool: Pool) -> str:
        """What keeps the function from more sandboxes, for who is refused."""
        if self._is_at_its_limit(pool):
            behind = f"function_concurrency is {self._limits.function_concurrency}"
        elif self.is_full:
            behind = f"sandboxes_max is {self._limits.sandboxes_max}"
        else:
            behind = self.shortage or "no zygote is ready"
        return f"queue_per_function is {self._limits.queue_per_function}, all taken; {behind}"

    def _is_at_its_limit(self, pool: Pool) -> bool:
        return len(pool.sandboxes) + len(pool.starting) >= self._limits.function_concurrency
