"""What stays in a sandbox between two invocations: everything by default, nothing with `reuse: false`."""

import contextlib
import http.client
import os
import signal
import threading

from tests.pagurusd import Answer, Daemon

SOURCE = """
import os, subprocess, sys, tempfile, time

calls = 0

def main(param):
    global calls
    calls += 1
    seen = {"calls": calls, "tmp": sorted(os.listdir("/tmp")), "shm": sorted(os.listdir("/dev/shm")),
            "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
            "environ": os.environ.get("LEFT"), "module": hasattr(sys, "left")}
    with open("/tmp/left", "w") as tmp, open("/dev/shm/left", "w") as shm:
        tmp.write("x"), shm.write("x")
    os.environ["LEFT"] = "yes"
    sys.left = True
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
    if (param or {}).get("raise"):
        raise ValueError("and fails")
    time.sleep((param or {}).get("s", 0))
    return seen
"""
CLEAN = {"calls": 1, "tmp": [], "shm": [], "processes": [1], "environ": None, "module": False}


def test_without_reuse_each_invocation_finds_a_clean_sandbox(shared: Daemon):
    deployed = shared.deploy("fresh-each", SOURCE, reuse=False)
    assert deployed["reuse"] is False
    for param in (None, {"raise": True}, None, None):
        answer = shared.invoke("fresh-each", param)
        assert answer.headers["X-Pagurus-Start-Kind"] == "helped"
        if param is None:
            assert answer.json == CLEAN
        else:
            assert answer.word == "function-exception"
        # Not idle for a moment: what has answered is dying or gone.
        assert {row["state"] for row in shared.sandboxes(function="fresh-each")} <= {"dying"}
    shared.until(lambda: not shared.sandboxes(function="fresh-each"), "the last sandbox to be gone")


def test_without_reuse_requests_at_once_each_find_a_clean_sandbox(shared: Daemon):
    shared.deploy("fresh-many", SOURCE, reuse=False)
    answers: list[Answer] = []
    # conftest: 4 sandboxes of one function, 4 waiting
    calls = [threading.Thread(target=lambda: answers.append(shared.invoke("fresh-many", {"s": 0.2}))) for _ in range(8)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert [answer.json for answer in answers if answer.status == 200] == [CLEAN] * len(answers)
    shared.until(lambda: not shared.sandboxes(function="fresh-many"), "all sandboxes to be gone")


def test_by_default_a_sandbox_is_reused_with_all_that_was_left_in_it(shared: Daemon):
    deployed = shared.deploy("reused", SOURCE)
    assert deployed["reuse"] is True
    assert shared.result("reused") == CLEAN
    answer = shared.invoke("reused")
    assert answer.headers["X-Pagurus-Start-Kind"] == "warm"
    found = answer.json
    assert (found["calls"], found["tmp"], found["shm"]) == (2, ["left"], ["left"])
    assert (found["environ"], found["module"], len(found["processes"])) == ("yes", True, 2)


def test_a_function_becomes_fresh_and_reusing_again_by_a_deploy(shared: Daemon):
    for reuse, second in ((True, 2), (False, 1), (True, 2)):
        shared.deploy("changing", SOURCE, reuse=reuse)
        assert [shared.result("changing")["calls"], shared.result("changing")["calls"]] == [1, second]


def test_the_command_line_deploys_fresh_functions(shared: Daemon, tmp_path):
    (tmp_path / "main.py").write_text(SOURCE)
    done = shared.cli("deploy", "fresh-cli", tmp_path, "--fresh")
    assert done.returncode == 0, done.stderr
    assert [shared.result("fresh-cli")["calls"] for _ in range(2)] == [1, 1]
    assert "one for each invocation" in shared.cli("show", "fresh-cli").stdout


def test_a_gateway_that_is_killed_does_not_take_over_what_has_served(fresh: Daemon):
    fresh.deploy("once", SOURCE, reuse=False)

    def call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the gateway dies under it
            fresh.invoke("once", {"s": 3})

    caller = threading.Thread(target=call)
    caller.start()
    fresh.until(lambda: fresh.sandboxes(function="once", state="busy"), "the invocation to run")
    former = fresh.gateway_pid()
    os.kill(former, signal.SIGKILL)
    fresh.until(lambda: fresh.gateway_pid() not in (former, -1), "another gateway")
    fresh.wait_ready()
    assert fresh.result("once") == CLEAN
    caller.join()
