"""The measuring of a profile: what of it needs no daemon."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "scripts/bench"
_spec = importlib.util.spec_from_file_location("bench_profile", BENCH / "profile.py")
assert _spec and _spec.loader
_path = list(sys.path)
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)
sys.path[:] = _path  # it puts its own folder first


def cost(ms, memory_bytes):
    return {"ms": ms, "memory_bytes": memory_bytes}


def test_costs_are_the_lower_quartile_of_the_deploys():
    rounds = [{"f": {"numpy": cost(ms, ms * 10)}} for ms in (9.0, 3.0, 4.0, 5.0, 8.0)]
    assert bench.costs_of(rounds) == {"f": {"numpy": cost(4.0, 40)}}


def test_costs_are_fitted_to_what_cold_starts_took():
    costs = {"numpy": cost(30.0, 7), "": cost(10.0, 1)}
    assert bench.fitted(costs, [20.0]) == {"numpy": cost(15.0, 7), "": cost(5.0, 1)}
    assert bench.fitted(costs, []) == costs  # it has no cold starts: it imports nothing
    assert bench.fitted({}, [20.0]) == {}


def test_what_was_not_seen_ends_the_run():
    with pytest.raises(SystemExit, match="nothing was seen of forks"):
        bench.typical([], "forks")
