"""Questions to pagurusd about its node."""

import asyncio
import itertools
from collections.abc import Callable

from runtime.protocol import GetNodeStatus, NodeStatus, ToDaemon

ANSWER_TIMEOUT_S = 2.0


class NodeQuestions:
    """GetNodeStatus and its answers."""

    def __init__(self, send: Callable[[ToDaemon], None]) -> None:
        self._send = send
        self._tickets = itertools.count(1)
        self._open: dict[int, asyncio.Future[NodeStatus]] = {}

    async def status(self) -> NodeStatus:
        """What the kernel says now. Raises TimeoutError when pagurusd is busy for too long."""
        ticket = next(self._tickets)
        future: asyncio.Future[NodeStatus] = asyncio.get_running_loop().create_future()
        self._open[ticket] = future
        try:
            self._send(GetNodeStatus(ticket=ticket))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await future
        finally:
            del self._open[ticket]

    def answered(self, message: NodeStatus) -> None:
        """An answer came."""
        future = self._open.get(message.ticket)
        if future is not None and not future.done():
            future.set_result(message)
