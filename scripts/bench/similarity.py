"""Whether it matters whom a zygote helps, where packages conflict. Simulated; see docs/benchmarks.md."""

import argparse
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import report

from gateway.scheduler.policy import PolicySettings
from gateway.simulate import profile as profiles
from gateway.simulate.profile import FunctionProfile, Profile
from gateway.simulate.simulation import Plan, simulate
from gateway.simulate.traces import Arrival, Trace
from runtime.model import FunctionName, RuntimeName

RUNTIME = RuntimeName("python3.11")
HOURS = 2
MORE_VERSIONS = 3  # of each distribution, beside those in the profile: what conflicts are made of
ZYGOTES_MAX = 6  # with the base zygote, for 300 functions: each must help many
SEEDS = 12
CHOICES = ("similar", "weighted", "random")


def main() -> None:
    """Simulate all choices on the same populations, in turn."""
    parser = report.arguments("Similarity against chance.")
    parser.add_argument("--functions", type=int, default=300)
    options = parser.parse_args()
    rows, ratios, more = [], {}, []
    found: dict[str, list[Mapping[str, Any]]] = {}
    for seed in range(2 if options.quick else SEEDS):
        for name, document in _simulations(seed, options):
            found.setdefault(name, []).append(document)
            more.append({"name": name, "seed": seed, "cold": document["cold_starts_after_warmup"]})
    for name, documents in found.items():
        rows.append(report.row(f"cold/{name}", [one["cold_starts_after_warmup"] for one in documents], "starts"))
        rows.append(report.row(f"idle/{name}", [one["idle_gb_seconds"] for one in documents], "GB s"))
        cold, base = (sum(one["cold_starts_after_warmup"] for one in each) for each in (documents, found["keepalive"]))
        ratios[f"cold/{name}/keepalive"] = cold / base
    parameters = {"functions": options.functions, "hours": HOURS, "more_versions": MORE_VERSIONS}
    report.finish(rows, ratios, parameters=parameters, path=options.json, more={"simulations": more})


def _simulations(seed: int, options: argparse.Namespace) -> list[tuple[str, Mapping[str, Any]]]:
    known = profiles.read(None)
    functions = population(known, options.functions, seed)
    trace = arrivals(sorted(functions), seed)
    plans: dict[str, tuple[str, dict[str, Any]]] = {"keepalive": ("keepalive", {})}
    plans |= {f"pagurus-{choice}": ("pagurus", {"choice": choice}) for choice in CHOICES}
    plans |= {"adaptive": ("adaptive", {}), "adaptive-random": ("adaptive", {"choice": "random"})}
    out = []
    for name, (policy, settings) in plans.items():
        chosen = PolicySettings(keep_alive_s=450.0, seed=seed, zygotes_max=ZYGOTES_MAX, **settings)
        plan = Plan(policy=policy, settings=chosen, duration_s=HOURS * 3600.0)
        out.append((name, simulate(plan, trace, functions, known.runtimes)))
        print(f"  seed {seed}: {name}", flush=True)
    return out


def population(known: Profile, count: int, seed: int) -> dict[FunctionName, FunctionProfile]:
    """Functions of one to three real package sets each, every distribution in one of a few versions.

    Costs are those that were measured; the further versions differ in name only. Sets are drawn by Zipf's law: some
    are common.
    """
    chance = random.Random(f"population {seed}")
    real = {one.environment: one for one in known.functions.values() if one.distributions}
    sets = sorted(real.values(), key=lambda one: sorted(one.distributions))
    chance.shuffle(sets)
    weights = [1 / (rank + 1) for rank in range(len(sets))]
    made = {}
    for number in range(count):
        release = chance.choices(range(1 + MORE_VERSIONS), [8, 4, 2, 1])[0]
        parts = chance.choices(sets, weights, k=chance.choice([1, 1, 2, 3]))
        merged = parts[0]
        for part in parts[1:]:
            if all(merged.distributions.get(name, version) == version for name, version in part.distributions.items()):
                merged = _both(merged, part)
        versions = {name: f"{version}+r{release}" for name, version in merged.distributions.items()}
        made[FunctionName(f"f{number:03d}")] = msgspec.structs.replace(merged, distributions=versions)
    return made


def _both(one: FunctionProfile, other: FunctionProfile) -> FunctionProfile:
    return msgspec.structs.replace(
        one,
        distributions=one.distributions | other.distributions,
        imports=tuple(sorted({*one.imports, *other.imports})),
        modules=one.modules | other.modules,
        requires=one.requires | other.requires,
        brought=one.brought | other.brought,
        costs={**other.costs, **one.costs},
        cold_memory_bytes=one.cold_memory_bytes + other.cold_memory_bytes,
    )


def arrivals(names: list[FunctionName], seed: int) -> Trace:
    """Poisson arrivals, rates log-uniform from one in two hours to one in ten seconds."""
    chance = random.Random(f"arrivals {seed}")
    found = []
    for name in names:
        rate = 10 ** chance.uniform(-3.8, -1.0)
        at_s = chance.expovariate(rate)
        while at_s < HOURS * 3600:
            found.append(Arrival(at_s, name, chance.uniform(0.05, 0.5)))
            at_s += chance.expovariate(rate)
    return Trace(sorted(found, key=lambda one: (one.at_s, one.function)))


if __name__ == "__main__":
    main()
