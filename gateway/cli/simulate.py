"""`pagurus simulate`: replay a trace on a virtual node, with the scheduler's own code. Runs in `pagurus`, without a
gateway.
"""

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import click

from gateway.cli import output
from gateway.scheduler import policies
from gateway.scheduler.policy import PolicySettings
from gateway.scheduler.sources import Mechanism
from gateway.simulate import applications, azure, profile, simulation, traces
from gateway.simulate.tally import WARMUP_S
from runtime.errors import ConfigError
from runtime.model import FunctionName

Json = dict[str, Any]
_FILE = click.Path(dir_okay=False, path_type=Path)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_OWN_OPTIONS = ("keep_alive_s", "memory_bytes", "seed")  # settings of policies that have options of their own


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer click only
    """Bytes: 4GiB, 500MB, 1000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", str(value).strip().lower())
        if not match or match[2] not in _UNITS:
            self.fail(f"{value!r} is no size: write 4GiB, 500MB or a number of bytes", param, ctx)
        return int(float(match[1]) * _UNITS[match[2]])


@click.command("simulate")
@click.option("--trace", type=_FILE, help="Calls of applications a second, or Azure's invocations a minute; .gz, too.")
@click.option("--applications", "apps", type=_FILE, help="applications.json: which functions an application calls.")
@click.option("--durations", type=_FILE, help="Azure's durations by function.")
@click.option("--memory", type=_FILE, help="Azure's memory by application.")
@click.option(
    "--spread",
    type=click.Choice(azure.SPREADS),
    default="exponential",
    show_default=True,
    help="Azure: how invocations lie within their minute.",
)
@click.option("--policy", "names", multiple=True, metavar="NAME", help="Policy; several are simulated in turn.")
@click.option("--profile", "profile_path", type=_FILE, help="Costs by scripts/bench/profile  [the AWS functions'].")
@click.option(
    "--mechanism",
    type=click.Choice([one.value for one in Mechanism]),
    default=Mechanism.FORK.value,
    show_default=True,
    help="paper: no base zygote, a cold start boots an interpreter.",
)
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Multiplies offsets and durations of applications, not the trace's seconds.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all chance.")
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds of the trace in one of the simulation: calls come faster, and take as long.",
)
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="Only so many seconds of the simulation.")
@click.option(
    "--warmup",
    type=click.FloatRange(min=0),
    default=WARMUP_S,
    show_default=True,
    help="Seconds before which cold starts are not counted as after warm-up.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Sandboxes of one function at once.",
)
@click.option("--keep-alive", type=click.FloatRange(min=0), help="Seconds that an idle sandbox stays.")
@click.option("--memory-budget", type=Size(), help="For zygotes and idle sandboxes together, as policies heed it.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting of policies.")
@click.option(
    "--synthesize",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write a small set of Azure's schema to DIR and do nothing else.",
)
@click.option("--functions", type=click.IntRange(min=1), default=100, show_default=True, help="Of --synthesize.")
@click.option("--minutes", type=click.IntRange(min=1), default=120, show_default=True, help="Of --synthesize.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of several policies, a list.")
def simulate(
    *,
    trace: Path | None,
    names: tuple[str, ...],
    synthesize: Path | None,
    functions: int,
    minutes: int,
    as_json: bool,
    seed: int,
    **options: Any,
) -> None:
    """Replay a trace in seconds: the scheduler's own code under virtual time, with costs that were measured.

    Counts starts by kind, their latency, and memory times time of what is held idle. Needs no gateway. A start is
    cold when its sandbox had to boot an interpreter or to import a declared distribution itself.

    \b
    pagurus simulate --trace trace.csv.gz --applications applications.json --time-scale 0.5 --policy pagurus
    pagurus simulate --synthesize set --functions 200 --minutes 240
    pagurus simulate --trace set/invocations.csv --durations set/durations.csv --policy adaptive --policy keepalive
    """
    if synthesize is not None:
        paths = azure.synthesize(synthesize, functions=functions, minutes=minutes, seed=seed)
        for path in paths.values():
            click.echo(path)
        return
    if trace is None or not names:
        raise click.UsageError("give --trace and --policy, or --synthesize")
    plans = [_plan(name, seed, options) for name in names]
    known = profile.read(options["profile_path"])
    read, functions_profiles = _read(trace, known, seed, options)
    read = read.at_speed(options["speed"])
    documents = []
    for plan in plans:
        began_s = time.perf_counter()
        document = simulation.simulate(plan, read, functions_profiles, known.runtimes)
        document["parameters"] |= {"trace": trace.name, "seed": seed}
        document["parameters"] |= {what: options[what] for what in ("time_scale", "speed")}
        documents.append((document, time.perf_counter() - began_s))
    if as_json:
        found = [document for document, _ in documents]
        output.print_json(found[0] if len(found) == 1 else found)
    else:
        _show(documents)


def _plan(name: str, seed: int, options: Json) -> simulation.Plan:
    if name not in policies.POLICIES:
        raise ConfigError(f"unknown policy {name!r}", hint=f"choose one of {', '.join(sorted(policies.POLICIES))}")
    settings: Json = {"seed": seed}
    if options["keep_alive"] is not None:
        settings["keep_alive_s"] = options["keep_alive"]
    if options["memory_budget"] is not None:
        settings["memory_bytes"] = options["memory_budget"]
    for text in options["settings"]:
        setting, _, value = text.partition("=")
        settings[setting] = _setting(setting, value)
    return simulation.Plan(
        policy=name,
        mechanism=Mechanism(options["mechanism"]),
        settings=PolicySettings(**settings),
        concurrency=options["concurrency"],
        duration_s=options["duration"],
        warmup_s=options["warmup"],
    )


def _setting(name: str, value: str) -> object:
    """The value of a setting of PolicySettings, of its type."""
    defaults = dataclasses.asdict(PolicySettings())
    known = sorted(set(defaults) - set(_OWN_OPTIONS))
    if name not in known:
        raise click.BadParameter(f"no setting {name!r}; there are {', '.join(known)}", param_hint="--set")
    kind = type(defaults[name])
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        return kind(value)
    except (KeyError, ValueError):
        raise click.BadParameter(f"{name} must be {kind.__name__}, not {value!r}", param_hint="--set") from None


def _read(
    path: Path, known: profile.Profile, seed: int, options: Json
) -> tuple[traces.Trace, dict[FunctionName, profile.FunctionProfile]]:
    """The trace, and what its functions cost."""
    if azure.is_azure(path):
        if options["durations"] is None:
            raise click.UsageError(f"{path} has no durations: give --durations")
        trace = azure.read(path, options["durations"], options["memory"], seed=seed, spread=options["spread"])
        drawn = applications.draw_profiles(trace.functions, known, seed)
        return trace, simulation.with_memory(drawn, trace.memory_bytes)
    if options["apps"] is None:
        raise click.UsageError(f"{path} has calls of applications: give --applications")
    apps = applications.read(options["apps"])
    trace = traces.read_calls(path, apps, time_scale=options["time_scale"], seed=seed)
    names = [step.function for steps in apps.values() for step in steps]
    return trace, applications.profiles_of(names, known)


def _show(documents: list[tuple[Json, float]]) -> None:
    columns = ("policy", "requests", "cold", "after warm-up", "helped", "warm", "start p50", "p99", "idle GB s", "took")
    rows = []
    for document, took_s in documents:
        starts, start_ms = document["starts"], document["start_ms"]
        rows.append(
            [
                document["policy"],
                str(document["requests"]),
                str(starts["cold"]),
                str(document["cold_starts_after_warmup"]),
                str(starts["helped"]),
                str(starts["warm"]),
                _ms(start_ms["p50"]),
                _ms(start_ms["p99"]),
                f"{document['idle_gb_seconds']:.1f}",
                f"{took_s:.1f} s",
            ]
        )
    output.print_table(columns, rows, empty="nothing")
    for document, _ in documents:
        held = document["idle_gb_seconds_by"]
        click.echo(
            f"\n{document['policy']}: {document['zygotes_made']} zygotes made in"
            f" {document['zygote_cpu_seconds']:.1f} s; idle GB s:"
            f" {', '.join(f'{what} {value:.1f}' for what, value in held.items())}; {_lost(document)}"
        )


def _lost(document: Json) -> str:
    lost = [f"{document[word]} {word}" for word in ("rejected", "unfinished") if document[word]]
    return ", ".join(lost) or "all requests served"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
