"""What one sandbox writes to stdout and stderr: the first bytes of each invocation are kept, the rest counted."""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

READ_BYTES = 65536
READS_PER_TURN = 16  # also drains a pipe that was widened to 1 MiB
FLOOD_FACTOR = 64  # more than this many times log_bytes is taken for an attack
FLOOD_LOG_BYTES_MIN = 4096  # a function whose output nobody wants (log_bytes = 0) may still print


class OutputLog:
    """Output of one invocation. `limit_bytes` holds for both streams together."""

    __slots__ = ("_err", "_out", "dropped_bytes", "limit_bytes", "total_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.total_bytes = 0
        self.dropped_bytes = [0, 0]
        self._out: bytearray | None = None
        self._err: bytearray | None = None

    @property
    def is_flooded(self) -> bool:
        """Whether far more was written than anybody means to read."""
        return self.total_bytes > FLOOD_FACTOR * max(self.limit_bytes, FLOOD_LOG_BYTES_MIN)

    @property
    def stdout(self) -> str:
        """The kept text, with a marker for what was dropped."""
        return self._text(self._out, self.dropped_bytes[0])

    @property
    def stderr(self) -> str:
        """The kept text, with a marker for what was dropped."""
        return self._text(self._err, self.dropped_bytes[1])

    def add(self, stream: int, chunk: bytes) -> None:
        """Keep what fits of `chunk`. stream: 0 is stdout, 1 is stderr."""
        kept_bytes = self.total_bytes - sum(self.dropped_bytes)
        self.total_bytes += len(chunk)
        fitting = chunk[: max(0, self.limit_bytes - kept_bytes)]
        self.dropped_bytes[stream] += len(chunk) - len(fitting)
        if not fitting:
            return
        if stream == 0:
            self._out = (self._out or bytearray()) + fitting
        else:
            self._err = (self._err or bytearray()) + fitting

    @staticmethod
    def _text(kept: bytearray | None, dropped_bytes: int) -> str:
        if not dropped_bytes:
            return kept.decode(errors="replace") if kept else ""
        text = (kept or b"").decode(errors="replace")
        return f"{text}\n[... {dropped_bytes} bytes dropped]\n"


class OutputPipes:
    """The read ends of one sandbox's stdout and stderr. Owns both descriptors.

    on_output: called after something was read outside `drain`, so that a flood or a late line is seen.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptors: tuple[int, int],
        on_output: Callable[[], None],
    ) -> None:
        self.log: OutputLog | None = None
        self._loop = loop
        self._descriptors: list[int | None] = list(descriptors)
        self._on_output = on_output
        for stream, descriptor in enumerate(descriptors):
            os.set_blocking(descriptor, False)
            loop.add_reader(descriptor, self._read_stream, stream)
        # One question for both pipes costs less than two reads that find nothing.
        self._poll = select.poll()
        for descriptor in descriptors:
            self._poll.register(descriptor, select.POLLIN)

    def drain(self) -> None:
        """Read what both pipes hold now."""
        if not self._poll.poll(0):
            return
        for stream, descriptor in enumerate(self._descriptors):
            if descriptor is not None:
                self._read(stream, descriptor)

    def close(self) -> None:
        """Close both. Idempotent."""
        for stream, descriptor in enumerate(self._descriptors):
            if descriptor is not None:
                self._close_stream(stream, descriptor)

    def _read_stream(self, stream: int) -> None:
        descriptor = self._descriptors[stream]
        if descriptor is not None and self._read(stream, descriptor):
            self._on_output()

    def _read(self, stream: int, descriptor: int) -> bool:
        has_read = False
        for _ in range(READS_PER_TURN):
            try:
                chunk = os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            if not chunk:
                self._close_stream(stream, descriptor)
                break
            has_read = True
            if self.log is not None:
                self.log.add(stream, chunk)
            if len(chunk) < READ_BYTES:
                break
        return has_read

    def _close_stream(self, stream: int, descriptor: int) -> None:
        self._descriptors[stream] = None
        self._poll.unregister(descriptor)
        self._loop.remove_reader(descriptor)
        with contextlib.suppress(OSError):
            os.close(descriptor)
