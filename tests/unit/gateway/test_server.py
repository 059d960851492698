"""The life of a gateway: ready, adopting, draining, ending; and what is asked of the node."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from gateway.scheduler.pool import State
from gateway.server import Gateway
from runtime.clock import SystemClock
from runtime.config import Settings
from runtime.errors import ConfigError, ProtocolError
from runtime.protocol import DropZygote, KillSandbox, SandboxOffered, Welcome
from tests.fake_node import FakeNode
from tests.unit.gateway.running import gateway_on, run, running, until


def node_in(tmp_path: Path, **settings: object) -> FakeNode:
    return FakeNode(Settings(state_dir=str(tmp_path), log_level="error", **settings))


def test_a_successor_adopts_what_its_predecessor_left(tmp_path: Path):
    async def scenario() -> None:
        node = node_in(tmp_path)
        async with gateway_on(node) as first:
            await first.deploy("hello")
            await first.deploy("slow", "main.hold")
            await first.deploy("old")
            for name in ("hello", "old"):
                await first.invoke(name)
            async with asyncio.TaskGroup() as group:
                cut = group.create_task(first.invoke("slow"))
                await until(lambda: len(first.gateway.services.fleet.pools.sandboxes) == 3)
                await until(lambda: node.worker_of("slow").held)
                node.disconnect()
                await until(first.task.done)
                cut.cancel()
            assert first.task.result() == 1
        slow, hello = node.worker_of("slow").sandbox, node.worker_of("hello").sandbox
        node.received.clear()
        async with gateway_on(node) as second:
            pools = second.gateway.services.fleet.pools
            await until(lambda: hello in pools.sandboxes and pools.sandboxes[hello].state is State.IDLE)
            status, _, response = await second.invoke("hello")
            assert (status, response.headers["X-Pagurus-Start-Kind"]) == (200, "warm")
            # The former gateway's answer lies in the socket: this sandbox is out of step.
            await until(lambda: slow not in node.sandboxes)
            assert [one.reason for one in node.sent(KillSandbox)] == ["adopt"]
            assert node.sent(DropZygote) == []
        node.close()

    run(scenario)


def test_a_sandbox_that_does_not_answer_its_successor_is_killed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gateway.probe.ADOPT_WAIT_S", 0.01)

    async def scenario() -> None:
        node = node_in(tmp_path)
        async with gateway_on(node) as first:
            await first.deploy("hello")
            await first.invoke("hello")
            node.disconnect()
            await until(first.task.done)
        hello = node.worker_of("hello")
        monkeypatch.setattr(node, "on_FreezeSandbox", lambda message: None, raising=False)
        hello.is_deaf = True
        async with gateway_on(node) as second:
            await until(lambda: hello.sandbox not in node.sandboxes)
            assert [one.reason for one in node.sent(KillSandbox)][-1] == "adopt"
            assert (await second.invoke("hello"))[0] == 200
        node.close()

    run(scenario)


def test_an_adopted_sandbox_of_an_old_version_is_killed(tmp_path: Path):
    async def scenario() -> None:
        node = node_in(tmp_path)
        async with gateway_on(node) as first:
            await first.deploy("hello")
            await first.invoke("hello")
            (old,) = first.gateway.services.fleet.pools.sandboxes
            node.on_KillSandbox = lambda message: None
            await first.deploy("hello", environ={"CODE": "new"})
            node.disconnect()
            await until(first.task.done)
        del node.on_KillSandbox
        async with gateway_on(node) as second:
            await until(lambda: old not in node.sandboxes)
            await until(lambda: old not in second.gateway.services.fleet.links)
        node.close()

    run(scenario)


def test_readiness_tells_why_not(tmp_path: Path):
    async def scenario() -> None:
        node = node_in(tmp_path)
        node.is_zygotes_work = False
        listener = socket.create_server(("127.0.0.1", 0))
        gateway = Gateway(node.gateway_end(), listener, clock=SystemClock(), trusted_uid=None)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(gateway.run())
            await until(lambda: gateway.services and gateway.services.keeper.zygotes.entries)
            await until(lambda: "it does not work" in gateway.services.keeper.missing()[0])
            assert not gateway.services.keeper.has_base()
            node.drain(0)
        assert task.result() == 0
        node.close()

    run(scenario)


def test_a_drain_finishes_what_runs_and_refuses_the_rest(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("slow", "main.hold")
            assert (await gateway.call("GET", "/readyz"))[0] == 200
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.invoke("slow"))
                fleet = gateway.gateway.services.fleet
                await until(lambda: fleet.running_count and gateway.node.worker_of("slow").held)
                gateway.node.drain(5)
                await until(lambda: fleet.is_draining)
                status, body, response = await gateway.invoke("slow")
                assert (status, body["type"]) == (503, "urn:pagurus:problem:draining")
                assert response.headers["Retry-After"] == "1"
                assert (await gateway.call("GET", "/readyz"))[0] == 503
                assert (await gateway.deploy("new"))[0] == 503
                gateway.node.let_go()
            assert task.result()[0] == 200
            await until(gateway.task.done)
            assert gateway.task.result() == 0

    run(scenario)


def test_sigterm_drains_and_records_are_flushed(tmp_path: Path):
    async def scenario() -> None:
        node = node_in(tmp_path)
        async with gateway_on(node) as first:
            await first.deploy("hello")
            _, _, response = await first.invoke("hello")
            os.kill(os.getpid(), signal.SIGTERM)
            await until(first.task.done)
            assert first.task.result() == 0
        node.close()
        node = node_in(tmp_path)
        async with gateway_on(node) as second:
            number = response.headers["X-Pagurus-Invocation-Id"]
            status, record, _ = await second.call("GET", f"/v1/invocations/{number}")
            assert (status, record["status"]) == (200, "succeeded")
            assert (await second.invoke("hello"))[0] == 200
        node.close()

    run(scenario)


def test_what_does_not_end_in_time_is_cut_off(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("slow", "main.hold")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.invoke("slow"))
                await until(lambda: gateway.gateway.services.fleet.running_count)
                gateway.node.drain(0.01)
                await until(gateway.task.done)
                task.cancel()
            assert gateway.task.result() == 0

    run(scenario)


def test_the_node_can_be_looked_at(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.deploy("frames", requirements="pandas==2")
            await gateway.invoke("hello")
            await until(lambda: any(name.startswith("z-") for name in gateway.node.zygotes))
            _, body, _ = await gateway.call("GET", "/v1/status")
            assert (body["node"], body["run"], body["state"]) == ("node-1", "run-1", "ready")
            assert body["start_kinds"] == {"helped": 1}
            assert body["counts"]["functions"] == 2
            assert body["counters"]["forks"] > 0
            _, body, _ = await gateway.call("GET", "/v1/sandboxes")
            states = sorted(one["state"] for one in body["sandboxes"])
            assert states[0] == "idle"
            assert set(states[1:]) == {"standby"}
            assert all(one["memory_bytes"] == 1000 for one in body["sandboxes"])
            _, body, _ = await gateway.call("GET", "/v1/zygotes")
            by_id = {one["id"]: one for one in body["zygotes"]}
            assert by_id["base-python3.11"]["functions"] == ["hello"]
            (package,) = [one for name, one in by_id.items() if name.startswith("z-")]
            assert (package["functions"], package["imports"]) == (["frames"], ["pandas"])
            for path in ("/", "/healthz", "/readyz", "/openapi.json"):
                assert (await gateway.call("GET", path))[0] == 200
            status, body, response = await gateway.call("POST", "/v1/status")
            assert (status, body["type"]) == (405, "urn:pagurus:problem:method-not-allowed")
            assert response.headers["Allow"] == "GET"
            status, body, _ = await gateway.call("GET", "/v1/functions/a/b/c")
            assert status == 404
            assert "no slash" in body["detail"]

    run(scenario)


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "evil.example", 403),
        ("Host", "127.0.0.1.evil.example:80", 403),
        ("Host", "10.0.0.1", 403),
        ("Host", "localhost:1", 200),
        ("Host", "[::1]:8080", 200),
        ("Origin", "https://evil.example", 403),
        ("Origin", "null", 403),
        ("Origin", "http://127.0.0.1:9", 403),
    ],
)
def test_foreign_hosts_are_refused(tmp_path: Path, header: str, value: str, status: int):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            found, body, _ = await gateway.call("GET", "/v1/status", headers={header: value})
            assert found == status
            assert status == 200 or body["type"] == "urn:pagurus:problem:forbidden-host"

    run(scenario)


def test_what_is_not_http_gets_a_problem_document(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            for rubbish in (b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"):
                reader, writer = await asyncio.open_connection(*gateway.address)
                writer.write(rubbish)
                answer = await reader.read()
                assert b"400 Bad Request" in answer
                assert b"urn:pagurus:problem:bad-request" in answer
                writer.close()
                await writer.wait_closed()

    run(scenario)


def test_a_silent_connection_is_closed(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, head_timeout_s=0.05) as gateway:
            reader, writer = await asyncio.open_connection(*gateway.address)
            writer.write(b"GET / HT")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(scenario)


def test_a_damaged_store_is_a_clear_error(tmp_path: Path):
    async def scenario() -> None:
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "pagurus.sqlite3").write_bytes(b"rubbish" * 1000)
        node = node_in(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            gateway = Gateway(node.gateway_end(), listener, clock=SystemClock(), trusted_uid=None)
            with pytest.raises(ConfigError, match="cannot read the store"):
                await gateway.run()
        node.close()

    run(scenario)


def test_a_node_of_another_protocol_is_refused(tmp_path: Path):
    async def scenario() -> None:
        node = node_in(tmp_path)
        node.on_Hello = lambda _: node.send(
            Welcome(protocol=99, node="n", run="r", version="9", settings={}, runtimes=())
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            gateway = Gateway(node.gateway_end(), listener, clock=SystemClock(), trusted_uid=None)
            with pytest.raises(ProtocolError, match="protocol 99"):
                await gateway.run()
        node.close()

    run(scenario)


def test_offers_that_make_no_sense_are_killed(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            for state, is_whole in (("standby", False), ("starting", True), ("what", True), ("assigned", True)):
                offer = SandboxOffered(sandbox=f"x-{state}", zygote="z", runtime="python3.11", state=state, ticket=77)
                ours, theirs = socket.socketpair()
                ends = [ours.fileno(), *os.pipe()] if is_whole else list(os.pipe())
                gateway.node.send(offer, ends)
                for end in ends[is_whole:]:
                    os.close(end)
                ours.close()
                theirs.close()
            await until(lambda: len(gateway.node.sent(KillSandbox)) == 4)

    run(scenario)
