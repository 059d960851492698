"""The idle sandboxes of a node: how long each stays is the policy's to say, when it is frozen the limits'. Pure."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from gateway.scheduler.policy import Idle, Policy, Retire, Stay
from gateway.scheduler.pool import PooledSandbox
from runtime.model import SandboxId


class IdleSandboxes:
    """All of them, the least recently used first. An end that the policy decided is told, not carried out."""

    def __init__(self, policy: Policy, freeze_after_s: float) -> None:
        self._policy = policy
        self._freeze_after_s = freeze_after_s
        self._all: OrderedDict[SandboxId, PooledSandbox] = OrderedDict()
        self._warm: OrderedDict[SandboxId, PooledSandbox] = OrderedDict()  # those that are not frozen
        self._dues: list[tuple[float, int, PooledSandbox, float]] = []  # heap: when to ask the policy again
        self._number = 0

    def __iter__(self) -> Iterator[PooledSandbox]:
        return iter(self._all.values())

    def add(self, sandbox: PooledSandbox, now_s: float) -> str | None:
        """It is idle from now on. Why it is to end at once, or None."""
        sandbox.idle_since_s = now_s
        self._all[sandbox.id] = self._warm[sandbox.id] = sandbox
        return self._heed(sandbox, self._policy.idled(_fact(sandbox), now_s))

    def remove(self, sandbox: PooledSandbox) -> None:
        """It is used, or ends."""
        del self._all[sandbox.id]
        self._warm.pop(sandbox.id, None)
        self._policy.left(sandbox.function, sandbox.id)

    def take_due(self, now_s: float) -> Iterator[tuple[PooledSandbox, str]]:
        """Those that the policy lets go now, each with why; they stay here until `remove`."""
        while self._dues and self._dues[0][0] <= now_s:
            _, _, sandbox, since_s = heapq.heappop(self._dues)
            if self._all.get(sandbox.id) is sandbox and sandbox.idle_since_s == since_s:
                why = self._heed(sandbox, self._policy.due(_fact(sandbox), now_s))
                if why is not None:
                    yield sandbox, why

    def take_freezing(self, now_s: float) -> Iterator[PooledSandbox]:
        """Those that have been idle long enough to be frozen, each once."""
        while self._warm:
            sandbox = next(iter(self._warm.values()))
            if now_s - sandbox.idle_since_s < self._freeze_after_s:
                return
            del self._warm[sandbox.id]
            yield sandbox

    def next_due_s(self) -> float:
        """When there is something to take; infinity when never."""
        warm = next(iter(self._warm.values()), None)
        freeze_s = warm.idle_since_s + self._freeze_after_s if warm else float("inf")
        return min(self._dues[0][0] if self._dues else float("inf"), freeze_s)

    def _heed(self, sandbox: PooledSandbox, verdict: Stay | Retire) -> str | None:
        if isinstance(verdict, Retire):
            return verdict.why
        self._number += 1
        heapq.heappush(self._dues, (verdict.until_s, self._number, sandbox, sandbox.idle_since_s))
        return None


def _fact(sandbox: PooledSandbox) -> Idle:
    return Idle(sandbox.id, sandbox.function, sandbox.kind, sandbox.idle_since_s)
