"""What a policy is told and what it decides. Pure: no clock, no I/O; the same objects serve the node and the simulator.

A policy decides two things: which zygotes there should be (`plan`), and how long an idle sandbox stays (`idled`,
`due`). Which source a start takes follows from the zygotes there are (gateway.scheduler.sources), for all policies
alike. All times are seconds of one clock, all sizes bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from runtime.model import (
    DEFAULT_TENANT,
    EnvironmentId,
    FunctionName,
    ImportCost,
    RuntimeName,
    SandboxId,
    StartKind,
    VersionId,
    ZygoteId,
)
from runtime.protocol import StandbyTarget

_UNUSED = ImportCost(0.0, 0)  # the check imported nothing of it
_GUESS = ImportCost(20.0, 3_000_000)
EVERYONE = "*"  # no tenant's name
OWN_CODE = ""  # in FunctionModel.costs: the function's own code


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """A deployed function as far as policies care.

    distributions: name -> version of the whole lock. imports: modules that a zygote imports for it.
    costs: what importing each distribution took at its deploy, by name; OWN_CODE: the function itself.
    modules, requires: of each distribution the top-level modules that it has and the distributions that it needs, as
    far as known; policies that cache single distributions then know more than names tell.
    obstacle: why no zygote may hold its packages for now; '' if one may.
    packages: those that not everybody trusts, by exact file; None: not known, so that no other tenant may share them.
    """

    name: FunctionName
    version: VersionId
    runtime: RuntimeName
    environment: EnvironmentId | None = None
    distributions: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    costs: Mapping[str, ImportCost] = field(default_factory=dict)
    tenant: str = DEFAULT_TENANT
    policy: str = ""  # its own; '' takes the node's
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    packages: frozenset[str] | None = None
    obstacle: str = ""
    reuse: bool = True  # whether a sandbox serves more than one invocation

    @property
    def group(self) -> str:
        """Whose zygotes it is planned into: its tenant's, or everyone's where everybody trusts all its packages."""
        return EVERYONE if self.environment is not None and self.packages == frozenset() else self.tenant

    def note(self, kind: StartKind) -> str:
        """What is to be told of a start of this kind: why no zygote helped it, if none may."""
        return self.obstacle if kind is StartKind.COLD else ""

    def cost(self, distribution: str) -> ImportCost:
        """What importing one distribution takes; a guess where nothing was measured."""
        return self.costs.get(distribution, _UNUSED if self.costs else _GUESS)

    @property
    def import_ms(self) -> float:
        """What a cold start spends on importing packages."""
        return sum(self.cost(name).ms for name in self.distributions)

    @property
    def import_bytes(self) -> int:
        """Private memory of its imported packages."""
        return sum(self.cost(name).memory_bytes for name in self.distributions)


@dataclass(frozen=True, slots=True)
class ZygoteSpec:
    """One zygote as it should be. No environments: the base zygote of its runtime.

    environments: mounted, and may be helped. imports: what it really imports; an environment whose imports are all
    among them is covered, another is helped in part, which counts as cold. functions: those it is meant to help, as
    the policy's directory has it. owner: whose idle sandbox it has replaced, if anyone's. tenants: who has deployed
    every environment of it, so has chosen all that it holds; the planner fills it in, whatever a policy says.
    """

    id: ZygoteId
    runtime: RuntimeName
    environments: tuple[EnvironmentId, ...]
    imports: tuple[str, ...]
    standbys: tuple[StandbyTarget, ...]
    functions: frozenset[FunctionName] = frozenset()
    owner: FunctionName | None = None
    why: str = field(default="", compare=False)  # for people: the inputs of the decision
    tenants: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Idle:
    """An idle sandbox. kind: how it came to be: an executor (cold), a helper (helped, restored)."""

    sandbox: SandboxId
    function: FunctionName
    kind: StartKind
    idle_since_s: float
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stay:
    """Ask again at this time, unless it was used."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Retire:
    """End the sandbox now. why: for people."""

    why: str


