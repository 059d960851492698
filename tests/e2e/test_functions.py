"""Functions are deployed, invoked, updated and deleted over HTTP and by the CLI."""

import json
import os
from pathlib import Path

import pytest

from tests.e2e_daemon import Daemon, new_daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

EXAMPLES = Path(__file__).parents[2] / "examples"
ECHO = "def main(param):\n    return param\n"
LOOK = """
import importlib.util, os
def main(names):
    found = {name: importlib.util.find_spec(name) is not None for name in names}
    return {"found": found, "listed": sorted(os.listdir("/opt/env"))}
"""


def folder(name: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (EXAMPLES / name).iterdir() if path.is_file()}


def deploy_example(daemon: Daemon, name: str) -> dict:
    files = folder(name)
    return daemon.must_deploy(name, files, requirements=files.get("requirements.txt", ""))


def test_hello_goes_its_whole_way_by_the_cli(daemon):
    assert "deployed" in daemon.cli("deploy", "cli-hello", EXAMPLES / "hello")
    assert "cli-hello" in daemon.cli("ls")
    assert json.loads(daemon.cli("invoke", "cli-hello", '{"name": "Ada"}'))["greeting"] == "Hello, Ada!"
    assert "cli-hello" in daemon.cli("ps")
    assert "cli-hello" in daemon.cli("logs", "cli-hello")
    assert "ready" in daemon.cli("status")
    daemon.cli("rm", "cli-hello")
    assert "cli-hello" not in daemon.cli("ls")
    assert "cli-hello" in daemon.cli("invoke", "cli-hello", status=1)


def test_hello_goes_its_whole_way_over_http(daemon):
    answer = daemon.deploy("hello", folder("hello"))
    assert answer.status == 201
    version = answer.json["version"]
    assert daemon.invoke("hello", {"name": "Ada"}).result == {"greeting": "Hello, Ada!", "length": 3}
    assert "hello" in daemon.functions()
    shown = daemon.get("/v1/functions/hello").json
    assert (shown["version"], shown["handler"], shown["requirements"]) == (version, "main.main", "")
    assert [one["version"] for one in shown["versions"]] == [version]
    assert daemon.request("DELETE", "/v1/functions/hello").status == 204
    daemon.get("/v1/functions/hello").problem("unknown-function", 404)
    daemon.invoke("hello").problem("unknown-function", 404)
    daemon.until(lambda: not daemon.sandboxes("hello"))


def test_requests_really_requests(daemon):
    deployed = deploy_example(daemon, "http-check")
    assert any(one.startswith("requests==") for one in deployed["distributions"])
    assert daemon.invoke("http-check").result["status"] == 200
    missing = daemon.invoke("http-check", {"path": "/missing"})
    assert missing.result["status"] == 404
    assert "served /missing" in daemon.record(missing)["stdout"]


def test_numpy_and_pandas_really_compute_and_the_start_is_helped(daemon):
    deployed = deploy_example(daemon, "sales-report")
    assert {"numpy", "pandas"} <= set(deployed["imports"])
    first = daemon.invoke("sales-report", {"top": 2})
    assert first.kind in ("cold", "helped")  # the package zygote may be ready or not
    assert first.result["regions"] == [
        {"region": "east", "revenue": 123.9, "sales": 2},
        {"region": "north", "revenue": 90.5, "sales": 3},
    ]
    assert first.result["total"] == 380.4
    assert first.result["best_product"] == "notebook"
    assert daemon.invoke("sales-report").kind == "warm"
    zygote = daemon.wait_zygote("sales-report")
    assert {"numpy", "pandas"} <= set(zygote["imports"]) and not zygote["failed_imports"]
    assert daemon.evict("sales-report") >= 1
    helped = daemon.invoke("sales-report")
    assert helped.kind == "helped" and helped.result["total"] == 380.4
    assert daemon.invoke("sales-report").kind == "warm"


def test_a_second_identical_deploy_changes_nothing(daemon):
    first = daemon.must_deploy("same", ECHO)
    answer = daemon.deploy("same", ECHO)
    assert answer.status == 200
    assert answer.json["version"] == first["version"]
    assert answer.json["updated"] == first["updated"]
    assert len(answer.json["versions"]) == 1


def test_an_update_never_runs_old_code_and_a_redeploy_rolls_back(daemon):
    versions = {}
    for text in ("one", "two", "three", "one"):
        deployed = daemon.must_deploy("updated", f"def main(param):\n    return {text!r}\n")
        assert versions.setdefault(text, deployed["version"]) == deployed["version"]
        for _ in range(3):
            assert daemon.invoke("updated").result == text
    assert len(set(versions.values())) == 3
    assert daemon.get("/v1/functions/updated").json["version"] == versions["one"]
    daemon.until(lambda: {one["version"] for one in daemon.sandboxes("updated")} == {versions["one"]})


