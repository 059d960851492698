"""Clients that are slow on purpose, against a real node (uvloop, the kernel's buffers)."""

import contextlib
import socket
import time

import pytest

from tests import leaks
from tests.node_bed import state_directory
from tests.pagurusd import Daemon

BIG = "def main(param):\n    return 'x' * 6_000_000\n"
TIMES = {"head_timeout_s": 0.3, "body_timeout_s": 0.3, "write_timeout_s": 0.5, "connections_max": 8}


@pytest.fixture
def hasty():
    with state_directory() as scope, leaks.no_leaks(scope), Daemon(scope, **TIMES, drain_s=5) as daemon:
        yield daemon


def connect(daemon: Daemon, *, receive_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    client.settimeout(10)
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect(("127.0.0.1", daemon.port))
    return client


def drained(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(1 << 16):
            received += chunk
    return received


def gateway_sockets(daemon: Daemon) -> int:
    """Established connections of clients at the gateway's port, as the kernel lists them."""
    port = f":{daemon.port:04X}"
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in list(table)[1:]]
    return sum(row[1].endswith(port) and row[3] == "01" for row in rows)


def test_a_slow_head_and_a_slow_body_are_cut_off(hasty: Daemon):
    hasty.deploy("big", BIG)
    with connect(hasty) as client:
        client.sendall(b"GET /healthz HTT")
        started_s = time.monotonic()
        assert drained(client) == b"" and time.monotonic() - started_s < 3
    with connect(hasty) as client:
        client.sendall(
            b"POST /v1/functions/big/invocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 9\r\n\r\n1"
        )
        assert b" 408 " in drained(client)


def test_a_client_that_does_not_read_holds_neither_sandbox_nor_connection(hasty: Daemon):
    hasty.deploy("big", BIG)
    assert len(hasty.result("big")) == 6_000_000
    clients = [connect(hasty, receive_bytes=2048) for _ in range(3)]
    for client in clients:
        client.sendall(b"POST /v1/functions/big/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1")
    hasty.until(lambda: len(hasty.get("/v1/invocations?function=big")["invocations"]) == 4, "the invocations")
    assert hasty.get("/v1/status")["counts"]["running"] == 0
    assert len(hasty.result("big")) == 6_000_000
    hasty.until(lambda: gateway_sockets(hasty) <= 1, "the connections to be cut off")
    for client in clients:
        with client:
            assert len(drained(client)) < 6_000_000


def test_connections_beyond_the_limit_are_refused_and_come_back(hasty: Daemon):
    with contextlib.ExitStack() as stack:
        answers = []
        held = [stack.enter_context(connect(hasty)) for _ in range(12)]
        for client in held:
            client.settimeout(0.1)
            with contextlib.suppress(TimeoutError, ConnectionError):
                answers.append(client.recv(1000))
        assert sum(b"too-many-connections" in answer for answer in answers) >= 4
    hasty.until(lambda: hasty.request("GET", "/healthz").status == 200, "room")
