"""Fixed keep-alive and stem cells; what all policies have in common."""

import itertools
import math

import pytest

from gateway.scheduler.plan import base_zygote_id
from gateway.scheduler.policies import POLICIES, make
from gateway.scheduler.policy import FunctionModel, Idle, PolicySettings, Retire, Stay
from runtime.errors import ConfigError
from runtime.model import ImportCost, StartKind
from runtime.protocol import StandbyTarget

RUNTIMES = ("python3.11", "python3.12")
EVERY = sorted(POLICIES)


def function(name: str = "f", *pins: str, version: str = "v1") -> FunctionModel:
    distributions = dict(pin.split("==") for pin in pins)
    return FunctionModel(
        name,
        version,
        RUNTIMES[0],
        environment="+".join(sorted(pins)) or None,
        distributions=distributions,
        imports=tuple(distributions),
        costs={each: ImportCost(100.0, 10 << 20) for each in distributions},
    )


def idle(since_s: float = 0.0, *, name: str = "f", kind: StartKind = StartKind.COLD, sandbox: str = "s") -> Idle:
    return Idle(sandbox, name, kind, since_s)


@pytest.mark.parametrize("name", ["keepalive", "prewarm"])
def test_an_idle_sandbox_is_kept_for_the_set_time(name: str):
    policy = make(name, PolicySettings(keep_alive_s=30.0), RUNTIMES)
    policy.put_function(function(), 0.0)
    assert policy.idled(idle(10.0), 10.0) == Stay(40.0)
    assert policy.due(idle(10.0), 39.9) == Stay(40.0)
    verdict = policy.due(idle(10.0), 40.0)
    assert isinstance(verdict, Retire)
    assert verdict.why == "idle for 30.0 s, keep-alive is 30 s"
    assert "retired, idle for 30.0 s" in str(policy.explain("f", 40.0)["last_decision"])


def test_keep_alive_has_base_zygotes_only_and_no_standbys():
    policy = make("keepalive", PolicySettings(), RUNTIMES)
    policy.put_function(function("f", "numpy==1"), 0.0)
    specs = policy.plan(0.0)
    assert [spec.id for spec in specs] == [base_zygote_id(runtime) for runtime in RUNTIMES]
    assert all(not spec.standbys and not spec.environments for spec in specs)


def test_prewarm_keeps_stem_cells_of_each_runtime():
    policy = make("prewarm", PolicySettings(stem_cells=3), RUNTIMES)
    specs = policy.plan(0.0)
    assert [spec.standbys for spec in specs] == [(StandbyTarget(environment=None, count=3),)] * 2
    assert make("prewarm", PolicySettings(stem_cells=0), RUNTIMES).plan(0.0)[0].standbys == ()


def test_the_plan_of_a_fixed_policy_is_asked_for_once():
    for name in ("keepalive", "prewarm"):
        policy = make(name, PolicySettings(), RUNTIMES)
        assert policy.next_plan_s() == -math.inf
        policy.plan(5.0)
        policy.put_function(function(), 6.0)
        assert policy.next_plan_s() == math.inf


def test_an_unknown_policy_is_refused_with_the_list():
    with pytest.raises(ConfigError, match="unknown policy 'lru'") as caught:
        make("lru", PolicySettings(), RUNTIMES)
    assert all(name in caught.value.hint for name in POLICIES)


@pytest.mark.parametrize("name", EVERY)
def test_each_policy_knows_its_name(name: str):
    assert POLICIES[name].name == name
    assert POLICIES[name].__module__ == f"gateway.scheduler.policies.{name}"


@pytest.mark.parametrize("name", EVERY)
def test_unknown_names_are_ignored_and_their_sandboxes_end(name: str):
    policy = make(name, PolicySettings(), RUNTIMES)
    policy.arrived("gone", 1.0)
    policy.started("gone", StartKind.COLD, "z-gone", 1.0)
    policy.finished("gone", 1.0, 2.0, 3.0)
    policy.sandboxes("gone", 2, 3.0)
    policy.zygote_up("z-gone", 1, 1.0, 3.0)
    policy.zygote_down("z-gone", "it died", 3.0)
    policy.remove_function("gone", 4.0)
    assert policy.explain("gone", 4.0) == {}
    assert isinstance(policy.idled(idle(4.0, name="gone"), 4.0), Retire)
    assert [spec.id for spec in policy.plan(5.0)] == [base_zygote_id(runtime) for runtime in RUNTIMES]


@pytest.mark.parametrize("name", EVERY)
def test_a_plan_is_followed_by_a_pause(name: str):
    policy = make(name, PolicySettings(), RUNTIMES)
    policy.put_function(function("f", "numpy==1"), 0.0)
    for now_s in (0.0, 100.0, 10_000.0):
        policy.plan(now_s)
        assert policy.next_plan_s() > now_s


@pytest.mark.parametrize("name", EVERY)
def test_runtimes_that_go_take_their_zygotes_with_them(name: str):
    policy = make(name, PolicySettings(), RUNTIMES)
    policy.put_function(function("f", "numpy==1"), 0.0)
    policy.arrived("f", 0.0)
    policy.started("f", StartKind.COLD, None, 0.0)
    policy.idled(idle(), 0.0)
    policy.due(idle(), 60.0)
    policy.plan(61.0)
    policy.set_runtimes(RUNTIMES[1:], 62.0)
    assert {spec.runtime for spec in policy.plan(10_000.0)} == {RUNTIMES[1]}


@pytest.mark.parametrize("name", EVERY)
def test_equal_facts_and_seeds_give_equal_plans(name: str):
    plans = []
    for order in itertools.permutations(["a", "b", "c"]):
        policy = make(name, PolicySettings(seed=3), RUNTIMES)
        for number, each in enumerate(order):
            policy.put_function(function(each, f"{each}==1", "numpy==1"), number / 10)
        for each in "abc":
            policy.arrived(each, 1.0)
            policy.started(each, StartKind.COLD, None, 1.0)
            policy.idled(idle(2.0, name=each, sandbox=each), 2.0)
            policy.due(idle(2.0, name=each, sandbox=each), 70.0)
        plans.append([policy.plan(80.0), policy.plan(2_000.0)])
    assert all(plan == plans[0] for plan in plans)
