"""The paper's policy, scene by scene, with explicit times."""

import dataclasses
import itertools

import pytest

from gateway.scheduler.planner import Planner
from gateway.scheduler.policies.pagurus import CHECK_S, SETTLE_S, UP_CHECK_S, Paper
from gateway.scheduler.policy import FunctionModel, Idle, PolicySettings, Retire, Stay, ZygoteSpec
from gateway.scheduler.pool import Limits
from gateway.scheduler.pools import Pools
from gateway.scheduler.zygotes import Zygotes
from runtime.errors import ConfigError
from runtime.model import StartKind
from runtime.protocol import DropZygote, EnsureZygote, ZygoteReady

RUNTIME = "python3.11"
SETTINGS = PolicySettings(idle_first_s=60.0, keep_alive_s=600.0, helper_keep_alive_s=300.0, zygote_keep_alive_s=900.0)


def function(name: str, *pins: str, version: str = "v1", tenant: str = "default", runtime: str = RUNTIME):
    distributions = dict(pin.split("==") for pin in pins)
    return FunctionModel(
        name,
        version,
        runtime,
        environment="+".join(sorted(pins)) or None,
        distributions=distributions,
        imports=tuple(distributions),
        tenant=tenant,
    )


def make(*models: FunctionModel, **options: object) -> Paper:
    policy = Paper(dataclasses.replace(SETTINGS, **options), (RUNTIME,))
    for model in models:
        policy.put_function(model, 0.0)
    policy.plan(0.0)
    return policy


def idle(name: str = "a", since_s: float = 0.0, *, kind: StartKind = StartKind.COLD, sandbox: str = "") -> Idle:
    return Idle(sandbox or f"s-{name}", name, kind, since_s)


def packages(policy: Paper, now_s: float) -> list[ZygoteSpec]:
    return list(policy.plan(now_s))[1:]


def convert(policy: Paper, name: str = "a", now_s: float = 60.0) -> ZygoteSpec:
    """Its executor is idle by rule A, and its zygote comes up."""
    assert isinstance(policy.due(idle(name, now_s - 60.0), now_s), Stay)
    spec = next(spec for spec in packages(policy, now_s) if spec.owner == name)
    policy.zygote_up(spec.id, 1 << 20, 100.0, now_s + 0.5)
    return spec


A = function("a", "numpy==1", "pandas==2")
B = function("b", "numpy==1")
C = function("c", "numpy==2")
BARE = function("bare")


# --- executors and helpers


def test_an_executor_is_looked_at_when_its_limit_has_passed():
    policy = make(A)
    assert policy.idled(idle(), 0.0) == Stay(60.0)
    assert "limit 60 s (the first limit, as only 0 arrivals" in str(policy.explain("a", 0.0)["last_decision"])


def test_the_limit_follows_the_arrivals():
    policy = make(A, idle_arrivals_min=5)
    for number in range(30):
        policy.arrived("a", number * 7.0)
    assert policy.idled(idle(since_s=203.0), 203.0) == Stay(210.0)


def test_no_executor_is_looked_at_more_often_than_the_tick():
    policy = make(A, idle_arrivals_min=5)
    for number in range(30):
        policy.arrived("a", number / 100)
    assert policy.idled(idle(since_s=0.3), 0.3) == Stay(0.3 + CHECK_S)


def test_an_idle_executor_gives_way_to_a_zygote_once_that_is_up():
    policy = make(A, B)
    assert policy.due(idle(), 60.0) == Stay(60.0 + UP_CHECK_S)
    assert policy.next_plan_s() < 60.0
    (spec,) = packages(policy, 60.0)
    assert spec.owner == "a"
    assert policy.due(idle(), 61.0) == Stay(61.0 + UP_CHECK_S)
    policy.zygote_up(spec.id, 1 << 20, 300.0, 61.5)
    verdict = policy.due(idle(), 62.0)
    assert isinstance(verdict, Retire)
    assert verdict.why.startswith("its zygote is up (rule A: unused for 60 s")


def test_an_executor_that_went_busy_is_retired_at_its_next_idle_moment():
    policy = make(A)
    convert(policy)
    assert isinstance(policy.idled(idle(since_s=75.0), 75.0), Retire)


def test_only_the_converted_executor_is_retired():
    policy = make(A)
    convert(policy)
    assert isinstance(policy.idled(idle(since_s=75.0, sandbox="other"), 75.0), Stay)


