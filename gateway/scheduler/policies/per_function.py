"""Several policies on one node: each function has the node's, or the one that it was deployed with. Pure.

Each policy knows its own functions only. What they plan is put together; the same zygote, planned twice, is one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import ClassVar

from gateway.scheduler.policy import FunctionModel, Idle, Policy, PolicySettings, Retire, Verdict, ZygoteSpec
from runtime.model import EnvironmentId, FunctionName, RuntimeName, SandboxId, StartKind, ZygoteId
from runtime.protocol import StandbyTarget

Make = Callable[[str], Policy]


class PerFunction(Policy):
    """make(name): a new policy; called once for each name that a function has."""

    name: ClassVar[str] = "per-function"

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName], default: str, make: Make) -> None:
        super().__init__(settings, runtimes)
        self._make = make
        self._default = default
        self._policies: dict[str, Policy] = {default: make(default)}
        self._of: dict[FunctionName, Policy] = {}

    def put_function(self, model: FunctionModel, now_s: float) -> None:
        name = model.policy or self._default
        policy = self._policies.get(name)
        if policy is None:
            policy = self._policies[name] = self._make(name)
            policy.set_runtimes(self.runtimes, now_s)
        before = self._of.get(model.name)
        if before is not None and before is not policy:
            before.remove_function(model.name, now_s)
        self._of[model.name] = policy
        policy.put_function(model, now_s)

    def remove_function(self, name: FunctionName, now_s: float) -> None:
        policy = self._of.pop(name, None)
        if policy is not None:
            policy.remove_function(name, now_s)

    def set_runtimes(self, runtimes: Sequence[RuntimeName], now_s: float) -> None:
        super().set_runtimes(runtimes, now_s)
        for policy in self._policies.values():
            policy.set_runtimes(runtimes, now_s)

    def arrived(self, name: FunctionName, now_s: float) -> None:
        policy = self._of.get(name)
        if policy is not None:
            policy.arrived(name, now_s)

    def started(self, name: FunctionName, kind: StartKind, zygote: ZygoteId | None, now_s: float) -> None:
        policy = self._of.get(name)
        if policy is not None:
            policy.started(name, kind, zygote, now_s)

    def finished(self, name: FunctionName, service_s: float, latency_s: float, now_s: float) -> None:
        policy = self._of.get(name)
        if policy is not None:
            policy.finished(name, service_s, latency_s, now_s)

    def sandboxes(self, name: FunctionName, count: int, now_s: float) -> None:
        policy = self._of.get(name)
        if policy is not None:
            policy.sandboxes(name, count, now_s)

    def zygote_up(self, zygote: ZygoteId, memory_bytes: int, start_ms: float, now_s: float) -> None:
        for policy in self._policies.values():
            policy.zygote_up(zygote, memory_bytes, start_ms, now_s)

    def uncovered(self, zygote: ZygoteId, environments: Collection[EnvironmentId], now_s: float) -> bool:
        return all([policy.uncovered(zygote, environments, now_s) for policy in self._policies.values()])

    def zygote_down(self, zygote: ZygoteId, reason: str, now_s: float) -> None:
        for policy in self._policies.values():
            policy.zygote_down(zygote, reason, now_s)

    def idled(self, idle: Idle, now_s: float) -> Verdict:
        policy = self._of.get(idle.function)
        return policy.idled(idle, now_s) if policy is not None else Retire("its function is gone")

    def left(self, name: FunctionName, sandbox: SandboxId) -> None:
        for policy in self._policies.values():  # the function may have another one since
            policy.left(name, sandbox)

    def due(self, idle: Idle, now_s: float) -> Verdict:
        policy = self._of.get(idle.function)
        return policy.due(idle, now_s) if policy is not None else Retire("its function is gone")

    def next_plan_s(self) -> float:
        return min(policy.next_plan_s() for policy in self._policies.values())

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        found: dict[ZygoteId, ZygoteSpec] = {}
        for policy in self._policies.values():
            for spec in policy.plan(now_s):
                found[spec.id] = _together(found[spec.id], spec) if spec.id in found else spec
        order = sorted(found.values(), key=lambda spec: bool(spec.environments))  # stable: base zygotes first
        return order[: max(self.settings.zygotes_max, len(self.runtimes))]

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        policy = self._of.get(name)
        return {"policy": policy.name, **policy.explain(name, now_s)} if policy is not None else {}


def _together(one: ZygoteSpec, other: ZygoteSpec) -> ZygoteSpec:
    """One zygote that does what both want of it."""
    counts = {target.environment: target.count for target in one.standbys}
    for target in other.standbys:
        counts[target.environment] = max(target.count, counts.get(target.environment, 0))
    return replace(
        one,
        imports=tuple(sorted({*one.imports, *other.imports})),
        standbys=tuple(StandbyTarget(environment=each, count=count) for each, count in counts.items()),
        functions=one.functions | other.functions,
        owner=one.owner or other.owner,
    )
