"""A whole gateway against a fake node, in the test's own loop; and a small HTTP client for it."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gateway.server import Gateway
from runtime.clock import SystemClock
from runtime.config import Settings
from tests.fake_node import FakeNode


@dataclass
class Running:
    """One gateway with its node and a client."""

    gateway: Gateway
    node: FakeNode
    client: aiohttp.ClientSession
    url: str
    task: asyncio.Task[int]
    address: tuple[str, int]

    async def call(self, method: str, path: str, **arguments: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        if isinstance(arguments.get("data"), bytes):
            arguments["data"] = io.BytesIO(arguments["data"])
        async with self.client.request(method, self.url + path, **arguments) as response:
            body = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "") and "ndjson" not in response.content_type
            return response.status, json.loads(body) if is_json else body, response

    async def deploy(self, name: str, handler: str = "main.echo", **settings: Any) -> tuple[int, Any]:
        form = aiohttp.FormData()
        form.add_field("settings", json.dumps({"handler": handler, **settings}), content_type="application/json")
        code = settings.get("environ", {}).get("CODE", "code")
        form.add_field("code", code.encode(), filename="code.zip")
        status, body, _ = await self.call("PUT", f"/v1/functions/{name}", data=form)
        return status, body

    async def invoke(self, name: str, body: bytes = b"1") -> tuple[int, Any, aiohttp.ClientResponse]:
        return await self.call("POST", f"/v1/functions/{name}/invocations", data=body)


async def until(claim: Callable[[], Any]) -> None:
    """Wait until the claim holds, 30 s at most: a busy machine must not decide."""
    async with asyncio.timeout(30):
        while not claim():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def gateway_on(node: FakeNode) -> AsyncIterator[Running]:
    """A gateway on the node, ready; it is drained at the end if it still runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    listener.setblocking(False)
    gateway = Gateway(node.gateway_end(), listener, clock=SystemClock(), trusted_uid=None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(gateway.run())
        async with aiohttp.ClientSession() as client:
            url = f"http://{address[0]}:{address[1]}"
            running = Running(gateway, node, client, url, task, address)
            try:
                await until(lambda: task.done() or (gateway.services and gateway.services.keeper.has_base()))
                yield running
            finally:
                node.let_go()
                if not task.done():
                    node.drain(0.2)
        await task


@asynccontextmanager
async def running(state_dir: Path, **settings: Any) -> AsyncIterator[Running]:
    """A node and its gateway."""
    node = FakeNode(Settings(state_dir=str(state_dir), log_level="error", **settings))
    try:
        async with gateway_on(node) as found:
            yield found
    finally:
        node.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""
    asyncio.run(scenario())
