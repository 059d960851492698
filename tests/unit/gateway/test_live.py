"""The live view of a function: pool, helpers, last starts, and the policy's words."""

import asyncio
from pathlib import Path

from gateway.scheduler.policy import Policy, PolicySettings, Stay
from tests.unit.gateway.running import run, running, until


class TalkativePolicy(Policy):
    """Decides nothing and explains itself."""

    name = "talkative"

    def put_function(self, model, now_s):
        pass

    def remove_function(self, name, now_s):
        pass

    def idled(self, idle, now_s):
        return Stay(now_s + 1)

    def due(self, idle, now_s):
        return Stay(now_s + 1)

    def next_plan_s(self):
        return float("inf")

    def plan(self, now_s):
        return ()

    def explain(self, name, now_s):
        return {"arrivals_per_s": 0.5, "why": f"{name} is idle", "has_time": now_s > 0}


def test_a_function_shows_its_pool_and_who_can_help_it(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.deploy("frames", requirements="pandas==2")
            await gateway.deploy("numbers", requirements="numpy==1")
            await until(lambda: len(gateway.gateway.services.fleet.pools.sources.zygotes) >= 2)
            await gateway.invoke("frames")
            await gateway.invoke("frames")
            status, body, _ = await gateway.call("GET", "/v1/functions/frames/status")
            assert status == 200
            assert (body["name"], body["runtime"]) == ("frames", "python3.11")
            assert body["pool"]["idle"] == 1
            assert all(not count for state, count in body["pool"].items() if state not in ("idle", "standbys"))
            assert set(body["last_starts"]) == {"helped", "warm"}
            assert body["last_starts"]["warm"]["status"] == "succeeded"
            first, *others = body["zygotes"]
            assert (first["kind"], first["is_preferred"], first["id"][:2]) == ("helped", True, "z-")
            assert body["next_start"]["zygote"] == first["id"]
            assert [(one["id"], one["kind"], one["is_preferred"]) for one in others] == [
                ("base-python3.11", "cold", False)
            ]
            _, body, _ = await gateway.call("GET", "/v1/functions/hello/status")
            assert [(one["id"], one["kind"]) for one in body["zygotes"]] == [("base-python3.11", "helped")]
            assert body["last_starts"] == {}

    run(scenario)


def test_what_starts_and_waits_is_counted(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, function_concurrency=1) as gateway:
            await gateway.deploy("slow", "main.hold")
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(gateway.invoke("slow")) for _ in range(3)]
                await until(lambda: gateway.gateway.services.fleet.pools.waiting_count == 2)
                _, body, _ = await gateway.call("GET", "/v1/functions/slow/status")
                assert (body["pool"]["busy"], body["pool"]["waiting"]) == (1, 2)
                while not all(call.done() for call in calls):
                    gateway.node.let_go()
                    await asyncio.sleep(0)

    run(scenario)


def test_the_policy_says_why(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            pools = gateway.gateway.services.fleet.pools
            pools.policy = TalkativePolicy(PolicySettings(), pools.policy.runtimes)
            _, body, _ = await gateway.call("GET", "/v1/functions/hello/status")
            assert body["policy"] == "talkative"
            assert body["decisions"] == {"arrivals_per_s": 0.5, "why": "hello is idle", "has_time": True}

    run(scenario)


def test_there_is_no_live_view_of_what_is_not_deployed(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body, _ = await gateway.call("GET", "/v1/functions/nope/status")
            assert (status, body["type"]) == (404, "urn:pagurus:problem:unknown-function")
            assert (await gateway.call("GET", "/v1/functions/No!/status"))[0] == 400

    run(scenario)


def test_sandboxes_tell_how_they_came_to_be(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            await gateway.deploy("frames", requirements="pandas==2")
            await until(lambda: len(gateway.gateway.services.fleet.pools.sources.zygotes) == 2)
            await gateway.invoke("hello")
            await gateway.invoke("frames")
            _, body, _ = await gateway.call("GET", "/v1/sandboxes")
            kinds = {one["function"]: one["kind"] for one in body["sandboxes"]}
            assert kinds == {"hello": "helped", "frames": "helped", None: None}
            zygote = next(name for name in gateway.node.zygotes if name.startswith("z-"))
            gateway.node.is_zygotes_work = False
            gateway.node.zygote_died(zygote)
            await until(lambda: zygote not in gateway.gateway.services.fleet.pools.sources.zygotes)
            await gateway.call("DELETE", "/v1/sandboxes?function=frames")
            await gateway.invoke("frames")
            _, body, _ = await gateway.call("GET", "/v1/sandboxes")
            assert {one["kind"] for one in body["sandboxes"] if one["function"] == "frames"} == {"cold"}
            _, body, _ = await gateway.call("GET", "/v1/zygotes")
            assert all({"meant_for", "owner", "why"} <= set(one) for one in body["zygotes"])

    run(scenario)
