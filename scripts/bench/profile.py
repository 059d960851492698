"""What the simulator's costs are: starts, imports and memory of the functions of an applications.json.

See docs/simulator.md.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import aws_apps, report

RUNTIME = "python3.11"
OWN_CODE = ""
MEMORY_SOURCE = """
import json, selectors, socket, struct, sys
lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
print(fields["Private_Dirty"])
"""


def deploy(daemon: Any, wanted: Sequence[aws_apps.AppFunction], note: str) -> dict[str, dict[str, Any]]:
    """Deploy all; their documents by name. note: makes other code of the same functions."""
    documents = {}
    for function in wanted:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "main.py").write_text(function.source(note))
            (Path(folder) / "requirements.txt").write_text(function.requirements_text())
            documents[function.deployed_name] = daemon.deploy_folder(function.deployed_name, Path(folder))
        print(f"  deployed {function.name}", flush=True)
    return documents


def measure(daemon: Any, names: Sequence[str], rounds: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[float]]:
    """What was seen of each function; the zygotes; how long standbys are missing. One round before does not count."""
    from lib.starts import Seen, Starts

    starts = Starts(daemon)
    starts.wait_zygotes()
    seen = {name: Seen() for name in names}
    for number in range(-1, rounds):
        for name in names:
            starts.measure(name, seen[name] if number >= 0 else Seen())
            starts.end(name)
    refills = [starts.standby_ms(names[number % len(names)]) for number in range(4 * rounds)]
    standbys = [one for one in starts.get("/v1/sandboxes")["sandboxes"] if one["state"] == "standby"]
    zygotes = list(starts.get("/v1/zygotes")["zygotes"])
    for zygote in zygotes:
        zygote["standby_bytes"] = [one["memory_bytes"] or 0 for one in standbys if one["zygote"] == zygote["id"]]
    return seen, zygotes, [value for value in refills if value == value]


def starts_ms(seen: Iterable[Any], kind: str) -> list[float]:
    return [value for one in seen for value in one.start_ms[kind]]


def process_ms(rounds: int) -> list[float]:
    """Starts of a fresh interpreter in a container of its own, by crun."""
    from lib.daemon import NODE_STATE
    from lib.external import External

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "main.py").write_text('def main(param):\n    return {"ok": param}\n')
        with closing(External("crun", Path(folder), "", str(NODE_STATE / "rootfs" / RUNTIME / "fs"))) as external:
            import asyncio

            return [asyncio.run(external.measure()) for _ in range(rounds + 2)][2:]


def process_bytes() -> int:
    """Private memory of a fresh interpreter with the modules that a worker needs."""
    done = subprocess.run(
        [f"/usr/bin/{RUNTIME}", "-I", "-c", MEMORY_SOURCE], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def packages_of(
    daemon: Any, state: Path, wanted: Sequence[aws_apps.AppFunction], documents: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """By environment: modules and needs of its distributions, and which distributions each module brings in."""
    from lib.brought import Brought

    found: dict[str, dict[str, Any]] = {}
    for function in wanted:
        name = documents[function.deployed_name]["environment"]
        if not name or name in found:
            continue
        manifest = json.loads((state / "environments" / name / "manifest.json").read_text())
        environment = manifest["environment"]
        brought = Brought(daemon, f"brought-{len(found)}", function.requirements_text())
        found[name] = {"modules": environment["modules"], "requires": environment["requires"]}
        found[name]["brought"] = {
            module: brought.of(module, distribution)
            for distribution, modules in sorted(environment["modules"].items())
            for module in modules
        }
    return found


def costs_of(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """What imports took over the rounds, by function and distribution."""
    return {
        name: {
            owner: {
                "ms": round(quartile(one[name][owner]["ms"] for one in rounds if owner in one[name]), 3),
                "memory_bytes": int(quartile(one[name][owner]["memory_bytes"] for one in rounds if owner in one[name])),
            }
            for owner in sorted({owner for one in rounds for owner in one[name]})
        }
        for name in rounds[0]
    }


def fitted(costs: dict[str, dict[str, float]], imports_ms: Sequence[float]) -> dict[str, dict[str, float]]:
    """Costs whose sum is what importing all took in cold starts.

    The check of a deploy measures each distribution, but runs on files that were never read, with the measuring itself.
    """
    total_ms = sum(one["ms"] for one in costs.values())
    if not imports_ms or not total_ms:
        return costs
    factor = quartile(imports_ms) / total_ms
    return {owner: {**one, "ms": round(one["ms"] * factor, 3)} for owner, one in costs.items()}


def quartile(values: Sequence[float]) -> float:
    """A quarter of the samples is below. What else runs on the machine makes samples longer, never shorter."""
    return report.quantile(sorted(values), 0.25)


def typical(values: Sequence[float], what: str) -> float:
    if not values:
        raise SystemExit(f"nothing was seen of {what}")
    return round(quartile(values), 3)


def runtime_profile(found: dict[str, Any], bare: Sequence[str]) -> dict[str, Any]:
    """The runtime's part. found: by setting, what `measure` returned; bare: functions without packages."""
    with_standbys, by_fork, cold = (found[name] for name in ("standbys", "fork", "cold"))
    bases = [zygote for each in (with_standbys, by_fork, cold) for zygote in each[1] if not zygote["environments"]]
    packed = [one for name, one in cold[0].items() if name not in bare]
    return {
        "zygote_start_ms": typical([base["start_ms"] for base in bases], "base zygotes"),
        "zygote_memory_bytes": int(typical([base["memory_bytes"] for base in bases], "base zygotes")),
        "standby_ms": typical(with_standbys[2], "standbys made"),
        "standby_memory_bytes": int(typical([value for base in bases for value in base["standby_bytes"]], "standbys")),
        "assign_ms": typical(starts_ms(with_standbys[0].values(), "standby"), "standbys"),
        "fork_ms": typical(starts_ms(by_fork[0].values(), "fork"), "forks"),
        "unpooled_fork_ms": typical(starts_ms(cold[0].values(), "fork") + starts_ms(packed, "cold"), "cold starts"),
        "warm_ms": typical(starts_ms(with_standbys[0].values(), "warm"), "warm starts"),
        "process_ms": typical(found["process_ms"], "processes"),
        "process_memory_bytes": found["process_bytes"],
        "helper_memory_bytes": int(
            typical([value for name in bare for value in with_standbys[0][name].memory_bytes["standby"]], "helpers")
        ),
    }


