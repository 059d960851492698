"""What became of one request of a replay, and how the gateway's headers are read. Pure."""

import re
from dataclasses import dataclass, field

from runtime.model import StartKind

UNSENT = "unsent"  # failures without a status: too many were in flight,
UNANSWERED = "unanswered"  # or no answer came in time, or the connection broke
PHASES = ("queue", "assign", "plan", "fork", "isolate", "imports", "run", "total")  # as docs/api.md has them
_ENTRY = re.compile(r"\s*([\w-]+)\s*;\s*dur=([0-9.]+)\s*")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. at_s: when it was due; late_ms: by how much later it was written.

    end_to_end_ms: from its writing to its whole answer. status 0: there is none. failure: '' or its word.
    kind: '' when it never got a sandbox.
    """

    at_s: float
    function: str
    late_ms: float
    end_to_end_ms: float
    status: int
    kind: str = ""
    phases_ms: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def is_cold(self) -> bool:
        """Whether it waited for a new sandbox that had to import its packages."""
        return self.kind == StartKind.COLD

    @property
    def start_ms(self) -> float | None:
        """From its arrival at the gateway to the handler's start: total without run. None if it has no answer.

        The way of the answer back to the gateway is in it, some tens of microseconds.
        """
        if self.failure or "total" not in self.phases_ms or "run" not in self.phases_ms:
            return None
        return max(0.0, self.phases_ms["total"] - self.phases_ms["run"])


def parse_server_timing(header: str) -> dict[str, float]:
    """Milliseconds by phase of a Server-Timing header; what has another form is left out."""
    matches = (_ENTRY.fullmatch(part) for part in header.split(","))
    return {match[1]: float(match[2]) for match in matches if match}
