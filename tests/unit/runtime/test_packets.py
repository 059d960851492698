"""SEQPACKET sockets that carry descriptors, with real sockets."""

import array
import asyncio
import os
import socket

import pytest

from runtime import packets
from runtime.errors import ProtocolError
from runtime.packets import PACKET_BYTES_MAX, Packet, PacketSocket


@pytest.fixture
def pair():
    ours, theirs = packets.packet_pair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def null():
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def open_count() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(scenario) -> None:
    asyncio.run(scenario())


def test_packets_keep_their_bounds(pair):
    pair[1].send(b"one")
    pair[1].send(b"two")
    assert [packets.receive(pair[0]).data for _ in range(2)] == [b"one", b"two"]


def test_descriptors_arrive_close_on_exec_and_are_the_receivers(pair, null):
    socket.send_fds(pair[1], [b"x"], [null, null])
    packet = packets.receive(pair[0])
    assert len(packet.descriptors) == 2 and null not in packet.descriptors
    for fd in packet.descriptors:
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_the_sender_is_attached_when_asked_for(pair):
    pair[1].send(b"x")
    assert packets.receive(pair[0]).sender is None
    packets.ask_for_sender(pair[0])
    pair[1].send(b"x")
    assert packets.receive(pair[0]).sender == (os.getpid(), os.getuid(), os.getgid())


def test_the_sender_is_who_sends_and_not_who_made_the_socket(pair):
    packets.ask_for_sender(pair[0])
    pid = os.fork()
    if pid == 0:
        pair[1].send(b"x")
        os._exit(0)
    os.waitpid(pid, 0)
    sender = packets.receive(pair[0]).sender
    assert sender is not None and sender[0] == pid


def test_an_empty_socket_blocks_and_a_closed_one_is_at_its_end(pair):
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        packets.receive(pair[0])
    pair[1].close()
    assert packets.receive(pair[0]) == Packet(b"", [])


def test_too_many_descriptors_are_refused_and_none_stays_open(pair, null):
    before = open_count()
    rights = array.array("i", [null] * 40)
    pair[1].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    with pytest.raises(ProtocolError, match="longer"):
        packets.receive(pair[0])
    assert open_count() == before


def test_a_packet_that_is_cut_off_is_refused(pair, monkeypatch):
    monkeypatch.setattr(packets, "PACKET_BYTES_MAX", 100)
    pair[1].send(b"x" * 101)
    with pytest.raises(ProtocolError):
        packets.receive(pair[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may exceed wmem_max")
def test_the_longest_packet_passes(pair):
    data = bytes(PACKET_BYTES_MAX - 4096)
    pair[1].send(data)
    assert len(packets.receive(pair[0]).data) == len(data)


def test_the_loops_end_receives_in_order_and_then_the_end_for_ever():
    async def scenario() -> None:
        ours, theirs = packets.packet_pair()
        with PacketSocket(ours) as end:
            with theirs:
                theirs.send(b"one")
                theirs.send(b"two")
            assert [(await end.receive()).data for _ in range(4)] == [b"one", b"two", b"", b""]

    run(scenario)


def test_what_a_peer_said_before_it_left_unread_packets_is_read():
    async def scenario() -> None:
        ours, theirs = packets.packet_pair()
        with PacketSocket(ours) as end:
            end.send(b"never read")
            with theirs:
                theirs.send(b"why I end")
            assert end.peek().data == b"why I end"
            assert [(await end.receive()).data for _ in range(2)] == [b"why I end", b""]

    run(scenario)


def test_peeking_leaves_the_packet_and_an_empty_socket_alone():
    async def scenario() -> None:
        ours, theirs = packets.packet_pair()
        with theirs, PacketSocket(ours) as end:
            assert end.peek() == Packet(b"", [])
            theirs.send(b"x")
            assert end.peek().data == end.peek().data == b"x"
            assert (await end.receive()).data == b"x"
        assert end.peek() == Packet(b"", [])

    run(scenario)


def test_sending_never_waits_and_keeps_the_order(null):
    async def scenario() -> None:
        before = open_count()
        ours, theirs = packets.packet_pair()
        theirs.setblocking(False)
        with theirs, PacketSocket(ours) as end:
            for number in range(300):
                end.send(b"%d" % number + bytes(20_000), [null])
            assert open_count() > before + 2, "queued packets hold copies: the caller may close its own"
            received = []
            while len(received) < 300:
                try:
                    packet = packets.receive(theirs)
                except BlockingIOError:
                    await asyncio.sleep(0)
                    continue
                received.append(int(packet.data.rstrip(b"\0")))
                for fd in packet.descriptors:
                    os.close(fd)
            assert received == list(range(300))
        assert open_count() == before

    run(scenario)


def test_a_peer_that_does_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(packets, "QUEUE_MAX", 5)

    async def scenario() -> None:
        ours, theirs = packets.packet_pair()
        with theirs, PacketSocket(ours) as end, pytest.raises(ProtocolError, match="has not read"):
            for _ in range(10_000):
                end.send(bytes(50_000))

    run(scenario)


def test_closing_wakes_the_reader_and_closes_what_was_not_taken(null):
    async def scenario() -> None:
        before = open_count()
        ours, theirs = packets.packet_pair()
        with theirs:
            end = PacketSocket(ours)
            socket.send_fds(theirs, [b"x"], [null])
            end.peek()
            for fd in (await end.receive()).descriptors:
                os.close(fd)
            task = asyncio.get_running_loop().create_task(end.receive())
            await asyncio.sleep(0)
            socket.send_fds(theirs, [b"y"], [null])
            end.close()
            assert (await task).data == b""
            end.close()
            end.close()
            end.send(b"nothing happens")
        assert open_count() == before

    run(scenario)
