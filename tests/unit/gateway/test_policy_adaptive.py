"""Where the adaptive policy puts memory: what is held, packed, dropped; how long sandboxes stay."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.arrival_rates import HISTOGRAM_MIN, DecayingRate, GapHistogram
from gateway.scheduler.decisions import Lease
from gateway.scheduler.idle_memory import IdleMemory
from gateway.scheduler.packing import Room, pack, pack_best
from gateway.scheduler.policies import make
from gateway.scheduler.policies.adaptive import HORIZON_S, Adaptive
from gateway.scheduler.policy import OWN_CODE, FunctionModel, Idle, PolicySettings, Retire, Stay
from gateway.scheduler.pool import Limits
from gateway.scheduler.pools import Pools
from gateway.scheduler.sources import LiveZygote
from runtime.model import ImportCost, StartKind

RUNTIME = "python3.11"
MB = 1_000_000


def model(name: str, packages: dict[str, str] | None = None, *, ms: float = 100.0, mb: float = 10.0) -> FunctionModel:
    """A function whose packages cost ms and mb each; the same packages are the same environment."""
    packages = packages or {}
    environment = repr(sorted(packages.items())) if packages else None
    costs = {package: ImportCost(ms, int(mb * MB)) for package in packages} | {OWN_CODE: ImportCost(0.5, 0)}
    return FunctionModel(name, "v1", RUNTIME, environment, packages, tuple(sorted(packages)), costs)


def policy(*models: FunctionModel, **settings: float) -> Adaptive:
    made = make("adaptive", PolicySettings(**settings), [RUNTIME])
    assert isinstance(made, Adaptive)
    for each in models:
        made.put_function(each, 0.0)
    return made


def held(made: Adaptive, now_s: float) -> set[str]:
    return {one for spec in made.plan(now_s)[1:] for one in spec.environments}


def test_the_base_zygote_is_always_there_and_comes_first():
    (base,) = policy(model("plain")).plan(0.0)
    assert (base.id, base.environments, base.standbys[0].count) == (f"base-{RUNTIME}", (), 1)


def test_environments_without_a_conflict_share_a_zygote_and_conflicting_ones_do_not():
    made = policy(model("a", {"x": "1", "y": "1"}), model("b", {"x": "1", "z": "1"}), model("c", {"x": "2"}))
    groups = [set(spec.functions) for spec in made.plan(0.0)[1:]]
    assert sorted(groups, key=len) == [{"c"}, {"a", "b"}]


def test_what_is_never_called_is_dropped_in_the_end_and_held_again_when_it_is():
    one = model("a", {"x": "1"}, ms=100.0, mb=40.0)
    made = policy(one)
    assert held(made, 0.0) == {one.environment}
    later = 40 * 3600.0
    assert held(made, later) == set()
    for at in range(5):
        made.arrived("a", later + at)
    assert made.next_plan_s() <= later + 10
    for at in range(5):
        made.started("a", StartKind.COLD, "base", later + at)
    assert held(made, later + 10) == {one.environment}


def test_the_budget_goes_to_what_saves_most_per_byte():
    dear = model("dear", {"big": "1"}, ms=100.0, mb=80.0)
    cheap = model("cheap", {"small": "1"}, ms=100.0, mb=5.0)
    made = policy(dear, cheap, memory_bytes=50 * MB)
    for at in range(100):
        for name in ("dear", "cheap"):
            made.arrived(name, at)
            made.started(name, StartKind.COLD, "base", at)
    assert held(made, 100.0) == {cheap.environment}
    roomy = policy(dear, cheap, memory_bytes=500 * MB)
    for at in range(100):
        for name in ("dear", "cheap"):
            roomy.started(name, StartKind.COLD, "base", at)
            roomy.arrived(name, at)
    assert held(roomy, 100.0) == {cheap.environment, dear.environment}


def test_a_sandbox_stays_for_what_a_new_start_would_cost_and_longer_where_calls_are_frequent():
    made = policy(model("rare"), model("busy"))
    for at in range(1000):
        made.arrived("busy", at * 0.5)
    now_s = 500.0
    stays = {}
    for name in ("rare", "busy"):
        verdict = made.idled(Idle("s", name, StartKind.HELPED, now_s), now_s)
        assert isinstance(verdict, Stay)
        stays[name] = verdict.until_s - now_s
        due = made.due(Idle("s", name, StartKind.HELPED, now_s), verdict.until_s)
        assert isinstance(due, Retire) and "idle for" in due.why
    assert stays["rare"] < stays["busy"] / 2


def test_a_sandbox_whose_packages_no_zygote_holds_stays_longer():
    one = model("a", {"x": "1"}, ms=500.0, mb=2.0)
    made, without = policy(one), policy(one, zygotes_max=1)
    made.plan(0.0)
    without.plan(0.0)
    idle = Idle("s", "a", StartKind.HELPED, 0.0)
    stay, longer = made.idled(idle, 0.0), without.idled(idle, 0.0)
    assert isinstance(stay, Stay) and isinstance(longer, Stay) and longer.until_s > 10 * stay.until_s


def test_without_room_for_all_zygotes_the_most_valuable_are_held_and_the_rest_is_known_not_to_be():
    models = [model(f"f{version}", {"x": str(version)}) for version in range(6)]
    made = policy(*models, zygotes_max=3)
    for at in range(200):
        for name in ("f2", "f5"):
            made.arrived(name, at)
            made.started(name, StartKind.COLD, "base", at)
    assert held(made, 200.0) == {models[2].environment, models[5].environment}
    assert made.explain("f5", 200.0)["preloaded"] and not made.explain("f0", 200.0)["preloaded"]
    assert "no room: zygotes_max 3" in made.explain("f0", 200.0)["why_preloaded"]
    made.arrived("f0", 201.0)
    assert made.next_plan_s() > 250.0, "an arrival that changes nothing is no reason to plan"


def test_a_full_node_keeps_its_zygotes_until_others_are_worth_more():
    models = [model(f"f{version}", {"x": str(version)}) for version in range(2)]
    made = policy(*models, zygotes_max=2)
    seen = []
    for minute in range(1, 30):
        name = "f0" if minute < 10 else "f1"
        for at in range(10):
            made.started(name, StartKind.COLD, "base", minute * 60.0 + at)
            made.arrived(name, minute * 60.0 + at)
        seen.append(held(made, minute * 60.0 + 30.0))
    changes = [pair for pair in itertools.pairwise(seen) if pair[0] != pair[1]]
    assert seen[5] == {models[0].environment} and seen[-1] == {models[1].environment} and len(changes) == 1


def test_idle_sandboxes_get_what_the_budget_leaves_and_leave_sooner_when_it_is_scarce():
    made = policy(model("plain"), memory_bytes=20 * MB)
    stays = []
    for number in range(20):
        verdict = made.idled(Idle(f"s{number}", "plain", StartKind.HELPED, 0.0), 0.0)
        if isinstance(verdict, Retire):
            assert "memory budget of 20000000 bytes is taken" in verdict.why
            break
        stays.append(verdict.until_s)
    assert 3 <= len(stays) <= 8
    assert stays[0] > stays[-1]
    verdict = made.idled(Idle("later", "plain", StartKind.HELPED, 1.0), 1.0)
    assert isinstance(verdict, Retire)
    for number in range(20):
        made.left("plain", f"s{number}")
    verdict = made.idled(Idle("later", "plain", StartKind.HELPED, 2.0), 2.0)
    assert isinstance(verdict, Stay), "the others are idle no more"


def test_chance_can_choose_for_comparison():
    models = [model(f"f{version}", {"x": str(version)}) for version in range(8)]
    choices = {frozenset(held(policy(*models, zygotes_max=3, choice="random", seed=seed), 0.0)) for seed in range(8)}
    assert len(choices) > 2 and all(len(one) == 2 for one in choices)


def test_an_environment_that_its_zygote_cannot_help_gets_one_of_its_own():
    one, two = model("a", {"x": "1", "y": "1"}), model("b", {"x": "1"})
    made = policy(one, two)
    (group,) = made.plan(0.0)[1:]
    made.uncovered(group.id, [two.environment], 1.0)
    assert made.next_plan_s() <= 1.0
    assert sorted(sorted(spec.functions) for spec in made.plan(1.0)[1:]) == [["a"], ["b"]]


def test_a_new_function_does_not_disturb_the_zygotes_that_there_are():
    made = policy(model("a", {"x": "1", "y": "1"}, mb=50.0))
    (before,) = made.plan(0.0)[1:]
    made.put_function(model("b", {"z": "1"}, mb=5.0), 10.0)
    after = {spec.id for spec in made.plan(11.0)[1:]}
    assert before.id in after and len(after) == 2


def test_many_changes_are_planned_together():
    made = policy()
    made.plan(0.0)
    made.put_function(model("a", {"x": "1"}), 10.0)
    assert made.next_plan_s() <= 10.0, "the first at once"
    made.plan(10.0)
    made.put_function(model("b", {"y": "1"}), 10.01)
    assert 10.01 < made.next_plan_s() < 11.0, "the next a moment later"


def test_plans_are_the_same_whatever_the_order_of_deploys():
    models = [model(f"f{n}", {f"p{n % 5}": str(n % 2), "shared": "1"}) for n in range(12)]
    plans = []
    for seed in range(4):
        shuffled = random.Random(seed).sample(models, len(models))
        plans.append([(spec.id, spec.functions) for spec in policy(*shuffled).plan(0.0)])
    assert all(plan == plans[0] for plan in plans)


def test_unknown_names_are_ignored():
    made = policy()
    made.arrived("x", 1.0)
    made.started("x", StartKind.COLD, "z", 1.0)
    made.finished("x", 1.0, 1.0, 1.0)
    made.sandboxes("x", 3, 1.0)
    made.remove_function("x", 1.0)
    assert isinstance(made.idled(Idle("s", "x", StartKind.COLD, 1.0), 1.0), Retire)
    assert made.explain("x", 1.0) == {}


# --- what is known of arrivals


def test_a_rate_is_the_prior_at_first_and_what_was_seen_in_the_end():
    rate = DecayingRate(3600.0, 0.0)
    assert rate.per_s(0.0) == pytest.approx(1 / 600.0)
    for at in range(20_000):
        rate.add(float(at))
    assert rate.per_s(20_000.0) == pytest.approx(1.0, rel=0.15)
    assert rate.per_s(100_000.0) < 1e-3


def test_a_timer_s_next_arrival_is_seen_coming():
    gaps = GapHistogram()
    for turn in range(30):
        gaps.add(900.0 * turn)
    last = 900.0 * 29
    early, late = gaps.within(HORIZON_S, last + 10), gaps.within(HORIZON_S, last + 860)
    assert early == 0.0 and late is not None and late > 0.1
    assert gaps.within(HORIZON_S, last + 5000) == 0.0


def test_few_arrivals_tell_nothing_of_the_next():
    gaps = GapHistogram()
    for at in range(int(HISTOGRAM_MIN)):
        gaps.add(float(at))
    assert gaps.within(10.0, 5.0) is None


@given(st.lists(st.floats(0.01, 10_000.0), min_size=6, max_size=300), st.floats(0, 1e5), st.floats(0, 1e4))
def test_probabilities_are_probabilities(gaps: list[float], age_s: float, horizon_s: float):
    histogram = GapHistogram()
    now_s = 0.0
    for gap in itertools.accumulate(gaps):
        histogram.add(gap)
        now_s = gap
    found = histogram.within(horizon_s, now_s + age_s)
    assert found is None or 0.0 <= found <= 1.0 + 1e-9


def test_whole_zygotes_are_weighed_where_versions_conflict():
    """The dearest environment fits no other; three cheap ones fit each other and are worth more."""
    dear = model("dear", {"x": "2", "y": "2"})
    cheap = [model(f"c{n}", {"x": "1", "y": "1", f"z{n}": "1"}) for n in range(3)]
    values = {dear.environment: 5.0} | {one.environment: 2.0 for one in cheap}
    (group,) = pack_best([dear, *cheap], values, Room(1, 1e9))
    assert set(group.members) == {one.environment for one in cheap}


def test_idle_memory_is_that_of_those_that_are_held():
    memory = IdleMemory()
    memory.hold("a", 10)
    memory.hold("b", 20)
    memory.hold("a", 11)
    assert memory.total_bytes == 31
    memory.release("b")
    memory.release("b")
    assert memory.total_bytes == 11


def test_sandboxes_that_others_end_do_not_fill_the_budget():
    """As `pagurus evict` does, or a new version: in a loop they would, each until its time."""
    made = policy(model("plain"), memory_bytes=20 * MB)
    pools = Pools(Limits(1000, 16, 200, float("inf")), itertools.count(1), made)
    spec = model("plain")
    pools.put_function(spec, 0.0)
    pools.zygote_up(LiveZygote("base", spec.runtime, frozenset()), 0.0)
    for number in range(200):
        (start,) = pools.request(f"i{number}", "plain", float(number))
        (lease,) = pools.started(start.ticket, f"s{number}", float(number))
        assert isinstance(lease, Lease)
        assert pools.release(lease.sandbox, number + 0.1, reusable=True) == [], "the budget is taken"
        pools.kill(lease.sandbox, "evicted")
        pools.died(lease.sandbox, number + 0.2)


names = st.sampled_from(list("abcdef"))


@given(st.lists(st.dictionaries(names, st.sampled_from("12"), min_size=1), max_size=12))
def test_no_zygote_has_a_distribution_in_two_versions_and_none_is_lost(locks: list[dict[str, str]]):
    models = list({one.environment: one for one in (model(f"f{n}", lock) for n, lock in enumerate(locks))}.values())
    groups = pack(models)
    packed = [one for group in groups for one in group.members]
    assert sorted(packed) == sorted(one.environment for one in models)
    for group in groups:
        for member in group.members.values():
            assert all(group.versions[name] == version for name, version in member.distributions.items())
    room = Room(2, 80 * MB)
    some = pack_best(models, {one.environment: 1.0 + one.import_bytes for one in models}, room)
    assert room.holds(some) and (not models or some)
    shuffled = pack(random.Random(1).sample(models, len(models)))
    assert [sorted(group.members) for group in shuffled] == [sorted(group.members) for group in groups]
