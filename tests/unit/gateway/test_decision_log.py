"""Each decision of a policy is one line in the log, with its inputs."""

import inspect
import logging
from dataclasses import replace

import pytest

from gateway.decision_log import DecisionLog, changes
from gateway.scheduler.policy import Idle, Policy, PolicySettings, Retire, Stay, ZygoteSpec
from runtime.model import StartKind
from runtime.protocol import StandbyTarget

RUNTIME = "python3.11"
IDLE = Idle("s-1", "report", StartKind.HELPED, idle_since_s=40.0)


def spec(name="z-1", environments=("e1",), why="3 misses", **more):
    standbys = tuple(StandbyTarget(environment=one, count=2) for one in environments)
    return ZygoteSpec(name, RUNTIME, environments, ("numpy",), standbys, why=why, **more)


class ToldPolicy(Policy):
    """Does what the test says, and remembers what it is told."""

    name = "told"

    def __init__(self):
        super().__init__(PolicySettings(), (RUNTIME,))
        self.verdict = Stay(99.0)
        self.specs = ()
        self.told = []

    def __getattribute__(self, name):
        if name in TOLD:
            return lambda *arguments: self.told.append((name, arguments))
        return super().__getattribute__(name)

    def put_function(self, model, now_s): ...
    def remove_function(self, name, now_s): ...
    def idled(self, idle, now_s):
        return self.verdict

    def due(self, idle, now_s):
        return self.verdict

    def next_plan_s(self):
        return 7.0

    def plan(self, now_s):
        return self.specs

    def explain(self, name, now_s):
        return {"why": name}


TOLD = ("put_function", "remove_function", "arrived", "started", "finished", "sandboxes", "zygote_up", "zygote_down")
TOLD += ("uncovered", "set_runtimes")


@pytest.fixture
def inner():
    return ToldPolicy()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="gateway.decision_log")
    return lambda: [record.getMessage() for record in caplog.records]


def test_every_method_of_a_policy_is_passed_on(inner):
    methods = {name for name, one in inspect.getmembers(Policy, inspect.isfunction) if not name.startswith("_")}
    assert methods <= set(vars(DecisionLog)), "a policy would not be told"
    logged = DecisionLog(inner)
    for name in TOLD:
        count = len(inspect.signature(getattr(Policy, name)).parameters) - 1
        getattr(logged, name)(*range(count)) if name != "set_runtimes" else logged.set_runtimes(("a",), 1.0)
    assert [name for name, _ in inner.told] == list(TOLD)
    assert (logged.name, logged.runtimes, logged.next_plan_s()) == ("told", ("a",), 7.0)
    assert logged.explain("f", 1.0) == {"why": "f"}


def test_a_sandbox_that_stays_is_no_news(inner, lines):
    assert DecisionLog(inner).idled(IDLE, 40.0) == Stay(99.0)
    assert lines() == []


@pytest.mark.parametrize("event", ["idled", "due"])
def test_a_retired_sandbox_is_told_with_the_reason(inner, lines, caplog, event):
    inner.verdict = Retire("P95 of arrivals is 31 s")
    assert getattr(DecisionLog(inner), event)(IDLE, 71.5) == inner.verdict
    assert lines() == ["sandbox retired: P95 of arrivals is 31 s; idle 31.5 s, helped"]
    assert (caplog.records[0].sandbox, caplog.records[0].function) == ("s-1", "report")


def test_a_plan_is_told_once(inner, lines, caplog):
    logged = DecisionLog(inner)
    inner.specs = (spec(functions=frozenset({"b", "a"}), owner="numbers"),)
    assert logged.plan(1.0) == logged.plan(2.0) == inner.specs
    assert lines() == [
        "zygote wanted: 3 misses; 1 environments, 1 imports, 2 standbys, from a sandbox of numbers, for a b"
    ]
    assert caplog.records[0].zygote == "z-1"


def test_a_zygote_that_goes_is_replaced_by_who_takes_its_functions_over():
    found = dict(changes([spec("z-1", ("e1", "e2"))], [spec("z-2", ("e1", "e3"), "a union"), spec("z-3", ("e4",))]))
    assert found["z-1"] == "zygote replaced by z-2: a union; it had been wanted: 3 misses"


def test_a_zygote_that_nobody_takes_over_is_not_wanted():
    assert changes([spec()], [spec("z-9", ("e9",))])[1] == (
        "z-1",
        "zygote not wanted; it had been wanted: 3 misses",
    )
    assert changes([spec(why="")], []) == [("z-1", "zygote not wanted; it had been wanted: no reason given")]


def test_others_that_a_zygote_is_meant_for_are_named():
    before = spec(functions=frozenset({"a", "b"}))
    after = replace(before, functions=frozenset("bcdefghijkl"), why="renewed")
    ((_, text),) = changes([before], [after])
    assert text == "zygote meant for others: renewed; joined c d e f g h i j and 2 more; left a"


def test_more_standbys_are_no_decision_about_the_zygote():
    assert changes([spec()], [replace(spec(), standbys=())]) == []
