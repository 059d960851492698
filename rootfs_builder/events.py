"""The JSON lines that a build writes to its standard output. Runs in the builder.

One line is one event: `progress`, the questions `locked` and `wanted`, and at the end `done` or `failed`; a proxy
says `ready` and `mapped`. Nothing else is written there.
"""

import os
import time
from typing import Any

import msgspec

from runtime.errors import BuildError

TICK_S = 0.5  # shortest time between two lines of tick()


class Reporter:
    """Writes events to a descriptor, which it does not own. Raises BrokenPipeError when nobody reads any more."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._last = 0.0
        self._shown: tuple[str, str, float | None] = ("", "", None)

    def progress(self, phase: str, message: str, fraction: float | None = None) -> None:
        """Tell a step; `fraction`: 0..1 of this phase, or None."""
        self._last = time.monotonic()
        self._shown = (phase, message, fraction)
        share = None if fraction is None else round(min(max(fraction, 0.0), 1.0), 3)
        self._write({"event": "progress", "phase": phase, "message": message, "fraction": share})

    def tick(self, phase: str, message: str, fraction: float | None = None) -> None:
        """progress(), but at most every TICK_S: for loops."""
        if time.monotonic() - self._last >= TICK_S:
            self.progress(phase, message, fraction)

    def alive(self) -> None:
        """Repeat the last step, for a child that says nothing."""
        self.progress(*self._shown)

    def ask(self, question: str, **what: Any) -> None:
        """A question to pagurusd (channel.py), which answers it."""
        self._write({"event": question, **what})

    def ready(self) -> None:
        """The proxy answers on its socket."""
        self._write({"event": "ready"})

    def mapped(self, text: str) -> None:
        """A lock with the URLs of the index."""
        self._write({"event": "mapped", "text": text})

    def done(self, **result: Any) -> None:
        """The last line of a build that succeeded."""
        self._write({"event": "done", **result})

    def failed(self, error: BuildError) -> None:
        """The last line of a build that failed."""
        self._write({"event": "failed", "kind": error.kind, "message": error.message, "hint": error.hint})

    def _write(self, event: dict[str, Any]) -> None:
        line = memoryview(msgspec.json.encode(event) + b"\n")
        while line:
            line = line[os.write(self._descriptor, line) :]
