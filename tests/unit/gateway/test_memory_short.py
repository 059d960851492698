"""A gateway on a node that is short of memory, over HTTP."""

from pathlib import Path

from runtime.protocol import KillSandbox, MemoryReading
from tests.unit.gateway.running import run, running, until


def reading(percent: float) -> MemoryReading:
    return MemoryReading(available_bytes=int(percent * 1000), total_bytes=100_000)


def test_idle_sandboxes_go_new_ones_are_refused_in_words_and_all_is_counted(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.invoke("hello")
            gateway.node.send(reading(3))
            await until(lambda: [one for one in gateway.node.sent(KillSandbox) if one.reason == "memory"])
            await until(lambda: not gateway.gateway.services.fleet.pools.sandboxes)
            status, body, response = await gateway.invoke("hello")
            assert (status, body["type"]) == (503, "urn:pagurus:problem:memory-short")
            assert "3.0 %" in body["detail"] and int(response.headers["Retry-After"]) >= 1
            assert response.headers["X-Pagurus-Start-Kind"] == "none"
            status, body = await gateway.deploy("other")
            assert (status, body["type"]) == (503, "urn:pagurus:problem:start-failed") and "3.0 %" in body["detail"]
            (found,) = [(await gateway.call("GET", "/v1/status"))[1]["memory"]]
            assert found["level"] == "critical" and found["given_up"]["sandboxes"] == 1
            assert (found["available_bytes"], found["total_bytes"]) == (3000, 100_000)
            gateway.node.send(reading(50))
            await until(lambda: not gateway.gateway.services.fleet.pools.room.shortage)
            assert (await gateway.invoke("hello"))[0] == 200

    run(scenario)
