"""The paper's two rules of what is idle."""

import pytest

from gateway.scheduler.demand import BATCH, Demand
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.queueing import waits_at_most

SETTINGS = PolicySettings(idle_arrivals_min=5, idle_first_s=60.0, qos_wait_s=1.0, qos_target=0.95)


def demand(*, every_s: float = 1.0, count: int = 31, service_s: float = 0.5, wait_s: float = 0.0) -> Demand:
    made = Demand(SETTINGS)
    for number in range(count):
        made.arrived(number * every_s)
        made.finished(service_s, service_s + wait_s)
    return made


def test_the_limit_is_the_first_one_until_enough_arrivals_are_known():
    assert Demand(SETTINGS).idle_after_s() == 60.0
    assert demand(count=4).idle_after_s() == 60.0
    assert demand(count=5).idle_after_s() == 1.0


def test_rule_a_compares_with_the_percentile():
    steady = demand(every_s=2.0)
    assert not steady.rule_a(1.9).is_idle
    assert steady.rule_a(2.0).is_idle
    assert "P95 of the times between 31 arrivals" in steady.rule_a(2.0).why
    assert "only 0 arrivals" in Demand(SETTINGS).rule_a(2.0).why


def test_the_arrival_rate_falls_while_nobody_comes():
    steady = demand(every_s=0.5)
    last_s = steady.last_arrival_s
    assert steady.arrivals_hz(last_s) == pytest.approx(2.0)
    assert steady.arrivals_hz(last_s + 10.0) == pytest.approx(0.1)
    assert Demand(SETTINGS).arrivals_hz(3.0) is None


def test_rule_b_asks_whether_one_fewer_keeps_the_bound():
    busy = demand(every_s=0.25, service_s=0.5)  # two erlangs
    now_s = busy.last_arrival_s
    bounds = {n: waits_at_most(1.0, servers=n, arrivals_hz=4.0, service_s=0.5) for n in range(1, 6)}
    assert bounds[3] < 0.95 < bounds[4]
    assert not busy.rule_b(4, now_s).is_idle
    assert busy.rule_b(5, now_s).is_idle
    assert f"{bounds[4]:.4f}" in busy.rule_b(5, now_s).why


def test_rule_b_keeps_the_last_sandbox():
    assert not demand(every_s=100.0).rule_b(1, 3000.0).is_idle
    assert not Demand(SETTINGS).rule_b(0, 0.0).is_idle


def test_rule_b_waits_for_enough_arrivals():
    assert not demand(count=4, every_s=100.0).rule_b(2, 300.0).is_idle
    assert demand(count=5, every_s=100.0).rule_b(2, 400.0).is_idle


def test_rule_b_gives_nothing_away_while_requests_wait_too_long():
    late = demand(every_s=100.0, wait_s=1.5)
    assert late.in_time == 0.0
    assert not late.rule_b(2, 3000.0).is_idle


def test_waiting_counts_from_arrival_to_the_start_of_service():
    assert demand(service_s=30.0, wait_s=0.9).in_time == 1.0


def test_averages_forget():
    made = demand(service_s=1.0, count=BATCH)
    for _ in range(BATCH):
        made.finished(2.0, 2.0)
    assert made.service_s == pytest.approx(0.65 * 1 + 0.35 * 2)


def test_misses_are_counted_by_period():
    made = Demand(SETTINGS)
    made.misses = 3
    made.renew()
    assert (made.misses, made.last_misses) == (0, 3)


def test_its_numbers_can_be_told_before_anything_happened():
    assert Demand(SETTINGS).describe(0.0)["arrivals_hz"] is None
