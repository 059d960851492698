"""The policy of Pagurus itself: memory goes where it saves the most expected start time per byte. Pure.

With a base zygote always there, a start costs milliseconds where a zygote covers the function, and its imports
where none does. So idle sandboxes are worth little and covering zygotes much: sandboxes are kept for as long as a new
start would cost (the break-even of ski rental, Karlin et al. 1988: never more than twice the best), and the
environments of functions are packed into few zygotes, each environment as long as the start time that it is expected to
save is worth its memory. docs/decisions/adaptive.md says what was tried and what did not help.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar

from gateway.scheduler.arrival_rates import DecayingRate, GapHistogram
from gateway.scheduler.idle_memory import IdleMemory
from gateway.scheduler.packing import ZYGOTE_BYTES, Packed, Room, bytes_of, fill, pack_best, value_of
from gateway.scheduler.plan import base_zygote_id, package_zygote_id
from gateway.scheduler.policy import (
    OWN_CODE,
    FunctionModel,
    Idle,
    Policy,
    PolicySettings,
    Retire,
    Stay,
    Verdict,
    ZygoteSpec,
)
from runtime.model import EnvironmentId, FunctionName, RuntimeName, SandboxId, StartKind, ZygoteId
from runtime.protocol import StandbyTarget

HELPED_MS = 3.0  # a helped start, with all that it makes others wait for
COLD_MS = 10.0  # of a cold start beside the imports as they were measured: page faults, looking up files
HELPER_BYTES = 2_500_000  # private memory of an idle helper without code of its own
MEMORY_S = 3600.0  # how long arrivals count
HORIZON_S = 60.0  # between plans
QUIET_S = 0.2  # between plans of which each follows a change of the population
STAY_MIN_S, STAY_MAX_S = 1.0, 3600.0
PRESSURE_FROM = 0.5  # share of the budget from which on memory is dearer, without bound where all of it is taken
PRESSURE_CHECK_S = 5.0  # how often idle sandboxes are looked at then
REPACK_SHARE = 0.8  # zygotes that would do are packed anew when that takes less than this of their memory,
REPACK_VALUE = 1.1  # or, without room for all, when others would be worth this many times as much
KEEP_SHARE = 0.5  # what is held is dropped only below this share of what would make it be taken
STANDBY_RATES_PER_S = (0.05, 0.5)  # of starts, from which on there is one standby, two


@dataclass(slots=True)
class _Known:
    model: FunctionModel
    arrivals: DecayingRate
    starts: DecayingRate
    gaps: GapHistogram = field(default_factory=GapHistogram)
    sandboxes: int = 0
    why: str = ""


@dataclass(slots=True)
class _Environment:
    """One environment with its functions. costs: (name, version) -> bytes."""

    id: EnvironmentId
    runtime: RuntimeName
    model: FunctionModel
    import_ms: float
    import_mb: float
    costs: dict[tuple[str, str], int]
    functions: list[_Known] = field(default_factory=list)

    def set_apart(self) -> None:
        """Functions of several tenants have it: a zygote of nothing else may help them all."""
        self.model = replace(self.model, tenant=f"={self.id}")

    @classmethod
    def of(cls, known: _Known, environment: EnvironmentId) -> "_Environment":
        model = known.model
        costs = {(name, version): model.cost(name).memory_bytes for name, version in model.distributions.items()}
        return cls(environment, model.runtime, model, model.import_ms, sum(costs.values()) / 1e6, costs)


class Adaptive(Policy):
    """See the module. Settings used: zygotes_max, standbys, memory_bytes, price_ms_per_mb_s, cold_weight, seed.

    choice: `random` lets chance alone say whom the zygotes have, to see what choosing is worth; else the best.
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> None:
        super().__init__(settings, runtimes)
        self._known: dict[FunctionName, _Known] = {}
        self._bare: dict[RuntimeName, DecayingRate] = {}
        self._held: dict[EnvironmentId, str] = {}  # with why
        self._no_room: set[EnvironmentId] = set()  # worth their memory, but others more
        self._up: dict[ZygoteId, int] = {}  # bytes
        self._standby_bytes = 0
        self._idle = IdleMemory()
        self._groups: list[Packed] = []
        self._alone: set[EnvironmentId] = set()
        self._environments: dict[EnvironmentId, _Environment] | None = None
        self._grouped: object = None  # what the groups were made from
        self._changed_s: float | None = None  # None: plan at once
        self._planned_s = float("-inf")
        self._plan_s = 0.0

    # --- what is told

    def put_function(self, model: FunctionModel, now_s: float) -> None:
        known = self._known.get(model.name)
        if known is None:
            self._known[model.name] = _Known(model, DecayingRate(MEMORY_S, now_s), DecayingRate(MEMORY_S, now_s))
        else:
            known.model = model
        self._environments = None
        self._note_change(now_s)

    def remove_function(self, name: FunctionName, now_s: float) -> None:
        if self._known.pop(name, None) is not None:
            self._environments = None
            self._note_change(now_s)

    def set_runtimes(self, runtimes: Sequence[RuntimeName], now_s: float) -> None:
        super().set_runtimes(runtimes, now_s)
        self._changed_s = self._environments = None

    def arrived(self, name: FunctionName, now_s: float) -> None:
        known = self._known.get(name)
        if known is not None:
            known.arrivals.add(now_s)
            known.gaps.add(now_s)
            if not self._is_settled(known.model.environment):
                self._plan_s = min(self._plan_s, now_s + STAY_MIN_S)  # it was given up, and is wanted again

    def started(self, name: FunctionName, kind: StartKind, zygote: ZygoteId | None, now_s: float) -> None:
        known = self._known.get(name)
        if known is None:
            return
        known.starts.add(now_s)
        if known.model.environment is None or kind is StartKind.COLD:
            self._bare.setdefault(known.model.runtime, DecayingRate(MEMORY_S, now_s)).add(now_s)

    def sandboxes(self, name: FunctionName, count: int, now_s: float) -> None:
        known = self._known.get(name)
        if known is not None:
            known.sandboxes = count

    def zygote_up(self, zygote: ZygoteId, memory_bytes: int, start_ms: float, now_s: float) -> None:
        self._up[zygote] = memory_bytes

    def zygote_down(self, zygote: ZygoteId, reason: str, now_s: float) -> None:
        self._up.pop(zygote, None)

    def uncovered(self, zygote: ZygoteId, environments: Collection[EnvironmentId], now_s: float) -> bool:
        fresh = set(environments) - self._alone
        if fresh:
            self._alone |= fresh
            self._changed_s = None
        return True

    # --- what is decided

    def idled(self, idle: Idle, now_s: float) -> Verdict:
        return self.due(idle, now_s)

    def left(self, name: FunctionName, sandbox: SandboxId) -> None:
        self._idle.release(sandbox)

    def due(self, idle: Idle, now_s: float) -> Verdict:
        known = self._known.get(idle.function)
        self._idle.release(idle.sandbox)
        if known is None:
            return Retire("its function is gone")
        held_bytes, pressure = self._sandbox_bytes(known, idle), self._pressure()
        stay_s = self._stay_s(known, held_bytes, pressure, now_s)
        left_s = idle.idle_since_s + stay_s - now_s
        if pressure >= 1.0:
            known.why = f"the memory budget of {self.settings.memory_bytes} bytes is taken"
        elif left_s <= 1e-6:
            known.why = f"idle for {stay_s:.1f} s, when a new start costs less than its memory"
        else:
            if pressure > PRESSURE_FROM:
                left_s = min(left_s, PRESSURE_CHECK_S)
            self._idle.hold(idle.sandbox, held_bytes)
            return Stay(now_s + left_s)
        return Retire(known.why)

    def next_plan_s(self) -> float:
        if self._changed_s is None:
            return 0.0
        return min(self._plan_s, self._changed_s)

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        if self._changed_s is not None and self._changed_s <= now_s:
            self._planned_s = now_s
        self._changed_s, self._plan_s = float("inf"), now_s + HORIZON_S
        environments = self._all_environments()
        values = {one.id: self._value(one, now_s) for one in environments.values()}
        worthy = self._choose(environments, values)
        self._regroup([environments[one] for one in worthy], values)
        placed = {one for group in self._groups for one in group.members}
        self._held = {one: why for one, why in worthy.items() if one in placed}
        self._no_room = worthy.keys() - placed
        specs = [self._base(runtime, now_s) for runtime in self.runtimes]
        for group in self._groups:
            specs.append(self._spec(group, environments, now_s))
        self._standby_bytes = HELPER_BYTES * sum(target.count for spec in specs for target in spec.standbys)
        return specs

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        known = self._known.get(name)
        if known is None:
            return {}
        environment = known.model.environment
        return {
            "arrivals_per_s": known.arrivals.per_s(now_s),
            "starts_per_s": known.starts.per_s(now_s),
            "arrival_within_horizon": known.gaps.within(HORIZON_S, now_s),
            "stay_s": self._stay_s(known, HELPER_BYTES + _own_bytes(known.model), self._pressure(), now_s),
            "memory_pressure": round(self._pressure(), 3),
            "sandboxes": known.sandboxes,
            "import_ms": known.model.import_ms,
            "preloaded": environment is None or environment in self._held,
            "why_preloaded": self._why_preloaded(environment),
            "why_retired": known.why,
        }

    # --- sandboxes

    def _stay_s(self, known: _Known, held_bytes: int, pressure: float, now_s: float) -> float:
        """How long an idle sandbox is worth its memory: what a new start would cost over what it costs to hold.

        Twice that where arrivals come faster, a fifth where they do not come in that time mostly.
        """
        model = known.model
        own = model.costs.get(OWN_CODE)
        start_ms = HELPED_MS + (own.ms if own else 0.0)
        if model.environment is not None and model.environment not in self._held:
            start_ms += (COLD_MS + model.import_ms) * self.settings.cold_weight
        price = self.settings.price_ms_per_mb_s / min(1.0, max((1.0 - pressure) / (1.0 - PRESSURE_FROM), 1e-6))
        even_s = start_ms / (price * held_bytes / 1e6)
        even_s *= 2.0 if known.arrivals.per_s(now_s) * even_s >= 1.0 else 0.2
        return min(max(even_s, STAY_MIN_S), STAY_MAX_S)

    def _sandbox_bytes(self, known: _Known, idle: Idle) -> int:
        imported = known.model.import_bytes if idle.kind is StartKind.COLD else 0
        return HELPER_BYTES + _own_bytes(known.model) + imported

    def _pressure(self) -> float:
        """Share of the budget that zygotes, standbys and idle sandboxes have taken."""
        taken = sum(self._up.values()) + self._standby_bytes + self._idle.total_bytes
        return taken / max(1, self.settings.memory_bytes)

    # --- zygotes

    def _is_settled(self, environment: EnvironmentId | None) -> bool:
        """Whether a new arrival would change nothing: it is held, or there is no room for it."""
        return environment is None or environment in self._held or environment in self._no_room

    def _why_preloaded(self, environment: EnvironmentId | None) -> str:
        if environment is None:
            return "it needs no packages"
        full = f"no room: zygotes_max {self.settings.zygotes_max}, {self.settings.memory_bytes} bytes; others save more"
        return self._held.get(environment, full if environment in self._no_room else "")

    def _note_change(self, now_s: float) -> None:
        """Plan now, but of many changes at once not for each."""
        if self._changed_s is not None:
            self._changed_s = min(self._changed_s, max(now_s, self._planned_s + QUIET_S))

    def _all_environments(self) -> dict[EnvironmentId, _Environment]:
        """Those of the functions, made anew when the population has changed."""
        if self._environments is None:
            found: dict[EnvironmentId, _Environment] = {}
            for name in sorted(self._known):
                known = self._known[name]
                environment = known.model.environment
                if environment is None or known.model.runtime not in self.runtimes:
                    continue
                if environment not in found:
                    found[environment] = _Environment.of(known, environment)
                elif found[environment].model.group != known.model.group:
                    found[environment].set_apart()
                found[environment].functions.append(known)
            self._environments = found
        return self._environments

    def _choose(
        self, environments: dict[EnvironmentId, _Environment], values: dict[EnvironmentId, float]
    ) -> dict[EnvironmentId, str]:
        """Environments worth their memory, the best first; each with why."""
        order = sorted(environments.values(), key=lambda one: (-values[one.id] / max(1.0, one.import_mb), one.id))
        worthy: dict[EnvironmentId, str] = {}
        seen: set[tuple[RuntimeName, tuple[str, str]]] = set()
        for one in order:
            fresh_mb = sum(size for pin, size in one.costs.items() if (one.runtime, pin) not in seen) / 1e6
            price = self.settings.price_ms_per_mb_s * max(fresh_mb, 0.1)
            wanted = price * (KEEP_SHARE if one.id in self._held else 1.0)
            if values[one.id] < wanted:
                continue
            seen.update((one.runtime, pin) for pin in one.costs)
            worthy[one.id] = f"saves {values[one.id]:.3g} ms/s (weighted) for {fresh_mb:.1f} MB at {price:.3g} ms/s"
        return worthy

    def _value(self, one: _Environment, now_s: float) -> float:
        """Expected start time saved per second, cold starts weighted: ms/s."""
        rate = 0.0
        for known in one.functions:
            soon = known.gaps.within(HORIZON_S, now_s)
            per_s = max(known.starts.per_s(now_s), (soon or 0.0) / HORIZON_S)
            rate += min(per_s, max(known.arrivals.per_s(now_s), 1e-9)) if soon is None else per_s
        return rate * (COLD_MS + one.import_ms) * self.settings.cold_weight

    def _regroup(self, worthy: Sequence[_Environment], values: dict[EnvironmentId, float]) -> None:
        """Keep zygotes that would do; what is new joins or gets one of its own, until packing anew is better enough."""
        made_from = ({one.id: one.model for one in worthy}, frozenset(self._alone), self.runtimes)
        if made_from == self._grouped:
            return
        models, room = made_from[0], self._room()
        kept = [group.only(models) for group in self._groups]
        kept = [group for group in kept if group.members]
        placed = {one for group in kept for one in group.members}
        fresh = [model for one, model in models.items() if one not in placed]
        current = self._beside(kept, fresh, values, room)
        ideal = self._pack(list(models.values()), values, room)
        is_split = any(one in self._alone and len(group.members) > 1 for group in current for one in group.members)
        if is_split or not self._groups or not room.holds(current) or _is_better(ideal, current, values):
            current = ideal
        self._groups = current
        is_whole = sum(len(group.members) for group in current) == len(models)
        self._grouped = made_from if is_whole else None  # without room for all, rates decide, and those change

    def _beside(
        self, kept: list[Packed], fresh: Sequence[FunctionModel], values: dict[EnvironmentId, float], room: Room
    ) -> list[Packed]:
        """New ones beside the kept zygotes, which need not be made anew; within them where there is no other room."""
        rest = Room(room.zygotes - len(kept), room.memory_bytes - bytes_of(kept))
        beside = [*kept, *self._pack(fresh, values, rest)]
        placed = {one for group in beside for one in group.members}
        return fill(beside, [model for model in fresh if model.environment not in placed], alone=self._alone, room=room)

    def _pack(self, models: Sequence[FunctionModel], values: dict[EnvironmentId, float], room: Room) -> list[Packed]:
        if self.settings.choice != "random":
            return pack_best(models, values, room, alone=self._alone)
        order = sorted(models, key=lambda model: Random(f"{self.settings.seed}/{model.environment}").random())  # noqa: S311
        return fill([], order, alone=self._alone, room=room)

    def _room(self) -> Room:
        """What is left for zygotes with packages: base zygotes, and a standby each, are always there."""
        base_bytes = (ZYGOTE_BYTES + HELPER_BYTES) * len(self.runtimes)
        return Room(max(0, self.settings.zygotes_max - len(self.runtimes)), self.settings.memory_bytes - base_bytes)

    def _spec(self, group: Packed, environments: dict[EnvironmentId, _Environment], now_s: float) -> ZygoteSpec:
        ids = sorted(group.members)
        targets, functions = [], set()
        for one in ids:
            starts = sum(known.starts.per_s(now_s) for known in environments[one].functions)
            count = sum(starts >= rate for rate in STANDBY_RATES_PER_S)
            targets.append(StandbyTarget(environment=one, count=min(count, self.settings.standbys)))
            functions |= {known.model.name for known in environments[one].functions}
        imports = sorted({module for one in ids for module in group.members[one].imports})
        return ZygoteSpec(
            package_zygote_id(group.runtime, ids),
            group.runtime,
            tuple(ids),
            tuple(imports),
            tuple(targets),
            functions=frozenset(functions),
            why="; ".join(f"{one[:8]} {self._held[one]}" for one in ids)[:500],
        )

    def _base(self, runtime: RuntimeName, now_s: float) -> ZygoteSpec:
        rate = self._bare[runtime].per_s(now_s) if runtime in self._bare else 0.0
        count = min(max(1, sum(rate >= limit for limit in STANDBY_RATES_PER_S)), self.settings.standbys)
        targets = (StandbyTarget(environment=None, count=count),)
        return ZygoteSpec(base_zygote_id(runtime), runtime, (), (), targets, why="every start may need it")


def _is_better(ideal: Sequence[Packed], current: Sequence[Packed], values: dict[EnvironmentId, float]) -> bool:
    """Whether making all zygotes anew is worth it."""
    then, now = value_of(ideal, values), value_of(current, values)
    return then > REPACK_VALUE * now or (then >= now and bytes_of(ideal) < REPACK_SHARE * bytes_of(current))


def _own_bytes(model: FunctionModel) -> int:
    own = model.costs.get(OWN_CODE)
    return own.memory_bytes if own else 0
