"""Memory of idle sandboxes, as far as a policy can know it. Pure.

A policy hears when a sandbox becomes idle and is asked about it again when its time has come; it does not hear that one
was leased. So what was not asked about at its time is idle no more, and until then it counts: a little too much.
"""

import heapq

from runtime.model import SandboxId

ASKED_LATE_S = 1.0  # the gateway asks on a timer


class IdleMemory:
    """Bytes by sandbox, each until its time."""

    def __init__(self) -> None:
        self._held: dict[SandboxId, tuple[int, float]] = {}
        self._ends: list[tuple[float, SandboxId]] = []
        self._bytes = 0

    def hold(self, sandbox: SandboxId, memory_bytes: int, until_s: float) -> None:
        """It is idle until then at most."""
        self.release(sandbox)
        self._held[sandbox] = memory_bytes, until_s
        self._bytes += memory_bytes
        heapq.heappush(self._ends, (until_s, sandbox))

    def release(self, sandbox: SandboxId) -> None:
        """It is not idle any more."""
        self._bytes -= self._held.pop(sandbox, (0, 0.0))[0]

    def total_bytes(self, now_s: float) -> int:
        """Of all that are idle now."""
        while self._ends and self._ends[0][0] < now_s - ASKED_LATE_S:
            until_s, sandbox = heapq.heappop(self._ends)
            if self._held.get(sandbox, (0, -1.0))[1] == until_s:
                self.release(sandbox)
        return self._bytes
