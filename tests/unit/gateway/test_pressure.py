"""When a node is short of memory, and when it is no longer."""

import pytest

from gateway.scheduler.pressure import STALL_S, Level, Pressure, Reading


def judged(pressure: Pressure, percent: float, now_s: float = 0.0, *, is_stalled: bool = False) -> Level:
    pressure.heed(Reading(int(percent * 1000), 100_000, is_stalled), now_s)
    return pressure.level(now_s)


def test_nothing_known_is_normal():
    pressure = Pressure(8, 4)
    assert pressure.level(0) is Level.NORMAL
    assert "nothing is known" in pressure.describe(Level.LOW)


@pytest.mark.parametrize(
    ("percent", "level"), [(8.1, Level.NORMAL), (7.9, Level.LOW), (4.1, Level.LOW), (3.9, Level.CRITICAL)]
)
def test_thresholds(percent: float, level: Level):
    assert judged(Pressure(8, 4), percent) is level


def test_a_shortage_ends_a_quarter_above_where_it_began():
    pressure = Pressure(8, 4)
    steps = [(7.9, Level.LOW), (9.9, Level.LOW), (10.1, Level.NORMAL), (9.9, Level.NORMAL), (3.9, Level.CRITICAL)]
    steps += [(4.9, Level.CRITICAL), (5.1, Level.LOW), (4.9, Level.LOW), (10.1, Level.NORMAL)]
    assert [judged(pressure, percent) for percent, _ in steps] == [level for _, level in steps]


def test_a_stall_doubles_the_low_threshold_for_a_while_and_is_no_shortage_alone():
    pressure = Pressure(8, 4)
    assert judged(pressure, 50, 0, is_stalled=True) is Level.NORMAL
    assert judged(pressure, 15, 1) is Level.LOW
    assert pressure.level(STALL_S - 0.1) is Level.LOW
    assert pressure.level(STALL_S) is Level.NORMAL


def test_zero_switches_off():
    assert judged(Pressure(0, 0), 0.0) is Level.NORMAL
    assert judged(Pressure(8, 0), 0.0) is Level.LOW


def test_a_node_that_has_no_memory_at_all_is_not_divided_by():
    assert Reading(0, 0).available_percent == 100


def test_the_figures_are_named():
    pressure = Pressure(8, 4)
    pressure.heed(Reading(31 << 20, 1000 << 20), 0)
    assert pressure.describe(Level.LOW) == "3.1 % of 1000 MiB of memory is available, memory_low_percent is 8"
    assert "memory_critical_percent is 4" in pressure.describe(Level.CRITICAL)
