"""What a simulation counts while it runs: starts, their latency, and memory held idle. Pure."""

from collections import Counter
from dataclasses import dataclass, field

from runtime.model import FunctionName, StartKind

WARMUP_S = 1800.0  # the paper's artefact counts cold starts from here on
HELD = ("sandboxes", "standbys", "zygotes")


@dataclass(slots=True)
class Tally:
    """Times are those of the trace: memory before its second 0 does not count. end_s: set when all is over."""

    start_s: float
    warmup_s: float = WARMUP_S
    starts: Counter[StartKind] = field(default_factory=Counter)
    cold_after_warmup: int = 0
    start_ms: list[float] = field(default_factory=list)  # of starts that needed a sandbox
    warm_ms: list[float] = field(default_factory=list)
    by_function: dict[FunctionName, Counter[str]] = field(default_factory=dict)
    byte_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(HELD, 0.0))
    zygotes_made: int = 0
    zygote_ms: float = 0.0
    standbys_made: int = 0
    standby_ms: float = 0.0
    requests: int = 0
    rejected: int = 0

    def arrived(self, name: FunctionName) -> None:
        """A request came."""
        self.requests += 1
        self.by_function.setdefault(name, Counter())["requests"] += 1

    def reject(self, name: FunctionName) -> None:
        """A request was answered with an error."""
        self.rejected += 1
        self.by_function[name]["rejected"] += 1

    def start(self, name: FunctionName, kind: StartKind, arrived_s: float, begun_s: float) -> None:
        """A request's handler began. Its latency is from the arrival on: waiting for a sandbox is in it."""
        self.starts[kind] += 1
        self.by_function[name][kind.value] += 1
        latency_ms = (begun_s - arrived_s) * 1000
        if kind is StartKind.WARM:
            self.warm_ms.append(latency_ms)
            return
        self.start_ms.append(latency_ms)
        if kind is StartKind.COLD and arrived_s - self.start_s >= self.warmup_s:
            self.cold_after_warmup += 1
            self.by_function[name]["cold_after_warmup"] += 1

    def zygote(self, start_ms: float) -> None:
        """A zygote is made; that takes a core this long."""
        self.zygotes_made += 1
        self.zygote_ms += start_ms

    def standby(self, making_ms: float) -> None:
        """A standby is made; that takes a core at most this long."""
        self.standbys_made += 1
        self.standby_ms += making_ms

    def held(self, what: str, memory_bytes: int, since_s: float, until_s: float) -> None:
        """So much memory was held idle from `since_s` to `until_s`, by one of HELD."""
        lasted_s = until_s - max(since_s, self.start_s)
        if lasted_s > 0:
            self.byte_seconds[what] += memory_bytes * lasted_s
