import pytest

from gateway.scheduler.plan import base_specs, package_zygote_id
from gateway.scheduler.policies.keepalive import KeepAlive
from gateway.scheduler.policies.prewarm import Prewarm
from gateway.scheduler.policy import PolicySettings, ZygoteSpec
from gateway.scheduler.sources import Mechanism
from gateway.simulate.tally import WARMUP_S
from runtime.model import StartKind
from runtime.protocol import StandbyTarget
from tests.unit.gateway.simulate.worlds import BOTH, MB, REQUESTS, RUNTIME, arrivals, function, node

COLD, HELPED, WARM = StartKind.COLD, StartKind.HELPED, StartKind.WARM


class Script(KeepAlive):
    """Keep-alive, with further zygotes from a time of the node's clock on, until another."""

    def __init__(self, *specs, from_s=0.0, until_s=1e9, settings=None):
        super().__init__(settings or PolicySettings(keep_alive_s=10.0), [RUNTIME])
        self._specs, self._times = specs, [0.0, from_s, until_s]

    def next_plan_s(self):
        return self._times[0] if self._times else float("inf")

    def plan(self, now_s):
        while self._times and self._times[0] <= now_s:
            self._times.pop(0)
        is_now = len(self._times) == 1
        return [*base_specs(self.runtimes), *(self._specs if is_now else ())]


def zygote(*profiles, imports=("requests",), standbys=0, functions=()):
    environments = tuple(one.environment for one in profiles)
    targets = tuple(StandbyTarget(environment=one, count=standbys) for one in environments if standbys)
    name = package_zygote_id(RUNTIME, environments)
    return ZygoteSpec(name, RUNTIME, environments, imports, targets, frozenset(functions))


def ran(made, *rows, duration_s=None):
    made.run(arrivals(*rows), duration_s)
    return made.tally


def test_without_packages_a_fork_of_the_base_zygote_helps_and_the_next_start_is_warm():
    tally = ran(node(), (0.0, "bare", 0.5), (1.0, "bare", 0.5))
    assert tally.starts == {HELPED: 1, WARM: 1}
    assert tally.start_ms == pytest.approx([4.0])  # keep-alive has no empty sandboxes made ahead
    assert tally.warm_ms == pytest.approx([0.0])


def test_a_cold_start_imports_everything():
    tally = ran(node(), (0.0, "requests", 0.5))
    assert tally.starts == {COLD: 1}
    assert tally.start_ms == pytest.approx([4 + 20 + 30 + 1])


def test_an_idle_sandbox_stays_its_keep_alive():
    tally = ran(node(keep_alive_s=10.0), (0.0, "requests", 1.0), (11.0, "requests", 1.0), (22.3, "requests", 1.0))
    assert tally.starts == {COLD: 2, WARM: 1}


def test_memory_of_three_requests_as_computed_by_hand():
    tally = ran(node(keep_alive_s=10.0), (0.0, "bare", 1.0), (5.0, "bare", 1.0), (50.0, "bare", 1.0), duration_s=100.0)
    first_s = (5.0 - 1.004) + 10.0  # from 1.004 to 5, from 6 to 16
    second_s = 61.25 - 51.004  # the timer ticks at quarters of a second
    assert tally.byte_seconds["sandboxes"] == pytest.approx(2 * MB * (first_s + second_s))
    assert tally.byte_seconds["zygotes"] == pytest.approx(8 * MB * 100.0)
    assert tally.byte_seconds["standbys"] == 0
    assert (tally.zygotes_made, tally.zygote_ms) == (1, 100.0)


@pytest.mark.parametrize("standbys", [0, 1])
def test_without_reuse_no_start_is_warm_and_nothing_is_held_idle(standbys):
    policy = Prewarm(PolicySettings(stem_cells=standbys), [RUNTIME])
    made = node(policy, functions={"bare": function(reuse=False)})
    tally = ran(made, (0.0, "bare", 0.5), (1.0, "bare", 0.5), (9.0, "bare", 0.5), duration_s=20.0)
    assert tally.starts == {HELPED: 3}
    assert tally.byte_seconds["sandboxes"] < 2 * MB * 0.05  # from the fork to its request's lease
    assert made.unfinished == 0


def test_a_trace_ends_at_its_duration_but_serves_what_has_come():
    tally = ran(node(), (1.0, "bare", 30.0), (10.0, "bare", 1.0), duration_s=10.0)
    assert tally.requests == 1
    assert tally.byte_seconds["zygotes"] == pytest.approx(8 * MB * 31.004)


def test_cold_starts_count_from_half_an_hour_on():
    tally = ran(node(), (WARMUP_S - 1, "requests", 0.1), (WARMUP_S, "both", 0.1))
    assert tally.starts == {COLD: 2}
    assert tally.cold_after_warmup == 1
    assert tally.by_function["both"]["cold_after_warmup"] == 1


def test_more_requests_than_sandboxes_wait_and_the_wait_is_in_the_latency():
    tally = ran(node(concurrency=1), (0.0, "bare", 1.0), (0.0, "bare", 1.0))
    assert tally.starts == {HELPED: 1, WARM: 1}
    assert tally.warm_ms == pytest.approx([1004.0])


def test_what_waits_beyond_the_limit_is_rejected():
    tally = ran(node(concurrency=1, queue=1), *[(0.0, "bare", 1.0)] * 3)
    assert (tally.requests, tally.rejected) == (3, 1)
    assert tally.by_function["bare"] == {"requests": 3, "rejected": 1, "helped": 1, "warm": 1}


