"""What is remembered of a stream of events: means that forget, and the last times between arrivals. Pure."""

import math
from bisect import bisect_left, insort
from collections import deque


class Ewma:
    """Exponentially weighted moving average of batch means: value = old * value + (1 - old) * mean.

    old: weight of the past, 0 <= old < 1. batch: observations averaged before they count once; the reference averages
    over a window, too, since single times between arrivals vary as much as their mean. Until the first batch is full,
    the value is the plain mean of what there is.
    """

    __slots__ = ("_batch", "_count", "_old", "_sum", "_value")

    def __init__(self, old: float, batch: int = 1) -> None:
        if not 0.0 <= old < 1.0 or batch < 1:
            raise ValueError(f"old is {old}, batch is {batch}")
        self._old = old
        self._batch = batch
        self._sum = 0.0
        self._count = 0
        self._value: float | None = None

    @property
    def value(self) -> float | None:
        """The average; None before the first observation."""
        if self._value is None and self._count:
            return self._sum / self._count
        return self._value

    def add(self, observation: float) -> None:
        """Count an observation."""
        self._sum += observation
        self._count += 1
        if self._count < self._batch:
            return
        mean = self._sum / self._count
        self._value = mean if self._value is None else self._old * self._value + (1.0 - self._old) * mean
        self._sum, self._count = 0.0, 0


class Intervals:
    """The last `size` arrivals and the percentiles of the times between them.

    An arrival costs a search in a sorted list: O(log size) comparisons, and a move of at most `size` pointers.
    """

    __slots__ = ("_intervals", "_last_s", "_size", "_sorted")

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"a window of {size} arrivals has no interval")
        self._size = size
        self._last_s: float | None = None
        self._intervals: deque[float] = deque()
        self._sorted: list[float] = []

    @property
    def arrivals(self) -> int:
        """Arrivals in the window."""
        return 0 if self._last_s is None else len(self._intervals) + 1

    @property
    def last_s(self) -> float | None:
        """When the last one came; None before the first."""
        return self._last_s

    def add(self, now_s: float) -> float | None:
        """Count an arrival; the time since the one before, None for the first."""
        last_s, self._last_s = self._last_s, now_s
        if last_s is None:
            return None
        interval_s = max(0.0, now_s - last_s)
        if len(self._intervals) == self._size - 1:
            del self._sorted[bisect_left(self._sorted, self._intervals.popleft())]
        self._intervals.append(interval_s)
        insort(self._sorted, interval_s)
        return interval_s

    def percentile(self, share: float) -> float | None:
        """The smallest time that at least `share` of the times between arrivals do not exceed (nearest rank)."""
        if not self._sorted:
            return None
        rank = math.ceil(share * len(self._sorted) - 1e-9)  # 0.95 * 20 is 19, whatever the last bit says
        return self._sorted[min(max(rank, 1), len(self._sorted)) - 1]
