"""What a replay has shown, as the document that all benchmarks write (DESIGN section 9). Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.replay.outcomes import UNSENT, Outcome
from gateway.replay.samples import HELD, Sample, gb_seconds, makings, series
from gateway.replay.timetable import Scale
from runtime.model import StartKind

LATE_P99_MS_MAX = 50.0  # a sender that is later than this has not replayed the trace
QUANTILES = 1001
KINDS = tuple(str(kind) for kind in StartKind)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """All that one replay has seen. ended_s: when the last answer was there."""

    scale: Scale
    outcomes: Sequence[Outcome]
    samples: Sequence[Sample]
    ended_s: float
    samples_missed: int = 0

    @property
    def counted(self) -> list[Outcome]:
        """Requests that were due after the warm-up."""
        return [one for one in self.outcomes if one.at_s >= self.scale.warmup_s]


def document(replay: Replay, *, host: Json, commit: str, parameters: Json) -> Json:
    """The whole document."""
    return {
        "host": host,
        "commit": commit,
        "parameters": parameters,
        "rows": rows(replay),
        "ratios": {},
        "requests": requests(replay),
        "start_ms": start_quantiles(replay),
        "node": node(replay),
    }


def rows(replay: Replay) -> list[Json]:
    """Series in ms: `start` and `end-to-end` of all requests, of each start kind, of each function; lateness."""
    counted = replay.counted
    found = [row("late/all", [one.late_ms for one in replay.outcomes if one.failure != UNSENT])]
    groups: dict[str, list[Outcome]] = {"all": counted}
    for kind in KINDS:
        groups[f"kind-{kind}"] = [one for one in counted if one.kind == kind]
    for name in sorted({one.function for one in counted}):
        groups[name] = [one for one in counted if one.function == name]
    for name, group in groups.items():
        found.append(row(f"start/{name}", [one.start_ms for one in group if one.start_ms is not None]))
        found.append(row(f"end-to-end/{name}", [one.end_to_end_ms for one in group if not one.failure]))
    return [each for each in found if each["n"]]


def start_quantiles(replay: Replay) -> list[float]:
    """Times of all starts of sandboxes, ascending, for plots: all of them, or 1001 quantiles from least to most."""
    found = sorted(one.start_ms for one in replay.counted if one.kind != StartKind.WARM and one.start_ms is not None)
    if len(found) > QUANTILES:
        found = [found[round(share / (QUANTILES - 1) * (len(found) - 1))] for share in range(QUANTILES)]
    return [round(one, 3) for one in found]


def requests(replay: Replay) -> Json:
    """Counts: by start kind, over all and by function; what failed; how late the sender was; whether it is valid."""
    counted = replay.counted
    by_function: dict[str, list[Outcome]] = {}
    for one in counted:
        by_function.setdefault(one.function, []).append(one)
    late = sorted(one.late_ms for one in replay.outcomes if one.failure != UNSENT)
    invalid = why_invalid(replay)
    return {
        "sent": len(late),
        "counted": len(counted),
        "start_kinds": _kinds(counted),
        "start_kinds_with_warmup": _kinds(replay.outcomes),
        "cold_starts_after_warmup": sum(one.is_cold for one in counted),
        "failures": dict(Counter(one.failure for one in counted if one.failure)),
        "late_ms_p99": round(quantile(late, 0.99), 3) if late else None,
        "is_valid": not invalid,
        "why_invalid": invalid,
        "functions": {
            name: {
                "count": len(group),
                "cold_starts_after_warmup": sum(one.is_cold for one in group),
                "start_kinds": _kinds(group),
            }
            for name, group in sorted(by_function.items())
        },
    }


def why_invalid(replay: Replay) -> list[str]:
    """Why this was no replay of the trace; nothing: it was one."""
    sent = sorted(one.late_ms for one in replay.outcomes if one.failure != UNSENT)
    reasons = []
    if not sent:
        return ["no request was sent"]
    if (late_ms := quantile(sent, 0.99)) > LATE_P99_MS_MAX:
        reasons.append(f"the sender was late: {late_ms:.1f} ms at p99, at most {LATE_P99_MS_MAX:g} ms may be")
    if unsent := len(replay.outcomes) - len(sent):
        reasons.append(f"{unsent} requests were not sent: too many were in flight")
    if not replay.counted:
        reasons.append("no request came after the warm-up")
    return reasons


def node(replay: Replay) -> Json:
    """What the node held after the warm-up, in gigabytes times seconds, and what making zygotes took."""
    held = gb_seconds(replay.samples, from_s=replay.scale.warmup_s, to_s=replay.ended_s)
    made = makings(replay.samples, to_s=replay.ended_s)
    first_s = replay.samples[0].at_s if replay.samples else 0.0
    wrong = [one for one in made if not one.is_helpful]
    return {
        "held_gb_s": {key: round(value, 4) for key, value in held.items()},
        "held_gb_s_total": round(sum(held[key] for key in HELD), 4),
        "zygotes_made": len(made),
        "zygotes_made_before": sum(one.first_s == first_s for one in made),
        "zygote_making_s": _seconds(one.start_ms for one in made),
        "zygotes_that_never_helped": len(wrong),
        "wrong_help_making_s": _seconds(one.start_ms for one in wrong),
        "wrong_help_gb_s": round(sum(one.held_gb_s for one in wrong), 4),
        "samples": len(replay.samples),
        "samples_missed": replay.samples_missed,
        "memory_bytes": series(replay.samples),
    }


def row(name: str, values: Iterable[float]) -> Json:
    """One series in ms; without values only its name and n = 0."""
    ordered = sorted(values)
    if not ordered:
        return {"name": name, "unit": "ms", "n": 0}
    figures = {"min": ordered[0], "p50": quantile(ordered, 0.5), "p95": quantile(ordered, 0.95)}
    figures["p99"] = quantile(ordered, 0.99)
    return {"name": name, "unit": "ms", "n": len(ordered), **{key: round(one, 4) for key, one in figures.items()}}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie (nearest rank)."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _kinds(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    counts = Counter(one.kind or "none" for one in outcomes)
    return {kind: counts[kind] for kind in (*KINDS, "none")}


def _seconds(milliseconds: Iterable[float]) -> float:
    return round(sum(milliseconds) / 1000, 3)
