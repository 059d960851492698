"""What one function asks for, and the paper's two rules of when a sandbox of it is too many. Pure.

Source: research/pagurus-reference.md, 2.2. Differences from the reference: rule B compares *waiting* times with its
bound on both sides (there, the measured share was of total times), tests one sandbox fewer (its call tested two fewer),
and takes an arrival rate that falls while nobody comes.
"""

from dataclasses import dataclass

from gateway.scheduler.arrivals import Ewma, Intervals
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.queueing import waits_at_most

BATCH = 10  # observations that count once in an average: single ones vary as much as their mean


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a rule calls a sandbox idle, and by which numbers."""

    is_idle: bool
    why: str


class Demand:
    """Arrivals, service times and waiting times of one function."""

    __slots__ = (
        "_in_time",
        "_interval_s",
        "_intervals",
        "_service_s",
        "_settings",
        "last_misses",
        "misses",
        "sandboxes",
    )

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self._intervals = Intervals(max(2, settings.idle_window))
        self._interval_s = Ewma(settings.ewma_old, BATCH)
        self._service_s = Ewma(settings.ewma_old, BATCH)
        self._in_time = Ewma(settings.ewma_old, BATCH)
        self.sandboxes = 0
        self.misses = 0  # cold and helped starts in this period
        self.last_misses = 0  # in the one before

    @property
    def last_arrival_s(self) -> float | None:
        """When the last request came."""
        return self._intervals.last_s

    @property
    def service_s(self) -> float | None:
        """Mean service time, 1/mu."""
        return self._service_s.value

    @property
    def in_time(self) -> float | None:
        """Share of requests that waited no longer than `qos_wait_s`."""
        return self._in_time.value

    def arrived(self, now_s: float) -> None:
        """A request came."""
        interval_s = self._intervals.add(now_s)
        if interval_s is not None:
            self._interval_s.add(interval_s)

    def finished(self, service_s: float, latency_s: float) -> None:
        """A request was answered."""
        self._service_s.add(max(0.0, service_s))
        self._in_time.add(1.0 if latency_s - service_s <= self._settings.qos_wait_s else 0.0)

    def renew(self) -> None:
        """A period has ended."""
        self.last_misses, self.misses = self.misses, 0

    def arrivals_hz(self, now_s: float) -> float | None:
        """Arrival rate lambda; the time since the last arrival counts where it is longer than usual."""
        interval_s, last_s = self._interval_s.value, self._intervals.last_s
        if interval_s is None or last_s is None:
            return None
        return 1.0 / max(interval_s, now_s - last_s, 1e-9)

    def idle_after_s(self) -> float:
        """Rule A's threshold: the percentile of the times between arrivals, `idle_first_s` until enough are known."""
        settings = self._settings
        if self._intervals.arrivals < settings.idle_arrivals_min:
            return settings.idle_first_s
        return self._intervals.percentile(settings.idle_percentile) or 0.0

    def rule_a(self, idle_s: float) -> Finding:
        """Unused for longer than nearly all times between arrivals."""
        limit_s, arrivals = self.idle_after_s(), self._intervals.arrivals
        if arrivals < self._settings.idle_arrivals_min:
            source = f"the first limit, as only {arrivals} arrivals are known"
        else:
            source = f"P{self._settings.idle_percentile * 100:g} of the times between {arrivals} arrivals"
        return Finding(idle_s >= limit_s, f"rule A: unused for {idle_s:.3g} s, limit {limit_s:.3g} s ({source})")

    def rule_b(self, sandboxes: int, now_s: float) -> Finding:
        """One sandbox fewer would still keep the bound on waiting, which is kept now."""
        settings = self._settings
        hz, service_s, in_time = self.arrivals_hz(now_s), self.service_s, self.in_time
        if sandboxes < 2:
            return Finding(False, f"rule B: only {sandboxes} sandbox")
        if hz is None or service_s is None or in_time is None or self._intervals.arrivals < settings.idle_arrivals_min:
            return Finding(False, f"rule B: only {self._intervals.arrivals} arrivals are known")
        fewer = waits_at_most(settings.qos_wait_s, servers=sandboxes - 1, arrivals_hz=hz, service_s=service_s)
        is_idle = in_time > settings.qos_target and fewer > settings.qos_target
        return Finding(
            is_idle,
            f"rule B: {sandboxes - 1} of {sandboxes} sandboxes would start {fewer:.4f} of requests within"
            f" {settings.qos_wait_s:g} s, target {settings.qos_target:g}, now {in_time:.4f}"
            f" (lambda {hz:.3g}/s, 1/mu {service_s:.3g} s)",
        )

    def describe(self, now_s: float) -> dict[str, object]:
        """Its numbers, for people."""
        return {
            "sandboxes": self.sandboxes,
            "arrivals_hz": self.arrivals_hz(now_s),
            "service_s": self.service_s,
            "qos": self.in_time,
            "qos_target": self._settings.qos_target,
            "qos_wait_s": self._settings.qos_wait_s,
            "idle_after_s": self.idle_after_s(),
            "misses": self.misses,
            "misses_last_period": self.last_misses,
            "rule_b": self.rule_b(self.sandboxes, now_s).why,
        }
