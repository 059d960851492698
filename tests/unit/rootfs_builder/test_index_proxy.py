"""The index proxy against an index on loopback: what it lets through, and what it refuses."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from rootfs_builder.index_proxy import IndexProxy, Request
from rootfs_builder.index_source import IndexSource
from tests.index_server import IndexServer

WHEEL = "demo-1.0-py3-none-any.whl"
FILES = {"demo": {WHEEL: b"wheel" * 1000, "demo-1.0.tar.gz": b"sdist"}}
JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}
ENVIRON = {"HOME": "/nonexistent", "PIP_CONFIG_FILE": "/dev/null", "XDG_CONFIG_DIRS": "/nonexistent"}


@pytest.fixture(autouse=True)
def no_http_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@dataclass(frozen=True)
class Reply:
    status: int
    type: str
    body: bytes

    @property
    def files(self) -> dict[str, dict]:
        return {row["filename"]: row for row in json.loads(self.body)["files"]}


class Client:
    """What a box can do: send any path, header and method to the proxy's socket."""

    def __init__(self, proxy: IndexProxy, port: int) -> None:
        self.proxy = proxy
        self.port = port

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Reply:
        return await asyncio.to_thread(self._get, path, method, headers)

    def _get(self, path: str, method: str, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Reply(response.status, response.headers.get_content_type(), response.read())
        finally:
            connection.close()


@asynccontextmanager
async def proxied(
    index: IndexServer,
    *,
    userinfo: str = "",
    port_of_nobody: bool = False,
    extra: tuple[str, ...] = (),
    **settings: float,
) -> AsyncIterator[Client]:
    async with index.serving():
        url = "http://127.0.0.1:1" if port_of_nobody else index.url.replace("//", f"//{userinfo}")
        sources = IndexSource.find(ENVIRON, f"{url}/simple", extra)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        proxy = IndexProxy(sources, Request(**{"silence_s": 5.0, **settings}), port)  # type: ignore[arg-type]
        async with proxy.serving(listener):
            yield Client(proxy, port)


def against(index: IndexServer, **settings) -> Callable[[Callable[[Client], Awaitable[None]]], None]:
    def run(scenario: Callable[[Client], Awaitable[None]]) -> None:
        async def live() -> None:
            async with proxied(index, **settings) as client:
                await scenario(client)

        asyncio.run(live())

    return run


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_page_and_its_files_come_through(form: str):
    index = IndexServer(FILES, metadata={WHEEL: b"Name: demo"}, form=form)

    @against(index)
    async def scenario(client: Client) -> None:
        reply = await client.get("/simple/demo/", **JSON)
        assert (reply.status, reply.type) == (200, JSON["Accept"])
        base = f"http://127.0.0.1:{client.port}/files/0/"
        row = reply.files[WHEEL]
        assert row["url"] == base + WHEEL
        assert len(row["hashes"]["sha256"]) == len(row["core-metadata"]["sha256"]) == 64
        assert (await client.get(f"/files/0/{WHEEL}")).body == b"wheel" * 1000
        assert (await client.get(f"/files/0/{WHEEL}.metadata")).body == b"Name: demo"
        assert (await client.get("/files/1/demo-1.0.tar.gz")).body == b"sdist"
        assert (await client.get("/files/1/demo-1.0.tar.gz.metadata")).status == 404
        page = await client.get("/simple/demo/")
        assert page.type == "text/html"
        assert f'href="{base}{WHEEL}#sha256='.encode() in page.body
        assert client.proxy.requests == 6


def test_the_root_lists_projects_in_both_forms():
    @against(IndexServer(FILES | {"Other_One": {}}))
    async def scenario(client: Client) -> None:
        assert json.loads((await client.get("/simple/", **JSON)).body)["projects"] == [
            {"name": "demo"},
            {"name": "other-one"},
        ]
        assert b'<a href="/simple/demo/">' in (await client.get("/simple/")).body


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/simple",
        "/simple/demo",
        "/simple/Demo/",
        "/simple/demo/?x=1",
        "/simple/../secret/",
        "/simple/%2e%2e/",
        "/simple/demo/%2e%2e/%2e%2e/secret/",
        "//simple/demo/",
        "/simple//demo/",
        "/simple/a%2fb/",
        "/files/0/other-1.0-py3-none-any.whl",
        f"/files/1/{WHEEL}",
        f"/files/99/{WHEEL}",
        f"/files/-1/{WHEEL}",
        f"/files/0/../0/{WHEEL}",
        f"/files/0/x%2f{WHEEL}",
        f"/files/0/{WHEEL}.metadata",
        f"/pool/{WHEEL}",
        "http://127.0.0.1:1/simple/demo/",
        "*",
    ],
)
def test_other_paths_are_refused_and_the_index_hears_nothing(path: str):
    index = IndexServer(FILES)

    @against(index)
    async def scenario(client: Client) -> None:
        await client.get("/simple/demo/", **JSON)
        assert (await client.get(path)).status in (400, 403, 404)
        assert [seen for seen, _ in index.seen] == ["/simple/demo/"]


