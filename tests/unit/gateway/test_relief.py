"""What is given up for lack of memory: the order, the steps, and the way back."""

import itertools
from collections.abc import Sequence

import pytest

from gateway.scheduler.decisions import Kill, Lease
from gateway.scheduler.plan import base_specs, base_zygote_id, standby_target
from gateway.scheduler.planner import Planner
from gateway.scheduler.policies.keepalive import KeepAlive
from gateway.scheduler.policy import FunctionModel, PolicySettings, ZygoteSpec
from gateway.scheduler.pool import Limits
from gateway.scheduler.pools import Pools
from gateway.scheduler.pressure import Level, Pressure, Reading
from gateway.scheduler.relief import QUIET_S, STEP_MIN, STEP_S, Relief
from gateway.scheduler.sources import Standby
from gateway.scheduler.zygotes import Zygotes
from runtime.errors import MemoryShortError
from runtime.protocol import DropZygote, EnsureZygote, ZygoteDied, ZygoteReady

RUNTIME = "python3.11"
BASE = base_zygote_id(RUNTIME)
ENOUGH, LOW, CRITICAL = (Reading(percent * 1000, 100_000) for percent in (50, 7, 3))


class Wants(KeepAlive):
    """Keep-alive, with the package zygotes that it is told to want."""

    packages: Sequence[str] = ()

    def plan(self, now_s):
        super().plan(now_s)
        return [*base_specs(self.runtimes, standbys=1), *(_spec(name) for name in self.packages)]


def _spec(name):
    return ZygoteSpec(name, RUNTIME, (f"e-{name}",), (), (standby_target(f"e-{name}", 1),))


class World:
    """Pools, planner and relief, with functions `f0`… that have no packages and `on-Z` of each zygote Z."""

    def __init__(self, *packages: str) -> None:
        self.policy = Wants(PolicySettings(), [RUNTIME])
        self.policy.packages = packages
        limits = Limits(sandboxes_max=1000, function_concurrency=100, queue_per_function=10, freeze_after_s=1.0)
        self.pools = Pools(limits, itertools.count(1), self.policy)
        self.planner = Planner(self.policy, self.pools, Zygotes())
        self.relief = Relief(Pressure(8, 4), self.pools, self.planner)
        self.planner.put_function(FunctionModel("f", "v", RUNTIME), 0)
        for name in packages:
            self.planner.put_function(FunctionModel(f"on-{name}", "v", RUNTIME, f"e-{name}"), 0)
        self.planner.plan(0)
        for name in (BASE, *packages):
            self.up(name)

    def up(self, name: str) -> None:
        environments = () if name == BASE else (f"e-{name}",)
        message = ZygoteReady(zygote=name, runtime=RUNTIME, environments=environments, start_ms=1, memory_bytes=1)
        self.planner.ready(message, 0)

    def idle(self, *names: str) -> None:
        """Sandboxes that are idle, the first the least recently used."""
        busy = []
        for number, name in enumerate(names):
            (start,) = self.pools.request(f"r-{name}", "f", number)
            self.pools.started(start.ticket, name, number)
            busy.append(name)
        for number, name in enumerate(busy):
            self.pools.release(name, 100 + number, reusable=True)

    def park(self, *standbys: str, zygote: str = BASE) -> None:
        environment = None if zygote == BASE else f"e-{zygote}"
        for name in standbys:
            self.pools.add_standby(Standby(name, zygote, RUNTIME, environment), 0)

    def use(self, zygote: str, now_s: float) -> None:
        """A start from the zygote, which stays busy."""
        (start,) = self.pools.request(f"u-{zygote}-{now_s}", f"on-{zygote}", now_s)
        self.pools.started(start.ticket, f"s-{zygote}-{now_s}", now_s)

    def heed(self, reading: Reading, now_s: float) -> list:
        return list(self.relief.heed(reading, now_s).outs)


def killed(outs: Sequence) -> list[str]:
    assert all(out.reason == "memory" for out in outs if isinstance(out, Kill))
    return [out.sandbox for out in outs if isinstance(out, Kill)]


def test_with_enough_memory_nothing_happens():
    world = World()
    world.idle("s1")
    assert world.relief.heed(ENOUGH, 200).outs == []
    assert world.relief.tick(201).why == []


def test_idle_sandboxes_go_first_the_least_recently_used_before_others_a_share_a_step():
    world = World()
    names = [f"s{number:02}" for number in range(24)]
    world.idle(*names)
    world.park("p1")
    assert killed(world.heed(LOW, 200)) == names[:6]
    assert world.heed(LOW, 200 + STEP_S / 2) == [], "what was killed must have died first"
    assert killed(world.heed(LOW, 200 + STEP_S)) == names[6:11]
    assert killed(world.heed(CRITICAL, 200 + 2 * STEP_S)) == names[11:18]
    assert world.relief.given_up == {"sandboxes": 18, "standbys": 0, "zygotes": 0}


