"""The link to pagurusd over a real SEQPACKET socket."""

import array
import asyncio
import os
import socket
from collections.abc import Callable

import pytest

from gateway.node_link import NodeLink
from runtime.errors import ProtocolError
from runtime.model import SandboxId
from runtime.protocol import (
    Drain,
    GetNodeStatus,
    Hello,
    KillSandbox,
    SandboxOffered,
    ToGateway,
    decode_to_daemon,
    encode,
)

OFFER = SandboxOffered(sandbox="s1", zygote="base", runtime="python3.11", state="standby")


class Node:
    """The other end."""

    def __init__(self, **arguments: object) -> None:
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.got: list[tuple[ToGateway, list[int]]] = []
        self.ends: list[str] = []
        arguments.setdefault("trusted_uid", None)
        self.link = NodeLink(ours, asyncio.get_running_loop(), self.ends.append, **arguments)
        self.link.listen(lambda message, descriptors: self.got.append((message, descriptors)))

    def send(self, message: ToGateway, descriptors: list[int] | None = None) -> None:
        rights = array.array("i", descriptors or [])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        self.socket.sendmsg([encode(message)], ancillary)

    async def settle(self, claim: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not claim():
                await asyncio.sleep(0)

    def close(self) -> None:
        self.link.end("done")
        self.socket.close()


def with_node(scenario: Callable[[Node], object]) -> None:
    async def run() -> None:
        node = Node()
        try:
            await scenario(node)
        finally:
            node.close()

    asyncio.run(run())


def open_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_go_both_ways():
    async def scenario(node: Node) -> None:
        node.link.send(Hello())
        assert decode_to_daemon(node.socket.recv(1000)) == Hello()
        node.send(Drain(grace_s=1))
        await node.settle(lambda: node.got)
        assert node.got == [(Drain(grace_s=1), [])]

    with_node(scenario)


def test_an_offer_brings_descriptors_that_close_on_exec():
    async def scenario(node: Node) -> None:
        reader, writer = os.pipe()
        node.send(OFFER, [reader, writer, reader])
        await node.settle(lambda: node.got)
        _, descriptors = node.got[0]
        assert len(descriptors) == 3
        assert not any(os.get_inheritable(one) for one in descriptors)
        for one in (reader, writer, *descriptors):
            os.close(one)

    with_node(scenario)


def test_descriptors_that_nobody_expects_are_closed():
    async def scenario(node: Node) -> None:
        before = open_count()
        node.send(Drain(grace_s=1), [0, 1])
        await node.settle(lambda: node.got)
        assert node.got[0][1] == []
        assert open_count() == before

    with_node(scenario)


@pytest.mark.parametrize("descriptors", [[], [0, 1]])
def test_a_message_that_does_not_decode_ends_the_link(descriptors: list[int]):
    async def scenario(node: Node) -> None:
        before = open_count()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        node.socket.sendmsg([b"\xc1nonsense"], rights)
        await node.settle(lambda: node.ends)
        assert "cannot decode" in node.ends[0]
        assert open_count() == before - 1

    with_node(scenario)


def test_the_end_of_pagurusd_is_told_once():
    async def scenario(node: Node) -> None:
        node.socket.shutdown(socket.SHUT_RDWR)
        await node.settle(lambda: node.ends)
        node.link.end("again")
        node.link.send(Hello())
        assert len(node.ends) == 1

    with_node(scenario)


def test_what_does_not_fit_now_waits_in_order_with_its_descriptors():
    async def scenario(node: Node) -> None:
        before = open_count()
        count = 3000
        for number in range(count):
            node.link.send(GetNodeStatus(ticket=number), (0,) if number == count - 1 else ())
        node.socket.setblocking(False)
        seen = []
        while len(seen) < count:
            try:
                packet, descriptors, _, _ = socket.recv_fds(node.socket, 1000, 1)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            seen.append(decode_to_daemon(packet).ticket)
            for one in descriptors:
                os.close(one)
        assert seen == list(range(count))
        assert descriptors
        await asyncio.sleep(0)
        assert open_count() == before

    with_node(scenario)


def test_a_node_that_does_not_read_ends_the_link():
    async def scenario(node: Node) -> None:
        while not node.ends:
            node.link.send(KillSandbox(sandbox=SandboxId("s"), reason="x" * 1000))
        assert "does not read" in node.ends[0]

    with_node(scenario)


def test_pause_leaves_messages_in_the_socket():
    async def scenario(node: Node) -> None:
        node.link.pause()
        node.send(Drain(grace_s=1))
        await asyncio.sleep(0.002)
        assert node.got == []
        node.link.listen(lambda message, descriptors: node.got.append((message, descriptors)))
        await node.settle(lambda: node.got)

    with_node(scenario)


def test_a_peer_with_another_uid_is_refused():
    async def scenario() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, pytest.raises(ProtocolError, match="uid"):
            NodeLink(ours, asyncio.get_running_loop(), print, trusted_uid=os.getuid() + 1)

    asyncio.run(scenario())
