"""The pools whose requests wait, in the order in which their oldest requests came. Pure."""

from collections.abc import Iterator

from gateway.scheduler.decisions import Decision, Reject
from gateway.scheduler.pool import Pool, Request
from runtime.errors import StartError
from runtime.model import FunctionName, RuntimeName, ZygoteId

START_TRIES_MAX = 3


class Waiting:
    """Keeps itself true by `note`, to be called after each change of a pool's queue."""

    def __init__(self) -> None:
        self._pools: dict[FunctionName, Pool] = {}
        self._hopeless: dict[RuntimeName, str] = {}

    def __bool__(self) -> bool:
        return bool(self._pools)

    def __iter__(self) -> Iterator[Pool]:
        """The pool with the oldest request first. Those that no longer wait are passed over."""
        return iter(sorted(self._pools.values(), key=lambda pool: pool.waiting[0].sequence))

    @property
    def count(self) -> int:
        """Requests without a sandbox."""
        return sum(len(pool.waiting) for pool in self._pools.values())

    @property
    def oldest(self) -> Pool:
        """The pool that waits longest; there must be one."""
        return min(self._pools.values(), key=lambda pool: pool.waiting[0].sequence)

    def note(self, pool: Pool) -> None:
        """Its queue has changed."""
        if pool.waiting:
            self._pools[pool.spec.name] = pool
        else:
            self._pools.pop(pool.spec.name, None)

    def forget(self, name: FunctionName) -> None:
        """The function is gone."""
        self._pools.pop(name, None)

    def count_failure(
        self, pool: Pool, request: Request, zygote: ZygoteId, error: StartError, out: list[Decision]
    ) -> None:
        """A start for this request failed: it avoids the zygote, and is rejected after some tries."""
        request.failures += 1
        request.avoid |= {zygote}
        if request.failures >= START_TRIES_MAX:
            pool.waiting.remove(request)
            self.note(pool)
            out.append(Reject(request.id, error))

    def set_hopeless(self, runtime: RuntimeName, reason: str) -> None:
        """Nothing of this runtime can be started; '' takes it back."""
        if reason:
            self._hopeless[runtime] = reason
        else:
            self._hopeless.pop(runtime, None)

    def give_up_if_hopeless(self, pool: Pool, out: list[Decision]) -> None:
        """Reject what waits for a runtime that cannot be started."""
        reason = self._hopeless.get(pool.spec.runtime)
        if reason is None or pool.sandboxes or pool.starting:
            return
        while pool.waiting:
            out.append(Reject(pool.waiting.popleft().id, StartError("zygote", reason)))
