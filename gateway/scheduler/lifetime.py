"""Fixed lifetimes of idle sandboxes, as all policies have them, and policies that know nothing else. Pure."""

import math
from abc import abstractmethod
from collections.abc import Sequence

from gateway.scheduler.policy import FunctionModel, Idle, Policy, PolicySettings, Retire, Stay, Verdict, ZygoteSpec
from runtime.model import FunctionName, RuntimeName

UNKNOWN_FUNCTION = "its function is not deployed"


def keep_for(idle: Idle, lifetime_s: float, now_s: float, *, what: str = "keep-alive") -> Verdict:
    """Stay until `lifetime_s` after it became idle, then retire. what: the lifetime's name, for people."""
    ends_s = idle.idle_since_s + lifetime_s
    if now_s < ends_s:
        return Stay(ends_s)
    return Retire(f"idle for {now_s - idle.idle_since_s:.1f} s, {what} is {lifetime_s:g} s")


def describe(verdict: Verdict, now_s: float) -> str:
    """A verdict in words."""
    if isinstance(verdict, Retire):
        return f"at {now_s:.1f} s: retired, {verdict.why}"
    return f"at {now_s:.1f} s: stays until {verdict.until_s:.1f} s"


class FixedLifetime(Policy):
    """Idle sandboxes stay `keep_alive_s`, and the plan follows from settings and runtimes: it is asked for once."""

    def __init__(self, settings: PolicySettings, runtimes: Sequence[RuntimeName]) -> None:
        super().__init__(settings, runtimes)
        self._is_planned = False
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
        return math.inf if self._is_planned else -math.inf

    def plan(self, now_s: float) -> Sequence[ZygoteSpec]:
        self._is_planned = True
        return self._specs()

    def explain(self, name: FunctionName, now_s: float) -> dict[str, object]:
        if name not in self._why:
            return {}
        return {"policy": self.name, "keep_alive_s": self.settings.keep_alive_s, "last_decision": self._why[name]}

    @abstractmethod
    def _specs(self) -> Sequence[ZygoteSpec]:
        """The zygotes that there are."""
