"""The only thing that a build box reaches: a reverse proxy of the package index on a socket that is given to it.

A process of the builder's user outside the box, one for each box. What comes from the box is hostile: it can name
projects, and fetch files that this proxy has shown it, and nothing else. The index's password stays here.
"""

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web

from rootfs_builder import index_lock, index_pages, index_source
from rootfs_builder.events import Reporter
from rootfs_builder.index_pages import IndexFile
from rootfs_builder.index_source import IndexSource
from runtime.errors import BuildError

LISTENER = 3
LINE_BYTES_MAX = 1 << 21
PAGE_BYTES_MAX = 96 << 20
METADATA_BYTES_MAX = 16 << 20
REDIRECTS_MAX = 5
UPSTREAM_AT_ONCE = 32
_CHUNK_BYTES = 1 << 16
_PROJECT = re.compile(r"/simple/([a-z0-9]+(?:-[a-z0-9]+)*)/")
_FILE = re.compile(r"/files/([0-9]{1,9})/([A-Za-z0-9%._+!~-]{1,300})")


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line on standard input, a socket. Each {"lock": TEXT} after it is answered by `mapped`.

    The end of standard input is the proxy's. index_url, extra_index_urls: as in the settings. silence_s: longest time
    without a byte from the index. requests_max, total_bytes_max: of everything that one box may ask for.
    """

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    silence_s: float = 30.0
    requests_max: int = 20_000
    file_bytes_max: int = 1 << 30
    total_bytes_max: int = 4 << 30


class MapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A later line: the lock to map."""

    lock: str


