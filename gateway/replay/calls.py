"""One call of a trace. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """at_s: from the trace's start. duration_s: how long the handler takes."""

    at_s: float
    function: str
    duration_s: float
