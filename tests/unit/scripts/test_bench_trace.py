"""The comparison of policies on a trace: what of it needs no daemon."""

import importlib.util
import json
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "scripts/bench"
_spec = importlib.util.spec_from_file_location("bench_trace", BENCH / "trace.py")
assert _spec and _spec.loader
_path = list(sys.path)
trace = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trace)
sys.path[:] = _path  # it puts its own folder first


def document(cold, held, p50=1.0, p99=9.0):
    return {
        "rows": [{"name": "start/all", "p50": p50, "p95": 5.0, "p99": p99}],
        "requests": {
            "cold_starts_after_warmup": cold,
            "start_kinds": {"helped": 3, "warm": 5},
            "failures": {"queue-full": 2},
            "late_ms_p99": 60.0,
            "is_valid": False,
            "why_invalid": ["the sender was late"],
        },
        "node": {
            "held_gb_s_total": held,
            "zygotes_made": 2,
            "zygote_making_s": 0.5,
            "zygotes_that_never_helped": 1,
        },
    }


def test_ratios_are_against_fixed_keep_alive():
    found = trace.ratios_of({"keepalive": document(10, 8.0), "pagurus": document(2, 2.0, p99=3.0)})
    assert found == {
        "pagurus/keepalive/cold-starts": 0.2,
        "pagurus/keepalive/memory-held": 0.25,
        "pagurus/keepalive/start-p50": 1.0,
        "pagurus/keepalive/start-p99": 0.3333,
    }


def test_without_a_baseline_or_cold_starts_there_is_nothing_to_divide_by():
    assert trace.ratios_of({"pagurus": document(2, 2.0)}) == {}
    assert "sock/keepalive/cold-starts" not in trace.ratios_of(
        {"keepalive": document(0, 1.0), "sock": document(1, 1.0)}
    )


def test_times_of_policies_go_with_the_arrivals():
    slow, fast = (trace.settings_of("pagurus", speed) for speed in (1.0, 12.0))
    assert (slow["idle_timeout_s"], fast["idle_timeout_s"], fast["policy"]) == (600.0, 50.0, "pagurus")
    options = [json.loads(str(one["policy_options"])) for one in (slow, fast)]
    assert options[0]["period_s"] == 1800.0 and options[1]["period_s"] == 150.0
    assert options[1]["price_ms_per_mb_s"] > options[0]["price_ms_per_mb_s"]


def test_a_void_run_is_told_in_the_table(capsys):
    trace.table({"keepalive": document(10, 8.0)})
    assert "VOID: the sender was late" in capsys.readouterr().out
