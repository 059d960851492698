"""Erlang's formulas against closed forms, published values and a simulated queue."""

import heapq
import math
import random

import pytest

from gateway.scheduler.queueing import erlang_b, erlang_c, waits_at_most


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 0.99])
def test_one_server_waits_as_m_m_1(rho: float):
    service_s = 0.2
    for limit_s in (0.0, 0.1, 1.0, 5.0):
        expected = 1 - rho * math.exp(-(1 - rho) * limit_s / service_s)
        got = waits_at_most(limit_s, servers=1, arrivals_hz=rho / service_s, service_s=service_s)
        assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("load", [0.2, 1.0, 1.9])
def test_two_servers_have_a_closed_form(load: float):
    assert erlang_c(2, load) == pytest.approx(load**2 / (2 + load))


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [(2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (5, 4.0, 0.5541), (10, 6.0, 0.1013), (10, 8.0, 0.4092), (20, 16.0, 0.2561)],
)
def test_published_values_of_erlang_c(servers: int, load: float, expected: float):
    assert erlang_c(servers, load) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("servers", "load", "expected"), [(1, 1.0, 0.5), (5, 3.0, 0.1101), (10, 5.0, 0.0184)])
def test_published_values_of_erlang_b(servers: int, load: float, expected: float):
    assert erlang_b(servers, load) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("servers", [1, 7, 30, 100])
def test_the_recursion_agrees_with_the_sum(servers: int):
    load = 0.8 * servers
    terms = [math.exp(k * math.log(load) - math.lgamma(k + 1) - load) for k in range(servers + 1)]
    last = terms[-1] / (1 - load / servers)
    assert erlang_c(servers, load) == pytest.approx(last / (sum(terms[:-1]) + last), rel=1e-9)


def test_a_thousand_servers_do_not_overflow():
    got = [erlang_c(1000, load) for load in (1e-9, 500.0, 900.0, 990.0, 999.999)]
    assert all(0.0 <= each <= 1.0 for each in got)
    assert got == sorted(got)
    assert got[0] == 0.0
    assert got[-1] == pytest.approx(1.0, abs=1e-3)


def test_an_overloaded_queue_waits_for_ever():
    for arrivals_hz in (2.0, 3.0):
        assert waits_at_most(100.0, servers=2, arrivals_hz=arrivals_hz, service_s=1.0) == 0.0
    assert erlang_c(2, 2.0) == erlang_c(2, 5.0) == 1.0
    assert waits_at_most(100.0, servers=0, arrivals_hz=0.1, service_s=1.0) == 0.0
    assert erlang_c(0, 0.0) == 1.0


def test_nobody_waits_where_nobody_comes():
    assert waits_at_most(0.0, servers=1, arrivals_hz=0.0, service_s=1.0) == 1.0
    assert waits_at_most(0.0, servers=1, arrivals_hz=1.0, service_s=0.0) == 1.0
    assert erlang_c(3, 0.0) == 0.0


def test_more_servers_and_more_time_wait_less():
    shares = [waits_at_most(0.5, servers=n, arrivals_hz=4.0, service_s=0.5) for n in range(3, 12)]
    assert shares == sorted(shares)
    shares = [waits_at_most(limit / 4, servers=3, arrivals_hz=4.0, service_s=0.5) for limit in range(12)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(("servers", "rho", "limit_s"), [(1, 0.7, 2.0), (3, 0.8, 0.5), (8, 0.9, 0.3)])
def test_a_simulated_queue_agrees(servers: int, rho: float, limit_s: float):
    dice = random.Random(7)
    requests, now_s = 20_000, 0.0
    free_at_s = [0.0] * servers
    within = 0
    for _ in range(requests):
        now_s += dice.expovariate(rho * servers)
        begins_s = max(now_s, free_at_s[0])
        within += begins_s - now_s <= limit_s
        heapq.heapreplace(free_at_s, begins_s + dice.expovariate(1.0))
    expected = waits_at_most(limit_s, servers=servers, arrivals_hz=rho * servers, service_s=1.0)
    # Waits that follow each other are alike: a 20th of the sample is as good as independent.
    assert within / requests == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / (requests / 20)))
