"""What the node holds while a trace is replayed: memory of idle sandboxes, standbys and zygotes, and zygotes made.

The node is asked once a second (gateway.replay.sampler), so what lives shorter may be missed. The accounting is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

SAMPLE_EVERY_S = 1.0
GB = 1e9
HELD = ("idle", "standbys", "zygotes", "base_zygotes")  # what a policy keeps for later; busy is what it serves


class SandboxSeen(msgspec.Struct, frozen=True):
    """A sandbox, of GET /v1/sandboxes."""

    id: str
    state: str
    function: str | None
    zygote: str
    memory_bytes: int | None


class ZygoteSeen(msgspec.Struct, frozen=True):
    """A zygote, of GET /v1/zygotes."""

    id: str
    state: str
    environments: tuple[str, ...]
    start_ms: float
    memory_bytes: int


class SandboxList(msgspec.Struct, frozen=True):
    """Answer of GET /v1/sandboxes."""

    sandboxes: tuple[SandboxSeen, ...]


class ZygoteList(msgspec.Struct, frozen=True):
    """Answer of GET /v1/zygotes."""

    zygotes: tuple[ZygoteSeen, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The node at one moment of the replay."""

    at_s: float
    sandboxes: tuple[SandboxSeen, ...]
    zygotes: tuple[ZygoteSeen, ...]

    def memory_bytes(self) -> dict[str, int]:
        """Bytes by what they are for: HELD and `busy`."""
        held = dict.fromkeys((*HELD, "busy"), 0)
        for sandbox in self.sandboxes:
            key = {"standby": "standbys", "idle": "idle", "frozen": "idle"}.get(sandbox.state, "busy")
            held[key] += sandbox.memory_bytes or 0
        for zygote in self.zygotes:
            if zygote.state in ("ready", "ending"):
                held["zygotes" if zygote.environments else "base_zygotes"] += zygote.memory_bytes
        return held


@dataclass(slots=True)
class Making:
    """One time that a package zygote was made."""

    zygote: str
    first_s: float
    start_ms: float
    held_gb_s: float = 0.0
    is_helpful: bool = False  # a sandbox of some function came from it


def gb_seconds(samples: Sequence[Sample], *, from_s: float, to_s: float) -> dict[str, float]:
    """Gigabytes times seconds by what they were for; each sample stands until the next."""
    total: dict[str, float] = dict.fromkeys((*HELD, "busy"), 0.0)
    for sample, seconds in _spans(samples, from_s, to_s):
        for key, size in sample.memory_bytes().items():
            total[key] += size / GB * seconds
    return total


def makings(samples: Sequence[Sample], *, to_s: float) -> list[Making]:
    """Every making of a package zygote that was seen; those of the first sample were there before.

    Another start_ms under the same id is another making.
    """
    current: dict[str, Making] = {}
    done: list[Making] = []
    for sample, seconds in _spans(samples, 0.0, to_s):
        alive = {one.id: one for one in sample.zygotes if one.state in ("ready", "ending") and one.environments}
        for zygote in [one for one in current if one not in alive or alive[one].start_ms != current[one].start_ms]:
            done.append(current.pop(zygote))
        for seen in alive.values():
            making = current.setdefault(seen.id, Making(seen.id, sample.at_s, seen.start_ms))
            making.held_gb_s += seen.memory_bytes / GB * seconds
        for sandbox in sample.sandboxes:
            if sandbox.function is not None and sandbox.zygote in current:
                current[sandbox.zygote].is_helpful = True
    return [*done, *current.values()]


def series(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Memory over time, for plots: `at_s`, and bytes by what they are for."""
    found: dict[str, list[float]] = {"at_s": [round(sample.at_s, 3) for sample in samples]}
    for key in (*HELD, "busy"):
        found[key] = [sample.memory_bytes()[key] for sample in samples]
    return found


def _spans(samples: Sequence[Sample], from_s: float, to_s: float) -> list[tuple[Sample, float]]:
    """Each sample with the seconds between the two times that it stands for."""
    ends = [*(sample.at_s for sample in samples[1:]), to_s]
    found = []
    for sample, end_s in zip(samples, ends, strict=False):  # without samples there is an end too many
        seconds = min(end_s, to_s) - max(sample.at_s, from_s)
        found.append((sample, max(0.0, seconds)))
    return found
