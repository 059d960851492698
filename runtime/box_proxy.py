"""pagurusd's side of the index proxy: a process of the builder's user for one box. Runs in pagurusd."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from runtime.builder_process import BuilderProcess
from runtime.errors import BuildError
from runtime.parts import Parts

READY_S = 30.0


class BoxProxy:
    """The conversation with one proxy (rootfs_builder.index_proxy)."""

    def __init__(self, process: BuilderProcess) -> None:
        self._process = process
        self._events = process.events()

    async def start(self, parts: Parts) -> None:
        """Tell it which index, and wait until it answers on its socket. Raises BuildError."""
        settings = parts.settings
        await self._process.request(
            {"index_url": settings.index_url, "extra_index_urls": list(settings.extra_index_urls)}
        )
        try:
            async with asyncio.timeout(READY_S):
                await self._hear("ready")
        except TimeoutError:
            raise BuildError("internal", f"the index proxy is not ready after {READY_S:.0f} s") from None

    async def mapped(self, lock: str) -> str:
        """The lock with the index's own URLs. Raises BuildError for one that names anything else."""
        await self._process.request({"lock": lock})
        return str((await self._hear("mapped"))["text"])

    async def _hear(self, wanted: str) -> dict[str, Any]:
        event = await anext(self._events)
        if event.get("event") != wanted:
            raise BuildError("internal", f"the index proxy said {event.get('event')!r} instead of {wanted}")
        return event


@asynccontextmanager
async def serving(parts: Parts, listener: int, name: str) -> AsyncIterator[BoxProxy]:
    """A proxy that answers on the listening socket (borrowed). On exit it is gone. Raises BuildError."""
    process = await BuilderProcess.start(parts, "proxy", name, (listener,))
    try:
        proxy = BoxProxy(process)
        await proxy.start(parts)
        yield proxy
    finally:
        await process.aclose()
