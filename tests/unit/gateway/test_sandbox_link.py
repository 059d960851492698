"""The stream to a worker, over real sockets, against a worker that lies."""

import asyncio
import os
import socket
from collections.abc import Callable
from types import TracebackType

import pytest

from gateway.output import OutputLog
from gateway.sandbox_link import Answer, SandboxLink
from runtime.frames import HEADER, HEADER_BYTES, MAGIC, FrameKind, pack

LIMIT = 6 << 20


class Peer:
    """Owner of a link, and the worker's end of it."""

    def __init__(self) -> None:
        ours, self.stream = socket.socketpair()
        out, self.out = os.pipe()
        err, self.err = os.pipe()
        self.events: list[tuple[str, object]] = []
        self.link = SandboxLink(asyncio.get_running_loop(), "s1", (ours.detach(), out, err), self)
        self.stream.setblocking(False)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.link.close()
        self.stream.close()
        os.close(self.out)
        os.close(self.err)

    def answered(self, link: SandboxLink, answer: Answer) -> None:
        link.call = None
        self.events.append(("answered", answer))

    def closed(self, link: SandboxLink) -> None:
        self.events.append(("closed", None))

    def broke(self, link: SandboxLink, word: str, detail: str) -> None:
        link.is_doomed = True
        self.events.append((word, detail))

    def ask(self, payload: bytes = b"1", limit: int = LIMIT, log: OutputLog | None = None) -> None:
        self.link.send("call", FrameKind.INVOKE, b"id-1", payload, time_left_ms=7, result_bytes_max=limit, output=log)

    async def read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += await asyncio.get_running_loop().sock_recv(self.stream, 1 << 20)
        return found

    async def event(self) -> tuple[str, object]:
        while not self.events:
            await asyncio.sleep(0)
        return self.events.pop(0)


def with_peer(scenario: Callable[[Peer], object]) -> None:
    async def run() -> None:
        with Peer() as peer:
            async with asyncio.timeout(30):
                await scenario(peer)

    asyncio.run(run())


def test_a_small_call_and_its_answer():
    async def scenario(peer: Peer) -> None:
        for number in range(3):
            peer.ask(b'{"n":1}')
            frame = await peer.read(HEADER_BYTES + 4 + 7)
            assert frame == HEADER.pack(MAGIC, FrameKind.INVOKE, 4, 7, 7, 0) + b'id-1{"n":1}'
            peer.stream.send(pack(FrameKind.RESULT, b"id-1", b"%d" % number, 5, 6))
            assert await peer.event() == ("answered", Answer(FrameKind.RESULT, b"%d" % number, 5, 6))

    with_peer(scenario)


def test_six_megabytes_each_way():
    async def scenario(peer: Peer) -> None:
        payload = os.urandom(LIMIT // 2).hex().encode()
        peer.ask(payload)
        frame = await peer.read(HEADER_BYTES + 4 + len(payload))
        assert frame[HEADER_BYTES + 4 :] == payload
        await asyncio.get_running_loop().sock_sendall(peer.stream, pack(FrameKind.RESULT, b"id-1", payload))
        _, answer = await peer.event()
        assert answer.payload == payload
        peer.ask()
        assert len(await peer.read(HEADER_BYTES + 5)) == HEADER_BYTES + 5

    with_peer(scenario)


def test_an_answer_in_single_bytes():
    async def scenario(peer: Peer) -> None:
        peer.ask()
        for byte in pack(FrameKind.ERROR, b"id-1", b"{}"):
            peer.stream.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await peer.event() == ("answered", Answer(FrameKind.ERROR, b"{}", 0, 0))
        peer.ask()
        peer.stream.send(pack(FrameKind.RESULT, b"id-1", b"2"))
        assert (await peer.event())[1].payload == b"2"

    with_peer(scenario)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\0" * 40, "protocol"),
        (pack(FrameKind.RESULT, b"id-2", b"1"), "protocol"),
        (pack(FrameKind.RESULT, b"id-11", b"1"), "protocol"),
        (pack(FrameKind.INVOKE, b"id-1", b"1"), "protocol"),
        (pack(FrameKind.RESULT, b"id-1", b"1") + b"more", "protocol"),
        (HEADER.pack(MAGIC, FrameKind.RESULT, 4, LIMIT + 1, 0, 0), "result-size"),
        (HEADER.pack(MAGIC, FrameKind.ERROR, 4, LIMIT + 1, 0, 0), "protocol"),
    ],
)
def test_a_lying_worker_is_cut_off(content: bytes, word: str):
    async def scenario(peer: Peer) -> None:
        peer.ask()
        peer.stream.send(content)
        assert (await peer.event())[0] == word
        assert peer.events == []

    with_peer(scenario)


def test_an_answer_before_the_request_was_read_is_a_lie():
    async def scenario(peer: Peer) -> None:
        peer.ask(b"1" * LIMIT)
        peer.stream.send(pack(FrameKind.RESULT, b"id-1", b"1"))
        assert (await peer.event())[0] == "protocol"

    with_peer(scenario)


def test_words_that_nobody_asked_for_are_a_lie():
    async def scenario(peer: Peer) -> None:
        peer.stream.send(pack(FrameKind.RESULT, b"id-1", b"1"))
        assert (await peer.event())[0] == "protocol"

    with_peer(scenario)


def test_the_end_of_the_worker_is_seen_and_its_last_answer_is_not_lost():
    async def scenario(peer: Peer) -> None:
        peer.ask()
        peer.stream.send(pack(FrameKind.RESULT, b"id-1", b"1"))
        peer.stream.shutdown(socket.SHUT_RDWR)
        assert (await peer.event())[0] == "answered"
        assert (await peer.event())[0] == "closed"

    with_peer(scenario)


def test_a_call_to_a_dead_worker_is_not_delivered():
    async def scenario(peer: Peer) -> None:
        peer.stream.close()
        peer.ask()
        assert not peer.link.is_delivered
        assert (await peer.event())[0] == "closed"

    with_peer(scenario)


def test_a_flood_of_output_ends_it():
    async def scenario(peer: Peer) -> None:
        log = OutputLog(10)
        peer.ask(log=log)
        for _ in range(5):  # 64 times 4096 bytes are four pipes full
            os.write(peer.out, b"x" * 65536)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        event = await peer.event()
        assert event[0] == "output" and "log_bytes, which is 10" in str(event)
        assert log.stdout.startswith("x" * 10 + "\n[... 327670 bytes dropped]")

    with_peer(scenario)


def test_late_output_belongs_to_the_last_call():
    async def scenario(peer: Peer) -> None:
        log = OutputLog(100)
        peer.ask(log=log)
        peer.stream.send(pack(FrameKind.RESULT, b"id-1", b"1"))
        await peer.event()
        os.write(peer.err, b"late")
        peer.link.close()
        assert log.stderr == "late"

    with_peer(scenario)
