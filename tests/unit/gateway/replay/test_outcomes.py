import io

import pytest

from gateway.replay.csv_file import write_csv
from gateway.replay.outcomes import Outcome, parse_server_timing


def outcome(at_s=0.0, **more):
    return Outcome(**{"at_s": at_s, "function": "f", "late_ms": 0.5, "end_to_end_ms": 9.0, "status": 200, **more})


def test_server_timing_is_read_as_the_gateway_writes_it():
    header = "queue;dur=0.035, assign;dur=1.200, run;dur=0.047, total;dur=0.184"
    assert parse_server_timing(header) == {"queue": 0.035, "assign": 1.2, "run": 0.047, "total": 0.184}


@pytest.mark.parametrize("header", ["", "queue", "queue;dur=, ;dur=1", 'x;desc="a"', "a;dur=1.2x"])
def test_what_has_another_form_is_left_out(header):
    assert parse_server_timing(header) == {}


def test_a_start_is_all_but_the_handler():
    assert outcome(phases_ms={"queue": 1.0, "run": 200.0, "total": 203.5}).start_ms == pytest.approx(3.5)
    assert outcome(phases_ms={"run": 2.0, "total": 1.9}).start_ms == 0.0


def test_there_is_no_start_without_an_answer():
    assert outcome(phases_ms={"total": 3.5}).start_ms is None
    assert outcome(phases_ms={"run": 1.0, "total": 3.5}, failure="function-exception").start_ms is None


def test_a_row_a_request_in_the_order_of_arrival():
    file = io.StringIO()
    late = outcome(2.0, status=0, failure="unanswered")
    write_csv(file, [late, outcome(1.25, kind="cold", phases_ms={"run": 2.0, "total": 5.0})])
    head, first, second = file.getvalue().splitlines()
    assert head.startswith("arrival_s,function,start_kind,status,failure,start_ms,end_to_end_ms,late_ms,queue_ms,")
    assert first == "1.2500,f,cold,200,,3.000,9.000,0.500,,,,,,,2.000,5.000"
    assert second == "2.0000,f,none,0,unanswered,,9.000,0.500,,,,,,,,"
