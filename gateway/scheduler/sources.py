"""Where a start can come from: the live zygotes and the standbys. Pure."""

from dataclasses import dataclass

from gateway.scheduler.decisions import FunctionSpec
from runtime.model import EnvironmentId, RuntimeName, SandboxId, StartKind, ZygoteId


@dataclass(frozen=True, slots=True)
class Standby:
    """A parked sandbox. environment: the only one it can be assigned with; None takes any function."""

    sandbox: SandboxId
    zygote: ZygoteId
    runtime: RuntimeName
    environment: EnvironmentId | None


@dataclass(frozen=True, slots=True)
class LiveZygote:
    """A parked zygote. No environments: a base zygote."""

    id: ZygoteId
    runtime: RuntimeName
    environments: frozenset[EnvironmentId]


@dataclass(frozen=True, slots=True)
class Source:
    """One way to start: take `standby` if it is set, else fork from `zygote`."""

    kind: StartKind
    zygote: ZygoteId
    standby: SandboxId | None


class Sources:
    """Directory of live zygotes and standbys; chooses by the precedence of DESIGN section 4."""

    def __init__(self) -> None:
        self._zygotes: dict[ZygoteId, LiveZygote] = {}
        self._standbys: dict[SandboxId, Standby] = {}
        self._parked: dict[tuple[RuntimeName, EnvironmentId | None], dict[SandboxId, Standby]] = {}

    @property
    def zygotes(self) -> dict[ZygoteId, LiveZygote]:
        """The live zygotes by id; not to be changed."""
        return self._zygotes

    @property
    def standbys(self) -> dict[SandboxId, Standby]:
        """The parked standbys by id; not to be changed."""
        return self._standbys

    def add_zygote(self, zygote: LiveZygote) -> None:
        """A zygote is parked and can fork."""
        self._zygotes[zygote.id] = zygote

    def remove_zygote(self, zygote: ZygoteId) -> None:
        """A zygote cannot fork any more; its standbys are reported one by one."""
        self._zygotes.pop(zygote, None)

    def add_standby(self, standby: Standby) -> None:
        """A standby is parked."""
        self._standbys[standby.sandbox] = standby
        self._parked.setdefault((standby.runtime, standby.environment), {})[standby.sandbox] = standby

    def take_standby(self, sandbox: SandboxId) -> Standby | None:
        """Remove a standby: it gets a function or has died. None if it is not one."""
        standby = self._standbys.pop(sandbox, None)
        if standby is not None:
            key = (standby.runtime, standby.environment)
            parked = self._parked[key]
            del parked[sandbox]
            if not parked:
                del self._parked[key]
        return standby

    def choose(self, spec: FunctionSpec, avoid: frozenset[ZygoteId] = frozenset()) -> Source | None:
        """The best way to start the function now, without the zygotes in `avoid`; None if there is none."""
        bare = StartKind.HELPED if spec.environment is None else StartKind.COLD
        if spec.environment is not None:
            covered = self._standby_of(spec.runtime, spec.environment, StartKind.HELPED, avoid)
            covered = covered or self._fork_covering(spec.environment, spec.runtime, avoid)
            if covered:
                return covered
        parked = self._standby_of(spec.runtime, None, bare, avoid)
        return parked or self._fork_base(spec.runtime, bare, avoid)

    def _standby_of(
        self,
        runtime: RuntimeName,
        environment: EnvironmentId | None,
        kind: StartKind,
        avoid: frozenset[ZygoteId],
    ) -> Source | None:
        for standby in self._parked.get((runtime, environment), {}).values():
            if standby.zygote not in avoid:
                return Source(kind, standby.zygote, standby.sandbox)
        return None

    def _fork_covering(
        self, environment: EnvironmentId, runtime: RuntimeName, avoid: frozenset[ZygoteId]
    ) -> Source | None:
        covering = [
            zygote
            for zygote in self._zygotes.values()
            if environment in zygote.environments and zygote.runtime == runtime and zygote.id not in avoid
        ]
        if not covering:
            return None
        # The smallest union copies the fewest page tables.
        best = min(covering, key=lambda zygote: (len(zygote.environments), zygote.id))
        return Source(StartKind.HELPED, best.id, None)

    def _fork_base(self, runtime: RuntimeName, kind: StartKind, avoid: frozenset[ZygoteId]) -> Source | None:
        bases = [
            zygote.id
            for zygote in self._zygotes.values()
            if not zygote.environments and zygote.runtime == runtime and zygote.id not in avoid
        ]
        return Source(kind, min(bases), None) if bases else None
