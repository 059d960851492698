"""Captured output: what is kept, what is counted."""

import asyncio
import os

import pytest

from gateway.output import FLOOD_FACTOR, OutputLog, OutputPipes


def test_both_streams_share_the_limit_and_say_what_was_dropped():
    log = OutputLog(10)
    log.add(0, b"12345678")
    log.add(1, b"abcd")
    log.add(0, b"9")
    assert log.stdout == "12345678\n[... 1 bytes dropped]\n"
    assert log.stderr == "ab\n[... 2 bytes dropped]\n"
    assert (log.total_bytes, log.is_flooded) == (13, False)


@pytest.mark.parametrize(("limit", "counted"), [(0, 4096), (10, 4096), (5000, 5000)])
def test_a_flood_is_seen(limit: int, counted: int):
    log = OutputLog(limit)
    log.add(0, b"x" * (counted * FLOOD_FACTOR))
    assert not log.is_flooded
    log.add(0, b"x")
    assert log.is_flooded


def test_bytes_that_are_no_text_are_shown():
    log = OutputLog(10)
    log.add(0, b"\xffok")
    assert log.stdout == "\ufffdok"


def test_pipes_are_drained_and_closed():
    async def scenario() -> None:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        seen: list[str] = []
        pipes = OutputPipes(asyncio.get_running_loop(), (out, err), lambda: seen.append("read"))
        os.write(out_end, b"nobody's")
        pipes.drain()
        pipes.log = OutputLog(100)
        os.write(out_end, b"one")
        os.write(err_end, b"two")
        pipes.drain()
        assert (pipes.log.stdout, pipes.log.stderr, seen) == ("one", "two", [])
        os.write(out_end, b" three")
        while not seen:
            await asyncio.sleep(0)
        assert pipes.log.stdout == "one three"
        os.close(out_end)
        os.close(err_end)
        pipes.drain()
        pipes.close()
        pipes.close()

    asyncio.run(scenario())
