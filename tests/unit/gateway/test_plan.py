"""Packing environments into zygotes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduler.plan import ENVIRONMENTS_PER_ZYGOTE_MAX, base_zygote_id, package_zygote_id, plan_zygotes
from gateway.scheduler.zygotes import ensure
from runtime.model import Distribution, Environment
from runtime.protocol import encode

RUNTIME = "python3.11"


def environment(name: str, *pins: str, runtime: str = RUNTIME) -> Environment:
    distributions = tuple(Distribution(*pin.split("==")) for pin in pins)
    imports = tuple(one.name for one in distributions)
    return Environment(id=name, runtime=runtime, distributions=distributions, imports=imports)


def plan(*environments: Environment, standbys: int = 2, most: int = 64, runtimes: tuple[str, ...] = (RUNTIME,)):
    return plan_zygotes(runtimes, environments, standbys_per_zygote=standbys, zygotes_max=most)


def test_each_runtime_has_a_base_zygote_always():
    specs = plan(runtimes=("python3.11", "python3.12"))
    assert [spec.id for spec in specs] == ["base-python3.11", "base-python3.12"]
    assert [(one.environment, one.count) for one in specs[0].standbys] == [(None, 2)]


def test_environments_without_conflict_share_a_zygote():
    a, b = environment("a", "numpy==1", "pandas==2"), environment("b", "numpy==1", "requests==3")
    base, union = plan(a, b)
    assert union.environments == ("a", "b")
    assert union.imports == ("numpy", "pandas", "requests")
    assert [(one.environment, one.count) for one in union.standbys] == [("a", 2), ("b", 2)]
    assert union.id == package_zygote_id(RUNTIME, ["b", "a"])
    assert base.id == base_zygote_id(RUNTIME)


def test_conflicting_versions_are_kept_apart():
    specs = plan(environment("a", "numpy==1"), environment("b", "numpy==2"))
    assert [spec.environments for spec in specs[1:]] == [("a",), ("b",)]


def test_runtimes_are_kept_apart():
    runtimes = ("python3.11", "python3.12")
    a, b = environment("a", "six==1"), environment("b", "six==1", runtime="python3.12")
    specs = plan(a, b, runtimes=runtimes)
    assert [(spec.runtime, spec.environments) for spec in specs[2:]] == [(RUNTIME, ("a",)), ("python3.12", ("b",))]


def test_an_environment_of_a_runtime_that_is_gone_is_left_out():
    assert len(plan(environment("a", "six==1", runtime="python3.9"))) == 1


def test_the_order_of_deploys_does_not_matter():
    some = [
        environment("a", "x==1"),
        environment("b", "x==2", "y==1"),
        environment("c", "y==1"),
        environment("d", "y==2"),
    ]
    assert plan(*some) == plan(*reversed(some)) == plan(*some, *some)


def test_the_largest_environment_is_packed_first():
    big = environment("big", "x==1", "y==1", "z==1")
    specs = plan(environment("a", "x==2"), environment("c", "z==2"), big)
    assert specs[1].environments == ("big",)
    assert specs[2].environments == ("a", "c")


def test_at_most_zygotes_max():
    some = [environment(f"e{number}", f"x=={number}") for number in range(5)]
    assert len(plan(*some, most=3)) == 3
    assert len(plan(*some, most=1)) == 1


def test_the_largest_zygote_fits_into_a_message():
    some = [environment(f"{number:064x}", f"package-{number}==1") for number in range(ENVIRONMENTS_PER_ZYGOTE_MAX + 1)]
    specs = plan(*some)
    assert [len(spec.environments) for spec in specs] == [0, ENVIRONMENTS_PER_ZYGOTE_MAX, 1]
    assert len(encode(ensure(specs[1]))) < 200_000


_pins = st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), min_size=1)


@settings(max_examples=50, deadline=None)
@given(st.lists(_pins, max_size=8))
def test_every_environment_is_covered_once_and_no_union_conflicts(lists: list[dict[str, str]]):
    some = [environment(f"e{n}", *(f"{k}=={v}" for k, v in pins.items())) for n, pins in enumerate(lists)]
    by_id = {one.id: one for one in some}
    specs = plan(*some)
    covered = [name for spec in specs for name in spec.environments]
    assert sorted(covered) == sorted(by_id)
    for spec in specs:
        pins = {one for name in spec.environments for one in by_id[name].distributions}
        assert len({one.name for one in pins}) == len(pins)
