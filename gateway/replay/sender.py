"""Sends requests open loop: each at its time, whatever has become of the others.

A closed loop, in which a slow answer delays the next request, would hide the very waits that are measured. Whether
this process kept its own times is part of the result.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from gateway.replay.outcomes import UNSENT, Outcome
from gateway.replay.timetable import Entry

IN_FLIGHT_MAX = 4000  # below the limit of open files; what would be one more is not sent, and the run is void
IDLE_MAX_S = 0.5  # the longest sleep, so that `progress` is told

Send = Callable[[Entry], Awaitable[Outcome]]


class Pacer(Protocol):
    """The replay's clock: 0 at its start."""

    def now_s(self) -> float:
        """Seconds since the start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for so long; 0: once."""
        ...


class RealPacer:
    """The machine's clock, from now on. Not the loop's, which uvloop keeps in whole milliseconds."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def send_all(
    entries: Sequence[Entry],
    send: Send,
    pacer: Pacer,
    *,
    progress: Callable[[int, float], None] = lambda sent, now_s: None,
) -> list[Outcome]:
    """Send each entry at its time and wait for all answers; the outcomes in the order of their ends.

    entries: in the order of their times. send: never raises, and ends by a limit of its own.
    """
    outcomes: list[Outcome] = []
    in_flight = 0

    async def one(entry: Entry) -> None:
        nonlocal in_flight
        try:
            outcomes.append(await send(entry))
        finally:
            in_flight -= 1

    async with asyncio.TaskGroup() as group:
        for number, entry in enumerate(entries):
            while (wait_s := entry.at_s - pacer.now_s()) > 0:
                await pacer.sleep(min(wait_s, IDLE_MAX_S))
                progress(number, pacer.now_s())
            if in_flight >= IN_FLIGHT_MAX:
                outcomes.append(Outcome(entry.at_s, entry.function, 0.0, 0.0, 0, failure=UNSENT))
                await pacer.sleep(0)
                continue
            in_flight += 1
            group.create_task(one(entry))
            if number % 16 == 15:  # a long burst must not keep its first requests from the wire
                await pacer.sleep(0)
    return outcomes
