"""One simulation: a trace, the functions' costs, a policy; out comes one document. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from gateway.scheduler import policies
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.pool import Limits
from gateway.scheduler.sources import Mechanism
from gateway.simulate.costs import Costs
from gateway.simulate.node import Node
from gateway.simulate.profile import FunctionProfile, RuntimeProfile
from gateway.simulate.tally import WARMUP_S, Tally
from gateway.simulate.traces import Trace
from runtime.model import FunctionName, RuntimeName, StartKind

Json = dict[str, Any]
BYTES_PER_GB = 1e9
SANDBOXES_MAX = 1_000_000  # the policies' memory budget is what limits; a node's own limit is not simulated
QUEUE_PER_FUNCTION = 200
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated. concurrency: sandboxes of one function at once. duration_s: of the trace, None all.

    Cold starts are counted from warmup_s on.
    """

    policy: str
    mechanism: Mechanism = Mechanism.FORK
    settings: PolicySettings = field(default_factory=PolicySettings)
    concurrency: int = 10
    duration_s: float | None = None
    warmup_s: float = WARMUP_S


def simulate(
    plan: Plan,
    trace: Trace,
    functions: Mapping[FunctionName, FunctionProfile],
    runtimes: Mapping[RuntimeName, RuntimeProfile],
) -> Json:
    """Replay the trace on a virtual node; what came of it. Raises ConfigError for an unknown policy.

    functions: all that are deployed, whether the trace calls them or not.
    """
    used = sorted({function.runtime for function in functions.values()})
    policy = policies.make(plan.policy, plan.settings, used)
    limits = Limits(
        sandboxes_max=SANDBOXES_MAX,
        function_concurrency=plan.concurrency,
        queue_per_function=QUEUE_PER_FUNCTION,
        freeze_after_s=float("inf"),
    )
    node = Node(policy, Costs(runtimes, functions, plan.mechanism), limits, plan.mechanism)
    node.tally.warmup_s = plan.warmup_s
    node.deploy(functions[name].model(name) for name in sorted(functions))
    node.run(trace.arrivals, plan.duration_s)
    return document(plan, node.tally, node.unfinished)


def with_memory(
    functions: Mapping[FunctionName, FunctionProfile], memory_bytes: Mapping[FunctionName, int]
) -> dict[FunctionName, FunctionProfile]:
    """The functions, those whose memory a trace knows with that: what a zygote lends them is taken off."""
    found = dict(functions)
    for name, cold_bytes in memory_bytes.items():
        function = found[name]
        lent = max(0, function.cold_memory_bytes - function.helped_memory_bytes)
        cold_bytes = max(cold_bytes, function.cold_memory_bytes)
        found[name] = msgspec.structs.replace(
            function, cold_memory_bytes=cold_bytes, helped_memory_bytes=cold_bytes - lent
        )
    return found


def document(plan: Plan, tally: Tally, unfinished: int) -> Json:
    """All that was counted, in the form that `pagurus simulate --json` prints."""
    held = {what: round(seconds / BYTES_PER_GB, 6) for what, seconds in tally.byte_seconds.items()}
    return {
        "policy": plan.policy,
        "mechanism": plan.mechanism.value,
        "parameters": {
            "concurrency": plan.concurrency,
            "duration_s": plan.duration_s,
            "warmup_s": plan.warmup_s,
            **asdict(plan.settings),
        },
        "requests": tally.requests,
        "rejected": tally.rejected,
        "unfinished": unfinished,
        "cold_starts": tally.starts[StartKind.COLD],
        "cold_starts_after_warmup": tally.cold_after_warmup,
        "starts": {kind.value: tally.starts[kind] for kind in StartKind},
        "start_ms": series(tally.start_ms),
        "all_start_ms": series([*tally.start_ms, *tally.warm_ms]),
        "idle_gb_seconds": round(sum(held.values()), 6),
        "idle_gb_seconds_by": held,
        "zygotes_made": tally.zygotes_made,
        "zygote_cpu_seconds": round(tally.zygote_ms / 1000, 6),
        "standbys_made": tally.standbys_made,
        "standby_cpu_seconds": round(tally.standby_ms / 1000, 6),
        "functions": {name: dict(sorted(counts.items())) for name, counts in sorted(tally.by_function.items())},
    }


def series(values: Sequence[float]) -> Json:
    """Percentiles (nearest rank), mean and maximum; nulls without values."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys((*SHARES, "mean", "max"))
    found = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in SHARES.items()}
    found |= {"mean": sum(ordered) / len(ordered), "max": ordered[-1]}
    return {name: round(value, 4) for name, value in found.items()}
