import csv
import gzip
import json

import pytest

from gateway.replay.traces import TraceError, read_aws, read_azure

APPLICATIONS = {
    "shop": {
        "order": {"start_offset_s": 0, "duration_s": 0.8, "packages": {}},
        "pay": {"start_offset_s": 1.6, "duration_s": 0.4, "packages": {"requests": "2"}},
    }
}


def aws(tmp_path, text, name="trace.csv"):
    (tmp_path / "applications.json").write_text(json.dumps(APPLICATIONS))
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path, tmp_path / "applications.json"


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_a_call_of_an_application_calls_each_function_at_its_offset(tmp_path, name):
    calls = list(read_aws(*aws(tmp_path, "application,second,calls\nshop,10,2\n", name), time_scale=0.5))
    assert [(call.at_s, call.function, call.duration_s) for call in calls] == [
        (10, "order", 0.4),
        (10.8, "pay", 0.2),
    ] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("application,second\nshop,1\n", "no column calls"),
        ("application,second,calls\nshop,1,x\n", "line 2"),
        ("application,second,calls\nshop,1,1\nother,1,1\n", "line 3: 'other'"),
        ("", "no column"),
    ],
)
def test_what_is_no_trace_is_told(tmp_path, text, message):
    with pytest.raises(TraceError, match=message):
        list(read_aws(*aws(tmp_path, text)))


def test_a_broken_archive_and_other_applications_are_told(tmp_path):
    trace, applications = aws(tmp_path, "application,second,calls\n")
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    with pytest.raises(TraceError, match=r"bad\.gz cannot be read"):
        list(read_aws(tmp_path / "bad.gz", applications))
    applications.write_text('{"shop": {"order": {}}}')
    with pytest.raises(TraceError, match=r"applications\.json"):
        list(read_aws(trace, applications))


def azure(tmp_path, minutes):
    path = tmp_path / "invocations.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["HashOwner", "HashApp", "HashFunction", "Trigger", *map(str, range(1, 1441))])
        rows.writerow(["o", "a", "f", "http", *(str(minutes.get(minute, 0)) for minute in range(1, 1441))])
    return path


def test_calls_of_a_minute_lie_evenly_in_it(tmp_path):
    calls = list(read_azure(azure(tmp_path, {1: 2, 3: 1})))
    assert [call.function for call in calls] == ["o-a-f"] * 3
    assert 0 <= calls[0].at_s < 30 and calls[1].at_s - calls[0].at_s == pytest.approx(30)
    assert 120 <= calls[2].at_s < 180
    assert calls == list(read_azure(azure(tmp_path, {1: 2, 3: 1}))), "the same seed, the same times"


def test_durations_are_the_average_of_the_function(tmp_path):
    durations = tmp_path / "durations.csv"
    durations.write_text("HashOwner,HashApp,HashFunction,Average,Count\no,a,f,250,3\n")
    trace = azure(tmp_path, {1: 1})
    assert [call.duration_s for call in read_azure(trace, durations, time_scale=0.5)] == [0.125]
    assert [call.duration_s for call in read_azure(trace)] == [1.0]
