"""The pools' rules, one by one, and their invariants under any order of events."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.scheduler.decisions import Decision, Freeze, Kill, Lease, Reject, Start
from gateway.scheduler.policies import make as make_policy
from gateway.scheduler.policy import FunctionModel, PolicySettings
from gateway.scheduler.pool import Limits, State
from gateway.scheduler.pools import Pools
from gateway.scheduler.sources import LiveZygote, Standby
from gateway.scheduler.waiting import START_TRIES_MAX
from runtime.errors import MemoryShortError, PoolExhaustedError
from runtime.model import StartKind

RUNTIME = "python3.11"
BASE = LiveZygote("base", RUNTIME, frozenset())
PANDAS = LiveZygote("z-pandas", RUNTIME, frozenset({"pandas", "numpy"}))
PLAIN = FunctionModel("plain", "v1", RUNTIME)
FRAMES = FunctionModel("frames", "v1", RUNTIME, "pandas")
FRESH = FunctionModel("fresh", "v1", RUNTIME, reuse=False)


class TimedPools(Pools):
    """Pools for tests in which most events come at one time."""

    def put_function(self, spec: FunctionModel, now_s: float = 0.0) -> list[Decision]:
        return super().put_function(spec, max(now_s, self._now_s))

    def remove_function(self, name: str, now_s: float = 0.0) -> list[Decision]:
        return super().remove_function(name, max(now_s, self._now_s))

    def request(self, request_id: str, name: str, now_s: float = 0.0) -> list[Decision]:
        return super().request(request_id, name, max(now_s, self._now_s))

    def add_standby(self, standby: Standby, now_s: float = 0.0) -> list[Decision]:
        return super().add_standby(standby, max(now_s, self._now_s))

    def refused(self, ticket: int, phase: str, message: str, now_s: float = 0.0) -> list[Decision]:
        return super().refused(ticket, phase, message, max(now_s, self._now_s))

    def died(self, sandbox_id: str, now_s: float = 0.0, *, never_ready: str = "") -> list[Decision]:
        return super().died(sandbox_id, max(now_s, self._now_s), never_ready=never_ready)

    def zygote_up(self, zygote: LiveZygote, now_s: float = 0.0) -> list[Decision]:
        return super().zygote_up(zygote, max(now_s, self._now_s))


def make(*, concurrency: int = 4, total: int = 10, queue: int = 5) -> Pools:
    limits = Limits(
        sandboxes_max=total,
        function_concurrency=concurrency,
        queue_per_function=queue,
        freeze_after_s=1.0,
    )
    return TimedPools(
        limits, itertools.count(1), make_policy("keepalive", PolicySettings(keep_alive_s=60.0), [RUNTIME])
    )


def ready(*specs: FunctionModel, **limits: int) -> Pools:
    pools = make(**limits)
    for zygote in (BASE, PANDAS):
        pools.zygote_up(zygote)
    for spec in specs or (PLAIN, FRAMES):
        pools.put_function(spec)
    return pools


def park(pools: Pools, sandbox: str, environment: str | None = None, zygote: str = "base") -> list:
    return pools.add_standby(Standby(sandbox, zygote, RUNTIME, environment))


def run_one(pools: Pools, request: str, name: str, sandbox: str, now_s: float = 0.0) -> None:
    """A fork that serves one request and is idle then."""
    (start,) = pools.request(request, name)
    (lease,) = pools.started(start.ticket, sandbox, now_s)
    assert lease.request == request
    assert pools.release(sandbox, now_s, reusable=True) == []


def test_warm_wins_and_the_most_recently_used_is_taken():
    pools = ready()
    (one,) = pools.request("r1", "plain")
    (two,) = pools.request("r2", "plain")
    pools.started(one.ticket, "s1", 0)
    pools.started(two.ticket, "s2", 0)
    pools.release("s2", 1, reusable=True)
    pools.release("s1", 2, reusable=True)
    park(pools, "p1")
    (lease,) = pools.request("r3", "plain")
    assert (lease.sandbox, lease.kind, lease.assign) == ("s1", StartKind.WARM, False)


def test_a_function_without_packages_is_helped_by_a_standby_of_the_base():
    pools = ready()
    park(pools, "p1")
    assert pools.request("r1", "plain") == [Lease("r1", "p1", "plain", "v1", StartKind.HELPED, assign=True, thaw=False)]


def test_a_function_without_packages_is_forked_from_the_base():
    (start,) = ready().request("r1", "plain")
    assert (start.zygote, start.kind) == ("base", StartKind.HELPED)


def test_a_covering_standby_comes_first():
    pools = ready()
    park(pools, "p1")
    park(pools, "p2", "pandas", "z-pandas")
    (lease,) = pools.request("r1", "frames")
    assert (lease.sandbox, lease.kind) == ("p2", StartKind.HELPED)


def test_a_fork_from_a_covering_zygote_beats_a_standby_of_the_base():
    pools = ready()
    park(pools, "p1")
    park(pools, "p2", "numpy", "z-pandas")
    (start,) = pools.request("r1", "frames")
    assert (start.zygote, start.kind) == ("z-pandas", StartKind.HELPED)


def test_a_standby_of_the_base_is_a_cold_start_for_packages():
    pools = ready()
    pools.zygote_down("z-pandas")
    park(pools, "p1")
    (lease,) = pools.request("r1", "frames")
    assert (lease.sandbox, lease.kind) == ("p1", StartKind.COLD)


def test_the_last_resort_is_a_fork_from_the_base():
    pools = ready()
    pools.zygote_down("z-pandas")
    (start,) = pools.request("r1", "frames")
    assert (start.zygote, start.kind) == ("base", StartKind.COLD)


def test_the_smallest_covering_zygote_is_taken():
    pools = ready()
    pools.zygote_up(LiveZygote("z-only", RUNTIME, frozenset({"pandas"})))
    (start,) = pools.request("r1", "frames")
    assert start.zygote == "z-only"


def test_a_standby_with_an_environment_takes_no_other_function():
    pools = ready()
    park(pools, "p2", "pandas", "z-pandas")
    (start,) = pools.request("r1", "plain")
    assert isinstance(start, Start)


def test_another_runtime_does_not_help():
    pools = make()
    pools.zygote_up(LiveZygote("base-12", "python3.12", frozenset()))
    pools.put_function(PLAIN)
    assert pools.request("r1", "plain") == []


def test_starts_are_single_flight():
    pools = ready(PLAIN, concurrency=10)
    starts = [pools.request(f"r{n}", "plain") for n in range(3)]
    assert [len(one) for one in starts] == [1, 1, 1]
    pools.withdraw("r2", "plain")
    assert pools.request("r9", "plain") == []  # the withdrawn one's start is under way


def test_a_waiting_request_takes_what_is_ready_first():
    pools = ready(PLAIN)
    (one,) = pools.request("r1", "plain")
    (two,) = pools.request("r2", "plain")
    pools.started(one.ticket, "s1", 0)
    (lease,) = pools.release("s1", 1, reusable=True)
    assert (lease.request, lease.sandbox, lease.kind) == ("r2", "s1", StartKind.WARM)
    assert pools.started(two.ticket, "s2", 2) == []
    assert pools.sandboxes["s2"].state is State.IDLE


def test_an_unneeded_fork_keeps_its_kind_for_its_first_lease():
    pools = ready(PLAIN)
    (one,) = pools.request("r1", "plain")
    pools.withdraw("r1", "plain")
    pools.started(one.ticket, "s1", 0)
    (lease,) = pools.request("r2", "plain")
    assert lease.kind is StartKind.HELPED


def test_function_concurrency_holds_and_the_queue_is_served():
    pools = ready(PLAIN, concurrency=1)
    (start,) = pools.request("r1", "plain")
    pools.started(start.ticket, "s1", 0)
    assert pools.request("r2", "plain") == []
    (lease,) = pools.release("s1", 0, reusable=True)
    assert lease.request == "r2"


def test_a_full_queue_names_the_limits():
    pools = ready(PLAIN, concurrency=1, queue=2)
    for number in range(3):
        pools.request(f"r{number}", "plain")
    with pytest.raises(PoolExhaustedError, match=r"queue_per_function is 2.*function_concurrency is 1"):
        pools.request("r3", "plain")
    assert pools.waiting_count == 3


def test_a_full_node_is_named():
    pools = ready(total=1, queue=0)
    run_one(pools, "r1", "plain", "s1")
    pools.request("r2", "plain")
    with pytest.raises(PoolExhaustedError, match="sandboxes_max is 1"):
        pools.request("r3", "frames")
    assert pools.waiting_count == 0


def test_no_zygote_is_named():
    pools = make(queue=0)
    pools.put_function(PLAIN)
    with pytest.raises(PoolExhaustedError, match="no zygote"):
        pools.request("r1", "plain")


def test_requests_wait_for_the_first_zygote():
    pools = make()
    pools.put_function(PLAIN)
    assert pools.request("r1", "plain") == []
    (start,) = pools.zygote_up(BASE)
    assert start.function == "plain"


def test_requests_wait_for_a_standby_too():
    pools = make()
    pools.put_function(PLAIN)
    pools.request("r1", "plain")
    (lease,) = park(pools, "p1")
    assert lease.request == "r1"


def test_a_full_node_evicts_the_least_recently_used_of_another_function():
    other = FunctionModel("other", "v1", RUNTIME)
    pools = ready(PLAIN, FRAMES, other, total=2)
    run_one(pools, "r1", "plain", "s1", 1)
    run_one(pools, "r2", "other", "s2", 2)
    assert pools.request("r3", "frames") == [Kill("s1", "evicted")]
    (start,) = pools.died("s1")
    assert start.function == "frames"


def test_no_more_is_evicted_than_requests_wait():
    other = FunctionModel("other", "v1", RUNTIME)
    pools = ready(PLAIN, FRAMES, other, total=2)
    run_one(pools, "r1", "plain", "s1", 1)
    run_one(pools, "r2", "other", "s2", 2)
    pools.request("r3", "frames")
    assert pools.tick(3) == [Freeze("s2")]


def test_a_busy_function_gives_way_to_one_that_has_nothing():
    pools = ready(PLAIN, FRAMES, total=1)
    (start,) = pools.request("r1", "plain")
    pools.started(start.ticket, "s1", 0)
    pools.request("r2", "frames")
    pools.request("r3", "plain")
    assert pools.release("s1", 1, reusable=True) == [Kill("s1", "evicted")]
    (start,) = pools.died("s1")
    assert start.function == "frames"


def test_idle_sandboxes_are_frozen_then_killed_and_thawed_on_lease():
    pools = ready(PLAIN)
    run_one(pools, "r1", "plain", "s1", 0)
    assert pools.tick(0.5) == []
    assert pools.tick(1.0) == [Freeze("s1")]
    assert pools.tick(2.0) == []
    (lease,) = pools.request("r2", "plain")
    assert lease.thaw
    pools.release("s1", 3, reusable=True)
    (lease,) = pools.request("r3", "plain")
    assert not lease.thaw
    pools.release("s1", 4, reusable=True)
    assert pools.tick(64.0) == [Kill("s1", "idle")]
    assert pools.tick(65.0) == []


def test_a_new_version_kills_idle_sandboxes_and_lets_busy_ones_finish():
    pools = ready(PLAIN)
    (one,) = pools.request("r1", "plain")
    (two,) = pools.request("r2", "plain")
    pools.started(one.ticket, "s1", 0)
    pools.started(two.ticket, "s2", 0)
    pools.release("s1", 1, reusable=True)
    assert pools.put_function(FunctionModel("plain", "v2", RUNTIME)) == [Kill("s1", "version")]
    assert pools.release("s2", 2, reusable=True) == [Kill("s2", "version")]


def test_a_start_of_the_old_version_is_killed_and_done_again():
    pools = ready(PLAIN)
    (start,) = pools.request("r1", "plain")
    pools.put_function(FunctionModel("plain", "v2", RUNTIME))
    kill, again = pools.started(start.ticket, "s1", 0)
    assert kill == Kill("s1", "version")
    assert again.version == "v2"


def test_removing_a_function_ends_all_of_it():
    pools = ready(PLAIN, concurrency=1)
    (start,) = pools.request("r1", "plain")
    pools.started(start.ticket, "s1", 0)
    pools.request("r2", "plain")
    reject, kill = pools.remove_function("plain")
    assert isinstance(reject, Reject)
    assert kill == Kill("s1", "deleted")
    with pytest.raises(KeyError):
        pools.request("r3", "plain")
    assert pools.died("s1") == []
    assert pools.remove_function("plain") == []


def test_a_start_for_a_removed_function_is_killed():
    pools = ready(PLAIN)
    (start,) = pools.request("r1", "plain")
    pools.remove_function("plain")
    assert pools.started(start.ticket, "s1", 0) == [Kill("s1", "unknown")]
    assert pools.starting_count == 0


def test_an_unknown_ticket_is_killed():
    assert ready().started(99, "s1", 0) == [Kill("s1", "unknown")]


def test_what_is_not_reusable_is_killed_and_replaced():
    pools = ready(PLAIN, concurrency=1)
    (start,) = pools.request("r1", "plain")
    pools.started(start.ticket, "s1", 0)
    pools.request("r2", "plain")
    assert pools.release("s1", 1, reusable=False) == [Kill("s1", "ended")]
    (start,) = pools.died("s1")
    assert isinstance(start, Start)


def test_a_refused_start_tries_another_zygote_then_gives_up():
    pools = ready(FRAMES)
    (start,) = pools.request("r1", "frames")
    (start,) = pools.refused(start.ticket, "fork", "no memory")
    assert (start.zygote, start.kind) == ("base", StartKind.COLD)
    (start,) = pools.refused(start.ticket, "fork", "no memory")
    decisions = pools.refused(start.ticket, "fork", "no memory")
    assert [type(one) for one in decisions] == [Reject]
    assert START_TRIES_MAX == 3


def test_a_sandbox_that_was_never_ready_puts_its_request_back_in_front():
    pools = ready(PLAIN)
    park(pools, "p1")
    pools.request("r1", "plain")
    (start,) = pools.died("p1", never_ready="mount failed")
    (lease,) = pools.started(start.ticket, "s1", 0)
    assert lease.request == "r1"


def test_a_sandbox_that_is_never_ready_is_not_tried_for_ever():
    pools = ready(PLAIN)
    (start,) = pools.request("r1", "plain")
    for number in range(START_TRIES_MAX):
        pools.started(start.ticket, f"s{number}", 0)
        decisions = pools.died(f"s{number}", never_ready="mount failed")
        start = decisions[0]
    assert isinstance(start, Reject)
    assert len(decisions) == 1


def test_a_hopeless_runtime_rejects_who_waits_until_a_zygote_comes():
    pools = make()
    pools.put_function(PLAIN)
    pools.request("r1", "plain")
    (reject,) = pools.runtime_hopeless(RUNTIME, "no rootfs")
    assert "no rootfs" in str(reject.error)
    (reject,) = pools.request("r2", "plain")
    pools.zygote_up(BASE)
    (start,) = pools.request("r3", "plain")
    assert isinstance(start, Start)


def test_adoption_keeps_current_versions_only():
    pools = ready(PLAIN)
    assert pools.adopt_begin("s1", "plain", "v0", "base") == [Kill("s1", "version")]
    assert pools.adopt_begin("s2", "gone", "v1", "base") == [Kill("s2", "version")]
    assert pools.adopt_begin("s3", "plain", "v1", "base") == []
    assert pools.adopt_done("s3", 5) == []
    (lease,) = pools.request("r1", "plain")
    assert (lease.sandbox, lease.kind) == ("s3", StartKind.WARM)
    assert pools.adopt_done("s3", 6) == []


def test_a_deploy_during_adoption_kills_the_adopted():
    pools = ready(PLAIN)
    pools.adopt_begin("s3", "plain", "v1", "base")
    pools.put_function(FunctionModel("plain", "v2", RUNTIME))
    assert pools.adopt_done("s3", 5) == [Kill("s3", "version")]


def test_killing_is_done_once_and_for_standbys_too():
    pools = ready(PLAIN)
    run_one(pools, "r1", "plain", "s1")
    park(pools, "p1")
    assert pools.kill("s1", "why") == [Kill("s1", "why")]
    assert pools.kill("s1", "why") == []
    assert pools.kill("p1", "why") == [Kill("p1", "why")]
    assert pools.kill("nobody", "why") == []
    assert pools.release("s1", 0, reusable=True) == []


def test_without_reuse_a_sandbox_serves_one_invocation():
    pools = ready(FRESH, concurrency=1)
    (start,) = pools.request("r1", "fresh")
    pools.started(start.ticket, "s1", 0)
    assert pools.request("r2", "fresh") == []
    assert pools.release("s1", 1, reusable=True) == [Kill("s1", "fresh")]
    (start,) = pools.died("s1")
    (lease,) = pools.started(start.ticket, "s2", 2)
    assert (lease.request, lease.sandbox, lease.kind) == ("r2", "s2", StartKind.HELPED)


def test_without_reuse_standbys_serve_one_after_another():
    pools = ready(FRESH)
    park(pools, "p1")
    park(pools, "p2")
    (lease,) = pools.request("r1", "fresh")
    assert (lease.sandbox, lease.assign) == ("p1", True)
    assert pools.release("p1", 1, reusable=True) == [Kill("p1", "fresh")]
    (lease,) = pools.request("r2", "fresh")
    assert (lease.sandbox, lease.assign) == ("p2", True)


def test_without_reuse_a_sandbox_that_has_not_served_waits_for_its_one_invocation():
    pools = ready(FRESH)
    (start,) = pools.request("r1", "fresh")
    pools.withdraw("r1", "fresh")
    assert pools.started(start.ticket, "s1", 0) == []
    (lease,) = pools.request("r2", "fresh")
    assert lease.sandbox == "s1"
    assert pools.release("s1", 1, reusable=True) == [Kill("s1", "fresh")]


def test_without_reuse_nothing_is_adopted():
    pools = ready(FRESH)
    assert pools.adopt_begin("s1", "fresh", "v1", "base") == [Kill("s1", "fresh")]


def test_short_of_memory_only_what_needs_a_new_sandbox_is_refused():
    pools = ready(PLAIN, FRESH)
    run_one(pools, "r1", "plain", "s1")
    park(pools, "p1")
    assert pools.set_shortage("1 % is available", 1) == []
    (lease,) = pools.request("r2", "plain")
    assert lease.sandbox == "s1"
    assert pools.request("r3", "plain") == [], "it waits for s1"
    with pytest.raises(MemoryShortError, match="1 % is available"):
        pools.request("r4", "fresh")
    (lease,) = pools.release("s1", 2, reusable=True)
    assert lease.request == "r3"
    assert pools.request("r5", "plain") == []
    (lease,) = pools.set_shortage("", 3)
    assert (lease.request, lease.sandbox) == ("r5", "p1")


def test_short_of_memory_nobody_waits_for_a_sandbox_without_reuse():
    pools = ready(FRESH)
    (start,) = pools.request("r1", "fresh")
    pools.started(start.ticket, "s1", 0)
    pools.set_shortage("short", 1)
    with pytest.raises(MemoryShortError):
        pools.request("r2", "fresh")


class PoolsMachine(RuleBasedStateMachine):
    """Plays a node at random, and holds what must hold always."""

    @property
    def limits(self) -> dict[str, int]:
        return {"concurrency": 2, "total": 4, "queue": 3}

    def __init__(self) -> None:
        super().__init__()
        self.pools = ready(PLAIN, FRAMES, FRESH, FunctionModel("other", "v1", RUNTIME), **self.limits)
        self.now_s = 0.0
        self.numbers = itertools.count(1)
        self.waiting: dict[str, str] = {}
        self.leased: dict[str, str] = {}  # sandbox -> request
        self.starts: dict[int, Start] = {}
        self.alive: set[str] = set()
        self.dying: set[str] = set()
        self.frozen: set[str] = set()
        self.ended: set[str] = set()
        self.served: set[str] = set()  # sandboxes of the function without reuse

    def take(self, decisions: list) -> None:
        for one in decisions:
            if isinstance(one, Lease):
                assert one.sandbox in self.alive - self.dying
                assert one.sandbox not in self.leased, "a sandbox was leased twice"
                assert self.waiting.pop(one.request) == one.function
                assert one.thaw == (one.sandbox in self.frozen)
                self.frozen.discard(one.sandbox)
                assert one.sandbox not in self.served, "a sandbox without reuse served twice"
                self.served |= {one.sandbox} if one.function == "fresh" else set()
                self.leased[one.sandbox] = one.request
            elif isinstance(one, Start):
                self.starts[one.ticket] = one
            elif isinstance(one, Kill):
                assert one.sandbox not in self.dying, "killed twice"
                self.dying.add(one.sandbox)
                request = self.leased.pop(one.sandbox, None)
                self.ended |= {request} if request else set()
            elif isinstance(one, Freeze):
                assert one.sandbox not in self.leased
                self.frozen.add(one.sandbox)
            else:
                del self.waiting[one.request]
                self.ended.add(one.request)

    @rule(name=st.sampled_from(["plain", "frames", "fresh", "other"]))
    def request(self, name: str) -> None:
        number = f"r{next(self.numbers)}"
        self.waiting[number] = name
        try:
            self.take(self.pools.request(number, name))
        except PoolExhaustedError:
            del self.waiting[number]

    @rule(reason=st.sampled_from(["", "short of memory"]))
    def shortage(self, reason: str) -> None:
        self.take(self.pools.set_shortage(reason, self.now_s))

    @precondition(lambda self: self.starts)
    @rule(data=st.data())
    def offer(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.starts)))
        del self.starts[ticket]
        sandbox = f"s{next(self.numbers)}"
        self.alive.add(sandbox)
        self.take(self.pools.started(ticket, sandbox, self.now_s))

    @precondition(lambda self: self.starts)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.starts)))
        del self.starts[ticket]
        self.take(self.pools.refused(ticket, "fork", "no"))

    @rule(environment=st.sampled_from([None, "pandas"]))
    def park(self, environment: str | None) -> None:
        sandbox = f"p{next(self.numbers)}"
        self.alive.add(sandbox)
        self.take(park(self.pools, sandbox, environment, "z-pandas" if environment else "base"))

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), reusable=st.booleans())
    def answer(self, data: st.DataObject, reusable: bool) -> None:
        sandbox = data.draw(st.sampled_from(sorted(self.leased)))
        self.ended.add(self.leased.pop(sandbox))
        self.take(self.pools.release(sandbox, self.now_s, reusable=reusable))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), never_ready=st.sampled_from(["", "mount failed"]))
    def die(self, data: st.DataObject, never_ready: str) -> None:
        sandbox = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(sandbox)
        self.dying.discard(sandbox)
        self.frozen.discard(sandbox)
        request = self.leased.pop(sandbox, None)
        if request and never_ready:
            self.waiting[request] = self.pools.sandboxes[sandbox].function
        elif request:
            self.ended.add(request)
        self.take(self.pools.died(sandbox, never_ready=never_ready))

    @rule(version=st.sampled_from(["v1", "v2", "v3"]))
    def deploy(self, version: str) -> None:
        self.take(self.pools.put_function(FunctionModel("plain", version, RUNTIME)))

    @rule(seconds=st.sampled_from([0.5, 2.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.take(self.pools.tick(self.now_s))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.pools.withdraw(request, self.waiting.pop(request))
        self.ended.add(request)

    @invariant()
    def limits_hold(self) -> None:
        counts: dict[str, int] = {}
        for sandbox in self.pools.sandboxes.values():
            counts[sandbox.function] = counts.get(sandbox.function, 0) + 1
        for start in self.starts.values():
            counts[start.function] = counts.get(start.function, 0) + 1
        assert sum(counts.values()) <= 4
        assert all(count <= 2 for count in counts.values())
        assert self.pools.waiting_count == len(self.waiting)
        assert self.pools.starting_count == len(self.starts)

    def teardown(self) -> None:
        """Answer everything that comes: every request must get its end."""
        self.take(self.pools.set_shortage("", self.now_s))
        for _ in range(1000):
            if self.starts:
                ticket = min(self.starts)
                del self.starts[ticket]
                sandbox = f"s{next(self.numbers)}"
                self.alive.add(sandbox)
                self.take(self.pools.started(ticket, sandbox, self.now_s))
            elif self.dying:
                sandbox = self.dying.pop()
                self.alive.discard(sandbox)
                self.frozen.discard(sandbox)
                self.take(self.pools.died(sandbox))
            elif self.leased:
                sandbox, request = self.leased.popitem()
                self.ended.add(request)
                self.take(self.pools.release(sandbox, self.now_s, reusable=True))
            else:
                break
        assert not self.waiting, "requests wait for ever"


PoolsMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPools = PoolsMachine.TestCase


class AskedPolicy(type(make_policy("keepalive", PolicySettings(), [RUNTIME]))):
    """keepalive that counts what it is asked, and is told."""

    def __init__(self, settings: PolicySettings, runtimes: list) -> None:
        super().__init__(settings, runtimes)
        self.asked, self.told_left = [], []

    def idled(self, idle, now_s):
        self.asked.append((idle.sandbox, now_s))
        return super().idled(idle, now_s)

    def left(self, name, sandbox):
        self.told_left.append(sandbox)


def asked_pools() -> tuple[Pools, AskedPolicy]:
    policy = AskedPolicy(PolicySettings(keep_alive_s=60.0), [RUNTIME])
    pools = TimedPools(Limits(10, 4, 5, freeze_after_s=100.0), itertools.count(1), policy)
    pools.zygote_up(BASE)
    pools.put_function(PLAIN)
    run_one(pools, "r0", "plain", "s1")
    return pools, policy


def test_a_sandbox_that_is_used_again_at_once_costs_the_policy_nothing():
    pools, policy = asked_pools()
    for number in range(1, 1000):
        assert pools.request(f"r{number}", "plain", number * 0.0001)
        assert pools.release("s1", number * 0.0001, reusable=True) == []
    assert policy.asked == policy.told_left == []
    assert pools.next_due_s() <= 0.1
    assert pools.tick(0.25) == []
    assert policy.asked == [("s1", 0.25)]
    assert pools.tick(0.5) == []
    assert len(policy.asked) == 1
    pools.request("last", "plain", 0.6)
    assert policy.told_left == ["s1"]


def test_what_lapsed_is_not_kept_for_long():
    pools, policy = asked_pools()
    for number in range(1, 5000):
        pools.tick(number * 0.001)
        assert pools.request(f"r{number}", "plain", number * 0.001)
        assert pools.release("s1", number * 0.001, reusable=True) == []
    assert len(policy.asked) == 4999
    assert len(pools._idle._dues) < 300
    assert pools.tick(4.999 + 59.0) == []
    (kill,) = pools.tick(4.999 + 61.0)
    assert kill.sandbox == "s1"
