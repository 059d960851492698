"""Ending idle sandboxes over HTTP: what goes, what stays, what is said."""

import asyncio
from pathlib import Path

from runtime.protocol import KillSandbox
from tests.unit.gateway.running import run, running, until


def test_an_idle_sandbox_ends_and_the_next_start_is_not_warm(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.invoke("hello")
            (sandbox,) = gateway.gateway.services.fleet.pools.sandboxes
            status, body, _ = await gateway.call("DELETE", f"/v1/sandboxes/{sandbox}")
            assert (status, body) == (204, b"")
            assert sandbox not in gateway.node.sandboxes
            assert (await gateway.call("DELETE", f"/v1/sandboxes/{sandbox}"))[0] == 404
            _, _, response = await gateway.invoke("hello")
            assert response.headers["X-Pagurus-Start-Kind"] == "helped"

    run(scenario)


def test_a_busy_sandbox_stays(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("slow", handler="main.hold")
            kills = len(gateway.node.sent(KillSandbox))
            call = asyncio.ensure_future(gateway.invoke("slow"))
            await until(lambda: gateway.gateway.services.fleet.pools.sandboxes)
            (sandbox,) = gateway.gateway.services.fleet.pools.sandboxes
            status, body, _ = await gateway.call("DELETE", f"/v1/sandboxes/{sandbox}")
            assert (status, body["type"]) == (409, "urn:pagurus:problem:sandbox-busy")
            assert (await gateway.call("DELETE", "/v1/sandboxes?function=slow"))[1] == {"ended": 0}
            assert len(gateway.node.sent(KillSandbox)) == kills
            await until(lambda: gateway.node.worker_of("slow").held)
            gateway.node.let_go()
            assert (await call)[0] == 200

    run(scenario)


def test_a_standby_ends(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await until(lambda: gateway.gateway.services.fleet.pools.sources.standbys)
            standby = next(iter(gateway.gateway.services.fleet.pools.sources.standbys))
            assert (await gateway.call("DELETE", f"/v1/sandboxes/{standby}"))[0] == 204
            assert standby not in gateway.node.sandboxes

    run(scenario)


def test_all_idle_sandboxes_of_one_function_end_and_no_others(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.deploy("other")
            await asyncio.gather(*(gateway.invoke("hello") for _ in range(3)))
            await gateway.invoke("other")
            count = sum(one.function == "hello" for one in gateway.gateway.services.fleet.pools.sandboxes.values())
            status, body, _ = await gateway.call("DELETE", "/v1/sandboxes?function=hello")
            assert (status, body) == (200, {"ended": count})
            (left,) = gateway.gateway.services.fleet.pools.sandboxes.values()
            assert left.function == "other"

    run(scenario)


def test_what_cannot_be_ended_is_named(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            for path, word in [
                ("/v1/sandboxes/none", "unknown-sandbox"),
                ("/v1/sandboxes", "invalid-query"),
                ("/v1/sandboxes?functions=a", "invalid-query"),
                ("/v1/sandboxes?function=a&b=1", "invalid-query"),
                ("/v1/sandboxes?function=", "invalid-name"),
                ("/v1/sandboxes?function=nope", "unknown-function"),
            ]:
                _, body, _ = await gateway.call("DELETE", path)
                assert body["type"] == f"urn:pagurus:problem:{word}", path

    run(scenario)
