import json
import subprocess
import sys

import msgspec
import pytest

from gateway.cli import main
from gateway.cli.deploy import parse_size
from gateway.cli.invoke import phases_ms
from runtime.protocol import Check

FUNCTION = {
    "name": "hello",
    "tenant": "red",
    "version": "ab" * 32,
    "runtime": "python3.11",
    "handler": "main.main",
    "environment": "cd" * 32,
    "distributions": ["requests==2.32.0", "idna==3.10"],
    "limits": {"memory_bytes": 268435456},
    "created": "2026-11-24T18:00:00.123Z",
}
TIMING = {
    "X-Pagurus-Invocation-Id": "inv-1",
    "X-Pagurus-Start-Kind": "helped",
    "Server-Timing": "queue;dur=0.10, fork;dur=1.25",
}
TRACEBACK = 'Traceback (most recent call last):\n  File "/function/main.py", line 2, in main\nZeroDivisionError: zero\n'


def lines(*events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@pytest.fixture
def code(tmp_path):
    (tmp_path / "main.py").write_text("def main(param): return 1")
    return tmp_path


def parts(request):
    """The parts of a multipart body by name."""
    import email

    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body)
    return {
        part.get_param("name", header="Content-Disposition"): part.get_payload(decode=True)
        for part in message.get_payload()
    }


def test_deploy_uploads_settings_and_code_and_shows_the_build(pagurus, gateway, code):
    (code / "requirements.txt").write_text("requests\n")
    built = lines(
        {"event": "progress", "phase": "resolve", "message": "3 packages", "fraction": 0.5},
        {"event": "progress", "phase": "resolve", "message": "3 packages", "fraction": 1},
        {"event": "done", "function": FUNCTION},
    )
    gateway.answer("PUT", "/v1/functions/hello", built, content_type="application/x-ndjson")
    options = ("--memory", "512MiB", "--cpu", "0.5", "--timeout", "2.5", "--pids", "9", "--env", "A=b=c")
    egress = ("--egress", "internet", "--egress", "10.0.0.0/8:80/tcp")
    done = pagurus("deploy", "hello", code, *options, "--runtime", "python3.11", "--fresh", *egress)
    assert done.status == 0, done.stderr
    assert done.stdout.count("resolve: 3 packages") == 1
    assert "deployed, version abababababab" in done.stdout
    sent = parts(gateway.requests[0])
    assert json.loads(sent["settings"]) == {
        "runtime": "python3.11",
        "handler": "main.main",
        "requirements": "requests\n",
        "limits": {"memory_bytes": 512 << 20, "cpu_millis": 500, "timeout_s": 2.5, "pids": 9},
        "environ": {"A": "b=c"},
        "reuse": False,
        "egress": ["internet", "10.0.0.0/8:80/tcp"],
    }
    assert sent["code"][:2] == b"\x1f\x8b"
    assert gateway.requests[0].headers["Accept"] == "application/x-ndjson"


def test_deploy_leaves_unsaid_settings_to_the_node(pagurus, gateway, code):
    gateway.answer("PUT", "/v1/functions/hello", {"function": FUNCTION}, status=201)
    done = pagurus("deploy", "hello", code, "--json")
    assert json.loads(done.stdout) == FUNCTION
    settings = json.loads(parts(gateway.requests[0])["settings"])
    assert settings == {"handler": "main.main", "limits": {}, "environ": {}}


@pytest.mark.parametrize("as_event", [True, False])
def test_a_failed_build_says_why_and_what_next(pagurus, gateway, code, as_event):
    problem = {"title": "the requirements conflict", "detail": "a needs b<2", "hint": "pin b", "status": 422}
    if as_event:
        stream = lines({"event": "progress", "phase": "resolve", "message": "…"}, {"event": "problem", **problem})
        gateway.answer("PUT", "/v1/functions/hello", stream, content_type="application/x-ndjson")
    else:
        gateway.problem("PUT", "/v1/functions/hello", **problem)
    done = pagurus("deploy", "hello", code)
    assert done.status == 1
    for text in ("the requirements conflict (HTTP 422)", "a needs b<2", "next step: pin b"):
        assert text in done.stderr


def test_a_module_that_cannot_be_imported_shows_its_traceback_at_deploy(pagurus, gateway, code):
    error = {"type": "ZeroDivisionError", "message": "zero", "traceback": TRACEBACK}
    stream = lines({"event": "problem", "title": "cannot be imported", "status": 422, "error": error})
    gateway.answer("PUT", "/v1/functions/hello", stream, content_type="application/x-ndjson")
    stderr = pagurus("deploy", "hello", code).stderr
    assert stderr.startswith(TRACEBACK) and "cannot be imported (HTTP 422)" in stderr


