"""Deploys over HTTP: all or nothing, whatever happens."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.api.problems import TABLE
from runtime.protocol import BuildVersion, CancelBuild, Discard, EnsureZygote, KillSandbox, StartSandbox
from tests.unit.gateway.running import Running, run, running, until

NDJSON = {"Accept": "application/x-ndjson"}


def form(code: bytes | None = b"zip", **settings: Any) -> aiohttp.FormData:
    found = aiohttp.FormData(default_to_multipart=True)
    found.add_field("settings", json.dumps(settings), content_type="application/json")
    if code is not None:
        found.add_field("code", code, filename="code.zip")
    return found


def stored(body: dict[str, Any]) -> dict[str, Any]:
    """An answer to a deploy without what it alone tells: where its time went."""
    assert list(body["deploy_ms"])[-1] == "total"
    return {name: value for name, value in body.items() if name != "deploy_ms"} | {"lock": ""}


async def nothing_stays(gateway: Running) -> None:
    """No function, no sandbox of one, and the build's content is discarded."""
    _, body, _ = await gateway.call("GET", "/v1/functions")
    assert body == {"functions": []}
    await until(lambda: not any(one.assignment for one in gateway.node.sandboxes.values()))


def test_a_function_is_deployed_updated_and_deleted(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body, _ = await gateway.call("PUT", "/v1/functions/hello", data=form(environ={"KEY": "hidden"}))
            assert status == 201
            assert body["name"] == "hello"
            assert body["environ"] == ["KEY"]
            assert "hidden" not in json.dumps(body)
            first = body["version"]
            status, body, _ = await gateway.call("PUT", "/v1/functions/hello", data=form(environ={"KEY": "hidden"}))
            assert (status, body["version"], len(body["versions"])) == (200, first, 1)
            assert "check" not in body["deploy_ms"], "the same version again is not checked again"
            stored(body)
            status, body, _ = await gateway.call("PUT", "/v1/functions/hello", data=form(b"other"))
            assert (status, len(body["versions"])) == (200, 2)
            assert body["version"] != first
            _, listed, _ = await gateway.call("GET", "/v1/functions")
            assert [one["name"] for one in listed["functions"]] == ["hello"]
            _, one, _ = await gateway.call("GET", "/v1/functions/hello")
            assert one == stored(body)
            assert "check" in body["deploy_ms"]
            await gateway.invoke("hello")
            assert (await gateway.call("DELETE", "/v1/functions/hello"))[0] == 204
            assert (await gateway.call("GET", "/v1/functions/hello"))[0] == 404
            assert (await gateway.call("DELETE", "/v1/functions/hello"))[0] == 404
            await until(lambda: [one for one in gateway.node.sent(KillSandbox) if one.reason == "deleted"])
            await nothing_stays(gateway)
            await until(lambda: not gateway.gateway.services.fleet.pools.sandboxes)
            gateway.gateway.services.registry.tick()
            await until(lambda: gateway.node.sent(Discard))
            assert len(gateway.node.sent(Discard)[0].codes) == 2

    run(scenario)


def test_a_function_serves_its_old_version_until_the_new_one_is_stored(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            _, before = await gateway.deploy("hello")
            await gateway.invoke("hello")
            status, body = await gateway.deploy("hello", "main.import_error")
            assert (status, body["type"]) == (422, "urn:pagurus:problem:function-import-failed")
            assert (await gateway.invoke("hello"))[0] == 200
            _, after, _ = await gateway.call("GET", "/v1/functions/hello")
            assert after == stored(before)

    run(scenario)


@pytest.mark.parametrize(
    ("handler", "word", "text"),
    [
        ("main.import_error", "function-import-failed", "No module named 'nope'"),
        ("main.no_handler", "function-handler-invalid", "nope"),
        ("main.check_crash", "function-crashed", "SIGSEGV"),
    ],
)
def test_an_import_check_that_fails_leaves_nothing(tmp_path: Path, handler: str, word: str, text: str):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body = await gateway.deploy("bad", handler, requirements="six==1")
            assert (status, body["status"], body["type"]) == (422, 422, f"urn:pagurus:problem:{word}")
            assert text in json.dumps(body["error"])
            await nothing_stays(gateway)
            gateway.gateway.services.registry.tick()
            await until(lambda: gateway.node.sent(Discard))
            (discard,) = gateway.node.sent(Discard)
            assert (len(discard.codes), len(discard.environments)) == (1, 1)
            assert not [one for one in gateway.node.sent(EnsureZygote) if one.environments]

    run(scenario)


def test_an_import_check_that_hangs_ends(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gateway.deploys.CHECK_TIMEOUT_S", 0.02)

    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body = await gateway.deploy("bad", "main.check_hang")
            assert (status, body["type"]) == (422, "urn:pagurus:problem:function-import-failed")
            await nothing_stays(gateway)

    run(scenario)


def test_an_import_check_that_cannot_start_is_not_the_functions_fault(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            gateway.node.is_start_refused = True
            status, body = await gateway.deploy("good")
            assert (status, body["type"]) == (503, "urn:pagurus:problem:start-failed")
            await nothing_stays(gateway)

    run(scenario)


@pytest.mark.parametrize("kind", ["archive", "requirements", "install", "limit", "base", "internal", "unheard-of"])
def test_every_build_failure_has_its_word(tmp_path: Path, kind: str):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body = await gateway.deploy("bad", requirements=f"fail:{kind}")
            word = f"build-{kind}" if kind != "unheard-of" else "build-internal"
            assert (status, body["type"]) == (TABLE[word][0], f"urn:pagurus:problem:{word}")
            assert "it failed" in body["detail"]
            assert "try another" in body["detail"]
            await nothing_stays(gateway)

    run(scenario)


def test_a_deploy_streams_its_progress(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body, response = await gateway.call(
                "PUT", "/v1/functions/hello", data=form(requirements="six==1"), headers=NDJSON
            )
            lines = [json.loads(line) for line in body.splitlines()]
            assert (status, response.content_type) == (200, "application/x-ndjson")
            assert [line["event"] for line in lines] == ["progress"] * (len(lines) - 1) + ["done"]
            assert {"resolve", "check"} <= {line.get("phase") for line in lines}
            assert lines[-1]["function"]["distributions"] == ["six==1"]
            _, body, _ = await gateway.call(
                "PUT", "/v1/functions/hello", data=form(requirements="fail:install"), headers=NDJSON
            )
            last = json.loads(body.splitlines()[-1])
            assert (last["event"], last["type"]) == ("problem", "urn:pagurus:problem:build-install")

    run(scenario)


def test_a_silent_build_still_streams(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gateway.api.stream.BEAT_S", 0.005)

    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            gateway.node.is_build_held = True
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.call("PUT", "/v1/functions/hello", data=form(), headers=NDJSON))
                await until(lambda: gateway.node.builds)
                await asyncio.sleep(0.02)
                gateway.node.finish_build(1)
            lines = [json.loads(line) for line in task.result()[1].splitlines()]
            assert len([line for line in lines if line.get("phase") == "resolve"]) >= 2

    run(scenario)


@pytest.mark.parametrize("headers", [{}, NDJSON])
def test_a_client_that_leaves_cancels_its_build(tmp_path: Path, monkeypatch, headers: dict[str, str]):
    monkeypatch.setattr("gateway.api.stream.BEAT_S", 0.002)

    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            gateway.node.is_build_held = True
            async with asyncio.TaskGroup() as group:
                task = group.create_task(gateway.call("PUT", "/v1/functions/hello", data=form(), headers=headers))
                await until(lambda: gateway.node.builds)
                task.cancel()
            await until(lambda: gateway.node.sent(CancelBuild))
            await nothing_stays(gateway)
            gateway.node.is_build_held = False
            assert (await gateway.deploy("hello"))[0] == 201

    run(scenario)


def test_builds_at_once_is_kept_and_one_function_is_built_once_at_a_time(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, builds_at_once=2) as gateway:
            gateway.node.is_build_held = True
            async with asyncio.TaskGroup() as group:
                names = ["a", "a", "b", "c"]
                tasks = [group.create_task(gateway.call("PUT", f"/v1/functions/{one}", data=form())) for one in names]
                most = 0
                while not all(task.done() for task in tasks):
                    running_builds = list(gateway.node.builds.values())
                    most = max(most, len(running_builds))
                    assert len({one.function for one in running_builds}) == len(running_builds)
                    if len(running_builds) == 2 or len(gateway.node.sent(BuildVersion)) >= 3:
                        for build in list(gateway.node.builds):
                            gateway.node.finish_build(build)
                    await asyncio.sleep(0.001)
            assert most == 2
            assert sorted(task.result()[0] for task in tasks) == [200, 201, 201, 201]

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"runtime": "python2.7"}, "runtime"),
        ({"handler": "main"}, "handler"),
        ({"handler": "../evil.main"}, "handler"),
        ({"what": 1}, "what"),
        ({"reuse": "no"}, "reuse"),
        ({"limits": {"memory_bytes": 1}}, "limits.memory_bytes"),
        ({"limits": {"timeout_s": 1e9}}, "limits.timeout_s"),
        ({"limits": {"pids": "many"}}, "pids"),
        ({"limits": {"what": 1}}, "what"),
        ({"environ": {"A=B": "x"}}, "environ"),
        ({"environ": {"A": "x" * 5000}}, "4096"),
        ({"environ": {"A": 1}}, "environ"),
        ({"requirements": "x" * 70_000}, "requirements"),
        ({"egress": "all"}, "egress: 'all' is neither"),
        ({"egress": ["10.0.0.1/8"]}, "host bits"),
        ({"egress": ["169.254.169.254"]}, "no sandbox can reach"),
        ({"egress": {"10.0.0.0/8": 80}}, "egress"),
        ({"egress": ["10.0.0.0/8"] * 65}, "the limit is 64"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], text: str):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            status, body, _ = await gateway.call("PUT", "/v1/functions/hello", data=form(**settings))
            assert (status, body["type"]) == (400, "urn:pagurus:problem:invalid-settings")
            assert text in body["detail"]
            assert gateway.node.sent(BuildVersion) == []

    run(scenario)


def test_egress_is_of_a_version_and_goes_along_with_its_starts(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            versions = set()
            for given, shown in (
                ("none", "none"),
                ("internet", "internet"),
                (["internet", "10.1.2.3:80-80/tcp"], ["internet", "10.1.2.3/32:80/tcp"]),
            ):
                status, body, _ = await gateway.call("PUT", "/v1/functions/hello", data=form(egress=given))
                assert (status, body["egress"]) == (200 if versions else 201, shown)
                versions.add(body["version"])
                started = gateway.node.sent(StartSandbox)[-1].assignment
                assert started.egress == (
                    () if given == "none" else tuple([shown] if isinstance(shown, str) else shown)
                )
            assert len(versions) == 3

    run(scenario)


def test_egress_is_refused_with_the_reason_where_the_node_has_none(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, egress_subnet="") as gateway:
            status, body, _ = await gateway.call("PUT", "/v1/functions/hello", data=form(egress="internet"))
            assert (status, body["type"]) == (400, "urn:pagurus:problem:invalid-settings")
            assert body["detail"] == "egress: no function can have it on this node: egress_subnet is empty"
            assert (await gateway.call("PUT", "/v1/functions/hello", data=form(egress="none")))[0] == 201

    run(scenario)


def test_bodies_that_are_no_deploy(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, upload_bytes=1000) as gateway:
            extra = form()
            extra.add_field("more", "x")
            multipart = {"Content-Type": "multipart/form-data; boundary=x"}
            cases: list[tuple[dict[str, Any], int, str]] = [
                ({"data": b"zip"}, 415, "unsupported-media-type"),
                ({"data": b"zip", "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed-upload"),
                ({"data": b"rubbish", "headers": multipart}, 400, "malformed-upload"),
                ({"data": form(None)}, 400, "malformed-upload"),
                ({"data": extra}, 400, "malformed-upload"),
                ({"data": form(b"x" * 1001)}, 413, "request-too-large"),
            ]
            for arguments, status, word in cases:
                found, body, _ = await gateway.call("PUT", "/v1/functions/hello", **arguments)
                assert (found, body["type"]) == (status, f"urn:pagurus:problem:{word}"), body
            assert gateway.node.sent(BuildVersion) == []
            for name in ("A", "a" * 64, "a%2Fb", "%00", "1a"):
                found, body, _ = await gateway.call("PUT", f"/v1/functions/{name}", data=form())
                assert (found, body["type"]) == (400, "urn:pagurus:problem:invalid-name")

    run(scenario)


def test_the_archive_arrives_whole(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            code = bytes(range(256)) * 4000
            assert (await gateway.call("PUT", "/v1/functions/hello", data=form(code)))[0] == 201
            assert gateway.node.archives == [code]
            assert list((tmp_path / "store").glob("tmp*")) == []

    run(scenario)


def test_a_function_deleted_while_it_runs_answers_404(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, function_concurrency=1) as gateway:
            await gateway.deploy("slow", "main.hold")
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(gateway.invoke("slow")) for _ in range(2)]
                await until(lambda: gateway.gateway.services.fleet.pools.waiting_count)
                await gateway.call("DELETE", "/v1/functions/slow")
            assert [task.result()[0] for task in tasks] == [404, 404]

    run(scenario)


@pytest.mark.parametrize(("expect", "status"), [("100-continue", b"100 Continue"), ("tea", b"417 ")])
def test_a_client_that_asks_first_is_answered(tmp_path: Path, expect: str, status: bytes):
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await gateway.deploy("hello")
            reader, writer = await asyncio.open_connection(*gateway.address)
            head = f"POST /v1/functions/hello/invocations HTTP/1.1\r\nHost: localhost\r\nExpect: {expect}\r\n"
            writer.write(head.encode() + b"Content-Length: 4\r\n\r\n")
            assert status in await reader.readline()
            if expect == "100-continue":
                writer.write(b"true")
                answer = await reader.readuntil(b"true")
                assert b"HTTP/1.1 200 OK" in answer
            writer.close()
            await writer.wait_closed()

    run(scenario)