Verdict = Stay | Retire


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What an operator can set for all policies; each documents what it uses.

    memory_bytes: budget of all zygotes and idle sandboxes together. standbys: per zygote and environment, at most.
    window: arrivals kept of each function for percentiles. The reference's values (research, 1.6) are the defaults of
    the paper's policy, at full time scale.
    """

    keep_alive_s: float = 600.0
    zygotes_max: int = 64
    standbys: int = 2
    memory_bytes: int = 4 << 30
    seed: int = 0
    stem_cells: int = 2
    cache_packages: int = 4  # sock: packages in the cache
    period_s: float = 1800.0  # sock: rebuilding; pagurus: renewing who is helped
    idle_first_s: float = 60.0  # pagurus: idle time before there is a window of arrivals
    idle_window: int = 100
    idle_arrivals_min: int = 21
    idle_percentile: float = 0.95
    qos_target: float = 0.95
    qos_wait_s: float = 1.0
    ewma_old: float = 0.65
    zygotes_per_function: int = 1
    zygote_keep_alive_s: float = 900.0
    helper_keep_alive_s: float = 900.0
    similar_max: int = 40
    helped_max: int = 8
    inherits_last_use: bool = False
    price_ms_per_mb_s: float = 0.12  # adaptive: start time that one megabyte, held for one second, must save
    cold_weight: float = 50.0  # adaptive: how much worse a millisecond of a cold start is
    # Whom a zygote has. pagurus: weighted (the most similar, active by misses), similar, random; adaptive: random, best
    choice: str = "weighted"


class Policy(ABC):
    """One policy's state for one node. Every method is cheap (50 us with 5,000 functions) but `plan`.

    Time only moves forward from call to call. Unknown names and ids are ignored, as deletions overtake events.
    """

    name: ClassVar[str]

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> None:
        self.settings = settings
        self.runtimes = tuple(runtimes)

    # --- what is told

    @abstractmethod
    def put_function(self, model: FunctionModel, now_s: float) -> None:
        """A function is new, or has another current version."""

    @abstractmethod
    def remove_function(self, name: FunctionName, now_s: float) -> None:
        """A function is gone."""

    def arrived(self, name: FunctionName, now_s: float) -> None:  # noqa: B027
        """A request came."""

    def started(self, name: FunctionName, kind: StartKind, zygote: ZygoteId | None, now_s: float) -> None:  # noqa: B027
        """A request needed a new sandbox, which was made in this way."""

    def finished(self, name: FunctionName, service_s: float, latency_s: float, now_s: float) -> None:  # noqa: B027
        """A request was answered: handler's time, and time from arrival to answer."""

    def sandboxes(self, name: FunctionName, count: int, now_s: float) -> None:  # noqa: B027
        """How many sandboxes a function has, whenever that changes."""

    def zygote_up(self, zygote: ZygoteId, memory_bytes: int, start_ms: float, now_s: float) -> None:  # noqa: B027
        """A zygote can fork."""

    def uncovered(self, zygote: ZygoteId, environments: Collection[EnvironmentId], now_s: float) -> bool:
        """Environments that a zygote with others cannot help after all; whether they get zygotes of their own now."""
        return False

    def set_runtimes(self, runtimes: Sequence[RuntimeName], now_s: float) -> None:
        """The node has other runtimes now; `plan` is asked next."""
        self.runtimes = tuple(runtimes)

    def zygote_down(self, zygote: ZygoteId, reason: str, now_s: float) -> None:  # noqa: B027
        """A zygote ended or could not be made."""

    # --- what is decided

    @abstractmethod
    def idled(self, idle: Idle, now_s: float) -> Verdict:
        """A sandbox has become idle, and was not used again before the node's timer went (0.25 s at most)."""

    def left(self, name: FunctionName, sandbox: SandboxId) -> None:  # noqa: B027
        """A sandbox that `idled` was asked about is idle no more: it serves, or ends, whoever wanted that."""

    @abstractmethod
    def due(self, idle: Idle, now_s: float) -> Verdict:
        """The time that was asked for has come, and it was idle all the while."""

    @abstractmethod
    def next_plan_s(self) -> float:
        """When `plan` may say something else than the last time; now or earlier: at once."""

    @abstractmethod
    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        """All zygotes that there should be, base zygotes first. Deterministic by the facts and the seed."""

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        """What is known of a function and why the last decisions were taken, for people."""
        return {}
