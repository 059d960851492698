"""Functions from deploy to delete, over HTTP and by the command line."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pagurusd import Daemon, archive

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def examples(shared: Daemon) -> Daemon:
    """The three examples, deployed by the command line."""
    for name in ("hello", "sales-report", "http-check"):
        done = shared.cli("deploy", name, EXAMPLES / name)
        assert done.returncode == 0, done.stderr + done.stdout
        assert f"{name}: deployed" in done.stdout
    return shared


def test_hello_greets(examples: Daemon):
    assert examples.result("hello", {"name": "Ada"}) == {"greeting": "Hello, Ada!", "length": 3}


def test_pandas_computes_what_was_computed_by_hand(examples: Daemon):
    report = examples.result("sales-report", {"top": 2})
    assert (report["total"], report["best_product"]) == (380.4, "notebook")
    assert [row["region"] for row in report["regions"]] == ["east", "north"]


def test_requests_asks_a_server_of_its_own(examples: Daemon):
    first = examples.invoke("http-check", {"path": "/"})
    assert first.json["status"] == 200 and first.json["text"] == "all is well"
    assert examples.result("http-check", {"path": "/missing"})["status"] == 404
    assert "served /" in examples.record(first)["stdout"]


def test_the_second_call_is_warm_and_says_how_long_it_took(examples: Daemon):
    examples.invoke("hello")
    answer = examples.invoke("hello")
    assert answer.headers["X-Pagurus-Start-Kind"] == "warm"
    assert {"queue", "run", "total"} <= {part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")}
    assert answer.headers["X-Pagurus-Invocation-Id"]


def test_a_zygote_for_the_packages_comes_up_and_helps(examples: Daemon):
    def covered() -> bool:
        zygotes = examples.get("/v1/zygotes")["zygotes"]
        return any("sales-report" in z["functions"] and z["state"] == "ready" for z in zygotes)

    examples.until(covered, "a zygote for sales-report")
    source = {"main.py": "import pandas\n\ndef main(param):\n    return pandas.__version__\n"}
    source["requirements.txt"] = (EXAMPLES / "sales-report" / "requirements.txt").read_text()
    examples.deploy("pandas-too", source)
    answer = examples.invoke("pandas-too")
    assert answer.status == 200, answer.body
    assert answer.headers["X-Pagurus-Start-Kind"] == "helped"


def test_helpers_of_one_zygote_do_not_share_chance(examples: Daemon):
    source = "import numpy, random, time\n\ndef main(param):\n    time.sleep(0.3)\n"
    source += "    return [numpy.random.random(), float(numpy.random.default_rng().random()), random.random()]\n"
    requirements = (EXAMPLES / "sales-report" / "requirements.txt").read_text()
    examples.deploy("dice", {"main.py": source, "requirements.txt": requirements})
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(examples.invoke, ["dice"] * 3))
    assert {answer.headers["X-Pagurus-Start-Kind"] for answer in answers} == {"helped"}, "three sandboxes"
    for numbers in zip(*(answer.json for answer in answers), strict=True):
        assert len(set(numbers)) == 3


def test_lists_and_descriptions(examples: Daemon):
    names = [one["name"] for one in examples.get("/v1/functions")["functions"]]
    assert {"hello", "sales-report", "http-check"} <= set(names) and names == sorted(names)
    report = examples.get("/v1/functions/sales-report")
    assert {one.split("==")[0] for one in report["distributions"]} >= {"numpy", "pandas"}
    assert set(report["imports"]) >= {"numpy", "pandas"}
    listed = examples.cli("ls", "--json")
    assert listed.returncode == 0 and "sales-report" in listed.stdout
    for command in ("ls", "ps", "status"):
        done = examples.cli(command)
        assert done.returncode == 0, done.stderr


def test_the_command_line_invokes(examples: Daemon):
    done = examples.cli("invoke", "hello", '{"name": "Bob"}')
    assert (done.returncode, json.loads(done.stdout)["greeting"]) == (0, "Hello, Bob!")
    failed = examples.cli("invoke", "nobody")
    assert failed.returncode == 1 and "no such function" in failed.stderr


def test_a_second_deploy_of_the_same_changes_nothing(shared: Daemon):
    source = archive("def main(param):\n    return 1\n")
    first, second = shared.put("same", source), shared.put("same", source)
    assert (first.status, second.status) == (201, 200)
    assert first.json["version"] == second.json["version"]
    assert len(second.json["versions"]) == 1


def test_an_update_never_runs_old_code(shared: Daemon):
    for version in range(4):
        shared.deploy("changing", f"def main(param):\n    return {version}\n")
        assert [shared.result("changing") for _ in range(3)] == [version] * 3


def test_a_setting_alone_makes_a_new_version(shared: Daemon):
    source = "import os\n\ndef main(param):\n    return os.environ.get('COLOUR')\n"
    first = shared.deploy("coloured", source, environ={"COLOUR": "blue"})
    assert shared.result("coloured") == "blue"
    second = shared.deploy("coloured", source, environ={"COLOUR": "vermilion"})
    assert shared.result("coloured") == "vermilion"
    assert first["version"] != second["version"] and first["code"] == second["code"]
    assert "vermilion" not in json.dumps(second), "values may be secrets"


def test_a_deleted_function_is_gone_with_its_sandboxes(shared: Daemon):
    shared.deploy("short", "def main(param):\n    return 1\n")
    assert shared.result("short") == 1
    assert shared.request("DELETE", "/v1/functions/short").status == 204
    assert shared.invoke("short").word == "unknown-function"
    assert shared.request("GET", "/v1/functions/short").status == 404
    assert shared.request("DELETE", "/v1/functions/short").word == "unknown-function"
    shared.until(lambda: not shared.sandboxes(function="short"), "the end of its sandboxes")


def test_a_handler_of_another_name_with_context(shared: Daemon):
    source = {
        "pkg/__init__.py": "",
        "pkg/web.py": "def handler(event, context):\n"
        "    left_ms = context.get_remaining_time_in_millis()\n"
        "    return [event, context.function_name, left_ms > 0, context.aws_request_id]\n",
    }
    shared.deploy("lambda", source, handler="pkg.web.handler")
    answer = shared.invoke("lambda", {"a": 1})
    assert answer.json == [{"a": 1}, "lambda", True, answer.headers["X-Pagurus-Invocation-Id"]]


def test_functions_survive_a_restart(fresh: Daemon):
    source = "def main(param):\n    return param\n"
    version = fresh.deploy("kept", source)["version"]
    assert fresh.result("kept", 5) == 5
    assert fresh.stop() == 0
    assert fresh.scope.remains() == []
    fresh.start()
    fresh.wait_ready()
    assert fresh.get("/v1/functions/kept")["version"] == version
    assert fresh.result("kept", 6) == 6
    assert len(fresh.get("/v1/invocations?function=kept")["invocations"]) >= 1
