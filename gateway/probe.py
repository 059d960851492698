"""Questions to a worker that are no invocation: PING when a sandbox is adopted, CHECK at a deploy."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.output import OutputLog
from gateway.sandbox_link import Answer, SandboxLink
from runtime.frames import FrameKind
from runtime.model import Assignment, ZygoteId
from runtime.protocol import FreezeSandbox, SandboxDied, StartSandbox, ToDaemon

ADOPT_WAIT_S = 1.0  # for the PONG of a sandbox that a former gateway left

Ending = Answer | SandboxDied | str  # the answer, the death, or the broken rule


@dataclass(slots=True, eq=False)
class Probe:
    """One question. `done` is called at most once, with how it ended."""

    done: Callable[[Ending], None]
    payload: bytes = b""
    frame_id: bytes = field(default_factory=lambda: os.urandom(8).hex().encode())
    output: OutputLog = field(default_factory=lambda: OutputLog(65536))
    link: SandboxLink | None = None
    timer: asyncio.TimerHandle | None = None

    def end(self, how: Ending) -> None:
        """Tell `done`, stop the timer. Idempotent."""
        if self.timer is not None:
            self.timer.cancel()
        done, self.done = self.done, _ignore
        done(how)


class Probes:
    """The probes that run. `kill` ends a sandbox, whoever it belongs to."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[ToDaemon], None],
        kill: Callable[[SandboxLink, str], None],
    ) -> None:
        self._loop = loop
        self._send = send
        self._kill = kill
        self._starting: dict[int, Probe] = {}

    def start(self, probe: Probe, ticket: int, zygote: ZygoteId, assignment: Assignment) -> None:
        """Fork a sandbox outside the pools and CHECK it; the asker ends it by `abandon`."""
        self._starting[ticket] = probe
        self._send(StartSandbox(ticket=ticket, zygote=zygote, assignment=assignment))

    def abandon(self, probe: Probe) -> None:
        """The asker is done: kill the probe's sandbox, now or when it is offered."""
        probe.end("abandoned")
        if probe.link is not None:
            self._kill(probe.link, "check")

    def started(self, ticket: int, link: SandboxLink) -> bool:
        """Whether the offered sandbox is a probe's; its question is sent then."""
        probe = self._starting.pop(ticket, None)
        if probe is None:
            return False
        probe.link = link
        if probe.done is _ignore:
            self._kill(link, "check")
            return True
        link.send(
            probe,
            FrameKind.CHECK,
            probe.frame_id,
            probe.payload,
            time_left_ms=60_000,
            result_bytes_max=65536,
            output=probe.output,
        )
        return True

    def refused(self, ticket: int, reason: str) -> bool:
        """Whether the refused start was a probe's."""
        probe = self._starting.pop(ticket, None)
        if probe is None:
            return False
        probe.end(reason)
        return True

    def ping(self, link: SandboxLink, alive: Callable[[], None]) -> None:
        """Ask a sandbox of a former gateway whether it is in step; kill it if it does not say so in time."""

        def done(how: Ending) -> None:
            if isinstance(how, Answer) and how.kind == FrameKind.PONG:
                alive()
            elif not link.is_doomed:
                self._kill(link, "adopt")

        probe = Probe(done, link=link)
        probe.timer = self._loop.call_later(ADOPT_WAIT_S, probe.end, "no PONG in time")
        self._send(FreezeSandbox(sandbox=link.sandbox, frozen=False))
        link.send(probe, FrameKind.PING, probe.frame_id, b"", time_left_ms=1000, result_bytes_max=0)


def _ignore(how: Ending) -> None:
    pass