def function_profile(document: dict[str, Any], costs: Any, packages: Any, found: dict[str, Any]) -> dict[str, Any]:
    name = document["name"]
    helped, cold = found["standbys"][0][name], found["cold"][0][name]
    helped_bytes = helped.memory_bytes["standby"] + helped.memory_bytes["fork"]
    return {
        "runtime": RUNTIME,
        "distributions": dict(one.split("==") for one in document["distributions"]),
        "imports": document["imports"],
        **packages.get(document["environment"], {}),
        "costs": costs,
        "helped_import_ms": typical(helped.imports_ms["standby"] + helped.imports_ms["fork"], f"{name}, helped"),
        "cold_memory_bytes": int(typical(cold.memory_bytes["cold"] or cold.memory_bytes["fork"], f"{name}, cold")),
        "helped_memory_bytes": int(typical(helped_bytes, f"{name}, helped")),
    }


def run(options: Any) -> None:
    from lib.daemon import NODE_STATE, Daemon

    from gateway.simulate import profile

    wanted = aws_apps.load(options.applications, RUNTIME)
    names = [function.deployed_name for function in wanted]
    rounds = 2 if options.quick else options.rounds
    state = NODE_STATE.with_name(NODE_STATE.name + "-bench-profile")
    settings: dict[str, object] = {"index_url": options.index_url} if options.index_url else {}
    found: dict[str, Any] = {"process_ms": process_ms(10 * rounds), "process_bytes": process_bytes()}
    cost_rounds = []
    try:
        for number in range(1 if options.quick else options.deploys):
            shutil.rmtree(state / "store", ignore_errors=True)  # forget the functions, keep the packages
            with Daemon(state=state, **settings) as daemon:
                print(f"deploying {len(wanted)} functions, round {number + 1}", flush=True)
                documents = deploy(daemon, wanted, f"round {number}")
                cost_rounds.append({name: document["import_costs"] for name, document in documents.items()})
        kinds: dict[str, dict[str, object]] = {
            "standbys": {"standbys_per_zygote": 2},
            "fork": {"standbys_per_zygote": 0},
            "cold": {"policy": "keepalive"},  # no zygote but the base, and no standby
        }
        for kind, more in kinds.items():
            print(f"measuring starts: {kind}", flush=True)
            with Daemon(state=state, **settings, **more) as daemon:
                found[kind] = measure(daemon, names, rounds)
                if kind == "cold":
                    packages = packages_of(daemon, state, wanted, documents)
    finally:
        shutil.rmtree(state, ignore_errors=True)
    deploy_costs = costs_of(cost_rounds)
    costs = {name: fitted(one, found["cold"][0][name].imports_ms["cold"]) for name, one in deploy_costs.items()}
    bare = [name for name, document in documents.items() if not document["distributions"]]
    document = {
        "format": profile.FORMAT,
        "host": {key: value for key, value in report.host().items() if key != "load"},
        "commit": report.commit(),
        "measured": {"date": time.strftime("%Y-%m-%d"), "rounds": rounds, "deploys": len(cost_rounds)},
        "runtimes": {RUNTIME: runtime_profile(found, bare)},
        "functions": {name: function_profile(documents[name], costs[name], packages, found) for name in names},
    }
    import msgspec

    written = profile.encode(profile.decode(msgspec.json.encode(document), "this run"))
    finish(found, deploy_costs, options, rounds)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_bytes(written)
        print(f"profile written to {options.out}")


