"""One replay from the trace to what it has shown. Runs in `pagurus bench`."""

import asyncio
import gc
from collections.abc import Callable, Sequence

from gateway.replay.sampler import Sampler
from gateway.replay.sender import RealPacer, send_all
from gateway.replay.summary import Replay
from gateway.replay.timetable import Entry, Scale
from gateway.replay.web import open_web


async def replay(
    url: str, entries: Sequence[Entry], scale: Scale, *, mode: str, progress: Callable[[int, float], None]
) -> Replay:
    """Send the entries to the node at `url`; never raises for what the node does.

    mode: what functions do with their time, `sleep` or `compute`.
    """
    gc.freeze()  # entries are many and live to the end: a full collection would make the sender late
    try:
        async with open_web(url, mode) as web, asyncio.TaskGroup() as group:
            pacer = RealPacer()
            web.start(pacer)
            sampler = Sampler(web, pacer)
            sampling = group.create_task(sampler.run())
            outcomes = await send_all(entries, web.invoke, pacer, progress=progress)
            sampling.cancel()
            await sampler.sample()
            return Replay(scale, outcomes, sampler.samples, pacer.now_s(), sampler.missed_count)
    finally:
        gc.unfreeze()
