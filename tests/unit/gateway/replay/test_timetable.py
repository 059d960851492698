import pytest

from gateway.replay.timetable import Entry, ReplayError, Scale, dealt_names, deployed_names, timetable
from gateway.simulate.traces import Arrival

CALLS = [Arrival(120.0, "b", 0.4), Arrival(12.0, "a_x", 0.2), Arrival(13.2, "b", 0.4)]
NAMES = {"a_x": "a-x", "b": "b"}


def test_speed_divides_the_times_of_arrival_and_not_those_of_service():
    assert timetable(CALLS, Scale(speed=12), NAMES) == [
        Entry(1.0, 1, "a-x", 0.2),
        Entry(pytest.approx(1.1), 2, "b", 0.4),
        Entry(10.0, 0, "b", 0.4),
    ]


def test_what_comes_after_the_duration_is_left_out():
    found = timetable(CALLS, Scale(speed=12, duration_s=10.0), NAMES)
    assert [entry.at_s for entry in found] == [1.0, pytest.approx(1.1)]


def test_calls_of_one_moment_keep_the_order_of_the_trace():
    calls = [Arrival(1.0, name, 0.1) for name in ("b", "a", "b")]
    assert [entry.function for entry in timetable(calls, Scale(), {"a": "a", "b": "b"})] == ["b", "a", "b"]


def test_a_name_of_the_trace_is_written_as_pagurus_takes_it():
    assert deployed_names(["cs_bot", "Plain"], ["cs-bot", "plain", "other"]) == {"cs_bot": "cs-bot", "Plain": "plain"}


def test_functions_that_are_not_deployed_are_named():
    with pytest.raises(ReplayError, match="f-0, f-1, f-2, f-3, f-4 and 2 more") as caught:
        deployed_names([f"f_{number}" for number in range(7)], ["other"])
    assert "--deal" in caught.value.hint


def test_dealing_is_in_turn_and_by_name():
    assert dealt_names(["z", "x", "y", "x"], ["two", "one"]) == {"x": "one", "y": "two", "z": "one"}


def test_dealing_needs_a_function():
    with pytest.raises(ReplayError, match="no function is deployed"):
        dealt_names(["x"], [])
