"""Warm requests per second against a bare aiohttp echo; sandboxes made, used and removed per second.

See docs/benchmarks.md.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import report

LIB = Path(__file__).resolve().parent / "lib"
PATH = "/v1/functions/empty/invocations"
CONNECTIONS = (1, 4, 16)
TARGETS = ("warm", "echo", "echo-lowlevel")
PARAM = b'{"a":1}'


@dataclass
class Series:
    """What wrk measured of one target with one number of connections. latency_us: how often each was seen."""

    rates: list[float] = field(default_factory=list)
    latency_us: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, found: dict[str, Any]) -> None:
        self.rates.append(found["requests"] / (found["duration_us"] / 1e6))
        for microseconds, count in found["latency"]:
            self.latency_us[microseconds] += count

    def latency_row(self, name: str) -> dict[str, Any]:
        total = sum(self.latency_us.values())
        cells = sorted(self.latency_us.items())

        def at(share: float) -> float:
            seen = 0
            for microseconds, count in cells:
                seen += count
                if seen > share * total:
                    return microseconds / 1000
            return cells[-1][0] / 1000

        figures = {"min": cells[0][0] / 1000, "p50": at(0.5), "p95": at(0.95), "p99": at(0.99)}
        return {"name": name, "unit": "ms", "n": total, **figures}


@contextmanager
def echo(kind: str) -> Iterator[str]:
    """A baseline server; its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(LIB / "echo.py"), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)


