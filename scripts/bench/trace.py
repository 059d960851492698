"""Replays a trace of calls against one daemon a policy: cold starts, start latency, memory over time.

See docs/benchmarks.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import aws_apps, report

HERE = Path(__file__).resolve().parent
RUNTIME = "python3.11"
POLICIES = "keepalive,prewarm,sock,pagurus,adaptive"
BASELINE = "keepalive"
TOTAL_S = 600.0  # of sending, all policies together
QUICK_S = 60.0
KEPT_S = 600.0  # keep-alive of an idle sandbox, at the trace's own speed
# Policies' times at the trace's own speed, in seconds; they are divided by the speed as the arrivals are.
TIMES_S = {"period_s": 1800.0, "idle_first_s": 60.0, "zygote_keep_alive_s": 900.0, "helper_keep_alive_s": 900.0}
SETTLE_S = 10.0  # after the deploys: zygotes come up
PRICE_MS_PER_MB_S = 0.12  # adaptive's: of memory for a second of the trace, which is shorter here


def deploy_all(daemon: Any, functions: tuple[aws_apps.AppFunction, ...]) -> None:
    """Deploy what is not there yet, one after another."""
    for function in functions:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "main.py").write_text(function.source())
            if function.requirements:
                (Path(folder) / "requirements.txt").write_text(function.requirements_text())
            daemon.deploy_folder(function.deployed_name, Path(folder))


def settings_of(policy: str, speed: float) -> dict[str, object]:
    """Of pagurusd: times in step with the arrivals, limits that this many calls at once do not meet."""
    times: dict[str, float] = {name: seconds / speed for name, seconds in TIMES_S.items()}
    times["price_ms_per_mb_s"] = PRICE_MS_PER_MB_S * speed
    return {
        "policy": policy,
        "policy_options": json.dumps(times),
        "idle_timeout_s": KEPT_S / speed,
        "function_concurrency": 200,
        "queue_per_function": 2000,
    }


def replay(policy: str, options: Any, functions: tuple[aws_apps.AppFunction, ...], seconds: float) -> dict[str, Any]:
    """One policy's run: the document of `pagurus bench trace`, with the decisions that the log tells."""
    from lib.daemon import BIN, NODE_STATE, Daemon

    state = NODE_STATE.with_name(NODE_STATE.name + "-bench-trace")
    with Daemon(state=state, **settings_of(policy, options.speed)) as daemon, tempfile.TemporaryDirectory() as folder:
        deploy_all(daemon, functions)
        subprocess.run(["sleep", str(SETTLE_S)], check=True)
        out = Path(folder) / "out.json"
        command: list[Any] = [BIN / "pagurus", "--url", daemon.url, "bench", "trace", options.trace]
        command += ["--applications", options.applications, "--output", out, "--mode", options.mode]
        command += ["--speed", options.speed, "--time-scale", options.time_scale]
        command += ["--duration", seconds, "--warmup", seconds * options.warmup_share]
        if options.csv:
            options.csv.mkdir(parents=True, exist_ok=True)
            command += ["--csv", options.csv / f"{policy}.csv"]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=False)
        if not out.exists():
            raise SystemExit(f"{policy}: the replay ended with status {done.returncode}")
        return dict(json.loads(out.read_text()))


