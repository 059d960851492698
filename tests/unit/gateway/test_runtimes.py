"""Runtimes over HTTP: listed, added, removed, chosen; against a node without a kernel."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.runtimes import HOST_RUNTIME, default_runtime
from runtime.config import Settings
from runtime.protocol import BuildRuntime, CancelBuild, DropRuntime, DropZygote, EnsureZygote
from tests.fake_node import FakeNode
from tests.unit.gateway.running import Running, gateway_on, run, running, until

NDJSON = {"Accept": "application/x-ndjson"}
OTHER = "python3.13"
PATH = f"/v1/runtimes/{OTHER}"


async def rows(gateway: Running) -> dict[str, dict[str, object]]:
    _, body, _ = await gateway.call("GET", "/v1/runtimes")
    return {row["name"]: row for row in body["runtimes"]}


def test_known_runtimes_are_listed_with_their_state(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, default_runtime="python3.11") as gateway:
            await gateway.deploy("hello")
            found = await rows(gateway)
            assert list(found) == ["python3.11", OTHER]
            assert found["python3.11"] == {
                "name": "python3.11",
                "suite": "bookworm",
                "state": "ready",
                "default": True,
                "python_version": "3.11.2",
                "digest": "d" * 64,
                "disk_bytes": None,
                "packages": 50,
                "functions": ["hello"],
                "zygote": "ready",
                "zygote_reason": "",
            }
            absent = found[OTHER]
            assert (absent["state"], absent["suite"], absent["zygote"]) == ("not built", "trixie", None)
            assert absent["digest"] is absent["python_version"] is absent["packages"] is None

    run(scenario)


def test_an_added_runtime_is_used_at_once_and_does_not_become_the_default(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body = await gateway.deploy("hello", runtime=OTHER)
            assert status == 400
            assert body["detail"] == f"runtime {OTHER} is not built: this node has python3.11"
            assert f"pagurus runtimes add {OTHER}" in body["hint"]
            status, body = await gateway.deploy("hello", runtime="python2.7")
            assert status == 400 and "not known" in body["detail"] and OTHER in body["hint"]
            status, body, _ = await gateway.call("POST", PATH)
            assert (status, body["state"], body["zygote"]) == (201, "ready", "ready")
            assert any(one.zygote == f"base-{OTHER}" for one in gateway.node.sent(EnsureZygote))
            assert (await gateway.call("POST", PATH))[0] == 200
            assert (await gateway.deploy("hello", runtime=OTHER))[1]["runtime"] == OTHER
            assert (await gateway.invoke("hello"))[0] == 200
            chosen = default_runtime("", ("python3.11", OTHER))
            assert (await gateway.deploy("plain"))[1]["runtime"] == chosen
            assert (await gateway.call("GET", "/v1/status"))[1]["runtimes"] == ["python3.11", OTHER]

    run(scenario)


def test_adding_streams_its_progress(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            _, body, response = await gateway.call("POST", PATH, headers=NDJSON)
            events = [json.loads(line) for line in body.splitlines()]
            assert response.content_type == "application/x-ndjson"
            assert {"event": "progress", "phase": "base", "message": "bootstrapping", "fraction": 0.5} in events
            assert events[-1]["event"] == "done" and events[-1]["runtime"]["name"] == OTHER

    run(scenario)


def test_a_build_that_fails_says_why_and_what_next(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            gateway.node.is_build_held = True
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.call("POST", PATH))
                await until(lambda: gateway.node.base_builds)
                assert (await rows(gateway))[OTHER]["state"] == "building"
                gateway.node.finish_base(next(iter(gateway.node.base_builds)), "no mirror answers")
            status, body, _ = task.result()
            assert (status, body["type"]) == (503, "urn:pagurus:problem:build-base")
            assert "no mirror answers" in body["detail"] and "mend the mirror" in body["detail"]
            assert (await rows(gateway))[OTHER]["state"] == "not built"

    run(scenario)


@pytest.mark.parametrize("headers", [{}, NDJSON])
def test_a_client_that_leaves_cancels_its_build(tmp_path: Path, monkeypatch, headers: dict[str, str]):
    monkeypatch.setattr("gateway.api.stream.BEAT_S", 0.002)

    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            gateway.node.is_build_held = True
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.call("POST", PATH, headers=headers))
                await until(lambda: gateway.node.base_builds)
                task.cancel()
            await until(lambda: gateway.node.sent(CancelBuild))
            gateway.node.is_build_held = False
            assert (await gateway.call("POST", PATH))[0] == 201

    run(scenario)


def test_a_runtime_that_is_needed_stays_and_another_goes(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body, _ = await gateway.call("DELETE", "/v1/runtimes/python3.11")
            assert (status, body["type"]) == (409, "urn:pagurus:problem:runtime-in-use")
            assert "the last runtime" in body["detail"]
            await gateway.call("POST", PATH)
            await gateway.deploy("hello", runtime=OTHER)
            status, body, _ = await gateway.call("DELETE", PATH)
            assert status == 409 and body["detail"] == f"runtime {OTHER} is used by hello" and body["hint"]
            await gateway.deploy("hello", runtime="python3.11")
            assert not gateway.node.sent(DropRuntime)
            assert (await gateway.call("DELETE", PATH))[0] == 204
            await until(lambda: any(one.zygote == f"base-{OTHER}" for one in gateway.node.sent(DropZygote)))
            assert (await rows(gateway))[OTHER]["state"] == "not built"
            assert (await gateway.deploy("other", runtime=OTHER))[0] == 400
            assert (await gateway.invoke("hello"))[0] == 200
            status, body, _ = await gateway.call("DELETE", PATH)
            assert (status, body["type"]) == (404, "urn:pagurus:problem:unknown-runtime")
            await gateway.call("POST", PATH)
            assert (await gateway.deploy("other", runtime=OTHER))[0] == 201

    run(scenario)


def test_a_runtime_is_not_given_up_under_a_deploy(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.call("POST", PATH)
            gateway.node.is_build_held = True
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.deploy("hello", runtime=OTHER))
                await until(lambda: gateway.node.builds)
                status, body, _ = await gateway.call("DELETE", PATH)
                assert status == 409 and "a deploy" in body["detail"]
                gateway.node.finish_build(next(iter(gateway.node.builds)))
            assert task.result()[0] == 201

    run(scenario)


@pytest.mark.parametrize("name", ["python3.99", "..", "x%2F..%2Fy", "PYTHON3.13"])
def test_no_other_name_reaches_the_node(name: str, tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            for method in ("POST", "DELETE"):
                status, _, _ = await gateway.call(method, f"/v1/runtimes/{name}")
                assert status in (404, 405)
            assert not gateway.node.sent(BuildRuntime) and not gateway.node.sent(DropRuntime)

    run(scenario)


def test_the_next_gateway_knows_what_the_last_one_added(tmp_path: Path):
    async def scenario() -> None:
        node = FakeNode(Settings(state_dir=str(tmp_path), log_level="error"))
        try:
            async with gateway_on(node) as gateway:
                await gateway.call("POST", PATH)
            async with gateway_on(node) as gateway:
                assert (await rows(gateway))[OTHER]["state"] == "ready"
                assert (await gateway.deploy("hello", runtime=OTHER))[0] == 201
        finally:
            node.close()

    run(scenario)


@pytest.mark.parametrize(
    ("chosen", "built", "host", "expected"),
    [
        ("", ("python3.11", "python3.13"), "python3.11", "python3.11"),
        ("", ("python3.11", "python3.13"), "python3.13", "python3.13"),
        ("", ("python3.11", "python3.13"), "python3.12", "python3.13"),
        ("python3.11", ("python3.13",), "python3.13", "python3.11"),
        ("", (), "python3.13", None),
    ],
)
def test_the_default_is_the_chosen_one_or_the_host_s_or_the_newest(chosen, built, host, expected):
    assert default_runtime(chosen, built, host) == expected


def test_the_host_s_runtime_is_named_as_the_system_names_it():
    code = "import sys; print('python%d.%d' % sys.version_info[:2])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == HOST_RUNTIME
