import csv
import itertools
from random import Random

import pytest

from gateway.simulate import azure
from runtime.errors import ConfigError
from runtime.model import FUNCTION_NAME_PATTERN

HEADER = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n"
SHARES = ",".join(f"percentile_Average_{share}" for share in azure.SHARES)
DURATIONS = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum\no,a,f,1500,3,1,9\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "invocations.csv").write_text(f"{HEADER}o,a,f,http,2,0,1\no,a,without-duration,http,5,5,5\n")
    (tmp_path / "durations.csv").write_text(DURATIONS)
    (tmp_path / "memory.csv").write_text("HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,3,100\n")
    return tmp_path


def read(folder, *, memory=False, **more):
    path = folder / "memory.csv" if memory else None
    return azure.read(folder / "invocations.csv", folder / "durations.csv", path, **{"seed": 0, **more})


@pytest.mark.parametrize("spread", azure.SPREADS)
def test_invocations_lie_in_their_minutes(files, spread):
    found = read(files, spread=spread).arrivals
    assert len(found) == 3
    assert 0 <= found[0].at_s < found[1].at_s < 60
    assert 120 <= found[2].at_s < 180
    assert {one.service_s for one in found} == {1.5}
    if spread == "even":
        assert found[1].at_s - found[0].at_s == pytest.approx(30)
    assert found == read(files, spread=spread).arrivals
    assert found != read(files, spread=spread, seed=1).arrivals


def test_names_are_ones_that_pagurus_takes(files):
    (name,) = read(files).functions
    assert FUNCTION_NAME_PATTERN.fullmatch(name)
    assert name == azure.name_of("f")


def test_memory_is_of_the_application(files):
    assert read(files).memory_bytes == {}
    assert read(files, memory=True).memory_bytes == {azure.name_of("f"): 100 << 20}


def test_durations_lie_between_the_percentiles():
    lasting = azure.Durations(1000.0, (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0))
    drawn = sorted(lasting.draw_s(Random(1)) for _ in range(1))
    assert 0.1 <= drawn[0] <= 0.7
    random = Random(2)
    drawn = sorted(lasting.draw_s(random) for _ in range(1000))
    assert 0.38 < drawn[500] < 0.42
    assert drawn[0] >= 0.1 and drawn[-1] <= 0.7


def test_percentiles_are_used_where_the_file_has_them(files):
    (files / "durations.csv").write_text(f"HashFunction,Average,{SHARES}\nf,9,50,50,50,50,50,50,50\n")
    assert {one.service_s for one in read(files).arrivals} == {0.05}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("invocations.csv", f"{HEADER}o,a,f,http,2,x,1\n", r"invocations\.csv:2: minute 2 is 'x'"),
        ("invocations.csv", f"{HEADER}o,a,f,http,2,1\n", r"invocations\.csv:2: 6 cells, the first line has 7"),
        ("invocations.csv", "HashOwner,HashApp,HashFunction,1\n", "lacks the columns Trigger"),
        ("invocations.csv", "HashOwner,HashApp,HashFunction,Trigger\n", "has no columns of minutes"),
        ("durations.csv", "HashFunction,Average\nf,nan\n", r"durations\.csv:2: Average is 'nan'"),
        ("durations.csv", f"HashFunction,Average,{SHARES}\nf,9,5,4,5,5,5,5,5\n", "2: the percentiles do not rise"),
        ("memory.csv", "HashApp,AverageAllocatedMb\na,-1\n", r"memory\.csv:2: AverageAllocatedMb is '-1'"),
    ],
)
def test_malformed_files_are_refused_with_the_line(files, name, text, said):
    (files / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        read(files, memory=True)


def test_a_set_has_the_schema_and_a_heavy_tail(tmp_path):
    paths = azure.synthesize(tmp_path / "set", functions=60, minutes=30, seed=3)
    assert azure.is_azure(paths["invocations"])
    trace = azure.read(paths["invocations"], paths["durations"], paths["memory"], seed=0)
    with paths["invocations"].open() as file:
        rows = list(csv.reader(file))
    assert len(rows) == 61
    assert rows[0][4:] == [str(minute) for minute in range(1, 31)]
    assert {row[3] for row in rows[1:]} == {"timer", "http", "queue"}
    counts = sorted((sum(map(int, row[4:])) for row in rows[1:]), reverse=True)
    assert sum(counts) == len(trace.arrivals)
    assert sum(counts[:12]) > 0.6 * sum(counts)  # a fifth of the functions has most calls
    assert all(trace.memory_bytes[name] > 0 for name in trace.functions)


def test_a_timer_fires_once_a_period(tmp_path):
    paths = azure.synthesize(tmp_path, functions=40, minutes=120, seed=0)
    with paths["invocations"].open() as file:
        timers = [row[4:] for row in csv.reader(file) if row[3] == "timer"]
    gaps = set()
    for counts in timers:
        fired = [minute for minute, count in enumerate(counts) if count != "0"]
        gaps |= {later - sooner for sooner, later in itertools.pairwise(fired)}
    assert gaps <= {1, 5, 15, 30, 60}


def test_equal_seeds_write_equal_sets(tmp_path):
    one, two, other = (
        azure.synthesize(tmp_path / name, functions=10, minutes=10, seed=seed)["invocations"].read_text()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == two != other
