"""How long deploys take, against uv installing the same packages; disk space of many functions.

See docs/benchmarks.md.
"""

import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import aws_apps, functions, report

RUNTIME = "python3.11"
PACKAGES = ("numpy", "pandas")
KNOWN_PER_ROUND = 3
PHASES = ("unpack", "resolve", "download", "install", "compile", "check")
PAIRS = (
    ("deploy-new", "uv-install"),
    ("deploy-known", "uv-install-warm"),
    ("deploy-known", "deploy-new"),
)
Samples = dict[str, list[float]]


@contextmanager
def fresh_daemon(settings: dict[str, object]) -> Iterator[tuple[Any, Path]]:
    """A daemon whose store and download cache are empty, and its state directory, which does not stay."""
    from lib.daemon import NODE_STATE, Daemon

    state = NODE_STATE.with_name(NODE_STATE.name + "-bench-deploy")
    shutil.rmtree(state, ignore_errors=True)
    try:
        with Daemon(state=state, **settings) as daemon:
            yield daemon, state
    finally:
        shutil.rmtree(state)


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder on the file system of the state directories, so that uv's links work as they would there."""
    from lib.daemon import NODE_STATE

    with tempfile.TemporaryDirectory(prefix=NODE_STATE.name + "-bench-uv-", dir=NODE_STATE.parent) as name:
        yield Path(name)


def timed_deploy(daemon: Any, name: str, files: dict[str, str]) -> tuple[float, dict[str, Any]]:
    """`pagurus deploy` of these files: milliseconds, and the function's document."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            (Path(folder) / path).write_text(text)
        started_s = time.perf_counter()
        document = daemon.deploy_folder(name, Path(folder))
        return (time.perf_counter() - started_s) * 1000, document


def measure_deploys(samples: Samples, settings: dict[str, object]) -> None:
    """One deploy with a cold store and a cold cache, then some whose layers are there, each of new code."""
    with fresh_daemon(settings) as (daemon, _):
        for number in range(1 + KNOWN_PER_ROUND):
            source = functions.SOURCES["pandas"] + f"\n# {uuid.uuid4()}\n"
            files = {"main.py": source, "requirements.txt": functions.REQUIREMENTS["pandas"]}
            elapsed_ms, document = timed_deploy(daemon, f"pandas-{number}", files)
            spent_ms = document["deploy_ms"]
            kind = "deploy-new" if number == 0 else "deploy-known"
            compile_ms = spent_ms.get("compile", 0.0)
            samples[kind].append(elapsed_ms - compile_ms)
            samples[f"{kind}-total"].append(spent_ms["total"])
            for phase in PHASES:
                if phase in spent_ms and phase != "compile":
                    samples[f"{kind}-{phase}"].append(spent_ms[phase])
            if number == 0:
                samples["compile"].append(compile_ms)


def measure_uv(samples: Samples, installer: Any) -> None:
    """One install with a fresh cache, then one with that cache; into a fresh target each."""
    with work_folder() as folder:
        for kind in ("uv-install", "uv-install-warm"):
            elapsed_ms = installer.install(PACKAGES, target=folder / kind, cache=folder / "cache")
            samples[kind].append(elapsed_ms)


def measure_pandas(rounds: int, index_url: str) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows and ratios. Each round does both, in random order; the first round does not count."""
    from lib.installs import Installer

    samples: Samples = defaultdict(list)
    settings: dict[str, object] = {"index_url": index_url} if index_url else {}
    with work_folder() as folder:
        installer = Installer(RUNTIME, folder, index_url)
        for number in range(-1, rounds):
            found: Samples = defaultdict(list)
            parts = [lambda: measure_deploys(found, settings), lambda: measure_uv(found, installer)]  # noqa: B023
            for part in random.sample(parts, len(parts)):
                part()
            if number >= 0:
                for name, values in found.items():
                    samples[name] += values
            print(f"  pandas: round {number + 1} of {rounds}", flush=True)
    rows = [report.row(f"{name}/pandas", samples[name]) for name in sorted(samples)]
    ratios = {f"{above}/{below}/pandas": report.paired_ratio(samples[above], samples[below]) for above, below in PAIRS}
    return rows, ratios