def test_a_step_is_never_smaller_than_a_few():
    world = World()
    world.idle(*(f"s{number}" for number in range(5)))
    assert len(killed(world.heed(LOW, 200))) == STEP_MIN
    assert len(killed(world.heed(LOW, 201))) == 1


def test_then_standbys_of_the_least_used_zygotes_then_zygotes_and_never_what_is_busy():
    world = World("z-a", "z-b")
    world.use("z-a", 10)
    world.use("z-b", 5)
    world.idle("s1")
    world.park("p-base")
    world.park("p-a1", "p-a2", zygote="z-a")
    world.park("p-b1", "p-b2", zygote="z-b")
    assert killed(world.heed(LOW, 200)) == ["s1"]
    assert killed(world.heed(LOW, 201)) == ["p-base", "p-b1", "p-b2", "p-a1"]  # the base was used at 0
    assert killed(world.heed(LOW, 201.6)) == ["p-a2"]
    assert world.heed(LOW, 203) == [DropZygote(zygote="z-b")]
    assert world.heed(LOW, 204) == [DropZygote(zygote="z-a")]
    assert world.heed(LOW, 205) == [], "the base zygote and what is busy stay"
    assert {one.id for one in world.pools.sandboxes.values() if one.state.name == "LEASED"} == {"s-z-a-10", "s-z-b-5"}
    assert world.relief.given_up == {"sandboxes": 1, "standbys": 5, "zygotes": 2}


def test_nothing_is_made_ahead_until_there_has_been_enough_for_a_while():
    world = World("z-a")
    outs = world.heed(LOW, 200)
    assert [(type(one), one.zygote, one.standbys) for one in outs if isinstance(one, EnsureZygote)] == [
        (EnsureZygote, BASE, ()),
        (EnsureZygote, "z-a", ()),
    ]
    assert DropZygote(zygote="z-a") in [*outs, *world.heed(LOW, 201)]
    world.planner.died(ZygoteDied(zygote="z-a", reason="dropped"), 201)
    world.policy.packages = ("z-a", "z-new")
    assert world.planner.plan(202) == [], "no zygote is made meanwhile"
    assert world.heed(ENOUGH, 203) == []
    assert world.relief.level is Level.NORMAL
    assert list(world.relief.tick(203 + QUIET_S - 0.1).outs) == []
    back = list(world.relief.tick(203 + QUIET_S).outs)
    assert {(one.zygote, len(one.standbys)) for one in back} == {(BASE, 1), ("z-a", 1), ("z-new", 1)}
    assert world.relief.tick(300).outs == []


def test_critical_refuses_new_sandboxes_in_words_until_it_is_over():
    world = World()
    (why, *_) = world.relief.heed(CRITICAL, 200).why
    assert why == "memory is critical: 3.0 % of 0 MiB of memory is available, memory_critical_percent is 4"
    with pytest.raises(MemoryShortError, match=r"short of memory: 3.0 % .* memory_critical_percent is 4") as caught:
        world.pools.request("r1", "f", 201)
    assert caught.value.retry_after_s >= 1
    assert world.heed(LOW, 202) == []
    assert len(world.pools.request("r2", "f", 203)) == 1


def test_who_waits_starts_when_it_is_over():
    world = World()
    world.idle("s1")
    world.pools.request("r1", "f", 150)  # takes s1
    world.heed(CRITICAL, 200)
    assert world.pools.request("r2", "f", 201) == []
    outs = world.heed(ENOUGH, 202)
    assert [type(out).__name__ for out in outs] == ["Start"]


def test_a_sandbox_that_is_leased_meanwhile_is_not_given_up():
    world = World()
    world.idle("s1", "s2")
    (lease,) = world.pools.request("r1", "f", 150)
    assert isinstance(lease, Lease) and lease.sandbox == "s2"
    assert killed(world.heed(CRITICAL, 200)) == ["s1"]


def test_each_step_says_what_and_how_much_is_left():
    world = World()
    world.idle(*(f"s{number}" for number in range(6)))
    assert world.relief.heed(LOW, 200).why[1] == "memory is low: 4 idle sandboxes given up, 2 left"
    assert world.relief.heed(ENOUGH, 201).why == [
        "memory is enough again: 50.0 % of 0 MiB of memory is available, memory_low_percent is 8"
    ]
