"""Waits for every child of pagurusd, also for those a hostile zygote makes behind its back. A leaf.

One SIGCHLD descriptor and waitpid(-1): the event loop's own child watchers know only processes they started, but
helpers are started by zygotes (CLONE_PARENT), and init cannot be waited for before all others in its namespace.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from runtime import syscalls

_STRAYS_MAX = 4096
_STRAY_KEPT_S = 60.0  # far above the time from a fork to who asks for its end, far below the reuse of a pid


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: exactly one of the two is set."""

    exit_status: int | None
    signal: int | None

    @classmethod
    def from_wait_status(cls, status: int) -> "Exit":
        if os.WIFSIGNALED(status):
            return cls(None, os.WTERMSIG(status))
        return cls(os.WEXITSTATUS(status), None)

    def describe(self) -> str:
        """In words, for logs and messages."""
        if self.signal is None:
            return f"exit status {self.exit_status}"
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(self.signal).name}"
        return f"signal {self.signal}"


class Reaper:
    """Collects exit statuses for as long as it is open. One a process, in the thread of the event loop."""

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self._fd = syscalls.signalfd(signal.SIGCHLD)
        self._watched: dict[int, Callable[[Exit], None]] = {}
        # Exits nobody has asked for yet: a helper can end before its zygote has told us its pid.
        self._strays: dict[int, tuple[Exit, float]] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._collect)

    def watch(self, pid: int, callback: Callable[[Exit], None]) -> None:
        """Call `callback` once, from the event loop, when `pid` has ended and was reaped."""
        loop = asyncio.get_running_loop()
        stray, at_s = self._strays.pop(pid, (None, 0.0))
        if stray is not None and loop.time() - at_s < _STRAY_KEPT_S:
            loop.call_soon(callback, stray)
            return
        self._watched[pid] = callback

    def expect(self, pid: int) -> asyncio.Future[Exit]:
        """The end of `pid`, which nobody else watches. To be called soon after its fork, awaited at any time."""
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

        def done(status: Exit) -> None:
            if not future.done():
                future.set_result(status)

        self.watch(pid, done)
        return future

    async def wait(self, pid: int) -> Exit:
        """Wait until `pid`, which nobody else watches, has ended."""
        return await self.expect(pid)

    def can_watch(self, pid: int) -> bool:
        """Whether `pid` is a child of ours, alive or not long dead, that nobody watches yet."""
        if pid <= 0 or pid in self._watched:
            return False
        if pid in self._strays:
            return True
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def is_waited_for(self, pid: int) -> bool:
        """Whether somebody already watches this pid."""
        return pid in self._watched

    def close(self) -> None:
        """Stop collecting."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = Exit.from_wait_status(status)
            callback = self._watched.pop(pid, None)
            if callback is not None:
                callback(ended)
            else:
                self._strays.pop(pid, None)
                self._strays[pid] = (ended, asyncio.get_running_loop().time())
                if len(self._strays) > _STRAYS_MAX:
                    self._strays.pop(next(iter(self._strays)))
