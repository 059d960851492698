"""How short of memory the node is, from what pagurusd reads, with hysteresis. Pure."""

from dataclasses import dataclass
from enum import IntEnum

RELAX = 1.25  # a shortage ends this far above the threshold at which it began
STALL_S = 10.0  # so long a stall raises the threshold
STALL_FACTOR = 2.0  # by so much: a stall alone may be one sandbox at its own limit


class Level(IntEnum):
    """NORMAL; LOW: what is idle is given up; CRITICAL: faster, and no new sandboxes are made."""

    NORMAL = 0
    LOW = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory of the node, or of the cgroup above all sandboxes where that has less left in proportion.

    is_stalled: tasks have waited for memory just now (the kernel's pressure stall information).
    """

    available_bytes: int
    total_bytes: int
    is_stalled: bool = False

    @property
    def available_percent(self) -> float:
        return 100.0 * self.available_bytes / self.total_bytes if self.total_bytes > 0 else 100.0


class Pressure:
    """Judges readings by two thresholds, in percent of the memory there is; 0 switches one off."""

    def __init__(self, low_percent: float, critical_percent: float) -> None:
        self.low_percent = low_percent
        self.critical_percent = critical_percent
        self.reading: Reading | None = None
        self._level = Level.NORMAL
        self._stalled_until_s = float("-inf")

    def heed(self, reading: Reading, now_s: float) -> None:
        """pagurusd has looked."""
        self.reading = reading
        if reading.is_stalled:
            self._stalled_until_s = now_s + STALL_S

    def level(self, now_s: float) -> Level:
        """How it is now. Once short, it stays so until clearly more is available."""
        if self.reading is None:
            return Level.NORMAL
        available = self.reading.available_percent
        low = self.low_percent * (STALL_FACTOR if now_s < self._stalled_until_s else 1.0)
        critical = self.critical_percent
        if available < critical * (RELAX if self._level is Level.CRITICAL else 1.0):
            self._level = Level.CRITICAL
        elif available < low * (RELAX if self._level is not Level.NORMAL else 1.0):
            self._level = Level.LOW
        else:
            self._level = Level.NORMAL
        return self._level

    def describe(self, level: Level) -> str:
        """The figures, for people: `3.1 % of 24105 MiB of memory is available, memory_critical_percent is 4`."""
        if self.reading is None:
            return "nothing is known of the node's memory"
        name, limit = "memory_low_percent", self.low_percent
        if level is Level.CRITICAL:
            name, limit = "memory_critical_percent", self.critical_percent
        total = self.reading.total_bytes >> 20
        return f"{self.reading.available_percent:.1f} % of {total} MiB of memory is available, {name} is {limit:g}"