def test_other_methods_and_hosts_are_refused():
    index = IndexServer(FILES)

    @against(index)
    async def scenario(client: Client) -> None:
        for method in ("HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS"):
            assert (await client.get("/simple/demo/", method=method)).status in (400, 404, 405), method
        assert (await client.get("/simple/demo/", Host="127.0.0.1:1")).status == 403
        assert not index.seen


def test_the_password_is_for_the_index_s_origin_only():
    elsewhere = IndexServer({"demo": {WHEEL: b"far"}})

    async def live() -> None:
        async with elsewhere.serving():
            index = IndexServer(FILES, password="s3cret")
            far = f"{elsewhere.url}/pool/{WHEEL}"
            rows = [{"filename": WHEEL, "url": far}, {"filename": "demo-1.0.tar.gz", "url": "/moved"}]
            index.answers["/simple/far/"] = lambda _: web.json_response({"files": rows})
            index.answers["/moved"] = lambda _: web.Response(status=302, headers={"Location": far})
            async with proxied(index, userinfo="user:s3cret@") as client:
                near = await client.get("/simple/demo/", **JSON)
                assert near.status == 200
                assert b"s3cret" not in near.body
                assert (await client.get("/simple/far/", **JSON)).status == 200
                assert (await client.get(f"/files/2/{WHEEL}")).body == b"far"
                assert (await client.get("/files/3/demo-1.0.tar.gz")).body == b"far"
            assert all(authorization for _, authorization in index.seen)
            assert elsewhere.seen == [(f"/pool/{WHEEL}", "")] * 2

    asyncio.run(live())


def test_a_password_that_is_missing_is_told_without_asking_the_box_for_it():
    @against(IndexServer(FILES, password="s3cret"))
    async def scenario(client: Client) -> None:
        reply = await client.get("/simple/demo/")
        assert (reply.status, reply.body) == (502, b"the index answered 401\n")


def test_what_an_index_does_wrong_is_a_clean_error():
    index = IndexServer(FILES)
    index.silent = {"/simple/slow/"}
    redirects = {"loop": "/simple/loop/", "file": "file:///etc/passwd", "moved": "/simple/demo/"}
    for name, target in redirects.items():
        index.answers[f"/simple/{name}/"] = lambda _, target=target: web.Response(
            status=301, headers={"Location": target}
        )
    index.answers["/simple/broken/"] = lambda _: web.Response(status=500)
    index.answers["/simple/garbage/"] = lambda _: web.Response(body=b"{", content_type=JSON["Accept"])
    index.answers["/simple/odd/"] = lambda _: web.json_response({"files": [{"filename": 1}]})

    @against(index, silence_s=0.05)
    async def scenario(client: Client) -> None:
        statuses = {}
        for name in (*redirects, "slow", "broken", "garbage", "odd", "absent", "demo"):
            statuses[name] = (await client.get(f"/simple/{name}/", **JSON)).status
        assert statuses == {
            **{"loop": 502, "file": 502, "moved": 200, "slow": 504, "broken": 502},
            **{"garbage": 502, "odd": 502, "absent": 404, "demo": 200},
        }


