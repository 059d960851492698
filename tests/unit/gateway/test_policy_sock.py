"""SOCK's cache over time."""

import dataclasses

import pytest

from gateway.scheduler.policies.sock import SETTLE_S, Sock
from gateway.scheduler.policy import FunctionModel, Idle, PolicySettings, Retire, Stay, ZygoteSpec
from runtime.errors import ConfigError
from runtime.model import ImportCost, StartKind

RUNTIME = "python3.11"
SETTINGS = PolicySettings(period_s=320.0, cache_packages=1, keep_alive_s=30.0)


def function(name: str, *pins: str, version: str = "v1") -> FunctionModel:
    distributions = dict(pin.split("==") for pin in pins)
    return FunctionModel(
        name,
        version,
        RUNTIME,
        environment="+".join(sorted(pins)) or None,
        distributions=distributions,
        imports=tuple(distributions),
        costs={each: ImportCost(100.0, 1 << 20) for each in distributions},
    )


def make(*models: FunctionModel, **options: object) -> Sock:
    policy = Sock(dataclasses.replace(SETTINGS, **options), (RUNTIME,))
    for model in models:
        policy.put_function(model, 0.0)
    assert packages(policy, 0.0) == []
    return policy


def packages(policy: Sock, now_s: float) -> list[ZygoteSpec]:
    return list(policy.plan(now_s))[1:]


def use(policy: Sock, name: str, now_s: float, times: int = 1) -> None:
    for _ in range(times):
        policy.started(name, StartKind.COLD, None, now_s)


A, B, C = function("a", "numpy==1", "six==1"), function("b", "numpy==1"), function("c", "requests==2")


def test_the_first_rebuilds_come_soon_and_then_by_the_period():
    policy = make(A)
    times = []
    for _ in range(7):
        times.append(policy.next_plan_s())
        policy.plan(times[-1])
    assert times == [10.0, 30.0, 70.0, 150.0, 310.0, 630.0, 950.0]


def test_the_cache_imports_the_best_distribution_only():
    policy = make(A, B, C)
    use(policy, "a", 1.0)
    use(policy, "b", 1.0)
    (spec,) = packages(policy, 10.0)
    assert spec.imports == ("numpy",)
    assert spec.environments == ("numpy==1", "numpy==1+six==1")
    assert spec.functions == {"a", "b"}
    assert spec.why.startswith("cached: numpy==1 (19")
    assert policy.explain("a", 10.0)["cached"] == ["numpy==1"]
    assert policy.explain("c", 10.0)["helped_by"] == []


def test_warm_starts_do_not_count():
    policy = make(A)
    policy.started("a", StartKind.WARM, None, 1.0)
    assert packages(policy, 10.0) == []


def test_uses_are_forgotten_by_half_in_a_period():
    policy = make(B, C)
    use(policy, "b", 0.0, 4)
    assert policy.explain("b", 320.0)["uses"] == pytest.approx(2.0)
    assert packages(policy, 10.0)[0].imports == ("numpy",)
    use(policy, "c", 640.0, 2)
    assert packages(policy, 640.0)[0].imports == ("requests",)


def test_between_rebuilds_the_cache_stays():
    policy = make(B, C)
    use(policy, "b", 1.0)
    packages(policy, 10.0)
    use(policy, "c", 11.0, 50)
    assert packages(policy, 12.0)[0].imports == ("numpy",)
    assert packages(policy, 30.0)[0].imports == ("requests",)


def test_zygotes_follow_the_deployed_functions():
    policy = make(B)
    use(policy, "b", 1.0)
    (first,) = packages(policy, 10.0)
    policy.put_function(A, 11.0)
    assert policy.next_plan_s() == 11.0 + SETTLE_S
    (second,) = packages(policy, 13.0)
    assert second.environments == ("numpy==1", "numpy==1+six==1")
    assert second.id != first.id
    policy.remove_function("a", 14.0)
    assert packages(policy, 16.0)[0].id == first.id
    policy.remove_function("b", 17.0)
    assert packages(policy, 19.0) == []


def test_another_version_with_the_same_packages_keeps_the_zygote():
    policy = make(B)
    use(policy, "b", 1.0)
    before = packages(policy, 10.0)
    policy.put_function(dataclasses.replace(B, version="v2"), 11.0)
    assert packages(policy, 13.0) == before


def test_standbys_are_kept_for_what_is_used():
    policy = make(A, B, standbys=3)
    use(policy, "b", 9.0, 2)
    (spec,) = packages(policy, 10.0)
    assert [(each.environment, each.count) for each in spec.standbys] == [("numpy==1", 3)]
    policy = make(A, B, standbys=0)
    use(policy, "b", 9.0, 2)
    assert packages(policy, 10.0)[0].standbys == ()


def test_zygotes_max_counts_base_zygotes():
    policy = make(B, function("d", "numpy==2"), cache_packages=4, zygotes_max=2)
    use(policy, "b", 1.0, 2)
    use(policy, "d", 1.0)
    assert [spec.environments for spec in packages(policy, 10.0)] == [("numpy==1",)]


def test_idle_sandboxes_are_kept_for_the_set_time():
    policy = make(A)
    idle = Idle("s", "a", StartKind.HELPED, 5.0)
    assert policy.idled(idle, 5.0) == Stay(35.0)
    assert isinstance(policy.due(idle, 35.0), Retire)


def test_a_period_that_is_not_positive_is_refused():
    with pytest.raises(ConfigError, match="period_s"):
        Sock(PolicySettings(period_s=0.0), (RUNTIME,))
