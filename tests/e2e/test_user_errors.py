"""What user code does wrong is an answer with a type of its own, and the next invocation works."""

import signal

import pytest

from tests.pagurusd import Answer, Daemon, archive

SOURCE = """
import ctypes, os, sys, threading, time

class Odd(Exception):
    def __str__(self):
        raise ValueError("no description")

def broken(depth):
    if depth:
        return broken(depth - 1)
    raise KeyError("missing")

def main(param):
    how = (param or {}).get("how", "echo")
    if how == "echo":
        return "fine"
    if how == "raise":
        return broken(2)
    if how == "group":
        raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])
    if how == "odd":
        raise Odd()
    if how == "recursion":
        return main({"how": "recursion"})
    if how == "exit":
        sys.exit("enough")
    if how == "_exit":
        os._exit(4)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "memory":
        return len(b"x" * (1 << 30))
    if how == "sleep":
        time.sleep(60)
    if how == "loop":
        while True:
            pass
    if how == "set":
        return {1, 2}
    if how == "nan":
        return float("nan")
    if how == "cycle":
        value = []
        value.append(value)
        return value
    if how == "surrogate":
        return "\\ud800"
    if how == "large":
        return "x" * (7 << 20)
    if how == "close":
        os.close(4)
        return "closed"
    if how == "forge":
        os.write(4, b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        time.sleep(60)
    if how == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
        return "left a thread"
    if how == "print":
        print("to stdout é")
        print("to stderr", file=sys.stderr)
        os.write(1, b"raw\\n")
        return param
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "generator":
        raise GeneratorExit
"""


@pytest.fixture(scope="module")
def wrong(shared: Daemon) -> Daemon:
    shared.deploy("wrong", SOURCE, limits={"memory_bytes": 128 << 20, "timeout_s": 3})
    return shared


def fail(daemon: Daemon, how: str) -> Answer:
    answer = daemon.invoke("wrong", {"how": how})
    assert daemon.result("wrong") == "fine", "the next one works"
    return answer


CASES = [
    ("raise", 500, "function-exception", "KeyError"),
    ("group", 500, "function-exception", "ExceptionGroup"),
    ("odd", 500, "function-exception", "Odd"),
    ("recursion", 500, "function-exception", "RecursionError"),
    ("interrupt", 500, "function-exception", "KeyboardInterrupt"),
    ("generator", 500, "function-exception", "GeneratorExit"),
    ("exit", 500, "function-exited", "SystemExit"),
    ("_exit", 500, "function-exited", "SystemExit"),
    ("segfault", 502, "function-crashed", "SIGSEGV"),
    # pid 1 gets no SIGABRT from itself; abort(3) goes on to an instruction that is not allowed
    ("abort", 502, "function-crashed", "SIGSEGV"),
    ("memory", 507, "function-out-of-memory", "MemoryError"),
    ("set", 502, "function-result-invalid", "TypeError"),
    ("nan", 502, "function-result-invalid", "ValueError"),
    ("cycle", 502, "function-result-invalid", "ValueError"),
    ("surrogate", 502, "function-result-invalid", "UnicodeEncodeError"),
    ("large", 502, "function-result-too-large", "ResultTooLarge"),
]


@pytest.mark.parametrize(("how", "status", "word", "kind"), CASES, ids=[case[0] for case in CASES])
def test_each_failure_has_its_type_and_status(wrong: Daemon, how: str, status: int, word: str, kind: str):
    answer = fail(wrong, how)
    assert (answer.status, answer.word) == (status, word), answer.body.decode()
    document = answer.json
    assert document["error"]["type"] == kind
    assert document["invocation"] == answer.headers["X-Pagurus-Invocation-Id"]
    assert wrong.record(answer)["error"]["type"] == kind


@pytest.mark.parametrize("how", ["sleep", "loop"])
def test_a_timeout_is_a_timeout(wrong: Daemon, how: str):
    answer = fail(wrong, how)
    assert (answer.status, answer.word) == (504, "function-timed-out")
    assert "3 s" in answer.json["detail"] or "timeout" in answer.json["detail"]


def test_a_traceback_shows_the_user_files_only(wrong: Daemon):
    error = fail(wrong, "raise").json["error"]
    assert error["message"] == "'missing'"
    lines = error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "KeyError: 'missing'"
    files = {line.split('"')[1] for line in lines if line.strip().startswith("File ")}
    assert files == {"main.py"}
    assert "raise KeyError" in error["traceback"]


@pytest.mark.parametrize("how", ["close", "forge"])
def test_a_function_that_meddles_with_its_socket_gets_an_error(wrong: Daemon, how: str):
    answer = fail(wrong, how)
    assert answer.status in (500, 502), answer.body
    assert answer.word.startswith("function-")


def test_a_thread_that_stays_does_no_harm(wrong: Daemon):
    answer = wrong.invoke("wrong", {"how": "thread"})
    assert answer.json == "left a thread"
    assert wrong.result("wrong") == "fine"


def test_output_is_kept_with_the_invocation(wrong: Daemon):
    answer = wrong.invoke("wrong", {"how": "print"})
    record = wrong.record(answer)
    assert record["stdout"] == "to stdout é\nraw\n"
    assert record["stderr"] == "to stderr\n"
    assert record["status"] == "ok" or record["error"] is None
    quiet = wrong.invoke("wrong")
    assert wrong.record(quiet)["stdout"] == ""


def test_a_crash_leaves_its_traceback_in_the_output(wrong: Daemon):
    record = wrong.record(fail(wrong, "segfault"))
    assert "Segmentation fault" in record["stderr"] and "main.py" in record["stderr"]
    assert str(int(signal.SIGSEGV)) in record["error"]["message"]


DEPLOYS = [
    ("import nowhere\n\ndef main(param):\n    return 1\n", {}, "function-import-failed", "ModuleNotFoundError"),
    ("raise RuntimeError('at import')\n", {}, "function-import-failed", "RuntimeError"),
    ("def main(param:\n", {}, "function-import-failed", "SyntaxError"),
    ("import sys\nsys.exit(3)\n", {}, "function-import-failed", "SystemExit"),
    ("import os\nos._exit(3)\n", {}, "function-exited", "SystemExit"),
    ("import ctypes\nctypes.string_at(0)\n", {}, "function-crashed", "SIGSEGV"),
    ("x = b'x' * (1 << 30)\n", {"limits": {"memory_bytes": 64 << 20}}, "function-out-of-memory", "MemoryError"),
    ("def other(param):\n    return 1\n", {}, "function-handler-invalid", "HandlerMissing"),
    ("main = 7\n", {}, "function-handler-invalid", "HandlerNotCallable"),
    ("def main():\n    return 1\n", {}, "function-handler-invalid", "HandlerSignature"),
    ("def main(param):\n    return 1\n", {"handler": "other.main"}, "function-import-failed", "ModuleNotFoundError"),
]


@pytest.mark.parametrize(("source", "settings", "word", "kind"), DEPLOYS)
def test_what_cannot_be_imported_is_refused_at_deploy(shared: Daemon, source, settings, word, kind):
    answer = shared.put("refused", archive(source), **settings)
    assert (answer.status, answer.word) == (422, word), answer.body.decode()
    assert answer.json["error"]["type"] == kind
    assert shared.request("GET", "/v1/functions/refused").status == 404


def test_a_refused_update_leaves_the_old_version(shared: Daemon):
    shared.deploy("steady", "def main(param):\n    return 'old'\n")
    assert shared.put("steady", archive("import nowhere\n")).status == 422
    assert shared.result("steady") == "old"
    assert len(shared.get("/v1/functions/steady")["versions"]) == 1
