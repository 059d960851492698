"""The reaper with real children; each test in a process of its own, for waitpid(-1) takes everybody's."""

import asyncio
import os
import signal

import pytest

from runtime import reaper as module
from runtime.reaper import Exit, Reaper
from tests.node_bed import run_in_child


def child(status: int = 0) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(status)
    return pid


def paused() -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


def alone(scenario) -> None:
    async def live() -> None:
        reaper = Reaper()
        try:
            async with asyncio.timeout(10):
                await scenario(reaper)
        finally:
            reaper.close()

    run_in_child(lambda: asyncio.run(live()))


def test_exits_are_described():
    assert Exit.from_wait_status(3 << 8).describe() == "exit status 3"
    assert Exit.from_wait_status(9).describe() == "signal SIGKILL"
    assert Exit(None, 50).describe() == "signal 50"


def test_status_and_signal_are_told():
    async def scenario(reaper: Reaper) -> None:
        assert await reaper.wait(child(7)) == Exit(7, None)
        pid = paused()
        future = reaper.expect(pid)
        assert reaper.is_waited_for(pid)
        os.kill(pid, signal.SIGTERM)
        assert await future == Exit(None, signal.SIGTERM)
        assert not reaper.is_waited_for(pid)

    alone(scenario)


def test_an_exit_before_anybody_asked_is_kept():
    async def scenario(reaper: Reaper) -> None:
        pid = child(5)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        other = reaper.expect(child())
        await other
        assert await reaper.wait(pid) == Exit(5, None)

    alone(scenario)


def test_an_old_exit_is_not_taken_for_that_of_a_new_process_with_the_same_pid():
    async def scenario(reaper: Reaper) -> None:
        pid = paused()
        long_ago_s = asyncio.get_running_loop().time() - module._STRAY_KEPT_S - 1
        reaper._strays[pid] = (Exit(0, None), long_ago_s)
        future = reaper.expect(pid)
        await asyncio.sleep(0)
        assert not future.done()
        os.kill(pid, signal.SIGKILL)
        assert await future == Exit(None, signal.SIGKILL)

    alone(scenario)


def test_many_at_once_are_all_collected():
    async def scenario(reaper: Reaper) -> None:
        futures = {status: reaper.expect(child(status)) for status in range(40)}
        for status, future in futures.items():
            assert await future == Exit(status, None)

    alone(scenario)


def test_exits_that_nobody_asks_for_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_STRAYS_MAX", 3)

    async def scenario(reaper: Reaper) -> None:
        for _ in range(8):
            child()
        last = reaper.expect(child())
        await last
        while True:
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                break
            await asyncio.sleep(0)
        assert len(reaper._strays) == 3

    alone(scenario)
