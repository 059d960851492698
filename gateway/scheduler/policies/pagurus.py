"""The paper's policy: help rather than recycle. Pure.

Source: Z. Li et al., Help Rather Than Recycle, USENIX ATC 2022, by what is known of it and of its artefact
(research/pagurus-reference.md, 2.1 to 2.6). An executor that is idle by rule A or B (gateway.scheduler.demand) gives
way to a zygote, which its function then owns and which holds what similar functions need (gateway.scheduler.lending).

An executor is a sandbox that was started cold. One that came from a zygote is a helper, even from its own function's:
it serves until `helper_keep_alive_s` and becomes no zygote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gateway.scheduler.demand import Demand, Finding
from gateway.scheduler.lending import CHOICES, LentZygote, Population, SpecMaker
from gateway.scheduler.lifetime import UNKNOWN_FUNCTION, describe, keep_for
from gateway.scheduler.plan import base_specs
from gateway.scheduler.policy import FunctionModel, Idle, Policy, PolicySettings, Retire, Stay, Verdict, ZygoteSpec
from runtime.errors import ConfigError
from runtime.model import FunctionName, RuntimeName, SandboxId, StartKind, ZygoteId

CHECK_S = 2.0  # the reference's housekeeping tick: an idle executor is looked at no more often
UP_CHECK_S = 1.0  # how often an executor asks whether its zygote is up
SETTLE_S = 2.0  # zygotes follow the deployed functions after this, so that a series of deploys rebuilds them once


@dataclass(slots=True, eq=False)
class _Function:
    demand: Demand
    zygotes: list[LentZygote] = field(default_factory=list)
    verdict: Verdict | None = None
    decided_s: float = 0.0
    why: str = ""


class Paper(Policy):
    """Idle executors become zygotes that help similar functions, within limits.

    Settings: keep_alive_s (executors), helper_keep_alive_s, zygote_keep_alive_s, zygotes_per_function, zygotes_max
    (base zygotes count), memory_bytes (no further zygote while those there are hold as much), idle_*, qos_*, ewma_old,
    similar_max, helped_max, period_s, choice, inherits_last_use, standbys, seed.
    Raises ConfigError for an unknown `choice` or a period that is not positive.
    """

    name: ClassVar[str] = "pagurus"

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> None:
        super().__init__(settings, runtimes)
        if settings.choice not in CHOICES:
            raise ConfigError(f"unknown choice {settings.choice!r}", hint=f"choose one of {', '.join(CHOICES)}")
        if settings.period_s <= 0.0:
            raise ConfigError(f"period_s is {settings.period_s:g}", hint="it must be positive")
        self._functions: dict[FunctionName, _Function] = {}
        self._population = Population()
        self._zygotes: list[LentZygote] = []  # the oldest first
        self._by_id: dict[ZygoteId, LentZygote] = {}  # with former ids, until those are down
        self._converting: dict[SandboxId, LentZygote] = {}
        self._up: dict[ZygoteId, int] = {}  # bytes
        self._plan_due_s = -math.inf
        self._period = 0
        self._period_ends_s: float | None = None

    # --- what is told

    def put_function(self, model: FunctionModel, now_s: float) -> None:
        if model.name not in self._functions:
            self._functions[model.name] = _Function(Demand(self.settings))
        if self._population.put(model) and self._zygotes:
            self._plan_due_s = min(self._plan_due_s, now_s + SETTLE_S)

    def remove_function(self, name: FunctionName, now_s: float) -> None:
        function = self._functions.pop(name, None)
        if function is None:
            return
        self._population.remove(name)
        if self._zygotes:
            self._plan_due_s = min(self._plan_due_s, now_s + SETTLE_S)
        for zygote in list(function.zygotes):
            self._forget(zygote)
            self._plan_due_s = -math.inf

    def arrived(self, name: FunctionName, now_s: float) -> None:
        function = self._functions.get(name)
        if function is not None:
            function.demand.arrived(now_s)

    def started(self, name: FunctionName, kind: StartKind, zygote: ZygoteId | None, now_s: float) -> None:
        lent = self._by_id.get(zygote) if zygote is not None else None
        if lent is not None:
            lent.used_s = now_s
        function = self._functions.get(name)
        if function is not None and kind is not StartKind.WARM:
            function.demand.misses += 1

    def finished(self, name: FunctionName, service_s: float, latency_s: float, now_s: float) -> None:
        function = self._functions.get(name)
        if function is not None:
            function.demand.finished(service_s, latency_s)

    def sandboxes(self, name: FunctionName, count: int, now_s: float) -> None:
        function = self._functions.get(name)
        if function is not None:
            function.demand.sandboxes = count

    def zygote_up(self, zygote: ZygoteId, memory_bytes: int, start_ms: float, now_s: float) -> None:
        self._up[zygote] = memory_bytes

    def zygote_down(self, zygote: ZygoteId, reason: str, now_s: float) -> None:
        """The node makes a wanted one again; until it is up, its executor stays."""
        self._up.pop(zygote, None)
        lent = self._by_id.get(zygote)
        if lent is not None and (lent.spec is None or lent.spec.id != zygote):
            del self._by_id[zygote]

    # --- what is decided

    def idled(self, idle: Idle, now_s: float) -> Verdict:
        function = self._functions.get(idle.function)
        if function is None:
            return Retire(UNKNOWN_FUNCTION)
        function.verdict, function.why = self._judge(function, idle, now_s)
        function.decided_s = now_s
        return function.verdict

    def due(self, idle: Idle, now_s: float) -> Verdict:
        return self.idled(idle, now_s)

    def next_plan_s(self) -> float:
        due_s = self._plan_due_s
        if due_s == -math.inf or self._period_ends_s is None:
            return due_s
        return min(due_s, self._period_ends_s, *map(self._expires_s, self._zygotes))

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        self._renew_period(now_s)
        self._plan_due_s = math.inf
        for zygote in list(self._zygotes):
            model = self._population.get(zygote.owner)
            if model is None or model.runtime not in self.runtimes or now_s >= self._expires_s(zygote):
                self._forget(zygote)
        maker = SpecMaker(self._population, self.settings, self._misses, self._period)
        for zygote in self._zygotes:
            if zygote.population != self._population.changes:
                zygote.candidates = self._population.candidates(zygote.owner, self.settings)
                zygote.population = self._population.changes
            zygote.spec = maker.spec(zygote)
            self._by_id[zygote.spec.id] = zygote
        return [*base_specs(self.runtimes), *(zygote.spec for zygote in self._zygotes if zygote.spec is not None)]

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        function = self._functions.get(name)
        if function is None:
            return {}
        specs = [zygote.spec for zygote in self._zygotes if zygote.spec is not None]
        last = f"{describe(function.verdict, function.decided_s)}; {function.why}" if function.verdict else ""
        return {
            "policy": self.name,
            **function.demand.describe(now_s),
            "zygotes": [self._describe(zygote, now_s) for zygote in function.zygotes],
            "helped_by": [spec.id for spec in specs if name in spec.functions and spec.owner != name],
            "converting": sum(zygote.executor is not None for zygote in function.zygotes),
            "period_ends_s": self._period_ends_s,
            "last_decision": last,
        }

    # --- inside

    def _judge(self, function: _Function, idle: Idle, now_s: float) -> tuple[Verdict, str]:
        settings = self.settings
        if idle.kind in (StartKind.HELPED, StartKind.RESTORED):
            return keep_for(idle, settings.helper_keep_alive_s, now_s, what="the helpers' keep-alive"), "a helper"
        lifetime = keep_for(idle, settings.keep_alive_s, now_s)
        lent = self._converting.get(idle.sandbox)
        if lent is not None and self._is_up(lent):
            self._end_conversion(lent)
            lifetime = Retire(f"its zygote is up ({lent.reason})")
        if isinstance(lifetime, Retire):
            if lent is not None:
                self._end_conversion(lent)
            return lifetime, "an executor"
        if lent is not None:
            return Stay(min(lifetime.until_s, now_s + UP_CHECK_S)), f"its zygote is not up yet ({lent.reason})"
        return self._look(function, idle, now_s, lifetime)

    def _look(self, function: _Function, idle: Idle, now_s: float, lifetime: Stay) -> tuple[Verdict, str]:
        """Whether an executor is idle by the rules, and then whether it may become a zygote."""
        finding = self._find(function, idle, now_s)
        idle_after_s = max(function.demand.idle_after_s(), CHECK_S)
        if not finding.is_idle:
            again_s = max(idle.idle_since_s + idle_after_s, now_s + CHECK_S)
            return Stay(min(lifetime.until_s, again_s)), finding.why
        obstacle = self._obstacle(function, idle.function, now_s)
        if obstacle:
            return Stay(min(lifetime.until_s, now_s + idle_after_s)), f"{finding.why}; no zygote: {obstacle}"
        self._convert(function, idle, now_s, finding.why)
        return Stay(min(lifetime.until_s, now_s + UP_CHECK_S)), f"{finding.why}; its zygote is made"

    def _find(self, function: _Function, idle: Idle, now_s: float) -> Finding:
        rule_a = function.demand.rule_a(now_s - idle.idle_since_s)
        if rule_a.is_idle and now_s - idle.idle_since_s >= CHECK_S:
            return rule_a
        pending = sum(zygote.executor is not None for zygote in function.zygotes)
        rule_b = function.demand.rule_b(function.demand.sandboxes - pending, now_s)
        return rule_b if rule_b.is_idle else Finding(False, f"{rule_a.why}; {rule_b.why}")

    def _obstacle(self, function: _Function, name: FunctionName, now_s: float) -> str:
        """Why the function may not own a further zygote now, or ''."""
        settings, model = self.settings, self._population.get(name)
        held_bytes = sum(self._up.values())
        last_s = function.demand.last_arrival_s
        if model is None or model.runtime not in self.runtimes:
            return "its runtime is gone"
        if len(function.zygotes) >= settings.zygotes_per_function:
            return f"zygotes_per_function is {settings.zygotes_per_function}"
        if len(self._zygotes) + len(self.runtimes) >= settings.zygotes_max:
            return f"zygotes_max is {settings.zygotes_max}"
        if held_bytes >= settings.memory_bytes:
            return f"zygotes hold {held_bytes} bytes, memory_bytes is {settings.memory_bytes}"
        if settings.inherits_last_use and last_s is not None and now_s >= last_s + settings.zygote_keep_alive_s:
            return f"its last request came {now_s - last_s:.0f} s ago"
        return ""

    def _convert(self, function: _Function, idle: Idle, now_s: float, reason: str) -> None:
        taken = {zygote.number for zygote in function.zygotes}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        lent = LentZygote(idle.function, number, now_s, now_s, reason, executor=idle.sandbox)
        function.zygotes.append(lent)
        self._zygotes.append(lent)
        self._zygotes.sort(key=lambda zygote: (zygote.made_s, zygote.owner, zygote.number))
        self._converting[idle.sandbox] = lent
        self._plan_due_s = -math.inf

    def _end_conversion(self, lent: LentZygote) -> None:
        if lent.executor is not None:
            self._converting.pop(lent.executor, None)
            lent.executor = None

    def _forget(self, lent: LentZygote) -> None:
        self._end_conversion(lent)
        self._zygotes.remove(lent)
        self._by_id = {zygote: known for zygote, known in self._by_id.items() if known is not lent}
        function = self._functions.get(lent.owner)
        if function is not None:
            function.zygotes.remove(lent)

    def _is_up(self, lent: LentZygote) -> bool:
        return lent.spec is not None and lent.spec.id in self._up

    def _expires_s(self, lent: LentZygote) -> float:
        """From its last use, or as in the reference, where replacements inherit it, from its owner's last request."""
        used_s = lent.used_s
        if self.settings.inherits_last_use:
            function = self._functions.get(lent.owner)
            last_s = function.demand.last_arrival_s if function is not None else None
            used_s = lent.made_s if last_s is None else last_s
        return used_s + self.settings.zygote_keep_alive_s

    def _renew_period(self, now_s: float) -> None:
        period_s = self.settings.period_s
        if self._period_ends_s is None:
            self._period_ends_s = now_s + period_s
        elif now_s >= self._period_ends_s:
            passed = int((now_s - self._period_ends_s) // period_s) + 1
            self._period += passed
            self._period_ends_s += passed * period_s
            for function in self._functions.values():
                function.demand.renew()

    def _misses(self, name: FunctionName) -> int:
        function = self._functions.get(name)
        return function.demand.last_misses if function is not None else 0

    def _describe(self, lent: LentZygote, now_s: float) -> dict[str, object]:
        return {
            "id": lent.spec.id if lent.spec is not None else None,
            "is_up": self._is_up(lent),
            "candidates": len(lent.candidates),
            "helps": sorted(lent.spec.functions - {lent.owner}) if lent.spec is not None else [],
            "expires_in_s": self._expires_s(lent) - now_s,
            "why": lent.reason,
        }
