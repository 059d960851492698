"""The way from the zygotes that are to those that should be."""

from gateway.scheduler.policy import ZygoteSpec
from gateway.scheduler.zygotes import TRIES_MAX, Zygotes, ZygoteState
from runtime.protocol import DropZygote, EnsureZygote, StandbyTarget, ZygoteDied, ZygoteFailed, ZygoteReady

RUNTIME = "python3.11"


def spec(name: str, *environments: str, count: int = 1) -> ZygoteSpec:
    return ZygoteSpec(name, RUNTIME, environments, (), (StandbyTarget(environment=None, count=count),))


def is_ready(name: str, *environments: str) -> ZygoteReady:
    return ZygoteReady(zygote=name, runtime=RUNTIME, environments=environments, start_ms=1.0, memory_bytes=1)


def failure(name: str) -> ZygoteFailed:
    return ZygoteFailed(zygote=name, phase="imports", message="boom")


BASE, OLD, NEW = spec("base"), spec("z-old", "a"), spec("z-new", "a", "b")


def settled(*specs: ZygoteSpec) -> Zygotes:
    zygotes = Zygotes()
    zygotes.set_plan(specs)
    for one in specs:
        zygotes.ready(is_ready(one.id, *one.environments), 0)
    return zygotes


def names(actions: list) -> list[tuple[str, str]]:
    return [(type(action).__name__, action.zygote) for action in actions]


def test_the_new_is_ensured_and_the_old_dropped_only_when_it_is_ready():
    zygotes = settled(BASE, OLD)
    assert names(zygotes.set_plan([BASE, NEW])) == [("EnsureZygote", "z-new")]
    assert names(zygotes.ready(is_ready("z-new", "a", "b"), 1)) == [("DropZygote", "z-old")]
    assert zygotes.died(ZygoteDied(zygote="z-old", reason="dropped"), 2) == []
    assert set(zygotes.entries) == {"base", "z-new"}


def test_the_old_is_dropped_when_the_new_failed():
    zygotes = settled(BASE, OLD)
    zygotes.set_plan([BASE, NEW])
    assert names(zygotes.failed(failure("z-new"), 1)) == [("DropZygote", "z-old")]


def test_an_equal_plan_changes_nothing_and_new_targets_are_sent():
    zygotes = settled(BASE, OLD)
    assert zygotes.set_plan([BASE, OLD]) == []
    (action,) = zygotes.set_plan([spec("base", count=5), OLD])
    assert isinstance(action, EnsureZygote)
    assert action.standbys[0].count == 5


def test_a_failed_package_zygote_is_tried_again_with_growing_pauses_then_given_up():
    zygotes = settled(BASE)
    zygotes.set_plan([BASE, NEW])
    now_s, pauses = 0.0, []
    while True:
        zygotes.failed(failure("z-new"), now_s)
        retry_at_s = zygotes.entries["z-new"].retry_at_s
        if retry_at_s is None:
            break
        pauses.append(retry_at_s - now_s)
        assert zygotes.tick(retry_at_s - 0.1) == []
        now_s = retry_at_s
        assert names(zygotes.tick(now_s)) == [("EnsureZygote", "z-new")]
    assert pauses == [1, 2, 4, 8]
    entry = zygotes.entries["z-new"]
    assert entry.is_given_up
    assert entry.reason == "imports: boom"
    assert entry.tries == TRIES_MAX


def test_a_base_zygote_is_tried_for_ever_at_most_each_minute():
    zygotes = Zygotes()
    zygotes.set_plan([BASE])
    now_s = 0.0
    for _ in range(20):
        zygotes.failed(failure("base"), now_s)
        now_s = zygotes.entries["base"].retry_at_s
        assert zygotes.tick(now_s)
    zygotes.failed(failure("base"), now_s)
    assert zygotes.entries["base"].retry_at_s - now_s == 60
    assert zygotes.entries["base"].is_given_up


def test_a_dead_zygote_is_ensured_again_and_a_steady_one_at_once():
    zygotes = settled(BASE, OLD)
    for number in range(3):
        zygotes.died(ZygoteDied(zygote="z-old", reason="oom"), number)
        zygotes.tick(100)
        zygotes.ready(is_ready("z-old", "a"), 100)
    assert zygotes.entries["z-old"].tries == 3
    zygotes.died(ZygoteDied(zygote="z-old", reason="oom"), 1000)
    assert zygotes.entries["z-old"].retry_at_s == 1001


def test_a_zygote_that_nobody_planned_is_dropped():
    zygotes = settled(BASE)
    assert names(zygotes.ready(is_ready("z-found", "x"), 1)) == [("DropZygote", "z-found")]
    assert zygotes.entries["z-found"].state is ZygoteState.ENDING
    zygotes.ready(is_ready("z-found", "x"), 1)
    assert zygotes.entries["z-found"].state is ZygoteState.ENDING


def test_what_is_wanted_again_while_it_ends_is_ensured_after():
    zygotes = settled(BASE, OLD)
    (drop,) = zygotes.set_plan([BASE])
    assert isinstance(drop, DropZygote)
    assert zygotes.set_plan([BASE, OLD]) == []
    assert names(zygotes.died(ZygoteDied(zygote="z-old", reason="dropped"), 1)) == [("EnsureZygote", "z-old")]


def test_unwanted_failures_and_strangers_are_forgotten():
    zygotes = settled(BASE)
    zygotes.set_plan([BASE, NEW])
    zygotes.failed(failure("z-new"), 0)
    zygotes.set_plan([BASE])
    assert set(zygotes.entries) == {"base"}
    assert zygotes.died(ZygoteDied(zygote="who", reason=""), 0) == []
    assert zygotes.failed(failure("who"), 0) == []
    assert zygotes.tick(100) == []


def test_a_zygote_that_fails_after_it_was_dropped_from_the_plan_goes():
    zygotes = settled(BASE, OLD)
    zygotes.set_plan([BASE, NEW])
    assert zygotes.died(ZygoteDied(zygote="z-old", reason="oom"), 0) == []
    assert "z-old" not in zygotes.entries
