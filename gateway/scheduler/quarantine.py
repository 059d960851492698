"""Environments that no zygote may hold for a while, as a zygote with them was refused. Pure.

What a package did to its zygote it will do again, so it is not tried again at once: for PAUSE_FIRST_S, then for twice
as long. Its functions start from the base zygote meanwhile, where they harm nobody but themselves.
"""

from collections.abc import Collection
from dataclasses import dataclass

from runtime.model import EnvironmentId

PAUSE_FIRST_S = 600.0
PAUSE_MAX_S = 86_400.0
TRIAL_S = 120.0  # between suspects of one refusal that come back; each is blamed for what happens in this time


@dataclass(slots=True)
class Suspicion:
    """Why an environment is kept out. times: refusals so far. ends_s: when it may come back. is_free: it has."""

    reason: str
    times: int
    ends_s: float
    is_free: bool = False


class Quarantine:
    """Who is kept out. Suspicions without end are few: one for each environment that was in a refused zygote."""

    def __init__(self) -> None:
        self._known: dict[EnvironmentId, Suspicion] = {}

    def __contains__(self, environment: object) -> bool:
        known = self._known.get(environment)  # type: ignore[call-overload]
        return known is not None and not known.is_free

    def suspicion(self, environment: EnvironmentId | None) -> Suspicion | None:
        """Why it is kept out; None: it is not."""
        return self._known.get(environment) if environment is not None and environment in self else None

    @property
    def kept_out(self) -> dict[EnvironmentId, Suspicion]:
        """All that are kept out now."""
        return {one: known for one, known in self._known.items() if not known.is_free}

    def refused(
        self, environments: Collection[EnvironmentId], culprits: Collection[EnvironmentId], reason: str, now_s: float
    ) -> set[EnvironmentId]:
        """A zygote with `environments` was refused; who is kept out for it.

        culprits: those that have the module that did it; none where that is not known. Then it was one that has come
        back on trial, if there is one, else it can have been anyone: all are kept out, and come back one by one.
        """
        blamed = set(culprits) or {one for one in environments if one in self._known} or set(environments)
        is_certain = bool(culprits) or len(blamed) == 1
        for number, one in enumerate(sorted(blamed), start=1):
            known = self._known.get(one)
            times = known.times + 1 if known is not None and is_certain else 1 if is_certain else 0
            pause_s = min(PAUSE_FIRST_S * 2.0 ** (times - 1), PAUSE_MAX_S) if is_certain else TRIAL_S * number
            self._known[one] = Suspicion(reason, times, now_s + pause_s)
        return blamed

    def tick(self, now_s: float) -> set[EnvironmentId]:
        """Who comes back now, on trial. Those whose trial has gone well are forgotten."""
        back: set[EnvironmentId] = set()
        for one, known in list(self._known.items()):
            if now_s < known.ends_s:
                continue
            if known.is_free:
                del self._known[one]
            else:
                known.is_free, known.ends_s = True, now_s + TRIAL_S
                back.add(one)
        return back

    def next_due_s(self) -> float:
        """When `tick` has something to do."""
        return min((known.ends_s for known in self._known.values()), default=float("inf"))
