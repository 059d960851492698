"""Which sandbox serves which request: one pool a function, shared limits. Pure: no clock, no I/O.

Events come in as method calls, with the time where it matters; what is to be done comes out as decisions
that the caller carries out in order. A sandbox belongs to a pool from its assignment until it has died.
"""

from collections.abc import Iterator

from gateway.scheduler.decisions import Decision, Freeze, Kill, Lease, Reject, Start
from gateway.scheduler.idle import IdleSandboxes
from gateway.scheduler.policy import FunctionModel, Policy
from gateway.scheduler.pool import Limits, Pool, PooledSandbox, Request, State
from gateway.scheduler.room import Room
from gateway.scheduler.sources import LiveZygote, Mechanism, Source, Sources, Standby
from gateway.scheduler.waiting import Waiting
from runtime.errors import PoolExhaustedError, StartError
from runtime.model import FunctionName, InvocationId, RuntimeName, SandboxId, StartKind, VersionId, ZygoteId


class Pools:
    """All functions' sandboxes of this node. `tickets`: source of numbers for Start."""

    def __init__(
        self, limits: Limits, tickets: Iterator[int], policy: Policy, mechanism: Mechanism = Mechanism.FORK
    ) -> None:
        self.sources = Sources(mechanism)
        self.policy = policy
        self._tickets = tickets
        self._pools: dict[FunctionName, Pool] = {}
        self._sandboxes: dict[SandboxId, PooledSandbox] = {}
        self._idle = IdleSandboxes(policy, limits.freeze_after_s)
        self._now_s = 0.0
        self._starts: dict[int, Start] = {}
        self._waiting = Waiting()
        self.room = Room(limits, self._sandboxes, self._starts, self._waiting, self._idle)
        self._sequence = 0

    @property
    def sandboxes(self) -> dict[SandboxId, PooledSandbox]:
        """All sandboxes that have a function; not to be changed."""
        return self._sandboxes

    @property
    def idle(self) -> list[PooledSandbox]:
        """The idle sandboxes, the least recently used first."""
        return list(self._idle)

    @property
    def starting_count(self) -> int:
        """Forks that were asked for and not yet offered."""
        return len(self._starts)

    @property
    def waiting_count(self) -> int:
        """Requests without a sandbox."""
        return self._waiting.count

    # --- functions ---------------------------------------------------------------------------------------

    def put_function(self, spec: FunctionModel, now_s: float, *, shown: FunctionModel | None = None) -> list[Decision]:
        """Make `spec` the current version, `shown` to the policy; idle sandboxes of another version are killed."""
        out = self._at(now_s)
        self.policy.put_function(shown or spec, now_s)
        pool = self._pools.setdefault(spec.name, Pool(spec))
        pool.spec = spec
        for sandbox in [one for one in pool.idle if one.version != spec.version]:
            self._kill(sandbox, "version", out)
        self._pump(pool, out)
        return out

    def remove_function(self, name: FunctionName, now_s: float) -> list[Decision]:
        """Forget a function: its sandboxes are killed, its waiting requests rejected."""
        out = self._at(now_s)
        self.policy.remove_function(name, now_s)
        pool = self._pools.pop(name, None)
        if pool is None:
            return out
        self._waiting.forget(name)
        while pool.waiting:
            out.append(Reject(pool.waiting.popleft().id, StartError("deleted", f"function {name} was deleted")))
        for sandbox in list(pool.sandboxes.values()):
            self._kill(sandbox, "deleted", out)
        for ticket in pool.starting:
            self._starts.pop(ticket, None)  # what is offered for it later is killed as unknown
        self._pump_all(out)
        return out

    # --- requests ----------------------------------------------------------------------------------------

    def request(self, request_id: InvocationId, name: FunctionName, now_s: float) -> list[Decision]:
        """Find a sandbox for a request, or start one, or let it wait.

        Raises KeyError for an unknown function, PoolExhaustedError when too many wait already, MemoryShortError
        when it needs a new sandbox and the node is short of memory.
        """
        pool = self._pools[name]
        self._sequence += 1
        self._now_s = now_s
        self.policy.arrived(name, now_s)
        request = Request(request_id, self._sequence)
        if pool.idle and not pool.waiting:
            return [self._lease_idle(pool, request)]
        self.room.refuse_if_short(pool)
        out: list[Decision] = []
        pool.waiting.append(request)
        self._waiting.note(pool)
        self._pump(pool, out)
        if self.room.is_beyond_queue(pool):
            pool.waiting.pop()
            self._waiting.note(pool)
            raise PoolExhaustedError(self.room.why_full(pool))
        return out

    def withdraw(self, request_id: InvocationId, name: FunctionName) -> bool:
        """Take a request out of the queue; whether it was there. Its start goes on, for the next one."""
        pool = self._pools.get(name)
        if pool is None:
            return False
        for request in pool.waiting:
            if request.id == request_id:
                pool.waiting.remove(request)
                self._waiting.note(pool)
                return True
        return False

    def release(
        self, sandbox_id: SandboxId, now_s: float, *, reusable: bool, service_s: float = 0.0, latency_s: float = 0.0
    ) -> list[Decision]:
        """End a lease. Not `reusable`, or of a function without reuse: the sandbox is killed.

        service_s: the handler's; latency_s: from arrival on.
        """
        out = self._at(now_s)
        sandbox = self._sandboxes[sandbox_id]
        if sandbox.state is not State.LEASED:
            return out
        self.policy.finished(sandbox.function, service_s, latency_s, now_s)
        sandbox.request = None
        pool = self._pools.get(sandbox.function)
        if pool is None or sandbox.version != pool.spec.version:
            self._kill(sandbox, "version", out)
        elif not reusable:
            self._kill(sandbox, "ended", out)
        elif not pool.spec.reuse:
            self._kill(sandbox, "fresh", out)
        elif self.room.is_owed(pool, sandbox_id):
            self._kill(sandbox, "evicted", out)
        else:
            self._make_idle(pool, sandbox)
            if self._waiting:
                self._pump(pool, out)
                if self.room.is_full:
                    self._pump_all(out)
        return out

    # --- sandboxes ---------------------------------------------------------------------------------------

    def add_standby(self, standby: Standby, now_s: float) -> list[Decision]:
        """A standby is parked; who waits for one starts."""
        out = self._at(now_s)
        self.sources.add_standby(standby)
        if self._waiting:
            self._pump_all(out)
        return out

    def started(self, ticket: int, sandbox_id: SandboxId, now_s: float) -> list[Decision]:
        """The sandbox of a Start is there (frames may be written): lease it to who waits, else keep it idle."""
        out = self._at(now_s)
        start = self._starts.pop(ticket, None)
        pool = self._pools.get(start.function) if start else None
        if start is None or pool is None or ticket not in pool.starting:
            return [Kill(sandbox_id, "unknown")]
        pool.starting.discard(ticket)
        sandbox = self._adopt(pool, sandbox_id, start.zygote, start.version, State.ADOPTING, start.kind)
        sandbox.first_kind = start.kind
        if start.version != pool.spec.version:
            self._kill(sandbox, "version", out)
        else:
            self._make_idle(pool, sandbox)
        self._pump(pool, out)
        return out

    def refused(self, ticket: int, phase: str, message: str, now_s: float) -> list[Decision]:
        """A Start was refused: try another zygote for the oldest request, reject it after some tries."""
        out = self._at(now_s)
        start = self._starts.pop(ticket, None)
        pool = self._pools.get(start.function) if start else None
        if start is None or pool is None:
            return out
        pool.starting.discard(ticket)
        if pool.waiting:
            self._waiting.count_failure(pool, pool.waiting[0], start.zygote, StartError(phase, message), out)
        self._pump_all(out)
        return out

    def adopt_begin(
        self, sandbox_id: SandboxId, name: FunctionName, version: VersionId, zygote: ZygoteId
    ) -> list[Decision]:
        """A sandbox was alive before this gateway: keep its place until adopt_done, or kill a stale one.

        Whether one of a function without reuse has served already nobody knows: it is killed.
        """
        pool = self._pools.get(name)
        if pool is None or pool.spec.version != version:
            return [Kill(sandbox_id, "version")]
        if not pool.spec.reuse:
            return [Kill(sandbox_id, "fresh")]
        kind = self.sources.kind_from(pool.spec, zygote)
        self._adopt(pool, sandbox_id, zygote, version, State.ADOPTING, kind)
        return []

    def adopt_done(self, sandbox_id: SandboxId, now_s: float) -> list[Decision]:
        """An adopted sandbox has answered: it is idle now."""
        self._now_s = now_s
        sandbox = self._sandboxes.get(sandbox_id)
        out: list[Decision] = []
        if sandbox is None or sandbox.state is not State.ADOPTING:
            return out
        pool = self._pools.get(sandbox.function)
        if pool is None or pool.spec.version != sandbox.version:
            self._kill(sandbox, "version", out)
            return out
        self._make_idle(pool, sandbox)
        self._pump(pool, out)
        return out

    def kill(self, sandbox_id: SandboxId, reason: str) -> list[Decision]:
        """End a sandbox whatever it does; a request it holds is the caller's to answer."""
        out: list[Decision] = []
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is not None:
            self._kill(sandbox, reason, out)
        elif self.sources.take_standby(sandbox_id):
            out.append(Kill(sandbox_id, reason))
        return out

    def died(self, sandbox_id: SandboxId, now_s: float, *, never_ready: str = "") -> list[Decision]:
        """A sandbox is gone. never_ready: why it never ran; then its request goes back to the queue's head."""
        out = self._at(now_s)
        self.sources.take_standby(sandbox_id)
        sandbox = self._sandboxes.pop(sandbox_id, None)
        if sandbox is None:
            return out
        self.room.gone(sandbox_id)
        if sandbox.state is State.IDLE:
            self._idle.remove(sandbox)
        pool = self._pools.get(sandbox.function)
        if pool is not None:
            pool.sandboxes.pop(sandbox_id, None)
            self.policy.sandboxes(pool.spec.name, len(pool.sandboxes), now_s)
            if sandbox in pool.idle:
                pool.idle.remove(sandbox)
            if sandbox.request is not None and never_ready:
                request = sandbox.request
                pool.waiting.appendleft(request)
                self._waiting.note(pool)
                self._waiting.count_failure(pool, request, sandbox.zygote, StartError("start", never_ready), out)
        self._pump_all(out)
        return out

    # --- zygotes and time --------------------------------------------------------------------------------

    def zygote_up(self, zygote: LiveZygote, now_s: float) -> list[Decision]:
        """A zygote can fork; who waits starts."""
        out = self._at(now_s)
        self.sources.add_zygote(zygote)
        if zygote.is_base:
            self._waiting.set_hopeless(zygote.runtime, "")
        self._pump_all(out)
        return out

    def zygote_down(self, zygote: ZygoteId) -> None:
        """A zygote cannot fork any more."""
        self.sources.remove_zygote(zygote)

    def runtime_hopeless(self, runtime: RuntimeName, reason: str) -> list[Decision]:
        """No base zygote of `runtime` can be made: who waits for one is rejected, until zygote_up."""
        self._waiting.set_hopeless(runtime, reason)
        out: list[Decision] = []
        self._pump_all(out)
        return out

    def set_shortage(self, reason: str, now_s: float) -> list[Decision]:
        """From now on no new sandboxes for this reason; '' takes it back, and who waits starts."""
        out = self._at(now_s)
        self.room.shortage = reason
        if not reason:
            self._pump_all(out)
        return out

    def tick(self, now_s: float) -> list[Decision]:
        """Ask the policy about sandboxes whose time has come; freeze what is idle for a while."""
        out = self._at(now_s)
        for sandbox, why in self._idle.take_due(now_s):
            self._kill(sandbox, "idle", out, why)
        for sandbox in self._idle.take_freezing(now_s):
            sandbox.frozen = True
            out.append(Freeze(sandbox.id))
        return out

    def next_due_s(self) -> float:
        """When `tick` has something to do; infinity when nothing is idle."""
        return self._idle.next_due_s()

    # --- inside ------------------------------------------------------------------------------------------

    def _at(self, now_s: float) -> list[Decision]:
        """Time has come to this; decisions to be filled in."""
        self._now_s = now_s
        return []

    def _pump(self, pool: Pool, out: list[Decision]) -> None:
        """Give waiting requests idle sandboxes, then start as many as the rest needs and the limits allow."""
        if self._pools.get(pool.spec.name) is not pool:
            return
        while pool.waiting and pool.idle:
            out.append(self._lease_idle(pool, pool.waiting.popleft()))
        while len(pool.waiting) > len(pool.starting) and self._has_room(pool, out):
            source = self.sources.choose(pool.spec, pool.waiting[0].avoid)
            source = source or self.sources.choose(pool.spec)
            if source is None:
                self._waiting.give_up_if_hopeless(pool, out)
                break
            self._start(pool, source, out)
        self._waiting.note(pool)

    def _pump_all(self, out: list[Decision]) -> None:
        for pool in self._waiting:
            self._pump(pool, out)

    def _start(self, pool: Pool, source: Source, out: list[Decision]) -> None:
        spec, kind = pool.spec, source.kind
        self.policy.started(spec.name, kind, source.zygote, self._now_s)
        self.sources.note_use(source.zygote, self._now_s)
        if source.standby is None:
            start = Start(next(self._tickets), spec.name, spec.version, source.zygote, kind)
            self._starts[start.ticket] = start
            pool.starting.add(start.ticket)
            out.append(start)
            return
        self.sources.take_standby(source.standby)
        sandbox = self._adopt(pool, source.standby, source.zygote, spec.version, State.LEASED, kind)
        sandbox.request = request = pool.waiting.popleft()
        out.append(Lease(request.id, sandbox.id, spec.name, spec.version, kind, assign=True, note=spec.note(kind)))

    def _lease_idle(self, pool: Pool, request: Request) -> Lease:
        """The most recently used executor, else the most recently used helper (the paper's precedence)."""
        idle = pool.idle
        place = len(idle) - 1
        while place >= 0 and idle[place].kind is not StartKind.COLD:
            place -= 1
        sandbox = idle.pop(place)
        self._idle.remove(sandbox)
        kind, thaw = sandbox.first_kind or StartKind.WARM, sandbox.frozen
        sandbox.first_kind, sandbox.frozen, sandbox.state = None, False, State.LEASED
        sandbox.request = request
        return Lease(request.id, sandbox.id, sandbox.function, sandbox.version, kind, False, thaw, pool.spec.note(kind))

    def _adopt(
        self,
        pool: Pool,
        sandbox_id: SandboxId,
        zygote: ZygoteId,
        version: VersionId,
        state: State,
        kind: StartKind,
    ) -> PooledSandbox:
        assert sandbox_id not in self._sandboxes, f"sandbox {sandbox_id} has a function already"
        sandbox = PooledSandbox(sandbox_id, pool.spec.name, version, zygote, state, kind)
        self._sandboxes[sandbox_id] = pool.sandboxes[sandbox_id] = sandbox
        self.policy.sandboxes(pool.spec.name, len(pool.sandboxes), self._now_s)
        return sandbox

    def _make_idle(self, pool: Pool, sandbox: PooledSandbox) -> None:
        sandbox.state = State.IDLE
        pool.idle.append(sandbox)
        self._idle.add(sandbox, self._now_s)

    def _kill(self, sandbox: PooledSandbox, reason: str, out: list[Decision], why: str = "") -> None:
        if sandbox.state is State.DYING:
            return
        if sandbox.state is State.IDLE:
            self._idle.remove(sandbox)
            pool = self._pools.get(sandbox.function)
            if pool is not None:
                pool.idle.remove(sandbox)
        sandbox.state, sandbox.request = State.DYING, None
        out.append(Kill(sandbox.id, reason, why))

    def _has_room(self, pool: Pool, out: list[Decision]) -> bool:
        """Whether the function may get one more sandbox now; makes room at another's cost if it may later."""
        if self.room.is_for(pool):
            return True
        victim = self.room.victim_for(pool)
        if victim is not None:
            self._kill(victim, "evicted", out)
        return False
