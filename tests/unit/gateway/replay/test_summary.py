import pytest

from gateway.replay.outcomes import UNSENT, Outcome
from gateway.replay.samples import Sample, SandboxSeen, ZygoteSeen
from gateway.replay.summary import Replay, document, node, requests, row, rows, start_quantiles, why_invalid
from gateway.replay.timetable import Scale


def outcome(at_s, kind="warm", function="f", late_ms=0.1, start_ms=1.0, **more):
    phases = {"run": 100.0, "total": 100.0 + start_ms}
    return Outcome(at_s, function, late_ms, 101.0 + start_ms, more.pop("status", 200), kind, phases, **more)


def replay(*outcomes, samples=(), warmup_s=10.0):
    return Replay(Scale(warmup_s=warmup_s), outcomes, samples, ended_s=20.0)


def test_cold_starts_of_the_warm_up_do_not_count():
    found = requests(replay(outcome(9.9, "cold"), outcome(10.0, "cold", "g"), outcome(11.0, "helped"), outcome(12.0)))
    assert found["cold_starts_after_warmup"] == 1
    assert found["start_kinds"] == {"cold": 1, "warm": 1, "helped": 1, "restored": 0, "none": 0}
    assert found["start_kinds_with_warmup"]["cold"] == 2
    assert (found["sent"], found["counted"]) == (4, 3)
    assert found["functions"]["g"]["cold_starts_after_warmup"] == 1
    assert found["functions"]["f"]["start_kinds"]["helped"] == 1


def test_failures_are_counted_by_their_word_and_have_no_latency():
    found = replay(outcome(11.0), outcome(12.0, "", failure="queue-full", status=429))
    assert requests(found)["failures"] == {"queue-full": 1}
    assert {each["name"]: each["n"] for each in rows(found)}["end-to-end/all"] == 1


def test_rows_are_of_all_of_each_kind_and_of_each_function():
    found = {each["name"]: each for each in rows(replay(outcome(11.0, "cold", "g", start_ms=50.0), outcome(12.0)))}
    assert set(found) == {
        "late/all",
        *(f"{what}/{of}" for what in ("start", "end-to-end") for of in ("all", "kind-cold", "kind-warm", "f", "g")),
    }
    assert found["start/kind-cold"]["p50"] == 50.0 and found["end-to-end/g"]["p99"] == 151.0


def test_a_late_sender_makes_the_run_void():
    late = [outcome(11.0, late_ms=51.0)] * 2
    assert why_invalid(replay(*[outcome(11.0)] * 98, *late)) == [
        "the sender was late: 51.0 ms at p99, at most 50 ms may be"
    ]
    assert not why_invalid(replay(*[outcome(11.0)] * 199, late[0]))


def test_what_was_not_sent_or_not_counted_makes_the_run_void():
    unsent = outcome(11.0, "", status=0, failure=UNSENT)
    assert why_invalid(replay(unsent)) == ["no request was sent"]
    assert "1 requests were not sent" in why_invalid(replay(outcome(11.0), unsent))[0]
    assert why_invalid(replay(outcome(1.0))) == ["no request came after the warm-up"]
    assert requests(replay(outcome(1.0)))["is_valid"] is False


def test_help_that_nobody_needed_has_its_price():
    zygotes = tuple(ZygoteSeen(name, "ready", ("e",), 400.0, 10**9) for name in ("z-1", "z-2"))
    helper = SandboxSeen("s", "frozen", "f", "z-1", 10**8)
    found = node(replay(samples=[Sample(0.0, (helper,), zygotes), Sample(15.0, (), zygotes[:1])]))
    assert (found["zygotes_made"], found["zygotes_made_before"], found["zygote_making_s"]) == (2, 2, 0.8)
    assert (found["zygotes_that_never_helped"], found["wrong_help_making_s"]) == (1, 0.4)
    assert found["wrong_help_gb_s"] == pytest.approx(15.0)
    assert found["held_gb_s"]["zygotes"] == pytest.approx(2 * 5 + 5) and found["held_gb_s"]["idle"] == pytest.approx(
        0.5
    )
    assert found["held_gb_s_total"] == pytest.approx(15.5)


def test_start_times_for_plots_are_of_new_sandboxes_and_bounded():
    assert start_quantiles(replay(outcome(11.0, start_ms=9.0), outcome(12.0, "cold", start_ms=5.0))) == [5.0]
    many = [outcome(11.0, "helped", start_ms=float(number)) for number in range(2001)]
    assert start_quantiles(replay(*many)) == [float(number) for number in range(0, 2001, 2)]


def test_a_series_without_values_has_no_figures():
    assert row("x", []) == {"name": "x", "unit": "ms", "n": 0}
    assert row("x", range(1, 101))["p99"] == 100


def test_the_document_has_the_form_of_all_benchmarks():
    found = document(replay(outcome(11.0)), host={"cores": 2}, commit="abc", parameters={"speed": 12})
    assert {"host", "commit", "parameters", "rows", "ratios", "requests", "start_ms", "node"} == set(found)