def test_a_change_of_settings_is_an_update(daemon):
    code = "import os\ndef main(param):\n    return os.environ.get('WORD')\n"
    daemon.must_deploy("settings", code, environ={"WORD": "first"})
    assert daemon.invoke("settings").result == "first"
    shown = daemon.must_deploy("settings", code, environ={"WORD": "second"})
    assert daemon.invoke("settings").result == "second"
    assert shown["environ"] == ["WORD"] and b"second" not in daemon.get("/v1/functions/settings").body


def test_functions_with_the_same_requirements_share_one_environment(daemon):
    before = {path.name for path in (daemon.state / "environments").iterdir()}
    first = daemon.must_deploy("shares-a", ECHO, requirements="idna==3.10\n")
    second = daemon.must_deploy("shares-b", ECHO + "# other\n", requirements="idna==3.10\n")
    assert first["environment"] == second["environment"] and first["code"] != second["code"]
    after = {path.name for path in (daemon.state / "environments").iterdir()}
    assert len(after - before) == 1


def test_a_function_sees_only_its_own_packages_though_one_zygote_holds_all(daemon):
    daemon.must_deploy("sees-six", LOOK, requirements="six")
    daemon.must_deploy("sees-certifi", LOOK, requirements="certifi")
    zygote = daemon.wait_zygote("sees-six", "sees-certifi")
    assert {"six", "certifi"} <= set(zygote["imports"])
    for name, own, other in (("sees-six", "six", "certifi"), ("sees-certifi", "certifi", "six")):
        daemon.evict(name)
        answer = daemon.invoke(name, ["six", "certifi"])
        assert answer.kind == "helped"
        assert answer.result["found"] == {own: True, other: False}
        listed = " ".join(answer.result["listed"])
        assert own in listed and other not in listed


def test_an_answer_has_its_headers(daemon):
    daemon.must_deploy("headers", ECHO)
    answer = daemon.invoke("headers", {"a": [1, 2.5, None, "ü"]})
    assert answer.result == {"a": [1, 2.5, None, "ü"]}
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Pagurus-Invocation-Id"]
    assert answer.kind == "helped"  # no packages: the base zygote lacks nothing
    timing = answer.headers["Server-Timing"]
    for phase in ("queue", "run", "total"):
        assert f"{phase};dur=" in timing
    warm = daemon.invoke("headers")
    assert warm.kind == "warm" and warm.result is None
    assert warm.headers["X-Pagurus-Invocation-Id"] != answer.headers["X-Pagurus-Invocation-Id"]


def test_output_is_kept_under_the_invocations_id(daemon):
    daemon.must_deploy(
        "prints", "import sys\ndef main(param):\n    print('out', param)\n    print('err', param, file=sys.stderr)\n"
    )
    answers = [daemon.invoke("prints", number) for number in (1, 2)]
    for number, answer in enumerate(answers, start=1):
        record = daemon.record(answer)
        assert (record["stdout"], record["stderr"]) == (f"out {number}\n", f"err {number}\n")
        assert (record["function"], record["status"], record["start_kind"]) == ("prints", "succeeded", answer.kind)
    listed = daemon.get("/v1/invocations?function=prints&limit=10").json["invocations"]
    assert {one["id"] for one in listed} == {answer.headers["X-Pagurus-Invocation-Id"] for answer in answers}
    assert "out 2" in daemon.cli("logs", answers[1].headers["X-Pagurus-Invocation-Id"])


def test_the_node_tells_of_itself(daemon):
    assert daemon.get("/healthz").json == {"status": "alive"}
    assert daemon.get("/readyz").json["status"] == "ready"
    status = daemon.get("/v1/status").json
    assert status["counts"]["functions"] == len(daemon.functions())
    assert status["runtimes"] and status["limits"]["sandboxes_max"] == 1000
    document = daemon.get("/openapi.json").json
    assert document["openapi"].startswith("3.1") and "/v1/functions/{name}" in document["paths"]
    daemon.get("/nothing").problem("not-found", 404)
    daemon.request("PATCH", "/healthz").problem("method-not-allowed", 405)


def test_functions_and_records_survive_a_restart():
    with new_daemon() as daemon:
        deployed = daemon.must_deploy("lasting", "def main(param):\n    print('said')\n    return [param]\n")
        daemon.must_deploy("packaged", "import six\ndef main(param):\n    return six.__name__\n", requirements="six")
        before = daemon.invoke("lasting", 1)
        assert daemon.record(before)["stdout"] == "said\n"
        assert daemon.stop() == 0
        daemon.start()
        assert daemon.functions() == ["lasting", "packaged"]
        assert daemon.get("/v1/functions/lasting").json["version"] == deployed["version"]
        assert daemon.record(before)["stdout"] == "said\n"
        assert daemon.invoke("lasting", 2).result == [2]
        assert daemon.invoke("packaged").result == "six"
