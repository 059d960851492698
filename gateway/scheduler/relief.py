"""What a node gives up when it is short of memory, in which order, before the kernel's OOM killer acts. Pure.

The order: idle sandboxes, the least recently used first; then standbys, those of the least recently used zygotes
first; then package zygotes, the least recently used first, one a step. Never what is busy, never a base zygote. From
the first step on nothing is made ahead: no standbys, no new zygotes.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.scheduler.planner import Out, Planner
from gateway.scheduler.pools import Pools
from gateway.scheduler.pressure import Level, Pressure, Reading

STEP_S = 0.5  # between two steps: what has been killed must have died, and been seen to
STEP_MIN = 4
SHARES = {Level.LOW: 0.25, Level.CRITICAL: 0.5}  # of all sandboxes that can go, a step
QUIET_S = 10.0  # of enough memory, before things are made ahead again
REASON = "memory"


@dataclass(frozen=True, slots=True)
class Relieved:
    """What is to be done, in order, and why, for the log: a line each."""

    outs: Sequence[Out] = ()
    why: Sequence[str] = ()


class Relief:
    """Asked at each reading and on the gateway's timer. `given_up`: totals by kind."""

    def __init__(self, pressure: Pressure, pools: Pools, planner: Planner) -> None:
        self.pressure = pressure
        self.level = Level.NORMAL
        self.given_up: Counter[str] = Counter(sandboxes=0, standbys=0, zygotes=0)
        self._pools = pools
        self._planner = planner
        self._next_step_s = float("-inf")
        self._normal_since_s = float("-inf")

    def heed(self, reading: Reading, now_s: float) -> Relieved:
        """pagurusd has looked at the memory."""
        self.pressure.heed(reading, now_s)
        return self.tick(now_s)

    def tick(self, now_s: float) -> Relieved:
        """Change the level if it has changed; give up more if it is time to."""
        outs: list[Out] = []
        why: list[str] = []
        level = self.pressure.level(now_s)
        if level is not self.level:
            self._become(level, now_s, outs, why)
        if level is not Level.NORMAL:
            if now_s >= self._next_step_s:
                self._step(now_s, outs, why)
        elif self._planner.is_pressed and now_s >= self._normal_since_s + QUIET_S:
            outs += self._planner.relax(now_s)
            why.append(f"memory has been enough for {QUIET_S:g} s: standbys and zygotes are made again")
        return Relieved(outs, why)

    def _become(self, level: Level, now_s: float, outs: list[Out], why: list[str]) -> None:
        facts = self.pressure.describe(max(level, self.level))
        why.append(f"memory is {_WORDS[level]}: {facts}")
        if level is Level.NORMAL:
            self._normal_since_s = now_s
        elif not self._planner.is_pressed:
            outs += self._planner.press(now_s)
        if level is Level.CRITICAL:
            outs += self._pools.set_shortage(f"the node is short of memory: {facts}; no new sandboxes meanwhile", now_s)
        elif self.level is Level.CRITICAL:
            outs += self._pools.set_shortage("", now_s)
        self.level = level

    def _step(self, now_s: float, outs: list[Out], why: list[str]) -> None:
        for kind, give_up in (
            ("idle sandboxes", self._give_up_idle),
            ("standbys", self._give_up_standbys),
            ("package zygotes", self._give_up_zygote),
        ):
            count, left = give_up(now_s, outs)
            if count:
                why.append(f"memory is {_WORDS[self.level]}: {count} {kind} given up, {left} left")
                self._next_step_s = now_s + STEP_S
                return

    def _give_up_idle(self, _: float, outs: list[Out]) -> tuple[int, int]:
        idle = self._pools.idle
        count = self._share(len(idle))
        for sandbox in idle[:count]:
            outs += self._pools.kill(sandbox.id, REASON)
        self.given_up["sandboxes"] += count
        return count, len(idle) - count

    def _give_up_standbys(self, _: float, outs: list[Out]) -> tuple[int, int]:
        sources = self._pools.sources
        standbys = sorted(sources.standbys.values(), key=lambda one: (sources.used_s(one.zygote), one.sandbox))
        count = self._share(len(standbys))
        for standby in standbys[:count]:
            outs += self._pools.kill(standby.sandbox, REASON)
        self.given_up["standbys"] += count
        return count, len(standbys) - count

    def _give_up_zygote(self, now_s: float, outs: list[Out]) -> tuple[int, int]:
        sources = self._pools.sources
        packages = self._planner.expendable()
        if not packages:
            return 0, 0
        least = min(packages, key=lambda zygote: (sources.used_s(zygote), zygote))
        outs += self._planner.press(now_s, without=least)
        self.given_up["zygotes"] += 1
        return 1, len(packages) - 1

    def _share(self, count: int) -> int:
        return min(count, max(STEP_MIN, math.ceil(count * SHARES[self.level])))


_WORDS = {Level.NORMAL: "enough again", Level.LOW: "low", Level.CRITICAL: "critical"}
