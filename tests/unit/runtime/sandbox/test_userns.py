"""What pagurusd hears of a process that it has cloned into a zygote's namespaces."""

import asyncio
import os
import socket
from collections.abc import Sequence

import pytest

from runtime import packets
from runtime.errors import StartError
from runtime.packets import PacketSocket
from runtime.sandbox import userns


def born(answers: Sequence[tuple[bytes, bool]]) -> tuple[int, list[int]]:
    """What is made of these answers, each with or without a descriptor, and the end of the stream."""

    async def hear() -> tuple[int, list[int]]:
        ours, theirs = packets.packet_pair()
        with PacketSocket(ours) as channel:
            with theirs, open("/proc/self/status") as file:
                for data, has_descriptor in answers:
                    socket.send_fds(theirs, [data], [file.fileno()] if has_descriptor else [])
            return await userns._born(channel, "zygote")

    return asyncio.run(hear())


PID, SIBLING = (b'{"pid": 7}', False), (b"{}", True)
FAILED = (b'{"failed": "clone", "message": "no"}', True)


@pytest.mark.parametrize("answers", [(PID, SIBLING), (SIBLING, PID)])
def test_two_answers_may_come_in_any_order(answers: Sequence[tuple[bytes, bool]]):
    pid, descriptors = born(answers)
    assert pid == 7 and len(descriptors) == 1
    os.close(descriptors[0])


@pytest.mark.parametrize("answers", [(SIBLING,), (PID,), (), (SIBLING, FAILED)])
def test_half_an_answer_is_an_error_and_leaves_no_descriptor(answers: Sequence[tuple[bytes, bool]]):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartError):
        born(answers)
    assert os.listdir("/proc/self/fd") == before
