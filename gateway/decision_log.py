"""Writes each decision of the policy to the log, with its inputs in the policy's own words.

Stands between policy and scheduler, so that it is told the same whoever asks, and costs the scheduler nothing.
"""

import logging
from collections.abc import Collection, Sequence

from gateway.scheduler.policy import FunctionModel, Idle, Policy, Retire, Verdict, ZygoteSpec
from runtime.model import EnvironmentId, FunctionName, RuntimeName, SandboxId, StartKind, ZygoteId

log = logging.getLogger(__name__)

NAMES_SHOWN_MAX = 8


class DecisionLog(Policy):
    """A policy that decides as `inner` does, and says so."""

    name = "logged"

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner.settings, inner.runtimes)
        self.name = inner.name  # type: ignore[misc]  # of this object
        self.inner = inner
        self._plan: tuple[ZygoteSpec, ...] = ()

    def idled(self, idle: Idle, now_s: float) -> Verdict:
        return _noted(self.inner.idled(idle, now_s), idle, now_s)

    def left(self, name: FunctionName, sandbox: SandboxId) -> None:
        self.inner.left(name, sandbox)

    def due(self, idle: Idle, now_s: float) -> Verdict:
        return _noted(self.inner.due(idle, now_s), idle, now_s)

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        wanted = tuple(self.inner.plan(now_s))
        if wanted != self._plan:
            for zygote, text in changes(self._plan, wanted):
                log.info("%s", text, extra={"zygote": zygote})
            self._plan = wanted
        return wanted

    # --- passed on as it is

    def put_function(self, model: FunctionModel, now_s: float) -> None:
        self.inner.put_function(model, now_s)

    def remove_function(self, name: FunctionName, now_s: float) -> None:
        self.inner.remove_function(name, now_s)

    def arrived(self, name: FunctionName, now_s: float) -> None:
        self.inner.arrived(name, now_s)

    def started(self, name: FunctionName, kind: StartKind, zygote: ZygoteId | None, now_s: float) -> None:
        self.inner.started(name, kind, zygote, now_s)

    def finished(self, name: FunctionName, service_s: float, latency_s: float, now_s: float) -> None:
        self.inner.finished(name, service_s, latency_s, now_s)

    def sandboxes(self, name: FunctionName, count: int, now_s: float) -> None:
        self.inner.sandboxes(name, count, now_s)

    def zygote_up(self, zygote: ZygoteId, memory_bytes: int, start_ms: float, now_s: float) -> None:
        self.inner.zygote_up(zygote, memory_bytes, start_ms, now_s)

    def uncovered(self, zygote: ZygoteId, environments: Collection[EnvironmentId], now_s: float) -> bool:
        return self.inner.uncovered(zygote, environments, now_s)

    def set_runtimes(self, runtimes: Sequence[RuntimeName], now_s: float) -> None:
        super().set_runtimes(runtimes, now_s)
        self.inner.set_runtimes(runtimes, now_s)

    def zygote_down(self, zygote: ZygoteId, reason: str, now_s: float) -> None:
        self.inner.zygote_down(zygote, reason, now_s)

    def next_plan_s(self) -> float:
        return self.inner.next_plan_s()

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        return self.inner.explain(name, now_s)


def changes(before: Sequence[ZygoteSpec], after: Sequence[ZygoteSpec]) -> list[tuple[ZygoteId, str]]:
    """What another plan means for each zygote, in words: made, replaced, dropped, or meant for others. Pure.

    One that goes is replaced by the new one of its runtime that shares the most environments with it.
    """
    old, new = {spec.id: spec for spec in before}, {spec.id: spec for spec in after}
    found: list[tuple[ZygoteId, str]] = []
    made = [spec for spec in after if spec.id not in old]
    for spec in made:
        found.append((spec.id, f"zygote wanted: {_because(spec)}; {_contents(spec)}"))
    for spec in before:
        if spec.id not in new:
            successor = _successor(spec, made)
            what = f"zygote replaced by {successor.id}: {_because(successor)}" if successor else "zygote not wanted"
            found.append((spec.id, f"{what}; it had been wanted: {_because(spec)}"))
        elif spec.functions != new[spec.id].functions or spec.owner != new[spec.id].owner:
            now = new[spec.id]
            joined, left = _names(now.functions - spec.functions), _names(spec.functions - now.functions)
            found.append((spec.id, f"zygote meant for others: {_because(now)}; joined {joined}; left {left}"))
    return found


def _noted(verdict: Verdict, idle: Idle, now_s: float) -> Verdict:
    if isinstance(verdict, Retire):
        text = (
            f"sandbox retired: {verdict.why or 'no reason given'}; idle {now_s - idle.idle_since_s:.1f} s, {idle.kind}"
        )
        log.info("%s", text, extra={"sandbox": idle.sandbox, "function": idle.function})
    return verdict


def _successor(gone: ZygoteSpec, made: Sequence[ZygoteSpec]) -> ZygoteSpec | None:
    def shared(spec: ZygoteSpec) -> int:
        return len(set(spec.environments) & set(gone.environments)) if spec.runtime == gone.runtime else 0

    best = max(made, key=shared, default=None)
    return best if best is not None and shared(best) else None


def _because(spec: ZygoteSpec) -> str:
    return spec.why or "no reason given"


def _contents(spec: ZygoteSpec) -> str:
    standbys = sum(target.count for target in spec.standbys)
    owner = f", from a sandbox of {spec.owner}" if spec.owner else ""
    meant = f", for {_names(spec.functions)}" if spec.functions else ""
    return f"{len(spec.environments)} environments, {len(spec.imports)} imports, {standbys} standbys{owner}{meant}"


def _names(names: Collection[FunctionName]) -> str:
    shown = sorted(names)[:NAMES_SHOWN_MAX]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return " ".join(shown) + more if shown else "nobody"