class _Upstream(Exception):
    """The index cannot be used; what the box is told."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class IndexProxy:
    """Answers on the socket while `serving` lasts. Holds what has been handed out."""

    def __init__(self, sources: Sequence[IndexSource], request: Request, port: int) -> None:
        """sources: for each project the first that has it is taken, as uv does."""
        self._sources = tuple(sources)
        self._request = request
        self._base = f"http://127.0.0.1:{port}"
        self._files: list[tuple[str, IndexFile]] = []
        self._numbers: dict[tuple[str, IndexFile], int] = {}
        self._slots = asyncio.Semaphore(UPSTREAM_AT_ONCE)
        self._session: ClientSession | None = None
        self.requests = 0
        self.bytes = 0

    @asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve on the listening socket, which is closed at the end."""
        timeout = ClientTimeout(total=None, connect=self._request.silence_s, sock_read=self._request.silence_s)
        app = web.Application(client_max_size=1)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        async with ClientSession(timeout=timeout, max_line_size=65536, max_field_size=65536) as self._session:
            await runner.setup()
            try:
                await web.SockSite(runner, listener).start()
                yield
            finally:
                await runner.cleanup()

    def find(self, url: str) -> tuple[str, IndexFile] | None:
        """Project and file of a URL that was handed out."""
        if not url.startswith(self._base):
            return None
        return self._handed_out(url.removeprefix(self._base))[0]

    # --- what the box asks

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if self.requests > self._request.requests_max:
            return _answer(403, "too many requests")
        if request.method != "GET":
            return _answer(405, "only GET")
        if request.headers.get("Host") != self._base.removeprefix("http://"):
            return _answer(403, "another host")
        try:
            async with self._slots:
                return await self._get(request)
        except _Upstream as error:
            return _answer(error.status, error.words)
        except TimeoutError:
            return _answer(504, "the index does not answer")
        except (ClientError, OSError, ValueError) as error:
            return _answer(502, f"the index cannot be read: {type(error).__name__}")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path  # as it came: nothing is decoded or joined before it is judged
        if path == "/simple/":
            return await self._root(request)
        if (found := _PROJECT.fullmatch(path)) is not None:
            return await self._project(request, found[1])
        handed_out, is_metadata = self._handed_out(path)
        if handed_out is None:
            return _answer(404, "no such path")
        if is_metadata:
            body, _, _ = await self._fetch(f"{handed_out[1].url}.metadata", "*/*", METADATA_BYTES_MAX)
            return web.Response(body=body, content_type="application/octet-stream")
        return await self._stream(request, handed_out[1])

    def _handed_out(self, path: str) -> tuple[tuple[str, IndexFile] | None, bool]:
        """The file of a path of ours, and whether its metadata is meant."""
        found = _FILE.fullmatch(path)
        if found is None or int(found[1]) >= len(self._files):
            return None, False
        entry, name = self._files[int(found[1])], unquote(found[2])
        if name == entry[1].filename:
            return entry, False
        is_metadata = bool(entry[1].metadata) and name == f"{entry[1].filename}.metadata"
        return (entry if is_metadata else None), is_metadata

    async def _root(self, request: web.Request) -> web.Response:
        names: set[str] = set()
        for source in self._sources:
            body, kind, _ = await self._fetch(f"{source.url}/", index_pages.ACCEPT, PAGE_BYTES_MAX)
            names.update(index_pages.projects(body, kind))
        as_json = _wants_json(request)
        return _page(index_pages.render_root(sorted(names), as_json=as_json), as_json=as_json)

    async def _project(self, request: web.Request, name: str) -> web.Response:
        body, kind, url = await self._page_of(name)
        shown = [self._show(name, each) for each in index_pages.parse(body, kind, url)]
        if _wants_json(request):
            return _page(index_pages.render_json(name, shown), as_json=True)
        return _page(index_pages.render_html(shown), as_json=False)

    async def _page_of(self, name: str) -> tuple[bytes, str, str]:
        for source in self._sources[:-1]:
            try:
                return await self._fetch(f"{source.url}/{name}/", index_pages.ACCEPT, PAGE_BYTES_MAX)
            except _Upstream as error:
                if error.status != 404:
                    raise
        return await self._fetch(f"{self._sources[-1].url}/{name}/", index_pages.ACCEPT, PAGE_BYTES_MAX)

    def _show(self, project: str, file: IndexFile) -> IndexFile:
        """The file with a URL of ours, under which it can be fetched from now on."""
        number = self._numbers.setdefault((project, file), len(self._files))
        if number == len(self._files):
            self._files.append((project, file))
        return replace(file, url=f"{self._base}/files/{number}/{file.filename}")

    # --- what the index is asked

    async def _fetch(self, url: str, accept: str, bytes_max: int) -> tuple[bytes, str, str]:
        """Body, content type and the URL it came from in the end."""
        async with self._opened(url, accept) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):  # inflated: a bomb ends here too
                self._count(len(chunk))
                body += chunk
                if len(body) > bytes_max:
                    raise _Upstream(502, f"the index sent more than {bytes_max} bytes")
            return bytes(body), response.headers.get("Content-Type", ""), str(response.url)

    async def _stream(self, request: web.Request, file: IndexFile) -> web.StreamResponse:
        async with self._opened(file.url, "*/*") as upstream:
            limit = self._request.file_bytes_max
            if (upstream.content_length or 0) > limit:
                raise _Upstream(502, f"the file has more than {limit} bytes")
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.content_length = upstream.content_length
            await response.prepare(request)
            sent = 0
            try:
                async for chunk in upstream.content.iter_chunked(_CHUNK_BYTES):
                    sent += len(chunk)
                    self._count(len(chunk))
                    if sent > limit:
                        raise _Upstream(502, "too long")
                    await response.write(chunk)
                await response.write_eof()
            except (_Upstream, ClientError, OSError, TimeoutError):
                if request.transport is not None:  # the head is out: only a cut connection says that it failed
                    request.transport.abort()
            return response

    @asynccontextmanager
    async def _opened(self, url: str, accept: str) -> AsyncIterator[ClientResponse]:
        """A successful answer. Redirects are followed here: the password must not follow them."""
        assert self._session is not None
        for _ in range(REDIRECTS_MAX + 1):
            headers = {"Accept": accept, "User-Agent": "pagurus"}
            for source in reversed(self._sources):
                headers |= source.headers(url)
            if accept == "*/*":
                headers["Accept-Encoding"] = "identity"
            proxy = index_source.proxy_of(url)
            async with self._session.get(url, headers=headers, proxy=proxy, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                    if urlsplit(url).scheme not in ("http", "https"):
                        raise _Upstream(502, "the index redirects elsewhere")
                    continue
                if response.status in (404, 410):
                    raise _Upstream(404, "the index does not have it")
                if response.status != 200:
                    raise _Upstream(502, f"the index answered {response.status}")
                yield response
                return
        raise _Upstream(502, "the index redirects too often")

    def _count(self, length: int) -> None:
        self.bytes += length
        if self.bytes > self._request.total_bytes_max:
            raise _Upstream(403, "too many bytes")


def run(reporter: Reporter) -> None:
    """Serve until standard input ends. Raises BuildError."""
    asyncio.run(_run(reporter))


async def _run(reporter: Reporter) -> None:
    logging.disable()  # what a box sends would fill the log of pagurusd; errors of ours come out as exceptions
    listener = socket.socket(fileno=LISTENER)
    listener.setblocking(False)
    lines, writer = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(0)), limit=LINE_BYTES_MAX)
    try:
        request = msgspec.json.decode(await lines.readline(), type=Request)
    except msgspec.DecodeError as error:
        raise BuildError("internal", f"cannot read the request: {error}") from error
    sources = IndexSource.find(os.environ, request.index_url, request.extra_index_urls)
    proxy = IndexProxy(sources, request, listener.getsockname()[1])
    async with proxy.serving(listener):
        reporter.ready()
        while line := await lines.readline():
            wanted = msgspec.json.decode(line, type=MapRequest)
            reporter.mapped(index_lock.mapped(wanted.lock, proxy.find))
    writer.close()
    with contextlib.suppress(BrokenPipeError):
        reporter.done(requests=proxy.requests, bytes=proxy.bytes)


def _answer(status: int, words: str) -> web.Response:
    return web.Response(status=status, text=f"{words}\n")


def _page(body: bytes, *, as_json: bool) -> web.Response:
    return web.Response(body=body, content_type=index_pages.JSON_TYPE if as_json else "text/html")


def _wants_json(request: web.Request) -> bool:
    return "json" in request.headers.get("Accept", "")
