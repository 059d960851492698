"""Time as a dependency: the real clock and the one that tests turn by hand. A leaf."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a part takes its time from."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch, for records that people read."""
        ...


class SystemClock:
    """The kernel's clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()


class ManualClock:
    """A clock that stands still until `advance` is called."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self._now_s = start_s

    def monotonic_s(self) -> float:
        return self._now_s

    def wall_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move time forward by `seconds` (>= 0)."""
        assert seconds >= 0
        self._now_s += seconds
