"""One builder process of pagurusd's, and the conversation with it: JSON lines out, answers in (rootfs_builder.channel).

It runs as the builder's user in a cgroup of its own, which ends it with everything it has started.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from runtime import spawned
from runtime.errors import BuildError
from runtime.model import Limits
from runtime.parts import Parts
from runtime.sandbox.cgroup import Cgroup

LINE_BYTES_MAX = 4 << 20
_LIMITS = Limits(memory_bytes=2 << 30, pids=256, cpu_millis=100_000)
# What each event holds at least. A builder handles hostile files, so it is believed no more than they are.
_EVENTS: dict[str, dict[str, Any]] = {
    "progress": {"phase": str, "message": str, "fraction": int | float | None},
    "locked": {"environment": str},
    "resolve": {"requirements": str},
    "wanted": {"wanted": list},
    "sources": {"sources": list},
    "ready": {},
    "mapped": {"text": str},
    "failed": {"kind": str, "message": str},
    "done": {},
}


class BuilderProcess:
    """`python -m rootfs_builder COMMAND`. Made by `start`; ended, with all that it left, by `aclose`."""

    def __init__(self, parts: Parts, name: str, cgroup: Cgroup, staging: Path) -> None:
        self.name = name
        self.staging = staging  # the builder's own folder; goes at aclose
        self._parts = parts
        self._cgroup = cgroup
        self._ours: socket.socket | None = None
        self._reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        self._transport: asyncio.ReadTransport | None = None
        self._pid = -1
        self._ended: asyncio.Future[Any] | None = None  # not done: the pid is its own, as it is not reaped

    @classmethod
    async def start(cls, parts: Parts, command: str, name: str, descriptors: tuple[int, ...] = ()) -> "BuilderProcess":
        """Start it; `descriptors`, borrowed, are 3 and up there. Raises OSError, RequirementError."""
        staging = parts.layers.make_staging(name)
        cgroup = parts.cgroups.create(name)
        process = cls(parts, name, cgroup, staging)
        try:
            cgroup.set_limits(_LIMITS)
            await process._spawn(command, descriptors)
        except BaseException:
            await process.aclose()
            raise
        return process

    async def _spawn(self, command: str, descriptors: tuple[int, ...]) -> None:
        parts = self._parts
        self._ours, theirs = socket.socketpair()
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        environ = {
            **spawned.passed_environ(os.environ),
            "HOME": str(parts.layers.cache),
            "TMPDIR": str(self.staging),
        }
        try:
            pid = spawned.start_as(
                parts.settings.builder_user,
                [sys.executable, "-I", "-m", "rootfs_builder", command],
                environ=environ,
                descriptors=[theirs.fileno(), events_write, 2, *descriptors],
                cgroup=self._cgroup,
                directory=str(self.staging),
            )
            self._pid, self._ended = pid, parts.reaper.expect(pid)
        except BaseException:
            os.close(events_read)
            raise
        finally:
            theirs.close()
            os.close(events_write)
        events = open(events_read, "rb", buffering=0)  # noqa: SIM115  closed by the transport
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._reader)
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, events)

    async def request(self, request: Mapping[str, Any]) -> None:
        """Send what is to be done. Raises BuildError when it does not take it."""
        assert self._ours is not None
        self._ours.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_sendall(self._ours, json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise BuildError("internal", f"the builder ended early: {error}", hint="see the log of pagurusd") from error

    def answer(self, word: str, descriptor: int | None = None) -> None:
        """Answer its question; the descriptor is borrowed."""
        assert self._ours is not None
        with contextlib.suppress(OSError):  # it has ended: the next event tells
            socket.send_fds(self._ours, [word.encode() + b"\n"], [] if descriptor is None else [descriptor])

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What it says, as _EVENTS has it, `done` last. Raises BuildError when it says `failed`, or nothing more."""
        while True:
            try:
                line = await self._reader.readline()
                event = _event(line) if line else None
            except (ValueError, RecursionError) as error:
                raise BuildError("internal", f"the builder sent a line that cannot be read: {error}") from error
            if event is None:
                if self._cgroup.oom_kills() > 0:
                    limit = f"{_LIMITS.memory_bytes >> 20} MiB"
                    raise BuildError("limit", f"the build needed more than {limit} of memory")
                raise BuildError("internal", "the builder ended without a result", hint="see the log of pagurusd")
            if event["event"] == "failed":
                raise BuildError(event["kind"], event["message"][:60_000], hint=str(event.get("hint", "")))
            yield event
            if event["event"] == "done":
                return

    async def end(self) -> None:
        """Kill it with all its children, and wait until it is reaped. Idempotent."""
        if self._transport is not None:
            self._transport.close()
        if self._ended is not None and not self._ended.done():
            os.kill(self._pid, signal.SIGKILL)  # it may not have joined its cgroup yet
        self._cgroup.kill()
        if self._ended is not None:
            await self._ended
            self._ended = None
            self._cgroup.kill()  # what it had forked meanwhile

    async def aclose(self) -> None:
        """End it and remove what is left of it."""
        try:
            await self.end()
        finally:
            if self._ours is not None:
                self._ours.close()
            self._cgroup.close()
            self._parts.bury(self._cgroup)
            self._parts.layers.discard_path(self.staging)


def _event(line: bytes) -> dict[str, Any]:
    """One line. Raises ValueError, RecursionError."""
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(kind := event.get("event"), str) or kind not in _EVENTS:
        raise ValueError("it is no event")
    for name, type_ in _EVENTS[kind].items():
        if not isinstance(event.get(name), type_):
            raise ValueError(f"{kind} has no proper {name}")
    return event
