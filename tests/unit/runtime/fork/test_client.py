"""pagurusd's side of a zygote: what it owns while it waits is not lost when nobody waits any more."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime import packets
from runtime.errors import StartError
from runtime.fork import client as module
from runtime.fork.client import ZygoteClient
from runtime.packets import PacketSocket


@asynccontextmanager
async def client() -> AsyncIterator[ZygoteClient]:
    """Of a process that answers nothing, and ends with it."""
    ours, theirs = packets.packet_pair()
    process = subprocess.Popen(["sleep", "60"])
    made = ZygoteClient(PacketSocket(ours), process.pid, os.pidfd_open(process.pid), None)  # type: ignore[arg-type]
    try:
        with theirs:
            yield made
    finally:
        made.close()
        process.wait()


def request(made: ZygoteClient) -> Any:
    return made.request_helper(environment=None, hostname="h", uid=1, standby=True, descriptors=[], has_cgroup=False)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_a_pidfd_that_comes_when_its_waiter_is_cancelled_is_closed():
    async def scenario() -> None:
        async with client() as made:
            requested = request(made)
            waiting = asyncio.ensure_future(made.helper(requested))
            await asyncio.sleep(0)
            pidfd = os.pidfd_open(os.getpid())
            requested.set_result(pidfd)  # as `serve` does
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not is_open(pidfd)

    asyncio.run(scenario())


@pytest.mark.parametrize("came", [False, True])
def test_a_pidfd_that_nobody_will_wait_for_is_closed(came: bool):
    async def scenario() -> None:
        async with client() as made:
            requested, pidfd = request(made), os.pidfd_open(os.getpid())
            if came:
                requested.set_result(pidfd)
            made.abandon(requested)
            assert is_open(pidfd) == (not came) and requested.cancelled() == (not came)
            if not came:
                os.close(pidfd)

    asyncio.run(scenario())


def test_a_zygote_that_does_not_fork_in_time_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SPAWN_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        async with client() as made:
            with pytest.raises(StartError, match="did not fork within"):
                await made.helper(request(made))
            assert made.is_closed

    asyncio.run(scenario())
