"""Baselines that live in processes of their own, one start a line. See baseline.py."""

import os
import signal
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
KINDS = ("process", "forkserver", "crun")


def _unblock() -> None:
    """The node's reaper blocks SIGCHLD in this process; a baseline must not inherit that."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class External:
    """One baseline's driver."""

    def __init__(self, kind: str, directory: Path, environment: str, rootfs: str) -> None:
        """directory: holds main.py. environment, rootfs: where packages and the base root file system are."""
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{HERE}:{environment}",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = ["/usr/bin/python3", str(HERE / "baseline.py"), kind, str(directory / "main.py"), environment, rootfs]
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
        """Milliseconds of one start."""
        self._in.write("\n")
        self._in.flush()
        return int(self._out.readline()) / 1e6

    def close(self) -> None:
        self._in.close()
        self._process.wait()
