import csv
import json

import pytest

APPLICATIONS = {
    "shop": {
        "take_order": {"start_offset_s": 0, "duration_s": 0.5, "packages": {}},
        "pay": {"start_offset_s": 0, "duration_s": 0.25, "packages": {}},
    }
}
HEADERS = {
    "X-Pagurus-Start-Kind": "cold",
    "Server-Timing": "queue;dur=0.10, imports;dur=4.00, run;dur=100.0, total;dur=107.5",
}


@pytest.fixture
def trace(tmp_path):
    (tmp_path / "applications.json").write_text(json.dumps(APPLICATIONS))
    (tmp_path / "trace.csv").write_text("application,second,calls\nshop,0,2\nshop,200,1\n")
    return tmp_path / "trace.csv"


@pytest.fixture
def azure(tmp_path):
    (tmp_path / "durations.csv").write_text("HashOwner,HashApp,HashFunction,Average\no,a,f,250\n")
    (tmp_path / "azure.csv").write_text("HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,http,3\n")
    return tmp_path / "azure.csv"


@pytest.fixture
def node(gateway):
    gateway.answer("GET", "/v1/functions", {"functions": [{"name": "take-order"}, {"name": "pay"}]})
    gateway.answer("GET", "/v1/status", {"version": "0.1.0", "policy": "sock", "limits": {"sandboxes_max": 9}})
    gateway.answer("GET", "/v1/sandboxes", {"sandboxes": []})
    gateway.answer("GET", "/v1/zygotes", {"zygotes": []})
    for name in ("take-order", "pay"):
        gateway.answer("POST", f"/v1/functions/{name}/invocations", {}, headers=HEADERS.items())
    return gateway


def test_a_trace_is_replayed_and_reported(pagurus, node, trace, tmp_path):
    arguments = ("--applications", trace.parent / "applications.json", "--speed", 100, "--duration", 1)
    files = ("--csv", tmp_path / "out.csv", "--output", tmp_path / "out.json")
    done = pagurus("bench", "trace", trace, *arguments, "--time-scale", 0.5, "--mode", "compute", *files)
    assert done.status == 0, done.stderr
    assert "cold starts after the warm-up: 4" in done.stdout
    bodies = sorted(request.body for request in node.requests if request.method == "POST")
    assert bodies == [b'{"duration_s":0.125,"mode":"compute"}'] * 2 + [b'{"duration_s":0.25,"mode":"compute"}'] * 2
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["start_kind"], row["start_ms"], row["imports_ms"]) for row in rows] == [("cold", "7.500", "4.000")] * 4
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["parameters"]["policy"], found["parameters"]["speed"], found["commit"]) == ("sock", 100, "0.1.0")
    assert {row["name"]: row["p50"] for row in found["rows"]}["start/pay"] == 7.5


def test_failures_of_functions_are_told_and_do_not_end_the_replay(pagurus, node, trace):
    node.problem("POST", "/v1/functions/pay/invocations", 429, type="urn:pagurus:problem:queue-full")
    arguments = ("--applications", trace.parent / "applications.json", "--speed", 100, "--duration", 1, "--json")
    done = pagurus("bench", "trace", trace, *arguments)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)["requests"]
    assert found["failures"] == {"queue-full": 2} and found["start_kinds"]["cold"] == 2


def test_a_replay_in_which_nothing_counts_is_none(pagurus, node, trace):
    arguments = ("--applications", trace.parent / "applications.json", "--speed", 100, "--duration", 1, "--warmup", 0.5)
    done = pagurus("bench", "trace", trace, *arguments)
    assert done.status == 1
    assert "this was no replay of the trace: no request came after the warm-up" in done.stderr


def test_functions_that_are_not_deployed_are_told(pagurus, node, trace):
    node.answer("GET", "/v1/functions", {"functions": [{"name": "pay"}]})
    done = pagurus("bench", "trace", trace, "--applications", trace.parent / "applications.json")
    assert done.status == 1
    assert "not deployed: take-order" in done.stderr and "--deal" in done.stderr


def test_functions_can_be_dealt_out(pagurus, node, trace):
    node.answer("GET", "/v1/functions", {"functions": [{"name": "pay"}]})
    arguments = (
        "--applications",
        trace.parent / "applications.json",
        "--speed",
        100,
        "--duration",
        1,
        "--deal",
        "--json",
    )
    assert json.loads(pagurus("bench", "trace", trace, *arguments).stdout)["requests"]["functions"]["pay"]["count"] == 4


def test_a_warm_up_without_an_end_is_wrong_usage(pagurus, node, trace):
    assert pagurus("bench", "trace", trace, "--duration", 1, "--warmup", 1).status == 2


def test_a_trace_without_its_other_file_is_wrong_usage(pagurus, node, trace, azure):
    assert "--applications" in pagurus("bench", "trace", trace).stderr
    assert "--durations" in pagurus("bench", "trace", azure).stderr


def test_an_azure_trace_is_dealt_out(pagurus, node, azure):
    arguments = (
        "--durations",
        azure.parent / "durations.csv",
        "--speed",
        6000,
        "--time-scale",
        0.5,
        "--deal",
        "--json",
    )
    done = pagurus("bench", "trace", azure, *arguments)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["requests"]["functions"]["pay"]["count"] == 3
    assert {request.body for request in node.requests if request.method == "POST"} == {
        b'{"duration_s":0.125,"mode":"sleep"}'
    }


def test_a_file_that_is_no_trace_is_told(pagurus, node, trace):
    trace.write_text("application,second\nshop,1\n")
    done = pagurus("bench", "trace", trace, "--applications", trace.parent / "applications.json")
    assert done.status == 1
    assert "trace.csv must begin with the line application,second,calls" in done.stderr