def test_an_executor_stays_while_its_zygote_cannot_be_made():
    policy = make(A)
    policy.due(idle(), 60.0)
    (spec,) = packages(policy, 60.0)
    policy.zygote_down(spec.id, "out of memory", 60.5)
    assert policy.due(idle(), 61.0) == Stay(62.0)
    assert policy.due(idle(), 599.5) == Stay(600.0)
    assert policy.due(idle(), 600.0) == Retire("idle for 600.0 s, keep-alive is 600 s")
    assert policy.explain("a", 601.0)["converting"] == 0


def test_helpers_live_their_time_and_become_no_zygotes():
    policy = make(A)
    for kind in (StartKind.HELPED, StartKind.RESTORED):
        assert policy.idled(idle(kind=kind), 0.0) == Stay(300.0)
        assert isinstance(policy.due(idle(kind=kind), 300.0), Retire)
    assert packages(policy, 300.0) == []


def test_rule_b_gives_up_a_sandbox_that_the_bound_does_not_need():
    policy = make(A, idle_arrivals_min=5)
    for number in range(20):
        policy.arrived("a", number * 100.0)
        policy.finished("a", 0.1, 0.1, number * 100.0)
    policy.sandboxes("a", 1, 1900.0)
    assert policy.idled(idle(since_s=1900.0), 1900.0) == Stay(2000.0)
    policy.sandboxes("a", 2, 1901.0)
    assert policy.idled(idle(since_s=1901.0), 1901.0) == Stay(1902.0)
    assert packages(policy, 1901.0)[0].why.startswith("a gave up an executor (rule B: 1 of 2 sandboxes would start 1.0")


def test_rule_b_counts_an_executor_that_is_being_converted_as_gone():
    policy = make(A, idle_arrivals_min=5, zygotes_per_function=2)
    for number in range(20):
        policy.arrived("a", number * 100.0)
        policy.finished("a", 0.1, 0.1, number * 100.0)
    policy.sandboxes("a", 2, 1900.0)
    for sandbox in ("s1", "s2"):
        policy.idled(idle(since_s=1900.0, sandbox=sandbox), 1900.0)
    assert len(packages(policy, 1900.0)) == 1


# --- what a zygote holds


def test_a_zygote_holds_the_union_without_conflict():
    (spec,) = [convert(make(A, B, C, function("d", "six==1"), BARE))]
    assert spec.environments == ("numpy==1", "numpy==1+pandas==2", "six==1")
    assert spec.imports == ("numpy", "pandas", "six")
    assert spec.functions == {"a", "b", "d", "bare"}


def test_a_zygote_helps_nobody_of_another_runtime_or_tenant():
    others = (function("e", "six==1", tenant="t2"), function("f", "six==1", runtime="python3.12"))
    assert convert(make(A, *others)).functions == {"a"}


def test_at_most_similar_max_are_in_the_union_the_most_similar_ones():
    far = [function(f"far{number}", "six==1") for number in range(5)]
    spec = convert(make(A, B, *far, similar_max=1))
    assert spec.functions == {"a", "b"}
    assert "six" not in spec.imports


def test_a_function_without_packages_owns_a_zygote_too():
    spec = convert(make(BARE, B, function("d", "numpy==1", "six==1")), "bare")
    assert (spec.owner, spec.imports) == ("bare", ("numpy", "six"))
    spec = convert(make(BARE, function("bare2")), "bare")
    assert (spec.environments, spec.functions) == ((), {"bare", "bare2"})


def test_standbys_are_for_those_who_are_helped_now_once_for_an_environment():
    policy = make(A, B, standbys=3, helped_max=1)
    first = convert(policy, "a")
    assert [(each.environment, each.count) for each in first.standbys] == [("numpy==1", 3), ("numpy==1+pandas==2", 3)]
    assert convert(policy, "b", 70.0).standbys == ()
    assert convert(make(A, standbys=0)).standbys == ()


# --- who is helped


def many(count: int = 20) -> list[FunctionModel]:
    return [function(f"f{number:02}", "numpy==1") for number in range(count)]


def test_helped_max_are_active_and_renewed_by_the_period():
    policy = make(A, *many(), helped_max=4, period_s=100.0, zygote_keep_alive_s=1e6)
    first = convert(policy)
    assert len(first.functions) == 5
    assert policy.next_plan_s() == 100.0
    assert packages(policy, 99.0)[0].functions == first.functions
    renewed = packages(policy, 100.0)[0]
    assert renewed.id == first.id
    assert renewed.functions != first.functions
    assert policy.next_plan_s() == 200.0


