"""What user code does wrong is an answer with its own error type, and the next invocations work."""

import os
from dataclasses import dataclass, field

import pytest

from tests.e2e_daemon import Daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MIB = 1 << 20


@dataclass(frozen=True)
class Wrong:
    """One way of going wrong: the handler's body, and the problem that it must be."""

    body: str
    word: str
    status: int
    detail: str = ""  # a part of it
    error: str = ""  # its type
    message: str = ""  # a part of it
    limits: dict[str, float] = field(default_factory=dict)


WRONG = {
    "exception": Wrong("raise KeyError('colour')", "function-exception", 500, "KeyError", "KeyError", "'colour'"),
    "own exception": Wrong(
        "class Own(Exception): pass\n    raise Own('mine') from ValueError('cause')",
        "function-exception",
        500,
        "Own",
        "Own",
        "mine",
    ),
    "recursion": Wrong("return main(param)", "function-exception", 500, "RecursionError", "RecursionError", "depth"),
    "hostile __str__": Wrong(
        "class Own(Exception):\n        def __str__(self): os._exit\n    raise Own()",
        "function-exception",
        500,
        "Own",
        "Own",
    ),
    "sys.exit": Wrong("sys.exit(3)", "function-exited", 500, "", "SystemExit", "sys.exit(3)"),
    "os._exit": Wrong("os._exit(7)", "function-exited", 500, "status 7", "SystemExit", "7"),
    "os._exit(0)": Wrong("os._exit(0)", "function-exited", 500, "status 0", "SystemExit", "0"),
    "segmentation fault": Wrong("ctypes.string_at(0)", "function-crashed", 502, "SIGSEGV", "SIGSEGV"),
    # The kernel spares the first process of a pid namespace SIGABRT; abort(3) then runs into an illegal instruction.
    "abort": Wrong("os.abort()", "function-crashed", 502, "killed by SIG"),
    "memory": Wrong(
        "held = []\n    while True: held.append(bytearray(1 << 20))",
        "function-out-of-memory",
        507,
        "memory_bytes, 64 MiB",
        "MemoryError",
        limits={"memory_bytes": 64 * MIB},
    ),
    "files of /tmp are memory": Wrong(
        "open('/tmp/x', 'wb').write(bytes(32 << 20))",
        "function-exception",
        500,
        "OSError",
        "OSError",
        "No space left",
        limits={"tmp_bytes": 8 * MIB},
    ),
    "timeout": Wrong(
        "time.sleep(60)", "function-timed-out", 504, "timeout_s = 0.4 s: it was running", limits={"timeout_s": 0.4}
    ),
    "busy loop": Wrong("while True: pass", "function-timed-out", 504, "timeout_s = 0.4 s", limits={"timeout_s": 0.4}),
    "set": Wrong("return {1, 2}", "function-result-invalid", 502, "not JSON", "TypeError", "set"),
    "NaN": Wrong("return float('nan')", "function-result-invalid", 502, "not JSON", "ValueError"),
    "lone surrogate": Wrong("return '\\ud800'", "function-result-invalid", 502, "not JSON", "UnicodeEncodeError"),
    "large result": Wrong(
        "return 'x' * 2000",
        "function-result-too-large",
        502,
        "result_bytes",
        "ResultTooLarge",
        "2002 bytes, the limit result_bytes is 1000",
        limits={"result_bytes": 1000},
    ),
    "flood of output": Wrong(
        "while True: os.write(1, bytes(65536))", "function-output-limit", 502, "log_bytes", limits={"log_bytes": 4096}
    ),
    "invocation socket closed": Wrong("os.close(4)\n    return 1", "function-exited", 500),
    "garbage in the invocation socket": Wrong("os.write(4, b'x' * 100)\n    return 1", "function-crashed", 502),
    "forged length": Wrong(
        "os.write(4, b'PGRS' + bytes([2, 0]) + b'\\xff' * 30)\n    time.sleep(5)", "function-crashed", 502
    ),
    "killed by itself": Wrong(
        "os.kill(os.fork() or time.sleep(9), 9)\n    raise OSError(1)", "function-exception", 500
    ),
}

SOURCE = """import ctypes, os, sys, time
def main(param):
    if param != "go wrong":
        return ["fine", param]
    {body}
"""


@pytest.fixture(scope="module")
def other(daemon: Daemon) -> str:
    """A function that has nothing to do with it."""
    daemon.must_deploy("other", "def main(param):\n    return param\n")
    return "other"


