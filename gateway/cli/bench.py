"""`pagurus bench`: measurements of a running node. Runs in `pagurus`."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import output
from gateway.cli.client import Client, items

if TYPE_CHECKING:
    from gateway.simulate.traces import Arrival

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, writable=True, path_type=Path)
POSITIVE = click.FloatRange(min=0, min_open=True)
TOLD_EVERY_S = 5.0


@click.group()
def bench() -> None:
    """Measure a running node."""


@bench.command("trace", short_help="Replay a trace of calls and say what it met.")
@click.argument("trace", type=FILE)
@click.option("--applications", type=FILE, help="applications.json of an AWS trace: functions, offsets, durations.")
@click.option("--durations", type=FILE, help="Percentiles of durations of an Azure trace.")
@click.option("--speed", type=POSITIVE, default=1.0, show_default=True, help="Seconds of the trace in one of ours.")
@click.option(
    "--time-scale", type=POSITIVE, default=1.0, show_default=True, help="Of durations and offsets; not of arrivals."
)
@click.option("--duration", "duration_s", type=POSITIVE, help="Seconds to send for, warm-up included; else all.")
@click.option(
    "--warmup", "warmup_s", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Seconds not counted."
)
@click.option(
    "--mode",
    type=click.Choice(["sleep", "compute"]),
    default="sleep",
    show_default=True,
    help="What functions do with their time.",
)
@click.option("--deal", is_flag=True, help="Deal the trace's functions out to those that are deployed, by name.")
@click.option("--seed", default=0, show_default=True, help="Of the times within a second or minute of the trace.")
@click.option("--csv", "csv_path", type=OUT, help="Write a row a request.")
@click.option("--output", "json_path", type=OUT, help="Write the JSON to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON instead of the table.")
@click.pass_obj
def trace(
    url: str,
    trace: Path,
    *,
    applications: Path | None,
    durations: Path | None,
    speed: float,
    time_scale: float,
    duration_s: float | None,
    warmup_s: float,
    mode: str,
    deal: bool,
    seed: int,
    csv_path: Path | None,
    json_path: Path | None,
    as_json: bool,
) -> None:
    """Replay the calls of TRACE against the node, each at its time, and say how they started and what that took.

    TRACE is a CSV file, gzipped or not: `application,second,calls` with --applications, or minutes of the Azure
    Functions trace of 2019 with --durations. A function that is called gets {"duration_s": seconds, "mode": "sleep" or
    "compute"}; underscores in its name are hyphens, capitals small.

    Open loop: a request goes out at its time whatever became of the others. --speed 12 makes 2 hours of arrivals
    10 minutes; durations stay as they are unless --time-scale says else. Status 1 when this was no replay, because the
    sender itself was late.
    """
    import uvloop

    from gateway.replay.csv_file import write_csv
    from gateway.replay.report import describe, make_document
    from gateway.replay.run import replay
    from gateway.replay.timetable import Scale, dealt_names, deployed_names, timetable

    if duration_s is not None and warmup_s >= duration_s:
        raise click.UsageError(f"--warmup {warmup_s:g} leaves nothing of --duration {duration_s:g}")
    client = Client(url)
    arrivals = _read(trace, applications, durations, time_scale, seed)
    if duration_s is not None:
        arrivals = [one for one in arrivals if one.at_s < duration_s * speed]
    deployed = [str(one["name"]) for one in items(client.get("/v1/functions"), "functions")]
    wanted = {one.function for one in arrivals}
    names = dealt_names(wanted, deployed) if deal else deployed_names(wanted, deployed)
    scale = Scale(speed, duration_s, warmup_s)
    entries = timetable(arrivals, scale, names)
    progress = Progress(len(entries), silent=as_json)
    found = uvloop.run(replay(client.url, entries, scale, mode=mode, progress=progress))
    parameters = {"trace": trace.name, "speed": speed, "time_scale": time_scale, "duration_s": duration_s}
    parameters |= {"warmup_s": warmup_s, "mode": mode, "dealt": deal, "seed": seed, "functions": len(wanted)}
    document = make_document(found, client.get("/v1/status"), parameters)
    if csv_path:
        with csv_path.open("w", newline="") as file:
            write_csv(file, found.outcomes)
    if json_path:
        _write_json(json_path, document)
    if as_json:
        output.print_json(document)
    else:
        for line in describe(document):
            click.echo(line)
    if not document["requests"]["is_valid"]:
        reasons = "; ".join(document["requests"]["why_invalid"])
        click.echo(f"pagurus: this was no replay of the trace: {reasons}", err=True)
        raise SystemExit(1)


class Progress:
    """A line on stderr now and then, for people."""

    def __init__(self, total: int, *, silent: bool) -> None:
        self._total = total
        self._silent = silent or not sys.stderr.isatty()
        self._told_s = time.monotonic()

    def __call__(self, sent: int, now_s: float) -> None:
        if not self._silent and time.monotonic() - self._told_s >= TOLD_EVERY_S:
            self._told_s = time.monotonic()
            click.echo(f"  {now_s:6.0f} s  {sent} of {self._total} requests", err=True)


def _read(
    trace: Path, applications: Path | None, durations: Path | None, time_scale: float, seed: int
) -> list["Arrival"]:
    """All arrivals in the order of time. Raises ConfigError that names file and line."""
    from gateway.simulate import applications as application_files
    from gateway.simulate import azure, traces

    if not azure.is_azure(trace):
        if applications is None:
            raise click.UsageError("the trace names applications: --applications says which functions they have")
        steps = application_files.read(applications)
        return traces.read_calls(trace, steps, time_scale=time_scale, seed=seed).arrivals
    if durations is None:
        raise click.UsageError("an Azure trace has its durations in another file: --durations")
    found = azure.read(trace, durations, None, seed=seed).arrivals
    return [replace(one, service_s=one.service_s * time_scale) for one in found]


def _write_json(path: Path, document: dict[str, Any]) -> None:
    import json

    path.write_text(json.dumps(document, indent=1) + "\n")
