"""What a replay sends, and when: a trace's calls on the clock of the replay. Pure.

Two scales, never mixed: `speed` divides the times at which calls arrive, and nothing else; how long a call takes is
the trace's word (its reader's time scale), whatever the speed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.simulate.traces import Arrival
from runtime.errors import PagurusError


class ReplayError(PagurusError):
    """The trace cannot be replayed on this node."""


@dataclass(frozen=True, slots=True)
class Scale:
    """speed: seconds of the trace in one of the replay. duration_s, warmup_s: of the replay; the first is the whole."""

    speed: float = 1.0
    duration_s: float | None = None
    warmup_s: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One request. at_s: from the replay's start; service_s: what the function is told to take."""

    at_s: float
    number: int
    function: str
    service_s: float


def timetable(arrivals: Iterable[Arrival], scale: Scale, names: Mapping[str, str]) -> list[Entry]:
    """The requests in the order of their times. names: deployed function of each function of the trace."""
    found = (
        Entry(call.at_s / scale.speed, number, names[call.function], call.service_s)
        for number, call in enumerate(arrivals)
        if scale.duration_s is None or call.at_s < scale.duration_s * scale.speed
    )
    return sorted(found)


def deployed_names(wanted: Iterable[str], deployed: Iterable[str]) -> dict[str, str]:
    """For each function of a trace the deployed one of its name, written as Pagurus takes it: cs_bot -> cs-bot.

    Raises ReplayError that names some that are not there.
    """
    there = set(deployed)
    names = {name: name.replace("_", "-").lower() for name in wanted}
    missing = sorted(name for name in names.values() if name not in there)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ReplayError(
            f"the trace calls functions that are not deployed: {shown}",
            hint="deploy them, or `--deal` the trace's functions out to those that are",
        )
    return names


def dealt_names(wanted: Iterable[str], deployed: Sequence[str]) -> dict[str, str]:
    """Deal the functions of a trace out to the deployed ones in turn, both in the order of their names.

    For traces whose functions nobody has the code of. Raises ReplayError when nothing is deployed.
    """
    if not deployed:
        raise ReplayError("no function is deployed", hint="`pagurus deploy NAME PATH` makes one")
    there = sorted(deployed)
    return {name: there[number % len(there)] for number, name in enumerate(sorted(set(wanted)))}
