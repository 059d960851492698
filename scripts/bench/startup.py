"""Start-up latency of every kind of start, interleaved in one run with baselines. See docs/benchmarks.md."""

import asyncio
import http.client
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lib import bed as bed_module
from lib import functions, report
from lib.bed import Bed

from runtime.frames import FrameKind, pack

HERE = Path(__file__).resolve().parent
EXTERNAL = ("process", "forkserver", "crun")
Measure = Callable[[], Awaitable[float]]


def _unblock() -> None:
    """The node's reaper blocks SIGCHLD in this process; a baseline must not inherit that."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class External:
    """A baseline's driver process: one start a line."""

    def __init__(self, kind: str, directory: Path, environment: str, rootfs: str) -> None:
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{HERE / 'lib'}:{environment}",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [
            "/usr/bin/python3",
            str(HERE / "lib/baseline.py"),
            kind,
            str(directory / "main.py"),
            environment,
            rootfs,
        ]
        if kind == "crun":
            command = ["unshare", "-m", "--propagation", "private", *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, preexec_fn=_unblock
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        if self._out.readline().strip() != "ready":
            raise SystemExit(f"baseline {kind} does not start")

    async def measure(self) -> float:
        self._in.write("\n")
        self._in.flush()
        return int(self._out.readline()) / 1e6

    def close(self) -> None:
        self._in.close()
        self._process.wait()


class Http:
    """A pagurusd of its own with a gateway, and a keep-alive client."""

    def __init__(self, names: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{self._port}"
        self._state = "/var/lib/pagurus-bench-http"
        Path(self._state).mkdir(mode=0o711, exist_ok=True)
        if not (Path(self._state) / "rootfs").exists():
            (Path(self._state) / "rootfs").symlink_to("/var/lib/pagurus/rootfs")
        self._log = tempfile.NamedTemporaryFile("w+", prefix="pagurusd-", suffix=".log")
        environ = {**os.environ, "PAGURUS_CGROUP_PARENT": "pagurus-bench", "PAGURUS_STANDBYS_PER_ZYGOTE": "2"}
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "pagurusd"),
                "--state-dir",
                self._state,
                "--listen",
                f"127.0.0.1:{self._port}",
            ],
            stderr=self._log,
            env=environ,
            preexec_fn=_unblock,
        )
        self._wait_ready()
        for name in names:
            self._deploy(name)
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name in names:
            self._wait_helped(name)

    def _wait_ready(self) -> None:
        end_s = time.monotonic() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > end_s or self._process.poll() is not None:
                raise SystemExit(f"pagurusd does not get ready:\n{Path(self._log.name).read_text()[-3000:]}")
            time.sleep(0.1)

    def _deploy(self, name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "main.py").write_text(functions.SOURCES[name])
            (Path(folder) / "requirements.txt").write_text(functions.REQUIREMENTS[name])
            command = [str(Path(sys.executable).parent / "pagurus"), "--url", self._url, "deploy", name, folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def _wait_helped(self, name: str) -> None:
        """Until the function's zygote has standbys."""
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            kind, _ = self.invoke(name)
            self.evict(name)
            if kind == "helped":
                return
            time.sleep(0.2)
        raise SystemExit(f"{name} never got a helped start:\n{Path(self._log.name).read_text()[-3000:]}")

    def invoke(self, name: str) -> tuple[str, float]:
        started_s = time.perf_counter()
        self._connection.request("POST", f"/v1/functions/{name}/invocations", functions.PARAM)
        answer = self._connection.getresponse()
        body = answer.read()
        elapsed_s = time.perf_counter() - started_s
        if answer.status != 200:
            raise SystemExit(f"{name}: {answer.status} {body!r}")
        return answer.headers["X-Pagurus-Start-Kind"], elapsed_s * 1000

    def evict(self, name: str) -> None:
        """End the function's idle sandboxes, so that its next start is helped."""
        self._connection.request("GET", "/v1/sandboxes")
        rows = json.loads(self._connection.getresponse().read())["sandboxes"]
        for row in rows:
            if row.get("function") == name:
                self._connection.request("DELETE", f"/v1/sandboxes/{row['id']}")
                self._connection.getresponse().read()

    async def helped(self, name: str) -> float:
        self.evict(name)
        await asyncio.sleep(0.03)  # the standbys are full again
        kind, elapsed_ms = self.invoke(name)
        return elapsed_ms if kind == "helped" else float("nan")

    async def warm(self, name: str) -> float:
        self.invoke(name)
        kind, elapsed_ms = self.invoke(name)
        return elapsed_ms if kind == "warm" else float("nan")

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


class Inside:
    """Starts measured at pagurusd."""

    def __init__(self, bed: Bed, name: str) -> None:
        self._bed = bed
        self._name = name
        environment = bed.environments[name]
        self._environment = environment.id if environment else None
        self._zygote = f"z-{name}" if environment else "base"
        self._warm: Any = None

    async def helped_standby(self) -> float:
        sandbox = await self._bed.parked(self._environment)
        await asyncio.sleep(0.02)
        elapsed_ms = self._bed.assign_and_call(sandbox, self._name)
        await self._bed.kill(sandbox)
        return elapsed_ms

    async def helped_fork(self) -> float:
        await asyncio.sleep(0.03)  # the pool of empty sandboxes is full again
        elapsed_ms, sandbox = await self._bed.start_and_call(self._zygote, self._name)
        await self._bed.kill(sandbox)
        return elapsed_ms

    async def cold(self) -> float:
        """Nothing is ready but the base zygote without pools: namespaces, fork, import, all on the path."""
        elapsed_ms, sandbox = await self._bed.start_and_call("base-unpooled", self._name)
        await self._bed.kill(sandbox)
        return elapsed_ms

    async def warm(self) -> float:
        if self._warm is None:
            self._warm = await self._bed.parked(self._environment)
            self._bed.assign_and_call(self._warm, self._name)
        self._bed.call(self._warm)
        return self._bed.call(self._warm)

    async def bare_fork(self) -> float:
        ours, theirs = socket.socketpair()
        host = self._bed.node._zygotes[self._zygote]
        assignment = {"function": self._name, "version": "0", "handler": "main.main", "memory_bytes": 1 << 28}
        assignment |= {
            "environ": {"PAGURUS_FUNCTION": self._name},
            "result_bytes": 1 << 20,
            "environment_is_new": False,
        }
        source = functions.SOURCES[self._name]
        message = {"kind": "bare", "name": self._name, "source": source, "assignment": assignment}
        data = json.dumps(message).encode()
        with ours, theirs:
            started_s = time.perf_counter()
            ours.sendall(pack(FrameKind.INVOKE, b"bench", functions.PARAM, 30_000))
            host._client._control.send(data, [theirs.fileno()])
            answer = ours.recv(65536)
            elapsed_s = time.perf_counter() - started_s
        assert b'"ok"' in answer
        await asyncio.sleep(0.01)  # its exit is not the next one's burden
        return elapsed_s * 1000


async def collect(measures: dict[str, Measure], rounds: int, slow_rounds: int) -> dict[str, list[float]]:
    """Every round measures each series once, in random order; slow ones only in the first `slow_rounds`."""
    slow = tuple(name for name in measures if name.startswith(("process/", "crun/", "cold/", "forkserver/")))
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(-2, rounds):
        names = [name for name in measures if number < slow_rounds or name not in slow]
        random.shuffle(names)
        for name in names:
            value = await measures[name]()
            if number >= 0 and value == value:
                samples[name].append(value)
        if number % 20 == 0:
            print(f"  round {number} of {rounds}", flush=True)
    return samples


def ratios(samples: dict[str, list[float]], names: list[str]) -> dict[str, float]:
    pairs = [
        ("helped-fork", "bare-fork"),
        ("helped-standby", "bare-fork"),
        ("forkserver", "helped-fork"),
        ("crun", "helped-standby"),
        ("process", "helped-standby"),
        ("cold", "helped-standby"),
    ]
    return {
        f"{above}/{below}/{name}": report.paired_ratio(samples[f"{above}/{name}"], samples[f"{below}/{name}"])
        for above, below in pairs
        for name in names
        if samples.get(f"{above}/{name}") and samples.get(f"{below}/{name}")
    }


async def run(options: Any) -> None:
    names = options.functions.split(",")
    rounds = 10 if options.quick else options.rounds
    slow_rounds = 5 if options.quick else options.slow_rounds
    measures: dict[str, Measure] = {}
    async with bed_module.open_bed(module="bench_zygote") as bed:
        for name in names:
            print(f"building {name}", flush=True)
            await bed.deploy(name)
        await bed.zygote("base", [], 2)
        for name in names:
            if bed.environments[name]:
                await bed.zygote(f"z-{name}", [name], 2)
        await bed.zygote("base-unpooled", [], 0)
        bed.node._zygotes["base-unpooled"]._targets.clear()
        web = Http(names) if not options.no_http else None
        externals: list[External] = []
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                inside = Inside(bed, name)
                for kind in ("cold", "helped_fork", "helped_standby", "warm", "bare_fork"):
                    measures[f"{kind.replace('_', '-')}/{name}"] = getattr(inside, kind)
                if web is not None:
                    measures[f"http-helped-standby/{name}"] = lambda name=name: web.helped(name)
                    measures[f"http-warm/{name}"] = lambda name=name: web.warm(name)
                directory = Path(folder) / name
                directory.mkdir()
                os.chmod(folder, 0o755)
                (directory / "main.py").write_text(functions.SOURCES[name])
                environment = bed.environments[name]
                path = str(bed_module.STATE / "environments" / environment.id / "fs") if environment else ""
                for kind in [] if options.no_baselines else EXTERNAL:
                    rootfs = str(bed.parts.layers.root_lowers(bed.runtime)[-1])
                    externals.append(External(kind, directory, path, rootfs))
                    measures[f"{kind}/{name}"] = externals[-1].measure
            try:
                samples = await collect(measures, rounds, slow_rounds)
            finally:
                for external in externals:
                    external.close()
                if web is not None:
                    web.close()
        private = await _private_bytes(bed, names)
    rows = [report.row(name, samples[name]) for name in sorted(samples, key=lambda n: (n.split("/")[1], n))]
    rows += [report.row(f"private/{name}", [value / 2**20], "MiB") for name, value in private.items()]
    parameters = {"functions": names, "rounds": rounds, "slow_rounds": slow_rounds}
    report.finish(rows, ratios(samples, names), parameters=parameters, path=options.json)
    if options.plot:
        _plot(options.plot, samples)


async def _private_bytes(bed: Bed, names: list[str]) -> dict[str, int]:
    """Private memory of an idle helper that has served one invocation."""
    found = {}
    for name in names:
        environment = bed.environments[name]
        sandbox = await bed.parked(environment.id if environment else None)
        bed.assign_and_call(sandbox, name)
        pid = bed.node._sandboxes[sandbox].pid
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
        found[name] = fields["Private_Dirty"] + fields["Private_Clean"]
        await bed.kill(sandbox)
    return found


def _plot(path: Path, samples: dict[str, list[float]]) -> None:
    """Cumulative distributions, one panel a function. In a process of its own: matplotlib starts threads."""
    script = HERE / "lib/plot_startup.py"
    subprocess.run([sys.executable, str(script), str(path)], input=json.dumps(samples), text=True, check=True)


def main() -> None:
    parser = report.arguments(__doc__ or "")
    parser.add_argument("--functions", default="empty,requests,pandas", help="comma-separated [%(default)s]")
    parser.add_argument("--rounds", type=int, default=400, help="samples a series [%(default)s]")
    parser.add_argument("--slow-rounds", type=int, default=200, help="samples of the slow series [%(default)s]")
    parser.add_argument("--no-http", action="store_true", help="leave out the rows over HTTP")
    parser.add_argument("--no-baselines", action="store_true", help="leave out process, forkserver and crun")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the distributions")
    if os.geteuid() != 0:
        raise SystemExit("startup must run as root: it makes sandboxes")
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