def wrk(url: str, connections: int, seconds: int) -> dict[str, Any]:
    """One run of wrk; what wrk.lua prints."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(LIB / "wrk.lua"), url + PATH]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if found["errors"]:
        raise SystemExit(f"{url}: {found['errors']} of {found['requests']} requests failed")
    return found


def measure_warm(urls: dict[str, str], rounds: int, seconds: int) -> dict[tuple[str, int], Series]:
    """All targets in turn, in another order each round; the first round warms up and does not count."""
    found: dict[tuple[str, int], Series] = defaultdict(Series)
    for number in range(-1, rounds):
        for connections in CONNECTIONS:
            for target in random.sample(TARGETS, len(TARGETS)):
                result = wrk(urls[target], connections, seconds if number >= 0 else 1)
                if number >= 0:
                    found[target, connections].add(result)
        print(f"  warm: round {number + 1} of {rounds}", flush=True)
    return found


class Client(threading.Thread):
    """Invokes its function and ends its sandbox, again and again. cycles_ms: of each such turn."""

    def __init__(self, daemon: Any, function: str, end_s: float) -> None:
        super().__init__()
        self._connection = daemon.connect()
        self._function = function
        self._end_s = end_s
        self.cycles_ms: list[float] = []
        self.kinds: dict[str, int] = defaultdict(int)
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._cycle()
        except Exception as error:
            self.error = error

    def _cycle(self) -> None:
        while time.monotonic() < self._end_s:
            started_s = time.perf_counter()
            self._connection.request("POST", f"/v1/functions/{self._function}/invocations", PARAM)
            answer = self._connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise ValueError(body.decode())
            self.kinds[answer.headers["X-Pagurus-Start-Kind"]] += 1
            self._connection.request("DELETE", f"/v1/sandboxes?function={self._function}")
            ended = json.loads(self._connection.getresponse().read())
            if ended != {"ended": 1}:
                raise ValueError(f"DELETE answered {ended}")
            self.cycles_ms.append((time.perf_counter() - started_s) * 1000)


def measure_cycles(daemon: Any, clients: int, rounds: int, seconds: float) -> tuple[list[float], list[float], int]:
    """Cycles per second of each round, the duration of each cycle, and how many starts were none of a helper."""
    rates: list[float] = []
    cycles_ms: list[float] = []
    others = 0
    for number in range(rounds):
        started_s = time.monotonic()
        threads = [Client(daemon, f"fresh-{one}", started_s + seconds) for one in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for thread in threads:
            if thread.error is not None:
                raise SystemExit(f"create-run-destroy: {thread.error}") from thread.error
        found = [ms for thread in threads for ms in thread.cycles_ms]
        rates.append(len(found) / (time.monotonic() - started_s))
        cycles_ms += found
        others += sum(count for thread in threads for kind, count in thread.kinds.items() if kind != "helped")
        print(f"  create-run-destroy: round {number + 1} of {rounds}", flush=True)
    return rates, cycles_ms, others


async def measure_node(clients: int, rounds: int, seconds: float) -> list[float]:
    """Cycles per second at pagurusd itself: fork, assign, call, kill, wait until it is reaped. No gateway."""
    from lib import bed as bed_module

    rates: list[float] = []
    async with bed_module.open_bed() as bed:
        await bed.prepare(["empty"])
        for number in range(rounds):
            started_s = time.monotonic()

            async def cycle(end_s: float) -> int:
                done = 0
                while time.monotonic() < end_s:
                    _, sandbox = await bed.start_and_call("base", "empty")
                    await bed.kill(sandbox)
                    done += 1
                return done

            counts = await asyncio.gather(*(cycle(started_s + seconds) for _ in range(clients)))
            rates.append(sum(counts) / (time.monotonic() - started_s))
            print(f"  create-run-destroy at pagurusd: round {number + 1} of {rounds}", flush=True)
    return rates


def tables(found: dict[tuple[str, int], Series]) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, float]]:
    """Rows, ratios and the differences of latency."""
    rows, ratios = [], {}
    for connections in CONNECTIONS:
        for target in TARGETS:
            rows.append(report.row(f"{target}-rps/c{connections}", found[target, connections].rates, "1/s"))
        for below in TARGETS[1:]:
            ratios[f"warm-rps/{below}-rps/c{connections}"] = report.paired_ratio(
                found["warm", connections].rates, found[below, connections].rates
            )
    latencies = {}
    for connections in CONNECTIONS:
        for target, name in zip(TARGETS, ("http-warm", *TARGETS[1:]), strict=True):
            row = found[target, connections].latency_row(f"{name}/c{connections}")
            latencies[target, connections] = row["p50"]
            rows.append(row)
    above = {
        f"http-warm-p50-above-{below}-ms/c1": round(latencies["warm", 1] - latencies[below, 1], 3)
        for below in TARGETS[1:]
    }
    return rows, ratios, above


def main() -> None:
    parser = report.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of all targets [%(default)s]")
    parser.add_argument("--seconds", type=int, default=2, help="each run of wrk [%(default)s]")
    parser.add_argument("--clients", type=int, default=4, help="clients of create-run-destroy [%(default)s]")
    parser.add_argument("--no-fresh", action="store_true", help="leave create-run-destroy out")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("throughput must run as root: it makes sandboxes")
    from lib.daemon import Daemon

    rounds, seconds = (1, 1) if options.quick else (options.rounds, options.seconds)
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(idle_timeout_s=600, function_concurrency=16))
        print("deploying", flush=True)
        for name in ("empty", *(f"fresh-{number}" for number in range(options.clients))):
            daemon.deploy(name, "empty")
        urls = {
            "warm": daemon.url,
            "echo": stack.enter_context(echo("application")),
            "echo-lowlevel": stack.enter_context(echo("lowlevel")),
        }
        rows, ratios, more = tables(measure_warm(urls, rounds, seconds))
        if not options.no_fresh:
            rates, cycles_ms, others = measure_cycles(daemon, options.clients, rounds, 2.0 * seconds)
            rows.append(report.row("create-run-destroy/empty", rates, "1/s"))
            rows.append(report.row("create-run-destroy-cycle/empty", cycles_ms))
            more["create-run-destroy-not-helped"] = others
    if not options.no_fresh:
        # Last, and after all children: the node's reaper takes every child of this process.
        rates = asyncio.run(measure_node(options.clients, rounds, 2.0 * seconds))
        rows.append(report.row("create-run-destroy-node/empty", rates, "1/s"))
    parameters = {"rounds": rounds, "seconds": seconds, "clients": options.clients, "connections": CONNECTIONS}
    report.finish(rows, ratios, parameters=parameters, path=options.json, more=more)


if __name__ == "__main__":
    main()
