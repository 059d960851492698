"""`pagurus runtimes` and `pagurus show`."""

import json

import pytest

BUILT = {
    "name": "python3.11",
    "suite": "bookworm",
    "state": "ready",
    "default": True,
    "python_version": "3.11.2",
    "digest": "ab" * 32,
    "disk_bytes": 73379840,
    "packages": 54,
    "functions": ["a", "b"],
    "zygote": "ready",
    "zygote_reason": "",
}
ABSENT = {"name": "python3.13", "suite": "trixie", "state": "not built", "default": False, "functions": []}
VERSION = {
    "version": "cd" * 32,
    "deployed": "2026-11-24T18:00:00.123Z",
    "runtime": "python3.13",
    "handler": "main.main",
    "limits": {"memory_bytes": 268435456, "timeout_s": 2.5},
    "environ": ["KEY"],
    "distributions": ["idna==3.10", "requests==2.32.0"],
    "imports": ["requests"],
}
LOCK = "requests==2.32.0 \\\n    --hash=sha256:00\n"
FUNCTION = {
    "name": "hello",
    "created": "2026-11-24T17:00:00Z",
    "updated": "2026-11-24T18:00:00Z",
    **VERSION,
    "versions": [VERSION, {**VERSION, "version": "ef" * 32, "distributions": []}],
    "lock": LOCK,
}


def lines(*events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def test_runtimes_are_a_table(pagurus, gateway):
    gateway.answer("GET", "/v1/runtimes", {"runtimes": [BUILT, ABSENT]})
    head, first, second = pagurus("runtimes").stdout.splitlines()
    assert head.split()[:3] == ["RUNTIME", "PYTHON", "SUITE"]
    assert first.split() == [
        *("python3.11", "3.11.2", "bookworm", "ready", "70.0", "MiB", "54", "abababababab", "2", "ready", "yes")
    ]
    assert second.split() == ["python3.13", "-", "trixie", "not", "built", "-", "-", "-", "0", "-"]
    assert json.loads(pagurus("runtimes", "--json").stdout)["runtimes"][0]["digest"] == "ab" * 32


def test_a_base_zygote_that_failed_is_told(pagurus, gateway):
    failed = {**BUILT, "zygote": "failed", "zygote_reason": "fork: no memory"}
    gateway.answer("GET", "/v1/runtimes", {"runtimes": [failed]})
    assert "python3.11: its base zygote failed: fork: no memory" in pagurus("runtimes").stdout


def test_adding_shows_how_it_goes_on(pagurus, gateway):
    built = lines(
        {"event": "progress", "phase": "base", "message": "extracting", "fraction": 0.4},
        {"event": "done", "runtime": {**BUILT, "name": "python3.13"}},
    )
    gateway.answer("POST", "/v1/runtimes/python3.13", built, content_type="application/x-ndjson")
    done = pagurus("runtimes", "add", "python3.13")
    assert done.status == 0, done.stderr
    assert "base: extracting" in done.stdout and "python3.13: ready, Python 3.11.2" in done.stdout
    assert gateway.requests[0].headers["Accept"] == "application/x-ndjson"
    only = pagurus("runtimes", "add", "python3.13", "--json")
    assert json.loads(only.stdout)["name"] == "python3.13"


def test_what_cannot_be_added_or_removed_is_told_with_the_next_step(pagurus, gateway):
    gateway.problem("POST", "/v1/runtimes/python2", 404, title="There is no such runtime", hint="choose one of a, b")
    done = pagurus("runtimes", "add", "python2")
    assert done.status == 1 and "next step: choose one of a, b" in done.stderr
    gateway.problem("DELETE", "/v1/runtimes/python3.11", 409, title="The runtime is needed", detail="used by a, b")
    done = pagurus("runtimes", "rm", "python3.11")
    assert done.status == 1 and "used by a, b" in done.stderr


def test_removing(pagurus, gateway):
    gateway.answer("DELETE", "/v1/runtimes/python3.13", b"", status=204)
    assert pagurus("runtimes", "rm", "python3.13").stdout == "python3.13: removed\n"
    assert json.loads(pagurus("runtimes", "rm", "python3.13", "--json").stdout) == {"removed": "python3.13"}


def test_show_has_everything(pagurus, gateway):
    gateway.answer("GET", "/v1/functions/hello", FUNCTION)
    found = pagurus("show", "hello").stdout
    for text in ("cd" * 32, "python3.13", "256 MiB", "2.5", "KEY", "idna==3.10", "requests==2.32.0", "efefefefefef"):
        assert text in found
    assert [line.split()[-1] for line in found.splitlines() if line.startswith("cdcd")] == ["yes"]
    assert json.loads(pagurus("show", "hello", "--json").stdout) == FUNCTION


@pytest.mark.parametrize(
    ("egress", "shown"),
    [("none", "none"), ("internet", "internet"), (["internet", "10.0.0.0/8"], "internet 10.0.0.0/8")],
)
def test_show_has_what_the_function_may_reach(pagurus, gateway, egress, shown):
    gateway.answer("GET", "/v1/functions/hello", {**FUNCTION, "egress": egress})
    (line,) = [line for line in pagurus("show", "hello").stdout.splitlines() if line.startswith("egress")]
    assert line.split(maxsplit=1)[1] == shown


def test_show_lock_prints_the_lock_and_nothing_else(pagurus, gateway):
    gateway.answer("GET", "/v1/functions/hello", FUNCTION)
    assert pagurus("show", "hello", "--lock").stdout == LOCK
    gateway.answer("GET", "/v1/functions/hello", {**FUNCTION, "lock": ""})
    done = pagurus("show", "hello", "--lock")
    assert (done.status, done.stdout) == (0, "") and "no packages" in done.stderr


@pytest.mark.parametrize("arguments", [("show",), ("show", "hello", "--lock", "--json"), ("runtimes", "add")])
def test_wrong_usage_has_status_2(pagurus, arguments):
    assert pagurus(*arguments).status == 2
