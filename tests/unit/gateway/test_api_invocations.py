"""Invocations over HTTP: answers, every kind of failure, records."""

import asyncio
import json
from pathlib import Path

import pytest

from runtime.protocol import AssignSandbox, FreezeSandbox, KillSandbox, StartSandbox
from tests.unit.gateway.running import run, running, until


def test_the_first_start_is_helped_and_the_second_warm(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            assert (await gateway.deploy("hello"))[0] == 201
            status, body, response = await gateway.invoke("hello", b'{"x": [1, 2]}')
            assert (status, body) == (200, {"x": [1, 2]})
            assert response.content_type == "application/json"
            assert response.headers["X-Pagurus-Start-Kind"] == "helped"
            names = [part.partition(";")[0] for part in response.headers["Server-Timing"].split(", ")]
            assert names == ["queue", "fork", "rootfs", "imports", "run", "total"]
            status, body, response = await gateway.invoke("hello", b"")
            assert (status, body) == (200, None)
            assert response.headers["X-Pagurus-Start-Kind"] == "warm"
            names = [part.partition(";")[0] for part in response.headers["Server-Timing"].split(", ")]
            assert names == ["queue", "run", "total"]
            number = response.headers["X-Pagurus-Invocation-Id"]
            _, record, _ = await gateway.call("GET", f"/v1/invocations/{number}")
            assert (record["status"], record["start_kind"], record["error"]) == ("succeeded", "warm", None)

    run(scenario)


def test_phases_of_a_start_that_come_late_are_not_those_of_the_next_invocation(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            gateway.node.is_assigned_late = True
            _, _, response = await gateway.invoke("hello")
            assert response.headers["X-Pagurus-Start-Kind"] == "helped"
            await asyncio.sleep(0.05)
            _, _, response = await gateway.invoke("hello")
            names = [part.partition(";")[0] for part in response.headers["Server-Timing"].split(", ")]
            assert (response.headers["X-Pagurus-Start-Kind"], names) == ("warm", ["queue", "run", "total"])

    run(scenario)


def test_a_standby_that_is_killed_before_its_assignment_costs_another_start(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            gateway.node.is_standby_killed = True
            status, body, _ = await gateway.invoke("hello", b"1")
            assert (status, body) == (200, 1)
            assert not gateway.node.is_standby_killed

    run(scenario)


def test_a_fork_serves_when_no_standby_is_there(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, standbys_per_zygote=0) as gateway:
            await gateway.deploy("hello")
            status, _, response = await gateway.invoke("hello")
            assert (status, response.headers["X-Pagurus-Start-Kind"]) == (200, "helped")
            assert gateway.node.sent(AssignSandbox) == []
            assert len(gateway.node.sent(StartSandbox)) == 2  # the deploy's check is one

    run(scenario)


def test_a_function_with_packages_is_helped_by_its_zygote_and_cold_without(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("frames", requirements="pandas==2")
            _, _, response = await gateway.invoke("frames")
            assert response.headers["X-Pagurus-Start-Kind"] == "helped"
            zygote = next(name for name in gateway.node.zygotes if name.startswith("z-"))
            gateway.node.is_zygotes_work = False
            gateway.node.zygote_died(zygote)
            gateway.node.worker_of("frames").end(signal=9)
            await until(lambda: not gateway.gateway.services.fleet.pools.sandboxes)
            status, _, response = await gateway.invoke("frames")
            assert (status, response.headers["X-Pagurus-Start-Kind"]) == (200, "cold")

    run(scenario)


@pytest.mark.parametrize(
    ("action", "status", "word", "error"),
    [
        ("raise", 500, "function-exception", "ValueError"),
        ("exit", 500, "function-exited", "SystemExit"),
        ("late_import", 500, "function-import-failed", "ImportError"),
        ("late_handler", 500, "function-handler-invalid", "TypeError"),
        ("not_json", 502, "function-result-invalid", "TypeError"),
        ("big_result", 502, "function-result-too-large", "ValueError"),
        ("too_long", 502, "function-result-too-large", None),
        ("crash", 502, "function-crashed", "SIGSEGV"),
        ("os_exit", 500, "function-exited", "SystemExit"),
        ("out_of_memory", 507, "function-out-of-memory", "MemoryError"),
        ("wrong_id", 502, "function-crashed", None),
        ("garbage", 502, "function-crashed", None),
        ("flood", 502, "function-output-limit", None),
        ("never_ready", 503, "start-failed", None),
    ],
)
def test_every_failure_has_its_word_and_the_next_invocation_works(
    tmp_path: Path, action: str, status: int, word: str, error: str | None
):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("bad", f"main.{action}")
            await gateway.deploy("good")
            found, body, response = await gateway.invoke("bad")
            assert (found, body["type"]) == (status, f"urn:pagurus:problem:{word}")
            assert response.content_type == "application/problem+json"
            assert body["status"] == status
            assert body.get("error", {}).get("type") == error
            assert response.headers["X-Pagurus-Start-Kind"] in ("helped", "warm")
            assert "total;dur=" in response.headers["Server-Timing"]
            assert body["invocation"] == response.headers["X-Pagurus-Invocation-Id"]
            _, record, _ = await gateway.call("GET", f"/v1/invocations/{body['invocation']}")
            assert (record["status"], record["error_type"]) == ("failed", word)
            assert (await gateway.invoke("good"))[0] == 200
            assert (await gateway.invoke("bad"))[0] == status

    run(scenario)


def test_a_timeout_answers_at_once_and_kills(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("slow", "main.hold", limits={"timeout_s": 0.02})
            status, body, _ = await gateway.invoke("slow")
            assert (status, body["type"]) == (504, "urn:pagurus:problem:function-timed-out")
            assert "0.02 s" in body["detail"]
            await until(lambda: [one for one in gateway.node.sent(KillSandbox) if one.reason == "timeout"])
            await until(lambda: not gateway.gateway.services.fleet.pools.sandboxes)

    run(scenario)


def test_a_timeout_in_the_queue_kills_nobody(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, function_concurrency=1) as gateway:
            await gateway.deploy("slow", "main.hold", limits={"timeout_s": 0.05})
            async with asyncio.TaskGroup() as group:
                first = group.create_task(gateway.invoke("slow"))
                await until(lambda: gateway.node.sent(AssignSandbox) and gateway.node.worker_of("slow").held)
                await asyncio.sleep(0.02)
                second = group.create_task(gateway.invoke("slow"))
                await until(lambda: gateway.gateway.services.fleet.pools.waiting_count)
                gateway.gateway.services.fleet._time_out(list(gateway.gateway.services.fleet._invocations.values())[1])
                gateway.node.let_go()
            assert first.result()[0] == 200
            assert second.result()[0] == 504
            assert "waiting for a sandbox" in second.result()[1]["detail"]

    run(scenario)


def test_a_full_queue_is_429_with_the_limit(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, function_concurrency=1, queue_per_function=1) as gateway:
            await gateway.deploy("slow", "main.hold")
            async with asyncio.TaskGroup() as group:
                first = group.create_task(gateway.invoke("slow"))
                await until(lambda: gateway.gateway.services.fleet.running_count == 1)
                second = group.create_task(gateway.invoke("slow"))
                await until(lambda: gateway.gateway.services.fleet.pools.waiting_count == 1)
                status, body, response = await gateway.invoke("slow")
                assert (status, body["type"]) == (429, "urn:pagurus:problem:queue-full")
                assert "queue_per_function" in body["detail"]
                assert response.headers["Retry-After"] == "1"
                while gateway.gateway.services.fleet.running_count:
                    gateway.node.let_go()
                    await asyncio.sleep(0.001)
            assert (first.result()[0], second.result()[0]) == (200, 200)

    run(scenario)


def test_refused_starts_end_in_503(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, standbys_per_zygote=0) as gateway:
            await gateway.deploy("hello")
            gateway.node.is_start_refused = True
            status, body, response = await gateway.invoke("hello")
            assert (status, body["type"]) == (503, "urn:pagurus:problem:start-failed")
            assert "no memory" in body["detail"]
            assert "Retry-After" in response.headers

    run(scenario)


def test_a_worker_that_dies_after_its_answer_has_answered(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello", "main.answer_and_die")
            for _ in range(5):
                assert (await gateway.invoke("hello"))[0] == 200

    run(scenario)


def test_output_is_kept_with_its_invocation(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("talk", "main.print")
            await gateway.deploy("chat", "main.chatter", limits={"log_bytes": 1000})
            for _ in range(2):
                _, _, response = await gateway.invoke("talk")
                number = response.headers["X-Pagurus-Invocation-Id"]
                _, record, _ = await gateway.call("GET", f"/v1/invocations/{number}")
                assert (record["stdout"], record["stderr"]) == ("hello\n", "careful\n")
            _, _, response = await gateway.invoke("chat")
            number = response.headers["X-Pagurus-Invocation-Id"]
            _, record, _ = await gateway.call("GET", f"/v1/invocations/{number}")
            assert record["stdout"] == "x" * 1000 + "\n[... 49000 bytes dropped]\n"

    run(scenario)


@pytest.mark.parametrize("body", [b"{", b"NaN", b"[1,]", b'"\xff"', b"[" * 100_000, b"1 2"])
def test_malformed_json_is_refused_before_anything(tmp_path: Path, body: bytes):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            status, answer, _ = await gateway.invoke("hello", body)
            assert (status, answer["type"]) == (400, "urn:pagurus:problem:malformed-json")
            assert gateway.node.sent(AssignSandbox) == []

    run(scenario)


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_of_seven_megabytes_is_refused(tmp_path: Path, is_chunked: bool):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")

            async def chunks():
                for _ in range(70):
                    yield b"1" * 100_000

            data = chunks() if is_chunked else b"1" * 7_000_000
            status, answer, _ = await gateway.call("POST", "/v1/functions/hello/invocations", data=data)
            assert (status, answer["type"]) == (413, "urn:pagurus:problem:request-too-large")
            assert "request_bytes is 6291456" in answer["detail"]
            assert (await gateway.invoke("hello"))[0] == 200

    run(scenario)


def test_six_megabytes_go_there_and_back(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            text = "x" * (6 * 1024 * 1024 - 2)
            status, answer, _ = await gateway.invoke("hello", json.dumps(text).encode())
            assert (status, answer) == (200, text)

    run(scenario)


def test_unknown_functions_and_bad_names(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            for name, status, word in (
                ("nobody", 404, "unknown-function"),
                ("a" * 300, 400, "invalid-name"),
                ("a%2Fb", 400, "invalid-name"),
                ("UPPER", 400, "invalid-name"),
            ):
                found, answer, _ = await gateway.call("POST", f"/v1/functions/{name}/invocations", data=b"1")
                assert (found, answer["type"]) == (status, f"urn:pagurus:problem:{word}")

    run(scenario)


def test_idle_sandboxes_are_frozen_and_thawed_before_the_next_frame(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, freeze_after_s=0.0) as gateway:
            await gateway.deploy("hello")
            await gateway.invoke("hello")
            gateway.gateway.services.fleet.tick()
            await until(lambda: gateway.node.worker_of("hello").is_deaf)
            assert (await gateway.invoke("hello"))[0] == 200
            assert [one.frozen for one in gateway.node.sent(FreezeSandbox)][:2] == [True, False]

    run(scenario)


def test_records_are_listed(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.deploy("bad", "main.raise")
            for _ in range(3):
                await gateway.invoke("hello")
            await gateway.invoke("bad")
            _, body, _ = await gateway.call("GET", "/v1/invocations?function=hello&limit=2")
            assert [one["function"] for one in body["invocations"]] == ["hello", "hello"]
            _, body, _ = await gateway.call("GET", "/v1/invocations")
            assert len(body["invocations"]) == 4
            for query in ("limit=0", "limit=x", "limit=99999999999", "what=1"):
                status, answer, _ = await gateway.call("GET", f"/v1/invocations?{query}")
                assert (status, answer["type"]) == (400, "urn:pagurus:problem:invalid-query")
            assert (await gateway.call("GET", "/v1/invocations/nobody"))[0] == 404

    run(scenario)


def test_a_client_that_leaves_does_not_end_its_invocation(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("slow", "main.hold")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.invoke("slow"))
                fleet = gateway.gateway.services.fleet
                await until(lambda: fleet.running_count and gateway.node.worker_of("slow").held)
                task.cancel()
            await asyncio.sleep(0.002)
            assert fleet.running_count == 1
            gateway.node.let_go()
            await until(lambda: not fleet.running_count)
            _, body, _ = await gateway.call("GET", "/v1/invocations")
            assert body["invocations"][0]["status"] == "succeeded"

    run(scenario)
