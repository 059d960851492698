import gzip
import itertools

import pytest

from gateway.simulate.applications import Step
from gateway.simulate.traces import read_calls
from runtime.errors import ConfigError

APPS = {"shop": (Step("first", 0.0, 0.8), Step("second", 1.6, 0.4)), "mail": (Step("send", 0.0, 0.2),)}


def read(tmp_path, text, *, time_scale=1.0, seed=0, name="trace.csv"):
    path = tmp_path / name
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return read_calls(path, APPS, time_scale=time_scale, seed=seed)


def test_each_call_invokes_all_functions_at_their_offsets(tmp_path):
    found = read(tmp_path, "application,second,calls\nshop,7,1\n").arrivals
    assert [one.function for one in found] == ["first", "second"]
    assert 7 <= found[0].at_s < 8
    assert found[1].at_s == pytest.approx(found[0].at_s + 1.6)
    assert [one.service_s for one in found] == [0.8, 0.4]


def test_the_time_scale_is_of_offsets_and_durations_only(tmp_path):
    found = read(tmp_path, "application,second,calls\nshop,7,1\n", time_scale=0.5).arrivals
    assert 7 <= found[0].at_s < 8
    assert found[1].at_s == pytest.approx(found[0].at_s + 0.8)
    assert [one.service_s for one in found] == [0.4, 0.2]


def test_calls_of_a_second_are_spread_evenly_with_a_phase_of_the_seed(tmp_path):
    text = "application,second,calls\nmail,3,4\n"
    times = [one.at_s for one in read(tmp_path, text).arrivals]
    assert [later - sooner for sooner, later in itertools.pairwise(times)] == pytest.approx([0.25] * 3)
    assert 3 <= times[0] < 3.25
    assert times == [one.at_s for one in read(tmp_path, text).arrivals]
    assert times != [one.at_s for one in read(tmp_path, text, seed=1).arrivals]


def test_arrivals_are_in_the_order_of_time_whatever_the_rows(tmp_path):
    found = read(tmp_path, "application,second,calls\nmail,9,2\nshop,1,1\nmail,0,1\n")
    times = [one.at_s for one in found.arrivals]
    assert times == sorted(times)
    assert found.functions == ["first", "second", "send"]


def test_a_gzipped_trace_is_the_same_trace(tmp_path):
    text = "application,second,calls\nmail,0,2\n"
    assert read(tmp_path, text, name="t.csv.gz").arrivals == read(tmp_path, text).arrivals


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("bank,1,1", "3: application 'bank' is not among the applications"),
        ("mail,x,1", "3: second is 'x'"),
        ("mail,-1,1", "3: second is '-1'"),
        ("mail,1,1.5", "3: calls is '1.5'"),
        ("mail,1,99999999", "3: calls is '99999999', it must be a whole number up to 1000000"),
        ("mail,1", "3: 2 cells, there must be 3"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path, row, said):
    with pytest.raises(ConfigError, match=f"trace.csv:{said}"):
        read(tmp_path, f"application,second,calls\nmail,0,1\n{row}\n")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="must begin with the line application,second,calls"):
        read(tmp_path, "a,b\n")
    with pytest.raises(ConfigError, match=r"must begin"):
        read(tmp_path, "")
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        read_calls(tmp_path / "absent.csv", APPS, time_scale=1.0, seed=0)
    (tmp_path / "bad.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match="cannot read"):
        read_calls(tmp_path / "bad.csv.gz", APPS, time_scale=1.0, seed=0)


def test_speed_is_of_arrivals_only(tmp_path):
    trace = read(tmp_path, "application,second,calls\nshop,8,1\n")
    fast = trace.at_speed(4.0).arrivals
    assert [one.at_s for one in fast] == pytest.approx([one.at_s / 4 for one in trace.arrivals])
    assert [one.service_s for one in fast] == [0.8, 0.4]
    assert trace.at_speed(1.0) is trace
