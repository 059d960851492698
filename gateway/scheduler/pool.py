"""The state of one function's pool: its sandboxes and who waits for them. Pure."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from gateway.scheduler.policy import FunctionModel
from runtime.model import FunctionName, InvocationId, SandboxId, StartKind, VersionId, ZygoteId


@dataclass(frozen=True, slots=True)
class Limits:
    """What the pools must keep to (runtime.config.Settings has the words)."""

    sandboxes_max: int
    function_concurrency: int
    queue_per_function: int
    freeze_after_s: float


class State(Enum):
    """Of a sandbox that has a function. LEASED -> IDLE and back; anything -> DYING -> gone."""

    ADOPTING = auto()
    IDLE = auto()
    LEASED = auto()
    DYING = auto()


@dataclass(slots=True, eq=False)
class Request:
    """One waiting invocation. `avoid`: zygotes that refused it."""

    id: InvocationId
    sequence: int
    failures: int = 0
    avoid: frozenset[ZygoteId] = frozenset()


@dataclass(slots=True, eq=False)
class PooledSandbox:
    """One sandbox. kind: how it came to be. `first_kind`: the same until its first lease, then None."""

    id: SandboxId
    function: FunctionName
    version: VersionId
    zygote: ZygoteId
    state: State
    kind: StartKind = StartKind.COLD
    request: Request | None = None
    idle_since_s: float = 0.0
    frozen: bool = False
    first_kind: StartKind | None = None


@dataclass(slots=True, eq=False)
class Pool:
    """One function. `idle`: most recently used last. `starting`: tickets."""

    spec: FunctionModel
    idle: list[PooledSandbox] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)
    starting: set[int] = field(default_factory=set)
    sandboxes: dict[SandboxId, PooledSandbox] = field(default_factory=dict)
