"""Limits of queue, request, result, output and processor, each with the answer that names it."""

import threading

import pytest

from tests.pagurusd import Answer, Daemon

SOURCE = """
import os, time

def main(param):
    how = (param or {}).get("how")
    if how == "sleep":
        time.sleep(param["s"])
    if how == "output":
        for _ in range(param["lines"]):
            print("x" * 99)
    if how == "result":
        return "x" * param["bytes"]
    if how == "spin":
        start = time.process_time()
        wall = time.monotonic()
        while time.monotonic() - wall < 1.0:
            pass
        return time.process_time() - start
    return os.getpid()
"""


@pytest.fixture(scope="module")
def limited(shared: Daemon) -> Daemon:
    limits = {"request_bytes": 1000, "result_bytes": 2000, "log_bytes": 4000, "cpu_millis": 200, "timeout_s": 10}
    shared.deploy("limited", SOURCE, limits=limits)
    return shared


def test_requests_beyond_the_queue_are_told_when_to_come_again(shared: Daemon):
    shared.deploy("busy", SOURCE, limits={"timeout_s": 20})
    answers: list[Answer] = []

    def call() -> None:
        answers.append(shared.invoke("busy", {"how": "sleep", "s": 0.5}))

    # conftest: 4 sandboxes of one function, 4 waiting
    threads = [threading.Thread(target=call) for _ in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(good) + len(refused) == 14 and len(good) >= 8 and refused
    for answer in refused:
        assert answer.word == "queue-full" and int(answer.headers["Retry-After"]) >= 1
        assert "queue_per_function" in answer.json["detail"] or "wait" in answer.json["detail"]
    assert shared.result("busy")


def test_a_request_that_is_too_long(limited: Daemon):
    answer = limited.invoke("limited", {"how": "x" * 1000})
    assert (answer.status, answer.word) == (413, "request-too-large") and "1000" in answer.json["detail"]
    assert limited.result("limited", {"how": "x" * 900}) == 1


def test_a_result_that_is_too_long(limited: Daemon):
    answer = limited.invoke("limited", {"how": "result", "bytes": 1999})
    assert (answer.status, answer.word) == (502, "function-result-too-large")
    assert "2000" in answer.json["error"]["message"]
    assert limited.result("limited", {"how": "result", "bytes": 1998}) == "x" * 1998


def test_output_beyond_the_limit_is_counted_and_not_kept(limited: Daemon):
    answer = limited.invoke("limited", {"how": "output", "lines": 100})
    assert answer.status == 200
    text = limited.record(answer)["stdout"]
    assert text.startswith("x" * 99 + "\n") and "[... 6000 bytes dropped]" in text
    assert len(text) < 4100


def test_a_flood_of_output_ends_the_sandbox(limited: Daemon):
    answer = limited.invoke("limited", {"how": "output", "lines": 100_000})
    assert (answer.status, answer.word) == (502, "function-output-limit")
    assert limited.result("limited") == 1


def test_the_processor_is_shared_out(limited: Daemon):
    used_s = limited.result("limited", {"how": "spin"})
    assert used_s < 0.6, "0.2 cores for a second, and the quota's own grain"
