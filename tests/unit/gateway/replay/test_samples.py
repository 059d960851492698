import pytest

from gateway.replay.samples import Sample, SandboxSeen, ZygoteSeen, gb_seconds, makings, series

MB = 1_000_000


def sandbox(state, megabytes=1000, function="f", zygote="z-1"):
    return SandboxSeen(f"s-{state}", state, function, zygote, megabytes * MB)


def zygote(name="z-1", megabytes=100, start_ms=300.0, state="ready", environments=("e",)):
    return ZygoteSeen(name, state, environments, start_ms, megabytes * MB)


def sample(at_s, *things):
    sandboxes = tuple(one for one in things if isinstance(one, SandboxSeen))
    return Sample(at_s, sandboxes, tuple(one for one in things if isinstance(one, ZygoteSeen)))


def test_memory_is_told_apart_by_what_it_is_for():
    there = [sandbox(state) for state in ("idle", "frozen", "busy", "standby", "starting")]
    found = sample(0, *there, zygote(), zygote("base", 50, environments=()), zygote("z-2", 70, state="starting"))
    assert found.memory_bytes() == {
        "idle": 2000 * MB,
        "standbys": 1000 * MB,
        "zygotes": 100 * MB,
        "base_zygotes": 50 * MB,
        "busy": 2000 * MB,
    }


def test_a_sandbox_that_the_kernel_does_not_know_yet_counts_nothing():
    assert sample(0, SandboxSeen("s", "idle", "f", "z", None)).memory_bytes()["idle"] == 0


def test_a_sample_stands_until_the_next_and_the_warm_up_does_not_count():
    samples = [sample(0, sandbox("idle")), sample(1, sandbox("idle", 3000)), sample(3)]
    assert gb_seconds(samples, from_s=0, to_s=10)["idle"] == pytest.approx(1 + 6)
    assert gb_seconds(samples, from_s=2, to_s=10)["idle"] == pytest.approx(3)
    assert gb_seconds(samples, from_s=0, to_s=2.5)["idle"] == pytest.approx(1 + 4.5)
    assert gb_seconds([], from_s=0, to_s=1)["idle"] == 0


def test_each_making_of_a_zygote_is_one():
    samples = [
        sample(0, zygote(), zygote("base-python3.11", environments=())),
        sample(1, zygote(), zygote("z-2", start_ms=0.0, state="starting")),
        sample(2, zygote("z-2", start_ms=500.0)),
        sample(3, zygote(start_ms=310.0), zygote("z-2", start_ms=500.0)),
    ]
    found = makings(samples, to_s=4)
    assert sorted((one.zygote, one.first_s, one.start_ms) for one in found) == [
        ("z-1", 0, 300.0),
        ("z-1", 3, 310.0),
        ("z-2", 2, 500.0),
    ]


def test_a_zygote_has_helped_when_a_function_has_a_sandbox_of_it():
    samples = [
        sample(0, zygote(), zygote("z-2"), sandbox("standby", function=None, zygote="z-2")),
        sample(1, zygote(), zygote("z-2"), sandbox("busy")),
        sample(2, zygote(), zygote("z-2")),
    ]
    found = {one.zygote: one for one in makings(samples, to_s=3)}
    assert found["z-1"].is_helpful and not found["z-2"].is_helpful
    assert found["z-2"].held_gb_s == pytest.approx(0.3)


def test_memory_over_time_for_plots():
    found = series([sample(0.0, sandbox("idle", 1)), sample(1.0004)])
    assert found["at_s"] == [0.0, 1.0] and found["idle"] == [MB, 0]
