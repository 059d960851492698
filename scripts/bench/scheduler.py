"""What a scheduling decision costs: the work of pools and policy for one invocation. See docs/benchmarks.md."""

import itertools
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import report

from gateway.scheduler.decisions import Kill, Lease, Start
from gateway.scheduler.planner import Planner
from gateway.scheduler.policies import POLICIES, make
from gateway.scheduler.policy import FunctionModel, PolicySettings
from gateway.scheduler.pool import Limits
from gateway.scheduler.pools import Pools
from gateway.scheduler.zygotes import Zygotes
from runtime.model import EnvironmentId, FunctionName, ImportCost, InvocationId, RuntimeName, SandboxId, VersionId
from runtime.protocol import EnsureZygote, ZygoteReady

RUNTIME = RuntimeName("python3.11")
POPULATIONS = (38, 5000)
PACKAGES = 60
TICK_S = 0.25


class Node:
    """Carries decisions out at once: a start is there, a zygote is ready, a killed sandbox is dead."""

    def __init__(self, policy_name: str, functions: int) -> None:
        settings = PolicySettings(memory_bytes=64 << 30, zygotes_max=64)
        limits = Limits(sandboxes_max=100_000, function_concurrency=10, queue_per_function=200, freeze_after_s=1.0)
        policy = make(policy_name, settings, [RUNTIME])
        self.pools = Pools(limits, itertools.count(1), policy)
        self.planner = Planner(policy, self.pools, Zygotes())
        self.now_s = 0.0
        self._numbers = itertools.count(1)
        for model in _population(functions):
            self.carry_out(self.planner.put_function(model, self.now_s))

    def carry_out(self, outs: list) -> SandboxId | None:
        """The sandbox that was leased, if one was."""
        leased = None
        pending = list(outs)
        while pending:
            out = pending.pop(0)
            if isinstance(out, Start):
                sandbox = SandboxId(f"s{next(self._numbers)}")
                pending += self.pools.started(out.ticket, sandbox, self.now_s)
            elif isinstance(out, Lease):
                leased = out.sandbox
            elif isinstance(out, Kill):
                pending += self.pools.died(out.sandbox, self.now_s)
            elif isinstance(out, EnsureZygote):
                ready = ZygoteReady(
                    zygote=out.zygote,
                    runtime=out.runtime,
                    environments=out.environments,
                    start_ms=100.0,
                    memory_bytes=50_000_000,
                    import_ms=dict.fromkeys(out.imports, 10.0),
                )
                pending += self.planner.ready(ready, self.now_s)
        return leased

    def tick(self) -> float:
        """Ask planner and pools for what is due; the seconds it took."""
        began_s = time.perf_counter()
        outs = [*self.planner.tick(self.now_s), *self.pools.tick(self.now_s)]
        spent_s = time.perf_counter() - began_s
        self.carry_out(outs)
        return spent_s


def main() -> None:
    """Measure all policies on both populations, in turn."""
    options = report.arguments("Cost of scheduling decisions.").parse_args()
    invocations = 2000 if options.quick else 40_000
    rows, ratios = [], {}
    for functions in POPULATIONS:
        for name in sorted(POLICIES):
            decisions_us, ticks_us, plans_us = _measure(name, functions, invocations)
            rows.append(report.row(f"decision/{name}/{functions}", decisions_us, "us"))
            rows.append(report.row(f"tick/{name}/{functions}", ticks_us, "us"))
            rows.append(report.row(f"plan/{name}/{functions}", plans_us, "us"))
            ratios[f"decision-mean-us/{name}/{functions}"] = sum(decisions_us) / len(decisions_us)
    parameters = {"invocations": invocations, "populations": POPULATIONS, "packages": PACKAGES}
    report.finish(rows, ratios, parameters=parameters, path=options.json)


def _measure(name: str, functions: int, invocations: int) -> tuple[list[float], list[float], list[float]]:
    """Microseconds of each invocation's two events (request, release), of each tick, of whole plans at the end."""
    node = Node(name, functions)
    node.tick()
    chance = random.Random(1)
    names = [FunctionName(f"f{number}") for number in range(functions)]
    weights = [1 / (rank + 1) for rank in range(functions)]  # Zipf: few are called often, most seldom
    called = chance.choices(names, weights, k=invocations)
    decisions_us, ticks_us = [], []
    next_tick_s = TICK_S
    for number, function in enumerate(called):
        node.now_s += chance.expovariate(50.0)
        while node.now_s >= next_tick_s:
            ticks_us.append(node.tick() * 1e6)
            next_tick_s += TICK_S
        began_s = time.perf_counter()
        outs = node.pools.request(InvocationId(f"i{number}"), function, node.now_s)
        spent_s = time.perf_counter() - began_s
        sandbox = node.carry_out(outs)
        assert sandbox is not None
        node.now_s += 0.005
        began_s = time.perf_counter()
        outs = node.pools.release(sandbox, node.now_s, reusable=True, service_s=0.005, latency_s=0.006)
        decisions_us.append((spent_s + time.perf_counter() - began_s) * 1e6)
        node.carry_out(outs)
    plans_us = []
    for _ in range(5):
        node.now_s += 100.0
        began_s = time.perf_counter()
        node.carry_out(node.planner.plan(node.now_s))
        plans_us.append((time.perf_counter() - began_s) * 1e6)
    return decisions_us, ticks_us, plans_us


def _population(functions: int) -> list[FunctionModel]:
    """Functions of which half need none to six packages of a common set, a tenth of these in another version."""
    chance = random.Random(2)
    models = []
    for number in range(functions):
        chosen = chance.sample(range(PACKAGES), chance.choice([0, 0, 0, 1, 2, 4, 6]))
        packages = {f"p{one}": "2" if chance.random() < 0.1 else "1" for one in sorted(chosen)}
        models.append(
            FunctionModel(
                FunctionName(f"f{number}"),
                VersionId("v"),
                RUNTIME,
                environment=EnvironmentId(repr(packages)) if packages else None,
                distributions=packages,
                imports=tuple(packages),
                costs={one: ImportCost(10.0 + int(one[1:]), 1_000_000 * (1 + int(one[1:]) % 20)) for one in packages},
            )
        )
    return models


if __name__ == "__main__":
    main()
