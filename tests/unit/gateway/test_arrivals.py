"""Means that forget, and windows of arrivals."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduler.arrivals import Ewma, Intervals


def test_nothing_observed_has_no_mean():
    assert Ewma(0.65).value is None
    assert Intervals(10).percentile(0.95) is None
    assert (Intervals(10).arrivals, Intervals(10).last_s) == (0, None)


def test_the_first_observation_is_the_mean_and_later_ones_weigh_in():
    mean = Ewma(0.65)
    mean.add(10.0)
    assert mean.value == 10.0
    mean.add(20.0)
    assert mean.value == pytest.approx(0.65 * 10 + 0.35 * 20)


def test_a_batch_counts_once_by_its_mean():
    mean = Ewma(0.5, batch=2)
    mean.add(4.0)
    assert mean.value == 4.0
    mean.add(8.0)
    assert mean.value == 6.0
    mean.add(100.0)
    assert mean.value == 6.0
    mean.add(0.0)
    assert mean.value == pytest.approx(0.5 * 6 + 0.5 * 50)


@pytest.mark.parametrize(("old", "batch"), [(1.0, 1), (-0.1, 1), (0.5, 0)])
def test_weights_that_make_no_sense_are_refused(old: float, batch: int):
    with pytest.raises(ValueError, match="batch"):
        Ewma(old, batch)


def test_one_arrival_has_no_interval():
    window = Intervals(10)
    assert window.add(5.0) is None
    assert window.percentile(0.5) is None
    assert (window.arrivals, window.last_s) == (1, 5.0)


def test_two_arrivals_have_one_interval_which_is_every_percentile():
    window = Intervals(2)
    window.add(5.0)
    assert window.add(7.0) == 2.0
    assert window.percentile(0.0) == window.percentile(0.5) == window.percentile(1.0) == 2.0


def test_the_percentile_is_by_nearest_rank():
    window = Intervals(100)
    now_s = 0.0
    for interval_s in [0.0, *range(1, 21)]:
        now_s += interval_s
        window.add(now_s)
    assert window.arrivals == 21
    assert window.percentile(0.95) == 19.0
    assert window.percentile(0.951) == 20.0
    assert window.percentile(0.5) == 10.0


def test_the_window_slides():
    window = Intervals(3)
    for now_s in (0.0, 100.0, 101.0, 103.0):
        window.add(now_s)
    assert window.arrivals == 3
    assert window.percentile(1.0) == 2.0


def test_time_that_stands_or_goes_back_counts_as_no_time():
    window = Intervals(4)
    assert [window.add(now_s) for now_s in (5.0, 5.0, 4.0)] == [None, 0.0, 0.0]


def test_a_window_without_intervals_is_refused():
    with pytest.raises(ValueError, match="window"):
        Intervals(1)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, 7.5]), max_size=40),
    st.integers(2, 12),
    st.floats(0.0, 1.0),
)
def test_percentiles_are_those_of_the_sorted_window(gaps: list[float], size: int, share: float):
    window = Intervals(size)
    now_s, intervals = 0.0, []
    for number, gap in enumerate(gaps):
        now_s += gap
        interval_s = window.add(now_s)
        if number:
            intervals.append(interval_s)
    kept = sorted(intervals[-(size - 1) :])
    if kept:
        rank = max(1, math.ceil(share * len(kept) - 1e-9))
        assert window.percentile(share) == kept[rank - 1]
    assert window.arrivals == min(len(gaps), size)
