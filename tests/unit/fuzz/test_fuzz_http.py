"""What clients send to the gateway: bodies, settings, uploads, paths, hosts, and bytes that are no HTTP."""

import asyncio
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import Access, AccessError, Needs
from gateway.api import bodies
from gateway.api.connections import ConnectionLimits
from gateway.api.http import HostGuard, Route, Router, Server
from gateway.api.problems import ProblemError
from gateway.deploys import DeploySettings
from runtime.config import Settings
from runtime.tokens import Role, Token
from tests.unit.fuzz.fuzzing import JSON, examples, mutations, objects, ours

pytestmark = [
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # of long examples
    pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader"),  # aiohttp goes on
    pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionParam"),
]
RUNTIMES: Any = SimpleNamespace(names=("python3.11",), default="python3.11")
SETTINGS = (
    b'{"runtime": "python3.11", "handler": "main.main", "requirements": "six==1.17.0\\n", "policy": "adaptive", '
    b'"limits": {"memory_bytes": 134217728, "timeout_s": 1.5}, "environ": {"A": "b"}}'
)


@examples(200)
@given(mutations(b'{"a": [1, "\\u00e9", null]}', b'"text"', b"-1.5e300"))
def test_a_body_is_json_or_a_problem(data: bytes):
    """What passes is text and JSON to a worker's decoder too."""
    body = ours(lambda: bodies.check_json(data), ProblemError)
    if body is not None:
        json.loads(body.decode())


@examples(200)
@given(
    st.one_of(
        mutations(SETTINGS),
        objects(
            runtime=st.just("python3.11"),
            handler=st.text(max_size=10),
            requirements=st.text(max_size=10),
            limits=st.dictionaries(st.sampled_from(sorted(bodies.RANGES)), JSON, max_size=4),
            environ=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
            policy=st.sampled_from(["", "adaptive", "x"]),
        ),
    )
)
def test_settings_are_checked_or_a_problem(data: bytes):
    found = ours(lambda: bodies.parse_settings(data, RUNTIMES), ProblemError)
    if found is not None:
        assert isinstance(found, DeploySettings)
        for name, (low, high) in bodies.RANGES.items():
            assert low <= getattr(found.limits, name) <= high
        msgspec.json.encode(found.environ)
        for name, value in found.environ.items():
            (name + value).encode()


TOKENS = Access([Token(name="n", role=Role.ADMIN, sha256="0" * 64)], is_forced=True, wall_s=lambda: 0.0)


HEADERS = mutations(b"Bearer pagurus_0123456789abcdef").map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@examples(100)
@given(st.one_of(st.text(max_size=80), HEADERS))
def test_an_authorization_is_refused_as_that(header: str):
    with pytest.raises(AccessError):
        TOKENS.check(header, Needs.INVOKE, "f")


PATHS = mutations(b"/v1/functions/%41b/invocations", b"/v1/sandboxes").map(lambda raw: raw[:500].decode("latin-1"))


@examples(150)
@given(st.one_of(st.text(max_size=80), PATHS))
def test_a_path_is_found_or_a_problem(path: str):
    async def handle(request: web.BaseRequest, parameter: str) -> web.StreamResponse:
        return web.Response()

    router = Router([Route("GET", "/v1/functions/{name}", handle), Route("PUT", "/v1/functions/{name}/x", handle)])
    ours(lambda: router.find("GET", path), ProblemError)


@examples(150)
@given(st.text(max_size=60), st.text(max_size=60))
def test_a_host_is_let_in_or_a_problem(host: str, origin: str):
    request: Any = SimpleNamespace(headers={"Host": host, "Origin": origin})
    guard = HostGuard("127.0.0.1")
    ours(lambda: guard.check(request), ProblemError)


MULTIPART = b"Content-Type: multipart/form-data; boundary=b\r\n"
PUT, POST = b"PUT /f HTTP/1.1\r\nHost: localhost\r\n", b"POST /i HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = (
    b'--b\r\nContent-Disposition: form-data; name="settings"\r\n\r\n{}\r\n'
    b'--b\r\nContent-Disposition: form-data; name="code"; filename="c.zip"\r\n'
    b"Content-Transfer-Encoding: binary\r\n\r\nPK"
    b"\r\n--b--\r\n"
)
NESTED = UPLOAD.replace(b'name="code"', b'name="code"\r\nContent-Type: multipart/mixed; boundary=c')
ENCODED = UPLOAD.replace(b"binary", b"base64").replace(b"PK", b"%%%%")
REQUESTS = (
    PUT + MULTIPART + b"Content-Length: %d\r\n\r\n%s" % (len(UPLOAD), UPLOAD),
    PUT + MULTIPART + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--b\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: 2\r\n\r\n{}",
    POST + b"Expect: 100-continue\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
)


class Wire(asyncio.Transport):
    """A connection whose other end has sent all it will, and takes all."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_gone = False

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, data: Any) -> None:
        for each in data:
            self.written += each

    def close(self) -> None:
        self.is_gone = True

    def abort(self) -> None:
        self.is_gone = True

    def is_closing(self) -> bool:
        return self.is_gone

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _serve(data: bytes, folder: Path) -> bytes:
    """What the gateway's server answers to bytes of a connection, with handlers that read bodies as the real ones."""

    async def deploy(request: web.BaseRequest, _: str) -> web.StreamResponse:
        _, archive = await bodies.read_deploy(
            request, upload_bytes=1000, timeout_s=5, store_dir=folder, runtimes=RUNTIMES
        )
        os.close(archive)
        return web.Response()

    async def invoke(request: web.BaseRequest, _: str) -> web.StreamResponse:
        return web.Response(body=await bodies.read_parameter(request, 1000, timeout_s=5))

    router = Router([Route("PUT", "/f", deploy), Route("POST", "/i", invoke)])
    access = Access((), is_forced=False, wall_s=lambda: 0.0)
    server = Server(router, HostGuard("127.0.0.1"), access, ConnectionLimits.of(Settings()))
    handler: RequestHandler = server()
    wire = Wire()
    handler.connection_made(wire)
    handler.data_received(data)
    handler.eof_received()
    for _ in range(40):
        await asyncio.sleep(0)
    if not wire.is_gone:
        handler.connection_lost(None)
    await server.shutdown(0.01)
    return bytes(wire.written)


@examples(120)
@given(st.one_of(mutations(*REQUESTS), mutations(UPLOAD, NESTED, ENCODED).map(lambda body: _upload(body))))
def test_bytes_of_a_connection_are_answered_and_never_an_internal_error(data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        before = len(os.listdir("/proc/self/fd"))
        answer = asyncio.run(_serve(data[:20_000], Path(folder)))
        assert b" 500 " not in answer.split(b"\r\n", 1)[0] and b"urn:pagurus:problem:internal" not in answer, answer
        assert len(os.listdir("/proc/self/fd")) == before
        assert not os.listdir(folder)


def _upload(body: bytes) -> bytes:
    return PUT + MULTIPART + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("request_bytes", REQUESTS[2:3])
def test_a_proper_request_is_answered(request_bytes: bytes, tmp_path: Path):
    """Else the test above would say nothing."""
    assert asyncio.run(_serve(request_bytes, tmp_path)).startswith(b"HTTP/1.1 200 OK")
    assert asyncio.run(_serve(REQUESTS[0], tmp_path)).startswith(b"HTTP/1.1 200 OK")