def finish(found: dict[str, Any], costs: dict[str, Any], options: Any, rounds: int) -> None:
    """Table and JSON of what was measured, and how far the costs of deploys explain cold starts."""
    rows = [
        report.row(f"{setting}-{kind}", values)
        for setting in ("standbys", "fork", "cold")
        for kind in ("standby", "fork", "cold", "warm")
        if (values := starts_ms(found[setting][0].values(), kind))
    ]
    rows += [report.row("process", found["process_ms"]), report.row("standby-refill", found["standbys"][2])]
    comparison = []
    for name, seen in found["cold"][0].items():
        if values := seen.imports_ms["cold"]:
            helped_ms = quartile(found["fork"][0][name].imports_ms["fork"])
            costs_ms = sum(one["ms"] for one in costs[name].values())
            imports = {"imports_ms": quartile(values), "costs_ms": costs_ms, "helped_ms": helped_ms}
            comparison.append({"function": name, **imports})
    zygotes = [
        {key: zygote[key] for key in ("id", "start_ms", "memory_bytes", "import_ms", "standby_bytes")}
        for zygote in found["standbys"][1]
    ]
    for one in comparison:
        print(
            "  {function:32} imports {imports_ms:7.1f} ms, costs {costs_ms:7.1f}, helped {helped_ms:5.1f}".format(**one)
        )
    parameters = {"rounds": rounds, "runtime": RUNTIME}
    report.finish(rows, {}, parameters=parameters, path=options.json, more={"cold": comparison, "zygotes": zygotes})


def main() -> None:
    parser = report.arguments(__doc__ or "")
    parser.add_argument("--applications", type=Path, required=True, metavar="FILE", help="applications.json")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the profile here")
    parser.add_argument("--rounds", type=int, default=7, help="starts of each function and kind [%(default)s]")
    parser.add_argument("--deploys", type=int, default=3, help="deploys that import costs are taken of [%(default)s]")
    parser.add_argument("--index-url", default="", help="package index [that of pip]")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("profile must run as root: it makes sandboxes")
    run(options)


if __name__ == "__main__":
    main()
