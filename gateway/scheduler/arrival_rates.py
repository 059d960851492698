"""How often something happens, from what was seen: a decaying rate, and a histogram of the times between. Pure.

The rate is the mean of a Gamma posterior under exponential forgetting: (n + a) / (T + b), n events in T seconds, both
decayed, with a prior of a events in b seconds. The histogram is that of Shahrad et al., "Serverless in the Wild" (ATC
2020), section 4, with logarithmic bins: how likely is an arrival within a horizon, given the time since the last?
"""

import math
from dataclasses import dataclass, field

PRIOR_EVENTS = 1.0
PRIOR_S = 600.0
BINS = 48
BIN_FIRST_S = 0.25  # upper edge of the first; each further one is BIN_RATIO wider
BIN_RATIO = 1.4  # the last begins beyond a week
AT_ONCE = 1e-5  # of memory_s: events that come so soon count as of the same moment
HISTOGRAM_MIN = 5.0  # (decayed) times between arrivals below which the rate alone is believed


@dataclass(slots=True)
class DecayingRate:
    """Events per second. memory_s: after this time an event counts 1/e. begun_s: when looking began."""

    memory_s: float
    begun_s: float
    events: float = 0.0
    seen_s: float = 0.0
    last_s: float = 0.0

    def __post_init__(self) -> None:
        self.last_s = self.begun_s

    def add(self, now_s: float) -> None:
        """One event."""
        if now_s - self.last_s > AT_ONCE * self.memory_s:
            self.events, self.seen_s = self._decayed(now_s)
            self.last_s = now_s
        self.events += 1.0

    def per_s(self, now_s: float) -> float:
        """The posterior's mean now."""
        events, seen_s = self._decayed(now_s)
        return (events + PRIOR_EVENTS) / (seen_s + PRIOR_S)

    def _decayed(self, now_s: float) -> tuple[float, float]:
        past_s = max(0.0, now_s - self.last_s)
        share = math.exp(-past_s / self.memory_s)
        return self.events * share, self.seen_s * share + self.memory_s * (1.0 - share)


@dataclass(slots=True)
class GapHistogram:
    """Times between arrivals, in logarithmic bins."""

    counts: list[float] = field(default_factory=lambda: [0.0] * BINS)
    total: float = 0.0
    last_s: float | None = None

    def add(self, now_s: float) -> None:
        """An arrival."""
        if self.last_s is not None:
            gap_s = now_s - self.last_s
            self.counts[_bin(gap_s) if gap_s > BIN_FIRST_S else 0] += 1.0
            self.total += 1.0
            if self.total >= 4 * BINS:  # forget slowly: older gaps count half
                self.counts = [count / 2 for count in self.counts]
                self.total = sum(self.counts)
        self.last_s = now_s

    def within(self, horizon_s: float, now_s: float) -> float | None:
        """Probability of an arrival within the horizon, by how long ago the last was; None when too few are known."""
        if self.last_s is None or self.total < HISTOGRAM_MIN:
            return None
        age_s = now_s - self.last_s
        left = self._above(age_s)
        if left <= 0.0:  # longer than ever before: as good as never
            return 0.0
        return 1.0 - self._above(age_s + horizon_s) / left

    def _above(self, gap_s: float) -> float:
        """How many gaps are longer, those of its own bin in proportion."""
        place = _bin(gap_s)
        low_s, high_s = _edge(place - 1), _edge(place)
        inside = self.counts[place] * (high_s - min(max(gap_s, low_s), high_s)) / (high_s - low_s)
        return sum(self.counts[place + 1 :]) + inside


def _bin(gap_s: float) -> int:
    if gap_s <= BIN_FIRST_S:
        return 0
    return min(BINS - 1, 1 + int(math.log(gap_s / BIN_FIRST_S) / math.log(BIN_RATIO)))


def _edge(place: int) -> float:
    return 0.0 if place < 0 else BIN_FIRST_S * BIN_RATIO**place