def test_a_stream_that_breaks_off_is_a_failure(pagurus, gateway, code):
    stream = lines({"event": "progress", "phase": "resolve", "message": "…"})
    gateway.answer("PUT", "/v1/functions/hello", stream, content_type="application/x-ndjson")
    done = pagurus("deploy", "hello", code)
    assert done.status == 1
    assert "before the build was done" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--memory", "much"), ("--env", "NAME"), ("--cpu", "0"), ("--pids", "0"), ("--requirements", "/absent")],
)
def test_wrong_usage_of_deploy_has_status_2(pagurus, gateway, code, arguments):
    assert pagurus("deploy", "hello", code, *arguments).status == 2
    assert not gateway.requests


def test_deploying_what_is_no_code_asks_nothing_of_the_gateway(pagurus, gateway, tmp_path):
    done = pagurus("deploy", "hello", tmp_path / "absent")
    assert done.status == 1
    assert "does not exist" in done.stderr
    assert not gateway.requests


@pytest.mark.parametrize(
    ("text", "size"),
    [("17", 17), ("1KiB", 1024), ("1.5 GiB", 3 << 29), ("2MB", 2000000), ("3M", 3 << 20), ("9B", 9)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_invoke_prints_the_result_alone(pagurus, gateway):
    gateway.answer("POST", "/v1/functions/hello/invocations", {"a": 1}, headers=TIMING)
    done = pagurus("invoke", "hello", '{"x": 2}')
    assert (done.status, json.loads(done.stdout), done.stderr) == (0, {"a": 1}, "")
    assert gateway.requests[0].body == b'{"x": 2}'


def test_invoke_verbose_says_how_it_went_on_stderr(pagurus, gateway):
    gateway.answer("POST", "/v1/functions/hello/invocations", None, headers=TIMING)
    done = pagurus("invoke", "hello", "-v")
    assert done.stdout == "null\n"
    assert done.stderr == "invocation inv-1  start helped  ms: queue 0.10  fork 1.25\n"


def test_invoke_as_json_carries_all(pagurus, gateway):
    gateway.answer("POST", "/v1/functions/hello/invocations", [1], headers=TIMING)
    assert json.loads(pagurus("invoke", "hello", "--json").stdout) == {
        "result": [1],
        "invocation": "inv-1",
        "start_kind": "helped",
        "phases_ms": {"queue": 0.1, "fork": 1.25},
    }


def test_the_parameter_may_come_from_a_file_or_standard_input(pagurus, gateway, tmp_path):
    gateway.answer("POST", "/v1/functions/hello/invocations", 1)
    (tmp_path / "parameter.json").write_text("[1]")
    pagurus("invoke", "hello", "-d", f"@{tmp_path}/parameter.json")
    pagurus("invoke", "hello", "-d", "@-", input="[2]")
    pagurus("invoke", "hello", "-", input="[3]")
    pagurus("invoke", "hello")
    assert [request.body for request in gateway.requests] == [b"[1]", b"[2]", b"[3]", b"null"]


def test_json_that_is_piped_in_is_the_parameter(gateway):
    gateway.answer("POST", "/v1/functions/hello/invocations", 1)
    command = [sys.executable, "-c", "from gateway.cli.main import main; main()", "--url", gateway.url]
    subprocess.run([*command, "invoke", "hello"], input=b'{"piped": true}', check=True, capture_output=True)
    subprocess.run([*command, "invoke", "hello"], stdin=subprocess.DEVNULL, check=True, capture_output=True)
    assert [request.body for request in gateway.requests] == [b'{"piped": true}', b"null"]


@pytest.mark.parametrize("arguments", [("no json",), ("1", "-d", "2"), ("-d", "@/absent/file"), ("--no-such-option",)])
def test_wrong_usage_of_invoke_has_status_2(pagurus, gateway, arguments):
    assert pagurus("invoke", "hello", *arguments).status == 2
    assert not gateway.requests


def test_a_users_exception_is_shown_as_python_shows_it(pagurus, gateway):
    error = {"type": "ZeroDivisionError", "message": "zero", "traceback": TRACEBACK}
    document = {"title": "the function raised", "error": error}
    body = json.dumps(document).encode()
    path = "/v1/functions/hello/invocations"
    gateway.answer("POST", path, body, status=500, content_type="application/problem+json", headers=TIMING)
    done = pagurus("invoke", "hello", "-v")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith(TRACEBACK)
    assert "invocation inv-1" in done.stderr
    as_json = pagurus("invoke", "hello", "--json")
    assert as_json.status == 1
    assert json.loads(as_json.stdout)["problem"] == document


def test_a_problem_names_the_invocation(pagurus, gateway):
    gateway.problem(
        "POST", "/v1/functions/hello/invocations", 504, title="timed out", detail="after 30 s", invocation="inv-9"
    )
    done = pagurus("invoke", "hello")
    assert done.status == 1
    assert "timed out (HTTP 504)" in done.stderr and "inv-9" in done.stderr


def test_an_error_without_traceback_is_a_problem_with_type_and_message(pagurus, gateway):
    error = {"type": "SystemExit", "message": "7", "traceback": ""}
    gateway.problem("POST", "/v1/functions/hello/invocations", 500, title="it ended its process", error=error)
    stderr = pagurus("invoke", "hello").stderr
    assert "it ended its process (HTTP 500)" in stderr and "SystemExit: 7" in stderr


def test_names_are_quoted_in_paths(pagurus, gateway):
    pagurus("invoke", "a/../b")
    assert gateway.requests[0].path == "/v1/functions/a%2F..%2Fb/invocations"


def test_ls(pagurus, gateway):
    gateway.answer("GET", "/v1/functions", {"functions": [FUNCTION, {"name": "bare"}]})
    header, row, bare = pagurus("ls").stdout.splitlines()
    assert header.split()[:3] == ["NAME", "TENANT", "VERSION"]
    assert row.split()[:8] == ["hello", "red", "abababababab", "python3.11", "main.main", "256", "MiB", "2"]
    assert row.endswith("2026-11-24 18:00:00")
    assert bare.split()[0] == "bare"
    assert json.loads(pagurus("ls", "--json").stdout)["functions"][0] == FUNCTION


def test_ls_without_functions_says_what_to_do(pagurus, gateway):
    gateway.answer("GET", "/v1/functions", {"functions": []})
    assert "pagurus deploy" in pagurus("ls").stdout


def test_ps(pagurus, gateway):
    sandbox = {"id": "s-1", "function": "hello", "state": "idle", "memory_bytes": 3 << 20, "pid": 12, "zygote": "z-1"}
    zygote = {"id": "z-1", "runtime": "python3.11", "imports": ["numpy", "pandas"], "standbys": 2}
    gateway.answer("GET", "/v1/sandboxes", {"sandboxes": [sandbox]})
    gateway.answer("GET", "/v1/zygotes", {"zygotes": [zygote]})
    out = pagurus("ps").stdout
    for text in ("s-1", "hello", "3 MiB", "numpy pandas"):
        assert text in out
    assert json.loads(pagurus("ps", "--json").stdout) == {"sandboxes": [sandbox], "zygotes": [zygote]}


def test_rm_goes_on_after_a_failure(pagurus, gateway):
    gateway.answer("DELETE", "/v1/functions/b", b"", status=204)
    done = pagurus("rm", "a", "b")
    assert done.status == 1
    assert done.stdout == "b: removed\n"
    assert "nothing here" in done.stderr
    assert json.loads(pagurus("rm", "a", "b", "--json").stdout)["removed"] == ["b"]


def test_evict_takes_functions_and_sandboxes(pagurus, gateway):
    gateway.answer("DELETE", "/v1/sandboxes?function=hello", {"ended": 3})
    gateway.answer("DELETE", "/v1/sandboxes/z-1.4", b"", status=204)
    gateway.problem("DELETE", "/v1/sandboxes?function=nope", 404, title="There is no such function")
    gateway.problem("DELETE", "/v1/sandboxes/z-1.5", 409, title="The sandbox runs an invocation")
    done = pagurus("evict", "hello", "z-1.4")
    assert (done.status, done.stdout) == (0, "hello: 3 sandboxes ended\nz-1.4: 1 sandbox ended\n")
    done = pagurus("evict", "nope", "z-1.5", "hello")
    assert (done.status, done.stdout) == (1, "hello: 3 sandboxes ended\n")
    assert "no such function" in done.stderr
    assert "runs an invocation" in done.stderr
    assert json.loads(pagurus("evict", "hello", "--json").stdout) == {"ended": {"hello": 3}, "failed": {}}


def test_status_shows_leaves_by_dotted_name(pagurus, gateway):
    gateway.answer(
        "GET",
        "/v1/status",
        {
            "uptime_s": 1.71633594,
            "memory": {"used_bytes": 2048},
            "runtimes": ["python3.11"],
            "checks": [{"name": "criu", "ok": False}],
        },
    )
    out = pagurus("status").stdout
    assert "memory.used_bytes  2 KiB" in out
    assert "1.716\n" in out
    assert "0 of 1 passed; not criu" in out


def test_logs_of_one_invocation(pagurus, gateway):
    record = {"id": "inv-1", "function": "hello", "status": "succeeded", "stdout": "printed\n", "stderr": "warned"}
    gateway.answer("GET", "/v1/invocations/inv-1", record)
    done = pagurus("logs", "inv-1")
    assert done.stdout == "printed\n"
    assert done.stderr == "— inv-1 hello succeeded\nwarned\n"


def test_logs_of_a_function_are_its_last_ones_oldest_first(pagurus, gateway):
    complete = {"id": "inv-1", "stdout": "one\n"}
    gateway.answer("GET", "/v1/invocations/inv-1", complete)
    listed = {"invocations": [{"id": "inv-2", "stdout": "two\n"}, {"id": "inv-1"}]}
    gateway.answer("GET", "/v1/invocations?function=hello&limit=5", listed)
    assert pagurus("logs", "hello", "-n", "5").stdout == "one\ntwo\n"


def test_no_gateway_has_status_3_and_says_how_to_start_one(pagurus):
    done = pagurus("ls", url="http://127.0.0.1:1")
    assert done.status == 3
    assert "Connection refused" in done.stderr and "sudo pagurusd" in done.stderr


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port"])
def test_a_url_that_is_none_has_status_3(pagurus, url):
    assert pagurus("ls", url=url).status == 3


def test_another_server_is_told_from_a_gateway(pagurus, gateway):
    gateway.answer("GET", "/v1/functions", b"<html>", content_type="text/html")
    done = pagurus("ls")
    assert done.status == 3
    assert "no Pagurus gateway" in done.stderr


def test_control_characters_of_others_do_not_reach_the_terminal(pagurus, gateway):
    gateway.answer("GET", "/v1/functions", {"functions": [{"name": "a\x1b[2Jb", "handler": "x\ny"}]})
    out = pagurus("ls").stdout
    assert "\x1b[2J" not in out and len(out.splitlines()) == 2


CHECKS = (
    Check(name="kernel", ok=True, required=True, found="6.1"),
    Check(name="root", ok=False, required=True, found="uid 7", lost="all", fix="sudo"),
    Check(name="criu", ok=False, required=False, found="not found", lost="restored starts", fix="apt"),
)


@pytest.mark.parametrize(("checks", "status"), [(CHECKS, 1), (CHECKS[::2], 0)])
def test_doctor_fails_only_for_what_is_required(pagurus, monkeypatch, checks, status):
    monkeypatch.setattr("runtime.doctor.run_checks", lambda settings: checks)
    done = pagurus("doctor")
    assert done.status == status
    assert "lost: restored starts" in done.stdout and "fix:  apt" in done.stdout
    as_json = json.loads(pagurus("doctor", "--json").stdout)
    assert as_json == {"ok": status == 0, "checks": msgspec.to_builtins(list(checks))}


def test_bad_settings_are_named(pagurus, tmp_path):
    (tmp_path / "bad.toml").write_text("lissten = 1")
    done = pagurus("doctor", "--config", tmp_path / "bad.toml")
    assert done.status == 1
    assert "lissten" in done.stderr


@pytest.mark.parametrize(
    ("header", "phases"),
    [
        ("", {}),
        ('total;desc="all, of it";dur=3', {}),
        ("a;dur=1.5,b;dur=2, c", {"a": 1.5, "b": 2.0}),
        ('a;desc="x";dur=1', {"a": 1.0}),
    ],
)
def test_server_timing(header, phases):
    assert phases_ms(header) == phases


SUBCOMMANDS = {"bench": "trace", "token": "ls"}


def test_every_command_can_be_loaded_and_has_help(pagurus):
    for name in main.COMMANDS:
        done = pagurus(name, "--help")
        assert done.status == 0
        assert "--json" in done.stdout or "--json" in pagurus(name, SUBCOMMANDS.get(name, ""), "--help").stdout
    assert pagurus("--help").status == 0
    assert pagurus("nonsense").status == 2
    assert pagurus("--version").stdout.startswith("pagurus")


def test_ls_loads_neither_rich_nor_a_server():
    code = "import sys; import gateway.cli.main, gateway.cli.listing; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"rich", "aiohttp", "asyncio", "msgspec", "runtime.doctor"} & set(loaded)
