"""Where a start can come from: the live zygotes and the standbys. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gateway.scheduler.policy import FunctionModel
from runtime import trust
from runtime.model import DEFAULT_TENANT, EnvironmentId, FunctionName, RuntimeName, SandboxId, StartKind, ZygoteId


class Mechanism(Enum):
    """How a sandbox comes to be where no zygote covers its function.

    FORK: from the base zygote, always there, which makes all starts of functions without packages helped ones.
    FRESH: a fresh interpreter, as in the papers that policies come from; the simulator's only.
    """

    FORK = "pagurus"
    FRESH = "paper"


@dataclass(frozen=True, slots=True)
class Standby:
    """A parked sandbox. environment: the only one it can be assigned with; None takes any function."""

    sandbox: SandboxId
    zygote: ZygoteId
    runtime: RuntimeName
    environment: EnvironmentId | None


@dataclass(frozen=True, slots=True)
class LiveZygote:
    """A parked zygote. No environments: a base zygote.

    environments: those whose declared modules it has all imported. saves_ms: of others that it can start, what it has
    imported already. functions, owner: as the policy's spec has them.
    tenants, packages: who has chosen all of it, and what of it not everybody trusts (runtime.trust); None: not known.
    """

    id: ZygoteId
    runtime: RuntimeName
    environments: frozenset[EnvironmentId]
    saves_ms: Mapping[EnvironmentId, float] = field(default_factory=dict)
    functions: frozenset[FunctionName] = frozenset()
    owner: FunctionName | None = None
    tenants: frozenset[str] = frozenset((DEFAULT_TENANT,))
    packages: frozenset[str] | None = None

    def may_help(self, spec: FunctionModel) -> bool:
        """Whether the rule of tenants lets a function come from here."""
        if self.is_base or spec.tenant in self.tenants:
            return True
        if self.packages is None or spec.packages is None:
            return False
        return trust.may_help(self.packages, self.tenants, own=spec.packages, tenant=spec.tenant)

    @property
    def is_base(self) -> bool:
        """Whether it holds the standard library only."""
        return not (self.environments or self.saves_ms or self.functions or self.packages)


@dataclass(frozen=True, slots=True)
class Source:
    """One way to start: take `standby` if it is set, else fork from `zygote`."""

    kind: StartKind
    zygote: ZygoteId
    standby: SandboxId | None


class Sources:
    """Directory of live zygotes and standbys; chooses by the precedence of DESIGN section 4.

    A start is cold when the sandbox has to boot an interpreter or to import a declared distribution itself. A zygote
    that the rule of tenants forbids is as if it were not there: every way below asks `may_help`.
    """

    def __init__(self, mechanism: Mechanism = Mechanism.FORK) -> None:
        self._mechanism = mechanism
        self._zygotes: dict[ZygoteId, LiveZygote] = {}
        self._standbys: dict[SandboxId, Standby] = {}
        self._parked: dict[tuple[RuntimeName, EnvironmentId | None], dict[SandboxId, Standby]] = {}
        self._covering: dict[EnvironmentId, dict[ZygoteId, LiveZygote]] = {}
        self._partial: dict[EnvironmentId, dict[ZygoteId, LiveZygote]] = {}
        self._meant: dict[FunctionName, dict[ZygoteId, LiveZygote]] = {}
        self._bases: dict[RuntimeName, dict[ZygoteId, LiveZygote]] = {}
        self._used_s: dict[ZygoteId, float] = {}

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
        used_s = self.used_s(zygote.id)
        self.remove_zygote(zygote.id)
        self._used_s[zygote.id] = used_s
        self._zygotes[zygote.id] = zygote
        for index in self._indexes(zygote):
            index[zygote.id] = zygote

    def remove_zygote(self, zygote: ZygoteId) -> None:
        """A zygote cannot fork any more; its standbys are reported one by one."""
        self._used_s.pop(zygote, None)
        known = self._zygotes.pop(zygote, None)
        if known is not None:
            for index in self._indexes(known):
                index.pop(zygote, None)

    def note_use(self, zygote: ZygoteId, now_s: float) -> None:
        """A start came from it, by a standby or by a fork."""
        self._used_s[zygote] = now_s

    def used_s(self, zygote: ZygoteId) -> float:
        """When that was last so; minus infinity: never."""
        return self._used_s.get(zygote, float("-inf"))

    def _indexes(self, zygote: LiveZygote) -> list[dict[ZygoteId, LiveZygote]]:
        found = [self._covering.setdefault(one, {}) for one in zygote.environments]
        found += [self._partial.setdefault(one, {}) for one in zygote.saves_ms]
        found += [self._meant.setdefault(one, {}) for one in zygote.functions]
        return [*found, self._bases.setdefault(zygote.runtime, {})] if zygote.is_base else found

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

    def kind_from(self, spec: FunctionModel, zygote: ZygoteId) -> StartKind:
        """How a sandbox of the function that came from this zygote was started."""
        known = self._zygotes.get(zygote)
        if spec.environment is None:
            return StartKind.HELPED
        return StartKind.HELPED if known and spec.environment in known.environments else StartKind.COLD

    def choose(self, spec: FunctionModel, avoid: frozenset[ZygoteId] = frozenset()) -> Source | None:
        """The best way to start the function now, without the zygotes in `avoid`; None if there is none.

        A standby that covers it, the smallest zygote that does (its own before others), one that has imported the
        most of what it needs, a bare standby, the base zygote.
        """
        if spec.environment is not None:
            found = self._standby_of(spec, spec.environment, StartKind.HELPED, avoid)
            found = found or self._fork_covering(spec, avoid) or self._fork_partial(spec, avoid)
        else:
            found = self._fork_meant(spec, avoid) if self._mechanism is Mechanism.FRESH else None
        return found or self._bare(spec, avoid)

    def covering(self, spec: FunctionModel) -> list[LiveZygote]:
        """All zygotes from which a start would be helped, the preferred first."""
        if spec.environment is None:
            return sorted(self._bases.get(spec.runtime, {}).values(), key=lambda zygote: zygote.id)
        covering = self._covering.get(spec.environment, {}).values()
        found = (one for one in covering if one.runtime == spec.runtime and one.may_help(spec))
        return sorted(found, key=lambda one: _rank(one, spec))

    def _standby_of(
        self,
        spec: FunctionModel,
        environment: EnvironmentId | None,
        kind: StartKind,
        avoid: frozenset[ZygoteId],
    ) -> Source | None:
        for standby in self._parked.get((spec.runtime, environment), {}).values():
            zygote = self._zygotes.get(standby.zygote)
            if zygote is None and environment is not None:
                continue  # its zygote has ended: nobody knows any more what it held
            if standby.zygote not in avoid and (zygote is None or zygote.may_help(spec)):
                return Source(kind, standby.zygote, standby.sandbox)
        return None

    def _fork_covering(self, spec: FunctionModel, avoid: frozenset[ZygoteId]) -> Source | None:
        best = next((zygote for zygote in self.covering(spec) if zygote.id not in avoid), None)
        return Source(StartKind.HELPED, best.id, None) if best else None

    def _fork_partial(self, spec: FunctionModel, avoid: frozenset[ZygoteId]) -> Source | None:
        assert spec.environment is not None
        partial = self._partial.get(spec.environment, {}).values()
        found = [one for one in partial if one.runtime == spec.runtime and one.id not in avoid and one.may_help(spec)]
        if not found:
            return None
        best = min(found, key=lambda one: (-one.saves_ms[spec.environment], one.id))  # type: ignore[index]
        return Source(StartKind.COLD, best.id, None)

    def _fork_meant(self, spec: FunctionModel, avoid: frozenset[ZygoteId]) -> Source | None:
        meant = [one for one in self._meant.get(spec.name, {}).values() if one.id not in avoid and one.may_help(spec)]
        return Source(StartKind.HELPED, min(meant, key=lambda one: _rank(one, spec)).id, None) if meant else None

    def _bare(self, spec: FunctionModel, avoid: frozenset[ZygoteId]) -> Source | None:
        has_all = spec.environment is None
        kind = StartKind.HELPED if has_all else StartKind.COLD
        parked = self._standby_of(spec, None, kind, avoid)
        if parked:
            return parked
        bases = [zygote for zygote in self._bases.get(spec.runtime, {}) if zygote not in avoid]
        if self._mechanism is Mechanism.FRESH:
            kind = StartKind.COLD
        return Source(kind, min(bases), None) if bases else None


def _rank(zygote: LiveZygote, spec: FunctionModel) -> tuple[bool, int, ZygoteId]:
    """Its own first, then the smallest union: it copies the fewest page tables."""
    return (zygote.owner != spec.name, len(zygote.environments), zygote.id)
