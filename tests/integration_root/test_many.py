"""Many sandboxes: alive at once, and one after another, without a leak or a drift."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.leaks import descriptors
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ALIVE = 200
ROUNDS = 1000
AT_ONCE = 8
# Between the 200th and the last sandbox: the allocator's own movement, seen to be below 0.3 MiB.
RSS_DRIFT_BYTES = 2 << 20
ECHO = "def main(param):\n    return param\n"


def rss_bytes() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@in_node()
async def test_two_hundred_sandboxes_live_and_answer_at_once(bed: Bed):
    await bed.zygote(standbys=0)
    assignment = bed.assignment(bed.write_code(ECHO))
    living = []
    while len(living) < ALIVE:
        living += await asyncio.gather(*(bed.start("base", assignment) for _ in range(AT_ONCE)))
        for sandbox in living[-AT_ONCE:]:
            assert (await bed.call(sandbox, sandbox)).value == sandbox
    assert len({bed.pid(sandbox) for sandbox in living}) == ALIVE
    for sandbox in living:
        bed.request(sandbox, [sandbox])
    for sandbox in living:
        assert (await bed.answer(sandbox)).value == [sandbox]
    status = bed.node.status(1)
    assert len([row for row in status.sandboxes if row.state == "assigned"]) == ALIVE
    for sandbox in living:
        bed.kill(sandbox)
    for sandbox in living:
        await bed.died(sandbox)


@in_node()
async def test_a_thousand_sandboxes_leave_no_descriptor_and_no_memory(bed: Bed):
    await bed.zygote(standbys=0)
    assignment = bed.assignment(bed.write_code(ECHO))

    async def one() -> None:
        sandbox = await bed.start("base", assignment)
        assert (await bed.call(sandbox, 1)).value == 1
        await bed.end(sandbox)
        del bed.dead[sandbox]

    async def settle() -> None:
        host = bed.node._zygotes["base"]
        wanted = bed.parts.settings.shells_per_zygote
        await bed.until(lambda: not bed.node._sandboxes and not bed.node._graves)
        await bed.until(lambda: not host._wanted.is_set() and len(host._empty[None]) == wanted)
        bed.received.clear()

    for number in range(0, ROUNDS, AT_ONCE):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        bed.received.clear()
        if number == 200:
            await settle()
            open_before, rss_before = len(list(descriptors())), rss_bytes()
    await settle()
    assert len(list(descriptors())) == open_before
    assert rss_bytes() - rss_before < RSS_DRIFT_BYTES
    assert bed.node.counters["sandboxes_ended"] >= ROUNDS
    assert len(bed.parts.reaper._strays) < 16
