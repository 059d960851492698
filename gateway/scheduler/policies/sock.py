"""SOCK's cache of imported packages, with a fixed keep-alive. Pure.

Source: E. Oakes et al., SOCK: Rapid Task Provisioning with Serverless-Optimized Containers, USENIX ATC 2018; the score
and its period also by research/pagurus-reference.md, 2.9 `sock`. Unlike in the Pagurus artefact, uses are counted and
the packages really imported; unlike in SOCK, where a zygote may hold only what a function needs, helpers forget modules
that are not theirs (DESIGN section 3), so that one zygote serves all environments that do not conflict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gateway.scheduler.caching import Catalogue, Chosen, Draft
from gateway.scheduler.lifetime import UNKNOWN_FUNCTION, describe, keep_for
from gateway.scheduler.plan import base_specs, package_zygote_id, standby_target
from gateway.scheduler.policy import FunctionModel, Idle, Policy, PolicySettings, Retire, Verdict, ZygoteSpec
from runtime.errors import ConfigError
from runtime.model import FunctionName, RuntimeName, StartKind, ZygoteId

FIRST_PERIODS = 32  # the first rebuild comes after this part of a period, each next after twice the time, up to one
SETTLE_S = 2.0  # zygotes follow the deployed functions after this, so that a series of deploys rebuilds them once
STANDBY_USES_MIN = 1.0  # decayed starts of an environment for which standbys are kept


@dataclass(slots=True)
class _Function:
    """uses: starts, each of which counts half after a period; as of `counted_s`."""

    model: FunctionModel
    uses: float = 0.0
    counted_s: float = 0.0
    why: str = ""


@dataclass(slots=True)
class _Cached:
    """What one zygote holds, for people."""

    draft: Draft
    functions: frozenset[FunctionName] = field(default_factory=frozenset)


class Sock(Policy):
    """The `cache_packages` most worthwhile distributions are imported in zygotes; idle sandboxes stay `keep_alive_s`.

    Settings: cache_packages (without those that come along as they are needed), period_s, memory_bytes (of all cached
    packages), keep_alive_s, zygotes_max, standbys. Raises ConfigError when period_s is not positive.
    """

    name: ClassVar[str] = "sock"

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> None:
        super().__init__(settings, runtimes)
        if settings.period_s <= 0.0:
            raise ConfigError(f"period_s is {settings.period_s:g}", hint="it must be positive")
        self._functions: dict[FunctionName, _Function] = {}
        self._chosen: list[Chosen] = []
        self._zygotes: dict[ZygoteId, _Cached] = {}
        self._plan_due_s = -math.inf
        self._rebuild_s: float | None = None
        self._pause_s = settings.period_s / FIRST_PERIODS

    # --- what is told

    def put_function(self, model: FunctionModel, now_s: float) -> None:
        known = self._functions.setdefault(model.name, _Function(model, counted_s=now_s))
        known.model = model
        self._follow(now_s)

    def remove_function(self, name: FunctionName, now_s: float) -> None:
        if self._functions.pop(name, None) is not None:
            self._follow(now_s)

    def started(self, name: FunctionName, kind: StartKind, zygote: ZygoteId | None, now_s: float) -> None:
        """A use of its packages: only a new sandbox can profit from what is imported."""
        function = self._functions.get(name)
        if function is not None and kind is not StartKind.WARM:
            function.uses = self._uses(function, now_s) + 1.0
            function.counted_s = now_s

    # --- what is decided

    def idled(self, idle: Idle, now_s: float) -> Verdict:
        function = self._functions.get(idle.function)
        if function is None:
            return Retire(UNKNOWN_FUNCTION)
        verdict = keep_for(idle, self.settings.keep_alive_s, now_s)
        function.why = describe(verdict, now_s)
        return verdict

    def due(self, idle: Idle, now_s: float) -> Verdict:
        return self.idled(idle, now_s)

    def next_plan_s(self) -> float:
        return self._plan_due_s if self._rebuild_s is None else min(self._plan_due_s, self._rebuild_s)

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        catalogue = self._catalogue(now_s)
        self._plan_due_s = math.inf
        if self._rebuild_s is None:
            self._rebuild_s = now_s + self._pause_s
        elif now_s >= self._rebuild_s:
            self._pause_s = min(2.0 * self._pause_s, self.settings.period_s)
            self._rebuild_s = now_s + self._pause_s
            self._chosen = catalogue.choose(self.settings.cache_packages, self.settings.memory_bytes)
        drafts = catalogue.pack(self._chosen, self.settings.zygotes_max - len(self.runtimes))
        specs = [self._spec(catalogue, draft) for draft in drafts]
        self._zygotes = {spec.id: _Cached(draft, spec.functions) for spec, draft in zip(specs, drafts, strict=True)}
        return [*base_specs(self.runtimes), *specs]

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        function = self._functions.get(name)
        if function is None:
            return {}
        own = set(function.model.distributions.items())
        helping = {zygote: cached for zygote, cached in self._zygotes.items() if name in cached.functions}
        return {
            "policy": self.name,
            "keep_alive_s": self.settings.keep_alive_s,
            "uses": self._uses(function, now_s),
            "import_ms": function.model.import_ms,
            "helped_by": sorted(helping),
            "cached": sorted("==".join(pin) for cached in helping.values() for pin in cached.draft.cached & own),
            "cache": [_describe(one) for one in self._chosen],
            "rebuilt_next_s": self._rebuild_s,
            "last_decision": function.why,
        }

    # --- inside

    def _follow(self, now_s: float) -> None:
        if self._chosen:
            self._plan_due_s = min(self._plan_due_s, now_s + SETTLE_S)

    def _uses(self, function: _Function, now_s: float) -> float:
        return function.uses * math.exp2(-(now_s - function.counted_s) / self.settings.period_s)

    def _catalogue(self, now_s: float) -> Catalogue:
        names = sorted(self._functions)
        found = [self._functions[name] for name in names if self._functions[name].model.runtime in self.runtimes]
        return Catalogue((function.model, self._uses(function, now_s)) for function in found)

    def _spec(self, catalogue: Catalogue, draft: Draft) -> ZygoteSpec:
        runtime, tenant = draft.group
        environments = sorted(one.id for one in draft.environments)
        imports = catalogue.modules(draft)
        count = self.settings.standbys
        used = sorted(one.id for one in draft.environments if one.uses >= STANDBY_USES_MIN) if count > 0 else []
        return ZygoteSpec(
            package_zygote_id(runtime, environments, imports=imports, label=f"sock/{tenant}"),
            runtime,
            tuple(environments),
            tuple(imports),
            tuple(standby_target(environment, count) for environment in used),
            functions=frozenset(name for one in draft.environments for name in one.functions),
            why="cached: " + ", ".join(map(_describe, draft.chosen)),
        )


def _describe(one: Chosen) -> str:
    along = f" with {', '.join(name for name, _ in one.unit.needs)}" if one.unit.needs else ""
    return f"{'=='.join(one.unit.pin)}{along} ({one.benefit_ms:.0f} ms of uses for {one.memory_bytes >> 10} KiB)"
