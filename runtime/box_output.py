"""What the program in a box says: bounded, harmless to show, its lines passed on as they come. Runs in pagurusd."""

import asyncio
import os
import re
from collections.abc import Callable

from runtime.clock import Clock

OUTPUT_BYTES_MAX = 32 << 20  # more is no build's output
TAIL_BYTES_MAX = 32 << 10
LINE_CHARS_MAX = 500
LINE_EVERY_S = 0.1  # lines that come faster are not passed on: a hostile build must not flood its watchers
_CONTROL = re.compile(
    r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def shown(text: str) -> str:
    """Text without terminal codes and control characters other than tab and newline."""
    return _CONTROL.sub("", text)


class BoxOutput(asyncio.Protocol):
    """The reading end of the box's pipe. Made by `open`; `closed` is done once no process has the pipe any more."""

    def __init__(self, clock: Clock, on_line: Callable[[str], None], on_flood: Callable[[], None]) -> None:
        self._clock = clock
        self._on_line = on_line
        self._on_flood = on_flood
        self._tail = bytearray()
        self._line = bytearray()
        self._bytes = 0
        self._last_s = float("-inf")
        self._transport: asyncio.BaseTransport | None = None
        self.is_flood = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, clock: Clock, on_line: Callable[[str], None], on_flood: Callable[[], None]
    ) -> "tuple[BoxOutput, int]":
        """A new pipe's reader, and its writing end, the caller's to close. on_flood: called once, should kill."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self = cls(clock, on_line, on_flood)
        file = open(reading, "rb", buffering=0)  # noqa: SIM115  closed by the transport
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: self, file)
        except BaseException:
            file.close()
            os.close(writing)
            raise
        return self, writing

    @property
    def tail(self) -> str:
        """The end of all that was said."""
        text = shown(bytes(self._tail).decode(errors="replace"))
        return text.strip()

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        self._tail += data
        del self._tail[:-TAIL_BYTES_MAX]
        *lines, self._line = bytearray(self._line + data).split(b"\n")
        del self._line[: -4 * LINE_CHARS_MAX]
        for line in lines:
            self._pass_on(line)
        if self._bytes > OUTPUT_BYTES_MAX and not self.is_flood:
            self.is_flood = True
            self._on_flood()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _pass_on(self, line: bytearray) -> None:
        now_s = self._clock.monotonic_s()
        text = shown(bytes(line[: 4 * LINE_CHARS_MAX]).decode(errors="replace")).strip()[:LINE_CHARS_MAX]
        if text and now_s - self._last_s >= LINE_EVERY_S:
            self._last_s = now_s
            self._on_line(text)