def assert_works(daemon: Daemon, name: str, other: str) -> None:
    """The function that went wrong, and another, answer."""
    assert daemon.invoke(name, 1).result == ["fine", 1]
    assert daemon.invoke(other, 2).result == 2


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_goes_wrong_is_answered_and_the_next_invocations_work(daemon, other, wrong):
    daemon.must_deploy("wrong", SOURCE.format(body=wrong.body), limits=wrong.limits)
    for _ in range(2):  # in a new sandbox, and in one that has worked
        answer = daemon.invoke("wrong", "go wrong")
        document = answer.problem(wrong.word, wrong.status)
        assert wrong.detail in document["detail"]
        if wrong.error:
            assert document["error"]["type"] == wrong.error
            assert wrong.message in document["error"]["message"]
        assert answer.headers["X-Pagurus-Invocation-Id"] == document["invocation"]
        assert daemon.record(answer)["error_type"]
        assert_works(daemon, "wrong", other)


def test_a_traceback_names_files_as_they_were_uploaded(daemon):
    files = {
        "main.py": "import deep\ndef main(param):\n    deep.divide(param)\n",
        "deep/__init__.py": "def divide(by):\n    return 1 / by\n",
    }
    daemon.must_deploy("trace", files)
    error = daemon.invoke("trace", 0).problem("function-exception", 500)["error"]
    assert (error["type"], error["message"]) == ("ZeroDivisionError", "division by zero")
    lines = error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ZeroDivisionError: division by zero"
    assert [line.strip() for line in lines if "File " in line] == [
        'File "main.py", line 3, in main',
        'File "deep/__init__.py", line 2, in divide',
    ]
    for path in ("/code", "/opt", "pagurus", "worker.py", "zygote.py"):
        assert path not in error["traceback"]


def test_a_fork_bomb_is_bounded_by_pids(daemon, other):
    source = """import os, time
def main(param):
    if param != "go wrong":
        return ["fine", param]
    count = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
        except BlockingIOError:
            return count
        count += 1
"""
    daemon.must_deploy("bomb", source, limits={"pids": 12})
    assert 5 <= daemon.invoke("bomb", "go wrong").result < 12
    sandbox = daemon.sandboxes("bomb")[0]["id"]
    assert daemon.request("DELETE", f"/v1/sandboxes/{sandbox}").status == 204
    assert_works(daemon, "bomb", other)


def test_a_fork_bomb_without_end_is_stopped_by_the_timeout(daemon, other):
    source = """import os
def main(param):
    if param != "go wrong":
        return ["fine", param]
    while True:
        try:
            os.fork()
        except OSError:
            pass
"""
    daemon.must_deploy("bomb-endless", source, limits={"pids": 30, "timeout_s": 0.5})
    for _ in range(2):
        daemon.invoke("bomb-endless", "go wrong").problem("function-timed-out", 504)
        assert_works(daemon, "bomb-endless", other)


def test_output_beyond_the_limit_is_cut_and_the_result_stands(daemon):
    daemon.must_deploy("chatty", "def main(param):\n    print('x' * 5000)\n    return 1\n", limits={"log_bytes": 1000})
    answer = daemon.invoke("chatty")
    assert answer.result == 1
    stdout = daemon.record(answer)["stdout"]
    assert stdout.startswith("x" * 1000) and "4001 bytes dropped" in stdout and len(stdout) < 1100


def test_a_function_without_log_may_still_print(daemon):
    daemon.must_deploy("silent", "def main(param):\n    print('x' * 5000)\n    return 1\n", limits={"log_bytes": 0})
    for _ in range(2):
        answer = daemon.invoke("silent")
        assert answer.result == 1
        assert daemon.record(answer)["stdout"] == "\n[... 5001 bytes dropped]\n"


def test_the_cli_shows_an_exception_as_python_does(daemon):
    daemon.must_deploy("raises", "def main(param):\n    raise ValueError('bad ' + param)\n")
    text = daemon.cli("invoke", "raises", '"day"', status=1)
    assert 'File "main.py", line 2, in main' in text and text.endswith("ValueError: bad day\n")


def test_a_function_can_see_nobody_elses_secrets(daemon):
    daemon.must_deploy("holds", "def main(param):\n    return 1\n", environ={"TOKEN": "very-secret"})
    daemon.invoke("holds")
    daemon.must_deploy(
        "looks",
        "import os, glob\ndef main(param):\n    return [dict(os.environ), os.getuid(), glob.glob('/proc/[0-9]*')]\n",
    )
    environ, uid, processes = daemon.invoke("looks").result
    assert "very-secret" not in str(environ) and uid != 0 and processes == ["/proc/1"]
