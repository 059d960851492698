"""Memory of idle sandboxes, as a policy counts it. Pure."""

from runtime.model import SandboxId


class IdleMemory:
    """Bytes by sandbox. total_bytes: of all that are idle now."""

    def __init__(self) -> None:
        self._held: dict[SandboxId, int] = {}
        self.total_bytes = 0

    def hold(self, sandbox: SandboxId, memory_bytes: int) -> None:
        """It is idle, and takes so much."""
        self.release(sandbox)
        self._held[sandbox] = memory_bytes
        self.total_bytes += memory_bytes

    def release(self, sandbox: SandboxId) -> None:
        """It is not idle any more."""
        self.total_bytes -= self._held.pop(sandbox, 0)
