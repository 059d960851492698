"""Looks at the memory that is left, and tells the gateway, which decides what to give up. Runs in pagurusd.

Twice from the kernel: what is available (MemAvailable, and limits of the cgroups above all sandboxes) is looked at four
times a second, and the kernel wakes us when tasks have stalled for memory (proc_pressure(5)), where it can.
"""

import asyncio
import contextlib
import logging
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import PagurusError
from runtime.protocol import MemoryReading

log = logging.getLogger("pagurus.memory")

PERIOD_S = 0.25
RESEND_S = 5.0  # for a new gateway
CHANGE = 1 / 512  # of the total: what is less is not told
STALL_TRIGGER = b"some 200000 2000000\0"  # us of stall in us of time: 2 s is what root without CAP_SYS_RESOURCE may ask
MEMINFO_BYTES = 256  # MemTotal, MemFree and MemAvailable come first

Headroom = tuple[int, int]  # bytes left, bytes in all


class MemoryWatch:
    """`run` until cancelled. below: what is left under limits of cgroups, None where there is no limit."""

    def __init__(
        self,
        below: Callable[[], Headroom | None],
        send: Callable[[MemoryReading], None],
        *,
        proc: Path = Path("/proc"),
    ) -> None:
        self._below = below
        self._send = send
        self._proc = proc
        self._woken = asyncio.Event()
        self._sent: MemoryReading | None = None
        self._sent_s = float("-inf")

    async def run(self) -> None:
        """Look, tell, sleep."""
        loop = asyncio.get_running_loop()
        meminfo = os.open(self._proc / "meminfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self._stalls(loop):
                while True:
                    try:
                        self._tell(self._look(meminfo), loop.time())
                    except (OSError, PagurusError) as error:  # a cgroup that goes, a gateway that hangs
                        log.warning("cannot look at the memory: %s", error)
                    self._woken.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._woken.wait(), PERIOD_S)
        finally:
            os.close(meminfo)

    def _look(self, meminfo: int) -> MemoryReading:
        """Where less is left in proportion: on the node, or below a limit."""
        left, total = parse_meminfo(os.pread(meminfo, MEMINFO_BYTES, 0))
        below = self._below()
        if below is not None and below[0] * total < left * below[1]:
            left, total = below
        return MemoryReading(available_bytes=left, total_bytes=total, is_stalled=self._woken.is_set())

    def _tell(self, reading: MemoryReading, now_s: float) -> None:
        sent = self._sent
        if (
            sent is None
            or reading.is_stalled
            or now_s >= self._sent_s + RESEND_S
            or reading.total_bytes != sent.total_bytes
            or abs(reading.available_bytes - sent.available_bytes) > reading.total_bytes * CHANGE
        ):
            self._sent, self._sent_s = reading, now_s
            self._send(reading)

    @contextmanager
    def _stalls(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Be woken when tasks stall for memory, while inside; without the kernel's help just go on."""
        try:
            trigger = os.open(self._proc / "pressure/memory", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.info("no pressure stall information (%s): memory is looked at every %g s", error.strerror, PERIOD_S)
            yield
            return
        try:
            os.write(trigger, STALL_TRIGGER)
        except OSError as error:
            log.info("no trigger on stalls (%s): memory is looked at every %g s", error.strerror, PERIOD_S)
            os.close(trigger)
            yield
            return
        # The loop waits for readable and writable only, the kernel tells a stall as priority: an epoll in between.
        between = select.epoll()
        try:
            between.register(trigger, select.EPOLLPRI)
            loop.add_reader(between.fileno(), self._stalled, loop, between)
            yield
        finally:
            loop.remove_reader(between.fileno())
            between.close()
            os.close(trigger)

    def _stalled(self, loop: asyncio.AbstractEventLoop, between: select.epoll) -> None:
        """Called once for each stall; looking at the epoll takes it away, if the loop has not done so."""
        if any(events & select.EPOLLERR for _, events in between.poll(0)):
            loop.remove_reader(between.fileno())  # the trigger is gone: there would be no end of it
            return
        self._woken.set()


def parse_meminfo(text: bytes) -> Headroom:
    """MemAvailable and MemTotal of /proc/meminfo, in bytes."""
    found = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    left, total = (int(found[name].split()[0]) * 1024 for name in (b"MemAvailable", b"MemTotal"))
    return left, total
