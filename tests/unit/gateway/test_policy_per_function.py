"""Functions with policies of their own: each policy sees its functions only; the zygotes are put together."""

from gateway.scheduler.policies import make
from gateway.scheduler.policies.per_function import PerFunction
from gateway.scheduler.policy import FunctionModel, Idle, PolicySettings, Retire, Stay
from runtime.model import ImportCost, StartKind

RUNTIME = "python3.11"
SETTINGS = PolicySettings(keep_alive_s=100.0, stem_cells=3)


def model(name: str, policy: str = "", environment: str | None = None) -> FunctionModel:
    packages = {"pandas": "2"} if environment else {}
    costs = {name: ImportCost(300.0, 30_000_000) for name in packages}
    return FunctionModel(name, "v", RUNTIME, environment, packages, ("pandas",), costs, policy=policy)


def both() -> PerFunction:
    policy = PerFunction(SETTINGS, [RUNTIME], "adaptive", lambda name: make(name, SETTINGS, [RUNTIME]))
    policy.put_function(model("mine", "keepalive"), 0.0)
    policy.put_function(model("frames", "", "e" * 64), 0.0)
    return policy


def test_each_function_s_sandboxes_stay_as_its_own_policy_says():
    policy = both()
    policy.plan(0.0)
    assert policy.idled(Idle("s1", "mine", StartKind.HELPED, 5.0), 5.0) == Stay(105.0)
    stay = policy.idled(Idle("s2", "frames", StartKind.HELPED, 5.0), 5.0)
    assert isinstance(stay, Stay) and stay.until_s < 105.0
    assert isinstance(policy.idled(Idle("s3", "nobody", StartKind.HELPED, 5.0), 5.0), Retire)
    assert policy.explain("mine", 5.0)["policy"] == "keepalive"
    assert policy.explain("frames", 5.0)["policy"] == "adaptive"


def test_zygotes_of_all_policies_are_planned_and_the_base_is_one():
    policy = both()
    policy.put_function(model("cells", "prewarm"), 0.0)
    specs = policy.plan(0.0)
    assert specs[0].id == f"base-{RUNTIME}"
    assert [spec.id for spec in specs].count(f"base-{RUNTIME}") == 1
    assert specs[0].standbys[0].count == 3, "as many as any of them wants"
    assert any(spec.environments == ("e" * 64,) for spec in specs)


def test_a_function_that_changes_its_policy_is_forgotten_by_the_former():
    policy = both()
    policy.plan(0.0)
    policy.put_function(model("frames", "keepalive", "e" * 64), 10.0)
    assert [spec.environments for spec in policy.plan(20.0)] == [()]
    policy.remove_function("frames", 30.0)
    assert policy.explain("frames", 30.0) == {}
