"""Latency of every kind of start, interleaved in one run with baselines. See docs/benchmarks.md."""

import json
import logging
import os
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import functions, report

HERE = Path(__file__).resolve().parent
INSIDE = ("cold", "helped_fork", "helped_standby", "warm", "warm_frozen", "bare_fork")
SLOW = ("process/", "crun/", "cold/", "forkserver/")
PAIRS = (
    ("helped-fork", "bare-fork"),
    ("helped-standby", "bare-fork"),
    ("http-warm", "warm"),
    ("warm-frozen", "warm"),
    ("forkserver", "helped-fork"),
    ("process", "helped-standby"),
    ("crun", "helped-standby"),
    ("crun", "cold"),
    ("cold", "helped-standby"),
)
Measure = Callable[[], Awaitable[float]]


async def collect(measures: dict[str, Measure], rounds: int, slow_rounds: int) -> dict[str, list[float]]:
    """Every round measures each series once, in random order; slow ones only in the first `slow_rounds`.

    Two rounds before the first are not counted. A measure that was not of its kind (NaN) is left out.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(-2, rounds):
        names = [name for name in measures if number < slow_rounds or not name.startswith(SLOW)]
        random.shuffle(names)
        for name in names:
            value = await measures[name]()
            if number >= 0 and value == value:
                samples[name].append(value)
        if number % 20 == 0:
            print(f"  round {number} of {rounds}", flush=True)
    return samples


def ratios(samples: dict[str, list[float]], names: list[str]) -> dict[str, float]:
    """Ratios of medians of PAIRS."""
    return {
        f"{above}/{below}/{name}": report.paired_ratio(samples[f"{above}/{name}"], samples[f"{below}/{name}"])
        for above, below in PAIRS
        for name in names
        if samples.get(f"{above}/{name}") and samples.get(f"{below}/{name}")
    }


async def run(options: Any) -> dict[str, list[float]]:
    """Measure and report; the samples by series."""
    # Installed packages: help must work without them.
    from lib import bed as bed_module
    from lib.daemon import Daemon
    from lib.inside import Inside
    from lib.web import Web

    names = options.functions.split(",")
    rounds = 10 if options.quick else options.rounds
    slow_rounds = 5 if options.quick else options.slow_rounds
    measures: dict[str, Measure] = {}
    with ExitStack() as stack:
        async with bed_module.open_bed(module="bench_zygote") as bed:
            await bed.prepare(names)
            insides = {name: Inside(bed, name) for name in names}
            for name, inside in insides.items():
                measures |= {f"{kind.replace('_', '-')}/{name}": getattr(inside, kind) for kind in INSIDE}
            if not options.no_http:
                web = Web(stack.enter_context(Daemon(standbys_per_zygote=2)), names)
                for name in names:
                    measures[f"http-helped-standby/{name}"] = partial(web.helped, name)
                    measures[f"http-warm/{name}"] = partial(web.warm, name)
            if not options.no_baselines:
                measures |= baselines(stack, bed, names)
            samples = await collect(measures, rounds, slow_rounds)
            private = {name: await inside.private_bytes() for name, inside in insides.items()}
    rows = [report.row(name, samples[name]) for name in sorted(samples, key=lambda n: (n.split("/")[1], n))]
    rows += [report.row(f"private/{name}", [value / 2**20], "MiB") for name, value in private.items()]
    parameters = {"functions": names, "rounds": rounds, "slow_rounds": slow_rounds}
    report.finish(rows, ratios(samples, names), parameters=parameters, path=options.json)
    return samples


def baselines(stack: ExitStack, bed: Any, names: list[str]) -> dict[str, Measure]:
    """Drivers of the baselines outside Pagurus; `stack` ends them."""
    from lib.external import KINDS, External

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.chmod(0o755)
    found: dict[str, Measure] = {}
    for name in names:
        (folder / name).mkdir()
        (folder / name / "main.py").write_text(functions.SOURCES[name])
        for kind in KINDS:
            external = External(kind, folder / name, bed.packages(name), bed.rootfs)
            stack.callback(external.close)
            found[f"{kind}/{name}"] = external.measure
    return found


def main() -> None:
    parser = report.arguments(__doc__ or "")
    parser.add_argument("--functions", default="empty,requests,pandas", help="comma-separated [%(default)s]")
    parser.add_argument("--rounds", type=int, default=400, help="samples a series [%(default)s]")
    parser.add_argument("--slow-rounds", type=int, default=200, help="samples of the slow series [%(default)s]")
    parser.add_argument("--no-http", action="store_true", help="leave out the rows over HTTP")
    parser.add_argument("--no-baselines", action="store_true", help="leave out process, forkserver and crun")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the distributions")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("startup must run as root: it makes sandboxes")
    logging.basicConfig(level=logging.WARNING)
    import uvloop  # pagurusd's loop

    samples = uvloop.run(run(options))
    if options.plot:
        command = [sys.executable, str(HERE / "lib/plot_startup.py"), str(options.plot)]
        subprocess.run(command, input=json.dumps(samples), text=True, check=True)


if __name__ == "__main__":
    main()
