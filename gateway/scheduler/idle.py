"""The idle sandboxes of a node: how long each stays is the policy's to say, when it is frozen the limits'. Pure."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator

from gateway.scheduler.policy import Idle, Policy, Retire, Stay
from gateway.scheduler.pool import PooledSandbox
from runtime.model import SandboxId

DUES_MIN = 256  # entries below which nobody looks for those that have lapsed

_Due = tuple[float, int, PooledSandbox, float]  # when to ask the policy again; number; idle since when


class IdleSandboxes:
    """All of them, the least recently used first. An end that the policy decided is told, not carried out.

    The policy is asked at the first `take_due` after a sandbox became idle, not at once: one that is used again before
    that, as thousands a second are under load, costs the policy nothing.
    """

    def __init__(self, policy: Policy, freeze_after_s: float) -> None:
        self._policy = policy
        self._freeze_after_s = freeze_after_s
        self._all: OrderedDict[SandboxId, PooledSandbox] = OrderedDict()
        self._new: dict[SandboxId, PooledSandbox] = {}  # those that the policy has not been asked about
        self._warm: OrderedDict[SandboxId, PooledSandbox] = OrderedDict()  # the others that are not frozen
        self._dues: list[_Due] = []  # a heap; an entry lapses when its sandbox is used
        self._number = 0

    def __iter__(self) -> Iterator[PooledSandbox]:
        return iter(self._all.values())

    def add(self, sandbox: PooledSandbox, now_s: float) -> None:
        """It is idle from now on."""
        sandbox.idle_since_s = now_s
        self._all[sandbox.id] = self._new[sandbox.id] = sandbox

    def remove(self, sandbox: PooledSandbox) -> None:
        """It is used, or ends."""
        del self._all[sandbox.id]
        if self._new.pop(sandbox.id, None) is None:
            self._warm.pop(sandbox.id, None)
            self._policy.left(sandbox.function, sandbox.id)

    def take_due(self, now_s: float) -> Iterator[tuple[PooledSandbox, str]]:
        """Those that the policy lets go now, each with why; they stay here until `remove`."""
        for sandbox in list(self._new.values()):
            if self._new.pop(sandbox.id, None) is not sandbox:
                continue  # it ended with the one before
            self._warm[sandbox.id] = sandbox
            why = self._heed(sandbox, self._policy.idled(_fact(sandbox), now_s))
            if why is not None:
                yield sandbox, why
        while self._dues and self._dues[0][0] <= now_s:
            due = heapq.heappop(self._dues)
            sandbox = due[2]
            if self._holds(due):
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
        new = next(iter(self._new.values()), None)
        warm = next(iter(self._warm.values()), None)
        asked_s = new.idle_since_s if new else float("inf")
        freeze_s = warm.idle_since_s + self._freeze_after_s if warm else float("inf")
        return min(self._dues[0][0] if self._dues else float("inf"), freeze_s, asked_s)

    def _heed(self, sandbox: PooledSandbox, verdict: Stay | Retire) -> str | None:
        if isinstance(verdict, Retire):
            return verdict.why
        self._number += 1
        heapq.heappush(self._dues, (verdict.until_s, self._number, sandbox, sandbox.idle_since_s))
        if len(self._dues) > DUES_MIN + 4 * len(self._all):  # each use leaves one behind
            self._dues = [due for due in self._dues if self._holds(due)]
            heapq.heapify(self._dues)
        return None

    def _holds(self, due: _Due) -> bool:
        _, _, sandbox, since_s = due
        return self._all.get(sandbox.id) is sandbox and sandbox.idle_since_s == since_s


def _fact(sandbox: PooledSandbox) -> Idle:
    return Idle(sandbox.id, sandbox.function, sandbox.kind, sandbox.idle_since_s)
