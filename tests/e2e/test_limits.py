"""Limits of the node: the queue, the keep-alive, the freezer, the number of sandboxes."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e_daemon import Daemon, new_daemon

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ECHO = "def main(param):\n    return param\n"
# Waits for a file of the sandbox's own /tmp that its timeout never sees: ends by the limit timeout_s only.
WAITS = "import time\ndef main(param):\n    time.sleep(param)\n    return param\n"


def states(daemon: Daemon, name: str) -> list[str]:
    return sorted(one["state"] for one in daemon.sandboxes(name))


def test_a_full_queue_is_said_with_the_limit_and_when_to_come_again():
    with new_daemon(function_concurrency=1, queue_per_function=1) as daemon, ThreadPoolExecutor(2) as pool:
        daemon.must_deploy("waits", WAITS)
        daemon.must_deploy("free", ECHO)
        running = pool.submit(daemon.invoke, "waits", 1.5)
        daemon.until(lambda: states(daemon, "waits") == ["busy"])
        waiting = pool.submit(daemon.invoke, "waits", 0)
        daemon.until(lambda: daemon.get("/v1/status").json["counts"]["waiting"] == 1)
        refused = daemon.invoke("waits", 0)
        assert "queue_per_function" in refused.problem("queue-full", 429)["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.kind == "none"
        assert daemon.invoke("free", 1).result == 1
        assert (running.result().result, waiting.result().result) == (1.5, 0)
        assert waiting.result().kind == "warm"
        assert daemon.invoke("waits", 0).result == 0


def test_concurrent_invocations_get_sandboxes_of_their_own_up_to_the_limit():
    with new_daemon(function_concurrency=3) as daemon, ThreadPoolExecutor(6) as pool:
        daemon.must_deploy("who", "import os, time\ndef main(param):\n    time.sleep(0.2)\n    return os.getuid()\n")
        uids = [call.result().result for call in [pool.submit(daemon.invoke, "who") for _ in range(6)]]
        assert 1 < len(set(uids)) <= 3
        assert len(daemon.sandboxes("who")) <= 3


def test_idle_sandboxes_are_frozen_then_ended():
    with new_daemon(freeze_after_s=0.2, idle_timeout_s=2) as daemon:
        daemon.must_deploy("naps", ECHO)
        assert daemon.invoke("naps", 1).result == 1
        daemon.until(lambda: states(daemon, "naps") == ["frozen"])
        frozen = daemon.sandboxes("naps")[0]["id"]
        answer = daemon.invoke("naps", 2)
        assert answer.result == 2
        if answer.kind == "warm":  # else the machine was so slow that its time was up
            assert frozen in {one["id"] for one in daemon.sandboxes("naps")} or states(daemon, "naps") == []
        daemon.until(lambda: states(daemon, "naps") == [])
        assert daemon.invoke("naps", 3).kind == "helped"


def test_a_frozen_sandbox_answers_warm():
    with new_daemon(freeze_after_s=0.1) as daemon:
        daemon.must_deploy("naps", ECHO)
        daemon.invoke("naps")
        for number in range(3):
            daemon.until(lambda: states(daemon, "naps") == ["frozen"])
            answer = daemon.invoke("naps", number)
            assert (answer.result, answer.kind) == (number, "warm")
        daemon.until(lambda: states(daemon, "naps") == ["frozen"])
        assert daemon.evict("naps") == 1
        assert states(daemon, "naps") == []


def test_a_function_that_needs_a_place_gets_that_of_an_idle_one():
    with new_daemon(sandboxes_max=2) as daemon:
        for name in ("one", "two", "three"):
            daemon.must_deploy(name, ECHO)
        for _ in range(2):
            for name in ("one", "two", "three"):
                assert daemon.invoke(name, name).result == name
                daemon.until(lambda: sum(len(daemon.sandboxes(one)) for one in ("one", "two", "three")) <= 2)
        assert len(daemon.sandboxes("three")) == 1


def test_an_idle_sandbox_ends_on_request_and_a_busy_one_does_not():
    with new_daemon() as daemon, ThreadPoolExecutor(1) as pool:
        daemon.must_deploy("waits", WAITS)
        running = pool.submit(daemon.invoke, "waits", 0.7)
        daemon.until(lambda: states(daemon, "waits") == ["busy"])
        path = f"/v1/sandboxes/{daemon.sandboxes('waits')[0]['id']}"
        daemon.request("DELETE", path).problem("sandbox-busy", 409)
        assert running.result().result == 0.7
        assert daemon.request("DELETE", path).status == 204
        daemon.request("DELETE", path).problem("unknown-sandbox", 404)
        assert states(daemon, "waits") == []