def deploy_applications(
    wanted: tuple[aws_apps.AppFunction, ...], daemon: Any, state: Path
) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
    """Deploy all, one after another; what was seen of each, and its distributions.

    Kinds: `empty` needs no package, `known` none that was not there already, `new` some.
    """
    entries: list[dict[str, Any]] = []
    sets: list[tuple[str, ...]] = []
    for function in wanted:
        files = {"main.py": function.source(), "requirements.txt": function.requirements_text()}
        before = layers_of(state)
        elapsed_ms, document = timed_deploy(daemon, function.deployed_name, files)
        new = len(layers_of(state) - before)
        distributions = tuple(sorted(document["distributions"]))
        kind = "empty" if not distributions else "new" if new else "known"
        sets.append(distributions)
        compile_ms = document["deploy_ms"].get("compile", 0.0)
        entry = {"function": function.name, "kind": kind, "ms": round(elapsed_ms, 1), "compile_ms": compile_ms}
        entry |= {"distributions": len(distributions), "new_layers": new}
        entries.append(entry)
        print(
            f"  {function.name:32} {kind:5} {elapsed_ms:9.1f} ms (compiling {compile_ms:8.1f}),"
            f" {len(distributions):3} distributions, {new:3} layers new",
            flush=True,
        )
    return entries, sets


def layers_of(state: Path) -> set[str]:
    return {entry.name for entry in (state / "layers").iterdir() if not entry.name.startswith(".")}


def separate_bytes(sets: list[tuple[str, ...]], index_url: str) -> int:
    """What an environment for each function alone would take, summed; equal ones are measured once."""
    from lib.installs import Installer

    sizes: dict[tuple[str, ...], int] = {(): 0}
    with work_folder() as folder:
        installer = Installer(RUNTIME, folder, index_url)
        for distributions in dict.fromkeys(sets):
            if distributions:
                target = folder / "target"
                sizes[distributions] = installer.environment_bytes(distributions, target=target, cache=folder / "cache")
                shutil.rmtree(target)
    return sum(sizes[distributions] for distributions in sets)


def measure_applications(
    applications: Path, index_url: str
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, Any]]:
    """Rows, ratios and what else is known of the applications' functions."""
    from lib.installs import disk_bytes

    wanted = aws_apps.load(applications, RUNTIME)
    settings: dict[str, object] = {"index_url": index_url} if index_url else {}
    with fresh_daemon(settings) as (daemon, state):
        entries, sets = deploy_applications(wanted, daemon, state)
        store = {name: disk_bytes(state / name) for name in ("layers", "environments")}
        store_bytes = disk_bytes(*(state / name for name in store))
        layers = len(layers_of(state))
    alone_bytes = separate_bytes(sets, index_url)
    rows = [report.row(f"deploy-app/{each['function']}", [each["ms"]]) for each in entries]
    for kind in ("new", "known", "empty"):
        if times := [each["ms"] for each in entries if each["kind"] == kind]:
            rows.append(report.row(f"deploy-apps-{kind}", times))
    rows += [report.row(f"store-{name}/aws-apps", [size], "bytes") for name, size in store.items()]
    rows.append(report.row("store/aws-apps", [store_bytes], "bytes"))
    rows.append(report.row("separate/aws-apps", [alone_bytes], "bytes"))
    more = {
        "functions": len(wanted),
        "functions-with-packages": sum(1 for each in sets if each),
        "environments": len(set(sets) - {()}),
        "distributions": len({each for one in sets for each in one}),
        "distributions-of-all-functions": sum(map(len, sets)),
        "layers": layers,
        "applications": entries,
    }
    return rows, {"separate/store/aws-apps": alone_bytes / store_bytes}, more


def main() -> None:
    parser = report.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=10, help="cold deploys, and cold installs [%(default)s]")
    parser.add_argument("--index-url", default="", help="package index for both [that of pip]")
    parser.add_argument("--applications", type=Path, metavar="FILE", help="deploy the functions of applications.json")
    parser.add_argument("--no-pandas", action="store_true", help="only --applications")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("deploy must run as root: it makes sandboxes")
    if options.no_pandas and not options.applications:
        parser.error("--no-pandas leaves nothing to measure")
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    more: dict[str, Any] = {}
    rounds = 2 if options.quick else options.rounds
    if not options.no_pandas:
        rows, ratios = measure_pandas(rounds, options.index_url)
    if options.applications:
        print("deploying the applications' functions", flush=True)
        app_rows, app_ratios, more = measure_applications(options.applications, options.index_url)
        rows, ratios = rows + app_rows, ratios | app_ratios
    parameters = {"rounds": rounds, "runtime": RUNTIME, "packages": PACKAGES, "known_per_round": KNOWN_PER_ROUND}
    report.finish(rows, ratios, parameters=parameters, path=options.json, more=more)


if __name__ == "__main__":
    main()
