"""Slow, greedy and silent clients, with raw sockets and short times."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from gateway.api.connections import Connections
from gateway.scheduler.pool import State
from tests.unit.gateway.running import Running, run, running, until

BIG = b'"' + b"x" * (5 << 20) + b'"'


async def raw(found: Running, *, receive_bytes: int = 0) -> socket.socket:
    """A connected socket that reads nothing by itself; receive_bytes: its buffer."""
    client = socket.socket()
    client.setblocking(False)
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(client, found.address)
    return client


async def rest(client: socket.socket) -> bytes:
    """All that still comes, to the end of the connection."""
    received = b""
    while True:
        try:
            chunk = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1 << 20), 5)
        except ConnectionError:
            return received
        if not chunk:
            return received
        received += chunk


def test_a_head_that_comes_drop_by_drop_is_cut_off_also_after_a_first_request(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, head_timeout_s=0.1) as found:
            loop = asyncio.get_running_loop()
            for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                client = await raw(found)
                await loop.sock_sendall(client, first)
                if first:
                    assert b"200 OK" in await loop.sock_recv(client, 65536)
                    await asyncio.sleep(0.15)  # idle between requests is not slow
                started_s = time.monotonic()
                with pytest.raises(ConnectionError):
                    while time.monotonic() - started_s < 5:
                        await loop.sock_sendall(client, b"X")
                        await asyncio.sleep(0.02)
                assert time.monotonic() - started_s < 1
                client.close()

    run(scenario)


def test_an_idle_connection_is_closed_after_its_keep_alive(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, keep_alive_s=0.1) as found:
            client = await raw(found)
            request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(client, request)
            assert (await rest(client)).count(b"200 OK") == 1
            client.close()

    run(scenario)


def test_a_body_that_comes_too_slowly_is_a_timeout(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, body_timeout_s=0.1, upload_timeout_s=0.1) as found:
            await found.deploy("hello")
            for head in (
                b"POST /v1/functions/hello/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1",
                b"PUT /v1/functions/hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n",
            ):
                client = await raw(found)
                await asyncio.get_running_loop().sock_sendall(client, head)
                answer = await asyncio.get_running_loop().sock_recv(client, 65536)
                assert b" 408 " in answer and b"request-timed-out" in answer
                client.close()

    run(scenario)


def test_a_client_that_does_not_read_holds_no_sandbox_and_is_cut_off(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, write_timeout_s=0.2) as found:
            await found.deploy("hello")
            client = await raw(found, receive_bytes=4096)
            head = b"POST /v1/functions/hello/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(client, head % len(BIG) + BIG)
            services = found.gateway.services
            await until(lambda: services.fleet.running_count == 0 and services.fleet.start_kinds)
            (sandbox,) = services.fleet.pools.sandboxes.values()
            assert sandbox.state is State.IDLE
            assert (await found.invoke("hello"))[0] == 200
            admission = found.gateway.admission
            await until(lambda: admission.count <= 1)  # the test's own keep-alive connection
            received = await rest(client)
            assert len(received) < len(BIG), "it is cut off, not waited for"
            client.close()

    run(scenario)


def test_a_client_that_reads_slowly_but_does_read_gets_its_answer(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, write_timeout_s=0.2) as found:
            await found.deploy("hello")
            client = await raw(found, receive_bytes=65536)
            head = b"POST /v1/functions/hello/invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += b"Content-Length: %d\r\n\r\n" % len(BIG)
            await asyncio.get_running_loop().sock_sendall(client, head + BIG)
            received, started_s = b"", time.monotonic()
            while chunk := await asyncio.get_running_loop().sock_recv(client, 1 << 17):
                received += chunk
                await asyncio.sleep(0.01)
            assert received.endswith(BIG) and time.monotonic() - started_s > 0.4
            client.close()

    run(scenario)


@pytest.mark.parametrize("head", [
    b"GET /" + b"x" * 400 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 400 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 20 + b"\r\n",
])  # fmt: skip
def test_heads_that_are_too_long_are_refused_before_they_are_whole(tmp_path: Path, head: bytes):
    async def scenario() -> None:
        async with running(tmp_path, header_bytes=256, headers_max=10) as found:
            client = await raw(found)
            await asyncio.get_running_loop().sock_sendall(client, head)
            answer = await rest(client)
            assert b"400 Bad Request" in answer and b"urn:pagurus:problem:bad-request" in answer
            client.close()

    run(scenario)


def test_one_connection_too_many_is_told_and_the_others_go_on(tmp_path: Path):
    async def scenario() -> None:
        async with running(tmp_path, connections_max=3) as found:
            assert (await found.call("GET", "/healthz"))[0] == 200  # one, kept alive
            others = [await raw(found) for _ in range(2)]
            await until(lambda: found.gateway.admission.count == 3)
            refused = await raw(found)
            answer = await rest(refused)
            assert b" 503 " in answer and b"too-many-connections" in answer and b"connections_max is 3" in answer
            assert (await found.call("GET", "/healthz"))[0] == 200
            for client in (*others, refused):
                client.close()
            await until(lambda: found.gateway.admission.count == 1)
            client = await raw(found)
            await until(lambda: found.gateway.admission.count == 2)
            client.close()

    run(scenario)


def test_connections_are_counted_by_address_but_for_loopback():
    counted = Connections(5, 2)
    assert [bool(counted.refusal("192.0.2.1")) for _ in range(3)] == [False, False, True]
    assert counted.refusal("192.0.2.2") == "" and counted.count == 3
    counted.left("192.0.2.1")
    assert counted.refusal("192.0.2.1") == ""
    loopback = Connections(5, 2)
    assert not any(loopback.refusal(address) for address in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", ""))
    assert "connections_max" in loopback.refusal("127.0.0.1") and loopback.refused_count == 1
    assert "per_address" in [counted.refusal("192.0.2.1")][0]
