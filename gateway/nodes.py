"""Questions to pagurusd about its node."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from runtime import sealed
from runtime.protocol import CollectGarbage, GarbageCollected, GetNodeStatus, Keep, NodeStatus, ToDaemon

ANSWER_TIMEOUT_S = 2.0
COLLECT_TIMEOUT_S = 60.0
Answer = TypeVar("Answer", NodeStatus, GarbageCollected)
SendWithDescriptors = Callable[[ToDaemon, tuple[int, ...]], None]


class NodeQuestions:
    """GetNodeStatus, CollectGarbage, and their answers."""

    def __init__(self, send: SendWithDescriptors) -> None:
        self._send = send
        self._tickets = itertools.count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}

    async def status(self) -> NodeStatus:
        """What the kernel says now. Raises TimeoutError when pagurusd is busy for too long."""
        return await self._ask(
            lambda ticket: self._send(GetNodeStatus(ticket=ticket), ()), NodeStatus, ANSWER_TIMEOUT_S
        )

    async def collect(self, keep: Keep, *, dry_run: bool) -> GarbageCollected:
        """Let pagurusd give up, or only list, all but `keep`. Raises TimeoutError."""
        with sealed.opened(keep) as descriptor:
            return await self._ask(
                lambda ticket: self._send(CollectGarbage(ticket=ticket, dry_run=dry_run), (descriptor,)),
                GarbageCollected,
                COLLECT_TIMEOUT_S,
            )

    def answered(self, message: NodeStatus | GarbageCollected) -> None:
        """An answer came."""
        future = self._open.get(message.ticket)
        if future is not None and not future.done():
            future.set_result(message)

    async def _ask(self, send: Callable[[int], None], kind: type[Answer], timeout_s: float) -> Answer:
        ticket = next(self._tickets)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[ticket] = future
        try:
            send(ticket)
            async with asyncio.timeout(timeout_s):
                answer = await future
        finally:
            del self._open[ticket]
        assert isinstance(answer, kind)
        return answer
