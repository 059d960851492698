"""Fixed keep-alive, and nothing else: what most platforms do. Pure.

Source: OpenWhisk's idle timeout of containers, 10 minutes by default (research/pagurus-reference.md, 2.9 `openwhisk`;
M. Shahrad et al., Serverless in the Wild, USENIX ATC 2020, section 2). Here, too, every start forks from the base
zygote, as only zygotes boot an interpreter (DESIGN section 4): the baseline has the same mechanism as the others.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from gateway.scheduler.lifetime import UNKNOWN_FUNCTION, describe, keep_for
from gateway.scheduler.plan import base_specs
from gateway.scheduler.policy import FunctionModel, Idle, Policy, PolicySettings, Retire, Verdict, ZygoteSpec
from runtime.model import FunctionName, RuntimeName


class KeepAlive(Policy):
    """Idle sandboxes stay `keep_alive_s`; base zygotes only, without standbys. Settings: keep_alive_s."""

    name: ClassVar[str] = "keepalive"

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> None:
        super().__init__(settings, runtimes)
        self._next_plan_s = -math.inf
        self._why: dict[FunctionName, str] = {}

    def put_function(self, model: FunctionModel, now_s: float) -> None:
        self._why.setdefault(model.name, "")

    def remove_function(self, name: FunctionName, now_s: float) -> None:
        self._why.pop(name, None)

    def idled(self, idle: Idle, now_s: float) -> Verdict:
        if idle.function not in self._why:
            return Retire(UNKNOWN_FUNCTION)
        verdict = keep_for(idle, self.settings.keep_alive_s, now_s)
        self._why[idle.function] = describe(verdict, now_s)
        return verdict

    def due(self, idle: Idle, now_s: float) -> Verdict:
        return self.idled(idle, now_s)

    def next_plan_s(self) -> float:
        return self._next_plan_s

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        self._next_plan_s = math.inf
        return base_specs(self.runtimes)

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        if name not in self._why:
            return {}
        return {"policy": self.name, "keep_alive_s": self.settings.keep_alive_s, "last_decision": self._why[name]}
