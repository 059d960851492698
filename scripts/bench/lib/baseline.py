"""Baselines outside Pagurus, as a process that does one start for each line it reads and prints its nanoseconds.

    baseline.py process|forkserver|crun SOURCE.py [ENVIRONMENT [ROOTFS]]

Run by the distribution's python3. `process` is a fresh interpreter; `forkserver` is multiprocessing's, with the
function's imports preloaded; `crun` runs the same root file system as an OCI container.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PARAM = '{"a":1}'
RUNNER = (
    "import sys, json; sys.path[:0] = ['/code', '/opt/env']; import main; "
    "print(json.dumps(main.main({'a': 1})), flush=True)"
)


def serve(start: Callable[[], int]) -> None:
    """One start a line of input."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(start(), flush=True)


def run(command: list[str], environ: dict[str, str]) -> int:
    """Nanoseconds from starting the command to its first line of output; waits for its end unmeasured."""
    started_ns = time.perf_counter_ns()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environ)
    assert process.stdout is not None
    line = process.stdout.readline()
    elapsed_ns = time.perf_counter_ns() - started_ns
    process.wait()
    if b'"ok"' not in line:
        raise SystemExit(f"baseline {command[0]} answered {line!r}")
    return elapsed_ns


def environ_with(environment: str) -> dict[str, str]:
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": environment,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def process(source: Path, environment: str) -> None:
    text = source.read_text() + f"\n\nimport json\nprint(json.dumps(main(json.loads({PARAM!r}))), flush=True)\n"
    script = source.with_name("process_main.py")
    script.write_text(text)
    serve(lambda: run(["/usr/bin/python3", str(script)], environ_with(environment)))


def answer(connection: object, source: str) -> None:
    """In the forkserver's child: the function, from its source."""
    names: dict[str, object] = {"__name__": "main"}
    exec(compile(source, "main.py", "exec"), names)
    connection.send(json.dumps(names["main"](json.loads(PARAM))))  # type: ignore[attr-defined, operator]


def forkserver(source: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    text = source.read_text()
    modules = [line.split()[1] for line in text.splitlines() if line.startswith("import ")]
    context.set_forkserver_preload([*modules, "json", "baseline"])

    def start() -> int:
        started_ns = time.perf_counter_ns()
        ours, theirs = context.Pipe()
        child = context.Process(target=answer, args=(theirs, text))
        child.start()
        ours.recv()
        elapsed_ns = time.perf_counter_ns() - started_ns
        child.join()
        return elapsed_ns

    start()
    serve(start)


def crun(source: Path, environment: str, rootfs: str) -> None:
    # crun refuses hybrid cgroups; this process has a mount namespace of its own (started by unshare -m).
    if Path("/sys/fs/cgroup/unified").is_mount():
        subprocess.run(["umount", "/sys/fs/cgroup/unified"], check=True)
    bundle = source.parent / "bundle"
    bundle.mkdir(exist_ok=True)
    binds = [("/code", str(source.parent))] + ([("/opt/env", environment)] if environment else [])
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=64m"]},
        *({"destination": d, "type": "bind", "source": s, "options": ["rbind", "ro"]} for d, s in binds),
    ]
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": rootfs, "readonly": True},
        "hostname": "crun",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": ["/usr/bin/python3", "-c", RUNNER],
            "env": ["PATH=/usr/bin:/bin", "OPENBLAS_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=1"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "mounts": mounts,
        "linux": {"namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts", "network")]},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    command = ["crun", "--cgroup-manager=disabled", "run", "--bundle", str(bundle), f"bench-{os.getpid()}"]
    serve(lambda: run(command, environ_with("")))


def main() -> None:
    kind, source, *rest = sys.argv[1:]
    environment = rest[0] if rest else ""
    if kind == "process":
        process(Path(source), environment)
    elif kind == "forkserver":
        forkserver(Path(source))
    else:
        crun(Path(source), environment, rest[1])


if __name__ == "__main__":
    # forkserver children import __main__ again: everything they need is in the module `baseline`
    import baseline

    baseline.main()
