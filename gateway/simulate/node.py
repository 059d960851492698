"""The virtual node: carries out what the scheduler decides, at the cost a profile says, under virtual time. Pure.

The scheduler is the gateway's own: Pools, a policy, Planner, Zygotes. What is not modelled: contention for cores (each
start, import and handler takes as long as alone), failures, limits of memory below the policy's budget.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.scheduler.decisions import Freeze, Kill, Lease, Reject, Start
from gateway.scheduler.planner import Out, Planner
from gateway.scheduler.policy import FunctionModel, Policy
from gateway.scheduler.pool import Limits
from gateway.scheduler.pools import Pools
from gateway.scheduler.sources import Mechanism, Standby
from gateway.scheduler.zygotes import Zygotes
from gateway.simulate.costs import Costs, StartCost, ZygoteCost
from gateway.simulate.tally import Tally
from gateway.simulate.traces import Arrival
from runtime.errors import PoolExhaustedError
from runtime.model import EnvironmentId, FunctionName, InvocationId, SandboxId, StartKind, ZygoteId
from runtime.protocol import DropZygote, EnsureZygote, ZygoteDied, ZygoteReady

LEAD_S = 60.0  # between the deploy of all functions and the trace's second 0, so that the node is ready
TICK_S = 0.25  # of the gateway's own timer
DRAIN_S = 600.0  # after the last arrival; what waits longer will never be served


@dataclass(slots=True)
class _Request:
    function: FunctionName
    arrived_s: float
    service_s: float


@dataclass(slots=True)
class _Sandbox:
    """A sandbox with a function. start: of its start, until its first lease."""

    function: FunctionName
    memory_bytes: int
    start: StartCost | None
    ready_s: float
    idle_since_s: float | None = None


@dataclass(slots=True)
class _Zygote:
    """A zygote that was asked for. parked: its standbys by environment."""

    cost: ZygoteCost
    targets: dict[EnvironmentId | None, int]
    up_since_s: float | None = None
    parked: Counter[EnvironmentId | None] = field(default_factory=Counter)
    is_making: bool = False


@dataclass(frozen=True, slots=True)
class _Parked:
    zygote: ZygoteId
    environment: EnvironmentId | None
    since_s: float
    memory_bytes: int


class Node:
    """One node with one policy. `deploy`, then `run` once; `tally` has the result."""

    def __init__(self, policy: Policy, costs: Costs, limits: Limits, mechanism: Mechanism) -> None:
        self.tally = Tally(LEAD_S)
        self._pools = Pools(limits, itertools.count(1), policy, mechanism)
        self._planner = Planner(policy, self._pools, Zygotes())
        self._costs = costs
        self._now_s = 0.0
        self._next_tick_s = 0.0
        self._number = itertools.count(1)  # of events: equal times in the order in which they were made
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._ids = itertools.count(1)
        self._requests: dict[InvocationId, _Request] = {}
        self._sandboxes: dict[SandboxId, _Sandbox] = {}
        self._zygotes: dict[ZygoteId, _Zygote] = {}
        self._standbys: dict[SandboxId, _Parked] = {}

    def deploy(self, models: Iterable[FunctionModel]) -> None:
        """Deploy all functions, LEAD_S before the trace begins."""
        for model in models:
            self._do(self._planner.put_function(model, self._now_s))

    def run(self, arrivals: Sequence[Arrival], duration_s: float | None = None) -> None:
        """Replay the trace. duration_s: the trace's seconds from here on are left out, and time goes on until there.

        Ends when all requests have been answered, and not before duration_s.
        """
        end_s = LEAD_S + duration_s if duration_s is not None else 0.0
        for arrival in arrivals:
            at_s = LEAD_S + arrival.at_s
            if duration_s is not None and arrival.at_s >= duration_s:
                break
            self._advance(at_s)
            self._arrive(arrival)
        give_up_s = max(self._now_s, end_s) + DRAIN_S
        while self._requests and self._now_s < give_up_s:
            self._advance(min(self._events[0][0] if self._events else self._next_tick_s + TICK_S, give_up_s))
        self._advance(max(end_s, self._now_s))
        self._close()

    @property
    def unfinished(self) -> int:
        """Requests that nothing could be found for."""
        return len(self._requests)

    # --- time

    def _advance(self, until_s: float) -> None:
        """Let happen what is due up to and at `until_s`: events first, then the timer's ticks."""
        events = self._events
        while True:
            event_s = events[0][0] if events else until_s
            bound_s = min(event_s, until_s)
            if self._next_tick_s < bound_s:
                self._tick_before(bound_s)
            elif events and event_s <= until_s:
                self._now_s, _, act, subject = heapq.heappop(events)
                act(subject)
            else:
                break
        self._now_s = until_s

    def _tick_before(self, bound_s: float) -> None:
        """The next tick at which something is due; none if there is nothing to do before `bound_s`."""
        due_s = min(self._pools.next_due_s(), self._planner.next_due_s(), bound_s)
        if due_s > self._next_tick_s:
            self._next_tick_s += -(-(due_s - self._next_tick_s) // TICK_S) * TICK_S
            return
        self._now_s = self._next_tick_s
        self._next_tick_s += TICK_S
        self._do(self._pools.tick(self._now_s))
        self._do(self._planner.tick(self._now_s))

    def _after(self, ms: float, act: Callable[[Any], None], subject: Any) -> None:
        heapq.heappush(self._events, (self._now_s + ms / 1000, next(self._number), act, subject))

    # --- requests

    def _arrive(self, arrival: Arrival) -> None:
        request = InvocationId(f"r{next(self._ids)}")
        self.tally.arrived(arrival.function)
        self._requests[request] = _Request(arrival.function, self._now_s, arrival.service_s)
        try:
            self._do(self._pools.request(request, arrival.function, self._now_s))
        except PoolExhaustedError:
            self._reject(request)

    def _reject(self, request: InvocationId) -> None:
        self.tally.reject(self._requests.pop(request).function)

    def _lease(self, lease: Lease) -> None:
        if lease.assign:
            self._assign(lease)
        sandbox, request = self._sandboxes[lease.sandbox], self._requests[lease.request]
        self._end_idle(sandbox)
        if sandbox.start is not None:
            kind, begun_s = sandbox.start.kind, max(self._now_s, sandbox.ready_s)
            sandbox.start = None
        else:
            kind, begun_s = StartKind.WARM, self._now_s + self._costs.warm_ms(request.function) / 1000
        self.tally.start(request.function, kind, request.arrived_s, begun_s)
        answered_s = begun_s + request.service_s
        heapq.heappush(self._events, (answered_s, next(self._number), self._answer, (lease.request, lease.sandbox)))

    def _assign(self, lease: Lease) -> None:
        parked = self._standbys.pop(lease.sandbox)
        self.tally.held("standbys", parked.memory_bytes, parked.since_s, self._now_s)
        zygote = self._zygotes[parked.zygote]
        zygote.parked[parked.environment] -= 1
        self._make_standby(parked.zygote)
        cost = self._costs.start(lease.function, zygote.cost, is_standby=True)
        self._begin(lease.sandbox, lease.function, cost)

    def _start(self, start: Start) -> None:
        zygote = self._zygotes[start.zygote]
        is_pooled = self._costs.mounted(start.function, zygote.cost) in zygote.targets
        cost = self._costs.start(start.function, zygote.cost, is_pooled=is_pooled)
        self._after(0.0, self._started, (start.ticket, start.function, cost))

    def _started(self, subject: tuple[int, FunctionName, StartCost]) -> None:
        """The sandbox may be written to at once, as pagurusd offers it; it answers when its start is over."""
        ticket, function, cost = subject
        sandbox = SandboxId(f"s{next(self._ids)}")
        self._begin(sandbox, function, cost)
        self._sandboxes[sandbox].idle_since_s = self._now_s
        self._do(self._pools.started(ticket, sandbox, self._now_s))

    def _begin(self, sandbox: SandboxId, function: FunctionName, cost: StartCost) -> None:
        self._sandboxes[sandbox] = _Sandbox(function, cost.memory_bytes, cost, self._now_s + cost.ms / 1000)

    def _answer(self, subject: tuple[InvocationId, SandboxId]) -> None:
        request = self._requests.pop(subject[0])
        self._sandboxes[subject[1]].idle_since_s = self._now_s
        latency_s = self._now_s - request.arrived_s
        self._do(
            self._pools.release(
                subject[1], self._now_s, reusable=True, service_s=request.service_s, latency_s=latency_s
            )
        )

    # --- decisions

    def _do(self, decisions: Sequence[Out]) -> None:
        for decision in decisions:
            match decision:
                case Lease():
                    self._lease(decision)
                case Start():
                    self._start(decision)
                case Kill():
                    self._kill(decision.sandbox)
                case Reject():
                    self._reject(decision.request)
                case EnsureZygote():
                    self._ensure(decision)
                case DropZygote():
                    self._drop(decision)
                case Freeze():
                    pass  # costs nothing here, saves nothing

    def _kill(self, sandbox: SandboxId) -> None:
        parked = self._standbys.pop(sandbox, None)
        if parked is not None:
            self.tally.held("standbys", parked.memory_bytes, parked.since_s, self._now_s)
        known = self._sandboxes.pop(sandbox, None)
        if known is not None:
            self._end_idle(known)
        self._after(0.0, self._died, sandbox)

    def _died(self, sandbox: SandboxId) -> None:
        self._do(self._pools.died(sandbox, self._now_s))

    def _end_idle(self, sandbox: _Sandbox) -> None:
        if sandbox.idle_since_s is not None:
            self.tally.held("sandboxes", sandbox.memory_bytes, sandbox.idle_since_s, self._now_s)
            sandbox.idle_since_s = None

    # --- zygotes and standbys

    def _ensure(self, wanted: EnsureZygote) -> None:
        """Make a zygote; of one that is there only the standby targets change, as with pagurusd.

        Standbys above a new target stay until they are used or the zygote goes: that, too, is as there.
        """
        targets = {target.environment: target.count for target in wanted.standbys}
        zygote = self._zygotes.get(wanted.zygote)
        if zygote is None:
            is_base = not wanted.environments and not self._helps(wanted.zygote)
            zygote = self._zygotes[wanted.zygote] = _Zygote(self._costs.zygote(wanted, is_base=is_base), targets)
            self._after(zygote.cost.start_ms, self._ready, (wanted.zygote, zygote))
            return
        zygote.targets = targets
        if zygote.up_since_s is not None:
            self._after(0.0, self._ready, (wanted.zygote, zygote))

    def _helps(self, zygote: ZygoteId) -> bool:
        entry = self._planner.zygotes.entries.get(zygote)
        return entry is not None and entry.spec is not None and bool(entry.spec.functions)

    def _ready(self, subject: tuple[ZygoteId, _Zygote]) -> None:
        name, zygote = subject
        if self._zygotes.get(name) is not zygote:
            return  # dropped meanwhile
        if zygote.up_since_s is None:
            zygote.up_since_s = self._now_s
            if zygote.cost.start_ms > 0:
                self.tally.zygote(zygote.cost.start_ms)
        message = ZygoteReady(
            zygote=name,
            runtime=zygote.cost.runtime,
            environments=tuple(sorted(zygote.cost.environments)),
            start_ms=zygote.cost.start_ms,
            memory_bytes=zygote.cost.memory_bytes,
            import_ms=dict(zygote.cost.import_ms),
        )
        self._do(self._planner.ready(message, self._now_s))
        self._make_standby(name)

    def _drop(self, drop: DropZygote) -> None:
        zygote = self._zygotes.pop(drop.zygote)
        self._end_zygote(zygote)
        for sandbox, parked in list(self._standbys.items()):
            if parked.zygote == drop.zygote:
                self._do(self._pools.kill(sandbox, "its zygote ended"))
        self._after(0.0, self._zygote_died, drop.zygote)

    def _zygote_died(self, name: ZygoteId) -> None:
        self._do(self._planner.died(ZygoteDied(zygote=name, reason="dropped"), self._now_s))

    def _end_zygote(self, zygote: _Zygote) -> None:
        if zygote.up_since_s is not None:
            self.tally.held("zygotes", zygote.cost.memory_bytes, zygote.up_since_s, self._now_s)

    def _make_standby(self, name: ZygoteId) -> None:
        """Make the next standby that the zygote lacks, unless one is being made."""
        zygote = self._zygotes.get(name)
        if zygote is None or zygote.is_making or zygote.up_since_s is None:
            return
        for environment, count in zygote.targets.items():
            if zygote.parked[environment] < count:
                zygote.is_making = True
                making_ms = self._costs.standby_ms(zygote.cost)
                self.tally.standby(making_ms)
                self._after(making_ms, self._park, (name, zygote, environment))
                return

    def _park(self, subject: tuple[ZygoteId, _Zygote, EnvironmentId | None]) -> None:
        name, zygote, environment = subject
        zygote.is_making = False
        if self._zygotes.get(name) is not zygote:
            return
        if zygote.parked[environment] < zygote.targets.get(environment, 0):
            sandbox = SandboxId(f"s{next(self._ids)}")
            memory_bytes = self._costs.standby_bytes(zygote.cost)
            self._standbys[sandbox] = _Parked(name, environment, self._now_s, memory_bytes)
            zygote.parked[environment] += 1
            standby = Standby(sandbox, name, zygote.cost.runtime, environment)
            self._do(self._pools.add_standby(standby, self._now_s))
        self._make_standby(name)

    def _close(self) -> None:
        """Count what is held until now."""
        for sandbox in self._sandboxes.values():
            self._end_idle(sandbox)
        for parked in self._standbys.values():
            self.tally.held("standbys", parked.memory_bytes, parked.since_s, self._now_s)
        for zygote in self._zygotes.values():
            self._end_zygote(zygote)