def test_an_index_that_is_not_there_is_a_clean_error():
    async def live() -> None:
        index = IndexServer(FILES)
        async with proxied(index, port_of_nobody=True) as client:
            assert (await client.get("/simple/demo/")).status == 502

    asyncio.run(live())


def test_sizes_and_counts_are_bounded(monkeypatch: pytest.MonkeyPatch):
    index = IndexServer({"demo": {"a-1.0.tar.gz": b"x" * 2001, "b-1.0.tar.gz": b"x" * 1999}})
    bomb = web.Response(body=b"<html>" + b" " * 100_000, content_type="text/html")
    index.answers["/simple/bomb/"] = lambda _: bomb

    @against(index, file_bytes_max=2000, requests_max=5)
    async def scenario(client: Client) -> None:
        monkeypatch.setattr("rootfs_builder.index_proxy.PAGE_BYTES_MAX", 50_000)
        assert (await client.get("/simple/bomb/")).status == 502
        assert (await client.get("/simple/demo/", **JSON)).status == 200
        assert (await client.get("/files/0/a-1.0.tar.gz")).status == 502
        assert len((await client.get("/files/1/b-1.0.tar.gz")).body) == 1999
        assert (await client.get("/simple/demo/")).status == 200
        assert (await client.get("/simple/demo/")).status == 403


def test_a_file_that_is_longer_than_it_said_is_cut_not_ended():
    index = IndexServer(FILES)

    async def live() -> None:
        async with proxied(index, file_bytes_max=6000) as client:
            await client.get("/simple/demo/", **JSON)

            async def endless(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"x" * 10_000)
                return response

            index.answers[f"/pool/{WHEEL}"] = endless  # type: ignore[assignment]
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                await client.get(f"/files/0/{WHEEL}")

    asyncio.run(live())


def test_all_bytes_of_a_box_are_counted():
    @against(IndexServer(FILES), total_bytes_max=1000)
    async def scenario(client: Client) -> None:
        assert (await client.get("/simple/demo/", **JSON)).status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            await client.get(f"/files/0/{WHEEL}")
        assert (await client.get("/simple/demo/")).status == 403


def test_the_first_index_that_has_a_project_is_taken():
    async def live() -> None:
        async with IndexServer({"demo": {"demo-9.0.tar.gz": b"first"}}).serving() as first:
            index = IndexServer({**FILES, "other": {}})
            first.answers["/simple/broken/"] = lambda _: web.Response(status=500)
            async with proxied(index, extra=(f"{first.url}/simple",)) as client:
                assert list((await client.get("/simple/demo/", **JSON)).files) == ["demo-9.0.tar.gz"]
                assert (await client.get("/simple/other/", **JSON)).status == 200
                assert (await client.get("/simple/broken/", **JSON)).status == 502
                names = json.loads((await client.get("/simple/", **JSON)).body)["projects"]
                assert [each["name"] for each in names] == ["demo", "other"]
            assert [path for path, _ in index.seen] == ["/simple/other/", "/simple/"]

    asyncio.run(live())


def test_only_what_was_handed_out_is_found():
    @against(IndexServer(FILES))
    async def scenario(client: Client) -> None:
        await client.get("/simple/demo/", **JSON)
        base = f"http://127.0.0.1:{client.port}"
        found = client.proxy.find(f"{base}/files/0/{WHEEL}")
        assert found is not None
        assert (found[0], found[1].filename) == ("demo", WHEEL)
        assert found[1].url.endswith(f"/pool/{WHEEL}")
        for url in (f"{base}/files/0/x", f"{base}/files/7/{WHEEL}", f"http://other.test/files/0/{WHEEL}", WHEEL):
            assert client.proxy.find(url) is None