# --- zygotes of packages


def test_a_covering_zygote_helps():
    tally = ran(node(Script(zygote(REQUESTS))), (0.0, "requests", 1.0), duration_s=10.0)
    assert tally.starts == {HELPED: 1}
    assert tally.start_ms == pytest.approx([4 + 2])
    assert tally.zygote_ms == pytest.approx(100 + 100 + 20 + 30)
    assert tally.byte_seconds["zygotes"] == pytest.approx((8 + 8 + 3 + 4) * MB * 10)
    assert tally.byte_seconds["sandboxes"] == pytest.approx(3 * MB * (10 - 1.006))


def test_a_zygote_that_lacks_a_declared_import_makes_a_cold_start_of_the_rest():
    tally = ran(node(Script(zygote(BOTH))), (0.0, "both", 1.0), duration_s=10.0)
    assert tally.starts == {COLD: 1}
    assert tally.start_ms == pytest.approx([4 + 100 + 1])
    assert tally.byte_seconds["sandboxes"] == pytest.approx((30 - 7) * MB * (10 - 1.105))


def test_a_zygote_imports_a_distribution_once_for_all_that_it_may_help():
    made = node(Script(zygote(REQUESTS, BOTH, imports=("numpy", "requests"))))
    tally = ran(made, (0.0, "both", 1.0), (0.0, "requests", 1.0))
    assert tally.starts == {HELPED: 2}
    assert tally.zygote_ms == pytest.approx(100 + 100 + 20 + 30 + 100)


def test_a_zygote_is_of_use_only_when_it_has_started():
    tally = ran(node(Script(zygote(REQUESTS), from_s=60.0)), (0.1, "requests", 9.0), (0.2, "requests", 1.0))
    assert tally.starts == {COLD: 1, HELPED: 1}  # asked for at 0, and ready after 150 ms


def test_standbys_are_made_one_after_another():
    made = node(Script(zygote(REQUESTS, standbys=2)))
    times = (0.0, 0.0, 0.0, 0.016, 0.017)  # two stand by; 15 ms later there is one again
    tally = ran(made, *[(at_s, "requests", 5.0) for at_s in times])
    assert tally.starts == {HELPED: 5}
    assert sorted(tally.start_ms) == pytest.approx([1 + 2] * 3 + [3 + 2] * 2)
    assert tally.standbys_made == 5


def test_a_dropped_zygote_holds_nothing_more_and_helps_nobody():
    made = node(Script(zygote(REQUESTS, standbys=1), from_s=1.0, until_s=65.0))
    tally = ran(made, (8.0, "requests", 1.0), duration_s=20.0)
    assert tally.starts == {COLD: 1}
    assert tally.byte_seconds["zygotes"] == pytest.approx(8 * MB * 20 + 15 * MB * 5)
    assert tally.byte_seconds["standbys"] == pytest.approx(1 * MB * 5)


# --- the mechanism of the papers


def test_on_paper_a_cold_start_boots_an_interpreter_which_shares_nothing():
    made = node(mechanism=Mechanism.FRESH)
    tally = ran(made, (0.0, "bare", 1.0), (0.0, "requests", 1.0), duration_s=5.0)
    assert tally.starts == {COLD: 2}
    assert tally.start_ms == pytest.approx([20.0, 20 + 20 + 30 + 1])
    assert tally.byte_seconds["zygotes"] == 0
    held = (2 + 5) * MB * (5 - 1.02) + (10 + 5) * MB * (5 - 1.071)
    assert tally.byte_seconds["sandboxes"] == pytest.approx(held)


def test_on_paper_stem_cells_help_functions_without_packages_only():
    policy = Prewarm(PolicySettings(stem_cells=1), [RUNTIME])
    made = node(policy, mechanism=Mechanism.FRESH)
    tally = ran(made, (0.0, "bare", 1.0), (0.01, "bare", 1.0), (5.0, "requests", 1.0), duration_s=8.0)
    assert tally.starts == {HELPED: 1, COLD: 2}
    assert tally.start_ms == pytest.approx([1.0, 20.0, 1 + 20 + 30 + 1])  # the next cell takes 20 ms
    assert tally.byte_seconds["standbys"] == pytest.approx(5 * MB * (8 - 0.02 - 0.02))


def test_on_paper_a_zygote_helps_functions_without_packages_that_it_lists():
    listing = Script(zygote(REQUESTS, functions=("bare",)))
    assert ran(node(listing, mechanism=Mechanism.FRESH), (0.0, "bare", 1.0)).starts == {HELPED: 1}
    other = Script(zygote(REQUESTS, functions=("requests",)))
    assert ran(node(other, mechanism=Mechanism.FRESH), (0.0, "bare", 1.0)).starts == {COLD: 1}


def test_on_paper_a_zygote_boots_an_interpreter_of_its_own():
    tally = ran(node(Script(zygote(REQUESTS)), mechanism=Mechanism.FRESH), (0.0, "requests", 1.0), duration_s=10.0)
    assert tally.starts == {HELPED: 1}
    assert tally.zygote_ms == pytest.approx(20 + 20 + 30)
    assert tally.byte_seconds["zygotes"] == pytest.approx((5 + 3 + 4) * MB * 10)