def table(found: dict[str, dict[str, Any]]) -> None:
    """A line a policy."""
    print(
        f"\n{'policy':12} {'cold':>6} {'helped':>7} {'warm':>8} {'start p50':>10} {'p95':>8} {'p99':>9} {'GB x s':>8}",
        end="",
    )
    print(f" {'zygotes':>8} {'making s':>9} {'useless':>8} {'failed':>7} {'late p99':>9}")
    for policy, each in found.items():
        requests, node = each["requests"], each["node"]
        start = next((row for row in each["rows"] if row["name"] == "start/all"), {"p50": 0.0, "p95": 0.0, "p99": 0.0})
        kinds = requests["start_kinds"]
        print(
            f"{policy:12} {requests['cold_starts_after_warmup']:6} {kinds['helped']:7} {kinds['warm']:8}"
            f" {start['p50']:10.3f} {start['p95']:8.2f} {start['p99']:9.2f} {node['held_gb_s_total']:8.2f}"
            f" {node['zygotes_made']:8} {node['zygote_making_s']:9.2f} {node['zygotes_that_never_helped']:8}"
            f" {sum(requests['failures'].values()):7} {requests['late_ms_p99'] or 0:9.2f}"
            + ("" if requests["is_valid"] else f"  VOID: {'; '.join(requests['why_invalid'])}")
        )


def ratios_of(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Each policy against fixed keep-alive: cold starts, memory held, p50 and p99 of starts."""
    base = found.get(BASELINE)
    ratios: dict[str, float] = {}
    for policy, each in found.items():
        if base is None or policy == BASELINE:
            continue
        pairs = {
            "cold-starts": [one["requests"]["cold_starts_after_warmup"] for one in (each, base)],
            "memory-held": [one["node"]["held_gb_s_total"] for one in (each, base)],
            **{f"start-{share}": [_start(one, share) for one in (each, base)] for share in ("p50", "p99")},
        }
        ratios |= {f"{policy}/{BASELINE}/{name}": round(a / b, 4) for name, (a, b) in pairs.items() if b}
    return ratios


def _start(document: dict[str, Any], share: str) -> float:
    return float(next((row[share] for row in document["rows"] if row["name"] == "start/all"), 0.0))


def main() -> None:
    parser = report.arguments(__doc__ or "")
    parser.add_argument("--trace", type=Path, required=True, metavar="FILE", help="calls: application,second,calls")
    parser.add_argument("--applications", type=Path, required=True, metavar="FILE", help="applications.json")
    parser.add_argument("--policies", default=POLICIES, help="comma-separated [%(default)s]")
    parser.add_argument("--speed", type=float, default=12.0, help="seconds of the trace in one of ours [%(default)s]")
    parser.add_argument("--time-scale", type=float, default=0.5, help="of durations and offsets [%(default)s]")
    parser.add_argument("--mode", choices=("sleep", "compute"), default="sleep", help="of functions [%(default)s]")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="of sending, in all [%(default)s]")
    parser.add_argument("--warmup-share", type=float, default=0.25, help="of each run, not counted [%(default)s]")
    parser.add_argument("--csv", type=Path, metavar="FOLDER", help="a row a request, a file a policy")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="cold starts, start times, memory over time")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("trace must run as root: it makes sandboxes")
    policies = options.policies.split(",")
    seconds = QUICK_S if options.quick else options.seconds / len(policies)
    functions = aws_apps.load(options.applications, RUNTIME)
    found: dict[str, dict[str, Any]] = {}
    for policy in policies:
        print(f"  {policy}: deploying, then {seconds:g} s", flush=True)
        found[policy] = replay(policy, options, functions, seconds)
    table(found)
    result = {
        "host": report.host(),
        "commit": report.commit(),
        "parameters": {"seconds": seconds, "runtime": RUNTIME, **next(iter(found.values()))["parameters"]},
        "rows": [{**row, "name": f"{policy}/{row['name']}"} for policy, each in found.items() for row in each["rows"]],
        "ratios": ratios_of(found),
        "requests": {policy: each["requests"] for policy, each in found.items()},
        "start_ms": {policy: each["start_ms"] for policy, each in found.items()},
        "node": {policy: each["node"] for policy, each in found.items()},
    }
    del result["parameters"]["policy"]
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(f"\nwritten to {options.json}")
    if options.plot:
        command = [sys.executable, str(HERE / "lib/plot_trace.py"), str(options.plot)]
        subprocess.run(command, input=json.dumps(result), text=True, check=True)


if __name__ == "__main__":
    main()
