import json

import pytest

from gateway.scheduler.policies import POLICIES
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.sources import Mechanism
from gateway.simulate.applications import Step
from gateway.simulate.simulation import Plan, series, simulate, with_memory
from gateway.simulate.traces import Trace, read_calls
from tests.unit.gateway.simulate.worlds import FUNCTIONS, MB, arrivals, profile

APPS = {"one": (Step("bare", 0.0, 0.5), Step("requests", 1.0, 0.3)), "two": (Step("both", 0.0, 0.4),)}


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [f"{app},{second},{1 + second % 3}" for second in range(0, 300, 7) for app in APPS]
    path.write_text("\n".join(["application,second,calls", *rows]))
    return path


def run(trace, *, seed=0, **more):
    plan = Plan(**{"policy": "pagurus", "settings": PolicySettings(seed=seed, idle_first_s=5.0), **more})
    calls = read_calls(trace, APPS, time_scale=1.0, seed=seed)
    return simulate(plan, calls, FUNCTIONS, profile().runtimes)


@pytest.mark.parametrize("mechanism", Mechanism)
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_same_seed_gives_the_same_document(trace, policy, mechanism):
    one, two, other = (run(trace, seed=seed, policy=policy, mechanism=mechanism) for seed in (1, 1, 2))
    assert json.dumps(one) == json.dumps(two)
    assert one["start_ms"] != other["start_ms"] or one["idle_gb_seconds"] != other["idle_gb_seconds"]
    assert one["unfinished"] == one["rejected"] == 0
    assert sum(one["starts"].values()) == one["requests"] > 200


def test_the_document_adds_up(trace):
    found = run(trace, policy="keepalive")
    assert found["idle_gb_seconds"] == pytest.approx(sum(found["idle_gb_seconds_by"].values()))
    assert sum(counts["requests"] for counts in found["functions"].values()) == found["requests"]
    assert sum(counts.get("cold", 0) for counts in found["functions"].values()) == found["cold_starts"]
    assert (found["policy"], found["mechanism"]) == ("keepalive", "pagurus")
    assert found["parameters"]["keep_alive_s"] == 600.0
    assert set(found["starts"]) == {"warm", "helped", "restored", "cold"}


def test_the_scheduler_and_the_costs_agree_on_what_is_cold(trace):
    """Kinds are told by what a start had to do; policies hear of those that the pools think."""
    found = run(trace, policy="keepalive")
    assert found["cold_starts"] == sum(found["functions"][name]["cold"] for name in ("requests", "both"))
    assert "cold" not in found["functions"]["bare"]


def test_cold_starts_count_after_the_warmup_only(trace):
    whole, half, none = (run(trace, policy="keepalive", warmup_s=seconds) for seconds in (0.0, 3.0, 10_000.0))
    assert whole["cold_starts_after_warmup"] == whole["cold_starts"] == half["cold_starts"] > 0
    assert half["cold_starts_after_warmup"] < whole["cold_starts"]
    assert none["cold_starts_after_warmup"] == 0


def test_series_are_by_nearest_rank():
    assert series([3.0, 1.0, 2.0, 4.0]) == {"p50": 3.0, "p95": 4.0, "p99": 4.0, "mean": 2.5, "max": 4.0}
    assert series([]) == {"p50": None, "p95": None, "p99": None, "mean": None, "max": None}


def test_memory_of_a_trace_takes_the_place_of_the_profiles():
    found = with_memory(FUNCTIONS, {"requests": 100 * MB, "bare": 1})
    assert found["requests"].cold_memory_bytes == 100 * MB
    assert found["requests"].helped_memory_bytes == 93 * MB  # 7 MB come from the zygote
    assert found["bare"] == FUNCTIONS["bare"]  # never less than was measured


def test_a_trace_without_calls_ends_at_once():
    found = simulate(Plan("keepalive"), Trace([]), FUNCTIONS, profile().runtimes)
    assert (found["requests"], found["start_ms"]["p50"]) == (0, None)
    one = simulate(Plan("keepalive"), Trace(arrivals((0.0, "bare", 1.0))), FUNCTIONS, profile().runtimes)
    assert one["starts"]["helped"] == 1