def test_the_choice_follows_the_misses_of_the_last_period():
    policy = make(A, *many(), helped_max=3, period_s=100.0)
    convert(policy)
    for _ in range(10_000):
        for name, kind in (("f03", StartKind.COLD), ("f07", StartKind.HELPED), ("f09", StartKind.WARM)):
            policy.started(name, kind, None, 90.0)
    helped = packages(policy, 100.0)[0].functions
    assert {"f03", "f07"} <= helped
    assert (policy.explain("f03", 100.0)["misses_last_period"], policy.explain("f09", 100.0)["misses"]) == (10_000, 0)
    assert policy.explain("f03", 100.0)["helped_by"]


def test_similar_chooses_the_most_similar_and_random_does_not_weigh():
    policy = make(A, B, function("d", "six==1"), *many(0), helped_max=1, choice="similar", period_s=100.0)
    assert convert(policy).functions == {"a", "b"}
    assert packages(policy, 100.0)[0].functions == {"a", "b"}
    policy = make(A, *many(), helped_max=1, choice="random", period_s=100.0, zygote_keep_alive_s=1e6)
    convert(policy)
    chosen = set()
    for period in range(1, 30):
        policy.started("f03", StartKind.COLD, None, period * 100.0 - 1)
        chosen |= packages(policy, period * 100.0)[0].functions
    assert len(chosen) > 10


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="unknown choice 'best'"):
        make(choice="best")
    with pytest.raises(ConfigError, match="period_s"):
        make(period_s=0.0)


def test_the_seed_decides_who_is_helped():
    chosen = {convert(make(A, *many(), helped_max=3, seed=seed)).functions for seed in (1, 1, 2, 3)}
    assert len(chosen) == 3


# --- life of a zygote


def test_a_zygote_lives_its_time_after_its_last_use():
    policy = make(A, B, period_s=1e6)
    spec = convert(policy)
    assert policy.next_plan_s() == 960.0
    policy.started("b", StartKind.HELPED, spec.id, 500.0)
    assert policy.next_plan_s() == 1400.0
    assert packages(policy, 1399.0) == [spec]
    assert packages(policy, 1400.0) == []


def test_a_zygote_that_inherits_its_last_use_ends_with_its_owners_demand():
    policy = make(A, B, inherits_last_use=True, period_s=1e6)
    policy.arrived("a", 0.0)
    spec = convert(policy)
    policy.started("b", StartKind.HELPED, spec.id, 500.0)
    policy.arrived("b", 500.0)
    assert policy.next_plan_s() == 900.0
    policy.arrived("a", 600.0)
    assert policy.next_plan_s() == 1500.0
    assert packages(policy, 1500.0) == []
    assert "its last request came 900 s ago" in str(explain_after(policy, 1500.0))


def explain_after(policy: Paper, now_s: float) -> object:
    policy.due(idle(since_s=now_s - 70.0, sandbox="s2"), now_s)
    return policy.explain("a", now_s)["last_decision"]


def test_at_most_zygotes_per_function():
    policy = make(A, zygotes_per_function=2)
    for number in range(3):
        policy.due(idle(sandbox=f"s{number}"), 60.0)
    specs = packages(policy, 60.0)
    assert len({spec.id for spec in specs}) == len(specs) == 2
    assert "no zygote: zygotes_per_function is 2" in str(policy.explain("a", 60.0)["last_decision"])


def test_at_most_zygotes_max_with_the_base_zygotes():
    policy = make(A, B, zygotes_max=2)
    policy.due(idle("a"), 60.0)
    assert policy.due(idle("b"), 60.0) == Stay(120.0)
    assert len(policy.plan(60.0)) == 2
    assert "zygotes_max is 2" in str(policy.explain("b", 60.0)["last_decision"])


def test_no_further_zygote_above_the_memory_limit():
    policy = make(A, B, memory_bytes=1 << 20)
    convert(policy)
    policy.due(idle("b"), 61.0)
    assert "memory_bytes is 1048576" in str(policy.explain("b", 61.0)["last_decision"])


