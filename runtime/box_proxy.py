"""pagurusd's side of the index proxy: a process of the builder's user for one box. Runs in pagurusd."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from runtime import spawned
from runtime.errors import BuildError
from runtime.model import MIB, Limits
from runtime.parts import Parts

MAPPED_BYTES_MAX = 4 * MIB  # of a line
READY_S = 30.0
_LIMITS = Limits(memory_bytes=1024 * MIB, pids=64, cpu_millis=2000)
_OPEN_FILES = 4096


class BoxProxy:
    """The conversation with one proxy, JSON lines both ways (rootfs_builder.index_proxy)."""

    def __init__(self, requests: int, events: asyncio.StreamReader) -> None:
        self._requests = requests
        self._events = events

    async def say(self, line: dict[str, Any]) -> None:
        """One line to it. It reads in a loop of its own, and a pipe holds less than a lock may have."""
        data = memoryview(json.dumps(line).encode() + b"\n")
        loop = asyncio.get_running_loop()
        while data:
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._requests, writable.set)
                try:
                    await writable.wait()
                finally:
                    loop.remove_writer(self._requests)
            except BrokenPipeError:
                return  # what it said last tells why

    async def hear(self, wanted: str) -> dict[str, Any]:
        """Its next event, which must be of this kind. Raises BuildError."""
        try:
            line = await self._events.readline()
        except ValueError as error:  # longer than MAPPED_BYTES_MAX
            raise BuildError("internal", "the index proxy said too much") from error
        event = json.loads(line) if line else {}
        if event.get("event") == "failed":
            raise BuildError(str(event["kind"]), str(event["message"])[:60_000], hint=str(event.get("hint", "")))
        if event.get("event") != wanted:
            raise BuildError("internal", "the index proxy ended early", hint="see the log of pagurusd")
        return dict(event)

    async def mapped(self, lock: str) -> str:
        """The lock with the index's own URLs. Raises BuildError for one that names anything else."""
        await self.say({"lock": lock})
        return str((await self.hear("mapped"))["text"])


@asynccontextmanager
async def serving(parts: Parts, listener: int, name: str) -> AsyncIterator[BoxProxy]:
    """A proxy that answers on the listening socket (borrowed). On exit it is gone. Raises BuildError."""
    requests_read, requests_write = os.pipe2(os.O_CLOEXEC)
    events_read, events_write = os.pipe2(os.O_CLOEXEC)
    given = [requests_read, events_write, 2, listener]
    cgroup = parts.cgroups.create(name)
    try:
        cgroup.set_limits(_LIMITS)
        command = [sys.executable, "-I", "-m", "rootfs_builder", "proxy"]
        environ = {**spawned.passed_environ(os.environ), "HOME": str(parts.layers.cache)}
        user = parts.settings.builder_user
        pid = spawned.start_as(user, command, environ=environ, descriptors=given, cgroup=cgroup, open_files=_OPEN_FILES)
    except BaseException:
        for fd in (requests_write, events_read):
            os.close(fd)
        cgroup.close()
        parts.bury(cgroup)
        raise
    finally:
        os.close(requests_read)
        os.close(events_write)
    ended = parts.reaper.expect(pid)
    reader = asyncio.StreamReader(limit=MAPPED_BYTES_MAX)
    events = open(events_read, "rb", buffering=0)  # noqa: SIM115  closed by the transport
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), events)
    os.set_blocking(requests_write, False)
    try:
        proxy = BoxProxy(requests_write, reader)
        await proxy.say({"index_url": parts.settings.index_url})
        try:
            async with asyncio.timeout(READY_S):
                await proxy.hear("ready")
        except TimeoutError:
            raise BuildError("internal", f"the index proxy is not ready after {READY_S:.0f} s") from None
        yield proxy
    finally:
        transport.close()
        os.close(requests_write)
        cgroup.kill()
        await asyncio.wait([ended])
        cgroup.close()
        parts.bury(cgroup)
