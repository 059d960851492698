"""What starting, importing and holding take on the virtual node, after a profile. Pure.

Mechanism FORK is Pagurus': a base zygote is always there and sandboxes are forked. FRESH is that of the papers which
policies come from: no base zygote, a cold start boots an interpreter in a container of its own, and so does each
generic stem cell, ahead of time; zygotes of packages fork as ours do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.scheduler.policy import OWN_CODE
from gateway.scheduler.sources import Mechanism
from gateway.simulate.profile import FunctionProfile, RuntimeProfile
from runtime.model import EnvironmentId, FunctionName, RuntimeName, StartKind
from runtime.protocol import EnsureZygote


@dataclass(frozen=True, slots=True)
class ZygoteCost:
    """One zygote. imports: modules. brought: the distributions that they bring in. import_ms: by module."""

    runtime: RuntimeName
    environments: frozenset[EnvironmentId]
    imports: frozenset[str]
    is_base: bool
    start_ms: float
    memory_bytes: int
    brought: frozenset[str] = frozenset()
    import_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StartCost:
    """One start: how it really was, from the lease to the handler's call, and what the sandbox holds when idle."""

    kind: StartKind
    ms: float
    memory_bytes: int


class Costs:
    """Of one runtime profile each, for all functions of a simulation."""

    def __init__(
        self,
        runtimes: Mapping[RuntimeName, RuntimeProfile],
        functions: Mapping[FunctionName, FunctionProfile],
        mechanism: Mechanism,
    ) -> None:
        self._runtimes = runtimes
        self._functions = functions
        self._is_fresh = mechanism is Mechanism.FRESH
        self._environments: dict[EnvironmentId, FunctionProfile] = {}
        for name in sorted(functions):
            environment = functions[name].environment
            if environment is not None:
                self._environments.setdefault(environment, functions[name])

    def warm_ms(self, name: FunctionName) -> float:
        """From the lease of an idle sandbox to the handler's call."""
        return self._runtimes[self._functions[name].runtime].warm_ms

    def zygote(self, wanted: EnsureZygote, *, is_base: bool) -> ZygoteCost:
        """A zygote: the boot of its interpreter, and each distribution once."""
        runtime = self._runtimes[wanted.runtime]
        boot_ms, boot_bytes = runtime.zygote_start_ms, runtime.zygote_memory_bytes
        if self._is_fresh:  # nothing stands for "the base": fresh interpreters come from there, each at its own cost
            boot_ms = 0.0 if is_base else runtime.process_ms
            boot_bytes = 0 if is_base else runtime.process_memory_bytes
        known = [self._environments[one] for one in wanted.environments if one in self._environments]
        brought: set[str] = set()
        import_ms = {}
        held_bytes = 0
        for module in wanted.imports:
            import_ms[module] = 0.0
            for profile in known:
                for name in profile.brought.get(module, ()):
                    cost = profile.costs.get(name)
                    if name not in brought and cost is not None:
                        import_ms[module] += cost.ms
                        held_bytes += cost.memory_bytes
                    brought.add(name)
        return ZygoteCost(
            runtime=wanted.runtime,
            environments=frozenset(wanted.environments),
            imports=frozenset(wanted.imports),
            is_base=is_base,
            start_ms=boot_ms + sum(import_ms.values()),
            memory_bytes=boot_bytes + held_bytes,
            brought=frozenset(brought),
            import_ms=import_ms,
        )

    def mounted(self, name: FunctionName, zygote: ZygoteCost) -> EnvironmentId | None:
        """The environment that is mounted ahead of the function's assignment: its own, or none."""
        environment = self._functions[name].environment
        return environment if environment in zygote.environments else None

    def standby_ms(self, zygote: ZygoteCost) -> float:
        """How long one standby takes to make."""
        runtime = self._runtimes[zygote.runtime]
        return runtime.process_ms if self._is_fresh and zygote.is_base else runtime.standby_ms

    def standby_bytes(self, zygote: ZygoteCost) -> int:
        """What a parked standby holds."""
        runtime = self._runtimes[zygote.runtime]
        return runtime.process_memory_bytes if self._is_fresh and zygote.is_base else runtime.standby_memory_bytes

    def start(
        self, name: FunctionName, zygote: ZygoteCost, *, is_standby: bool = False, is_pooled: bool = True
    ) -> StartCost:
        """A start by a standby of the zygote, or by a fork of it, into an empty sandbox of a pool or a new one.

        Cold when the sandbox has to boot an interpreter or to import a declared distribution itself, whatever the
        scheduler called it.
        """
        function, runtime = self._functions[name], self._runtimes[zygote.runtime]
        is_mounted = function.environment in zygote.environments
        lacks_imports = bool(function.imports) and not (is_mounted and zygote.imports.issuperset(function.imports))
        boots = self._is_fresh and zygote.is_base and not is_standby
        if not lacks_imports:
            import_ms, memory_bytes = function.helped_import_ms, function.helped_memory_bytes
        else:
            missing = self._missing(function, zygote.brought if is_mounted else frozenset())
            import_ms = sum(function.costs[one].ms for one in missing) + function.own_ms
            memory_bytes = function.cold_memory_bytes
            if is_mounted and zygote.brought:
                lent = sum(cost.memory_bytes for one, cost in function.costs.items() if one in zygote.brought)
                memory_bytes = max(function.helped_memory_bytes, memory_bytes - lent)
        if self._is_fresh and zygote.is_base:
            memory_bytes += runtime.process_memory_bytes  # an interpreter that shares nothing
        if boots:
            start_ms = runtime.process_ms
        elif is_standby:
            start_ms = runtime.assign_ms
        else:
            start_ms = runtime.fork_ms if is_pooled else runtime.unpooled_fork_ms
        kind = StartKind.COLD if lacks_imports or boots else StartKind.HELPED
        return StartCost(kind, start_ms + import_ms, memory_bytes)

    @staticmethod
    def _missing(function: FunctionProfile, brought: Iterable[str]) -> list[str]:
        return sorted(set(function.costs) - {OWN_CODE} - set(brought))