def test_a_changed_union_makes_a_new_zygote_and_an_unchanged_one_keeps_its_id():
    policy = make(A, B)
    first = convert(policy)
    policy.put_function(dataclasses.replace(B, version="v2"), 100.0)
    assert packages(policy, 100.0)[0].id == first.id
    policy.put_function(function("twin", "numpy==1"), 110.0)
    assert policy.next_plan_s() == 110.0 + SETTLE_S
    assert packages(policy, 112.0)[0].id == first.id  # its environment was there
    policy.put_function(function("d", "six==1"), 120.0)
    second = packages(policy, 122.0)[0]
    assert second.id != first.id
    assert "six" in second.imports
    policy.remove_function("d", 130.0)
    assert packages(policy, 132.0)[0].id == first.id


def test_use_of_the_former_zygote_counts_until_it_is_down():
    policy = make(A, B, period_s=1e6)
    first = convert(policy)
    policy.put_function(function("d", "six==1"), 120.0)
    packages(policy, 122.0)
    policy.started("b", StartKind.HELPED, first.id, 200.0)
    assert policy.next_plan_s() == 1100.0
    policy.zygote_down(first.id, "replaced", 210.0)
    policy.started("b", StartKind.HELPED, first.id, 300.0)
    assert policy.next_plan_s() == 1100.0


def test_a_zygote_goes_with_its_owner_and_at_once():
    policy = make(A, B)
    convert(policy)
    policy.remove_function("a", 100.0)
    assert policy.next_plan_s() < 100.0
    assert packages(policy, 100.0) == []
    assert policy.explain("a", 100.0) == {}


def test_an_owner_without_zygote_may_own_one_again():
    policy = make(A)
    spec = convert(policy)
    packages(policy, 960.0)
    policy.zygote_down(spec.id, "dropped", 961.0)
    assert policy.due(idle(since_s=1000.0, sandbox="s2"), 1060.0) == Stay(1061.0)
    assert [one.id for one in packages(policy, 1060.0)] == [spec.id]


def test_what_is_known_can_be_told():
    policy = make(A, B)
    spec = convert(policy)
    told = policy.explain("a", 61.0)
    (zygote,) = told["zygotes"]
    assert (zygote["id"], zygote["is_up"], zygote["helps"], zygote["candidates"]) == (spec.id, True, ["b"], 1)
    assert policy.explain("b", 61.0)["helped_by"] == [spec.id]
    assert told["idle_after_s"] == 60.0


# --- with the pools and the zygotes of a node


def ready(spec: EnsureZygote) -> ZygoteReady:
    return ZygoteReady(
        zygote=spec.zygote,
        runtime=spec.runtime,
        environments=spec.environments,
        start_ms=300.0,
        memory_bytes=1 << 20,
        import_ms=dict.fromkeys(spec.imports, 10.0),
    )


def test_a_node_replaces_an_executor_by_a_zygote_that_helps_another_function():
    limits = Limits(sandboxes_max=9, function_concurrency=4, queue_per_function=4, freeze_after_s=1e9)
    pools = Pools(limits, itertools.count(1), policy := make())
    planner = Planner(policy, pools, Zygotes())
    for model in (A, B):
        planner.put_function(model, 0.0)
    (base,) = planner.plan(0.0)
    planner.ready(ready(base), 0.1)
    (start,) = pools.request("r1", "a", 1.0)
    assert start.kind is StartKind.COLD
    pools.started(start.ticket, "s1", 1.1)
    assert pools.release("s1", 2.0, reusable=True, service_s=0.5, latency_s=1.0) == []

    assert pools.tick(62.0) == []
    (ensure,) = planner.tick(62.0)
    assert ensure.imports == ("numpy", "pandas")
    assert pools.tick(63.0) == []
    planner.ready(ready(ensure), 63.5)
    (kill,) = pools.tick(64.0)
    assert (kill.sandbox, kill.reason) == ("s1", "idle")
    pools.died("s1", 64.1)

    (helped,) = pools.request("r2", "b", 70.0)
    assert (helped.kind, helped.zygote) == (StartKind.HELPED, ensure.zygote)
    (own,) = pools.request("r3", "a", 71.0)
    assert (own.kind, own.zygote) == (StartKind.HELPED, ensure.zygote)
    assert policy.explain("a", 71.0)["zygotes"][0]["expires_in_s"] == 900.0

    planner.remove_function("a", 80.0)
    (drop,) = planner.tick(80.0)
    assert drop == DropZygote(zygote=ensure.zygote)
