"""A pagurusd with its gateway for a benchmark: its own state, cgroups and uids, beside one that runs already."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from . import functions

READY_S = 60.0
STOP_S = 30.0
UID_BASE = 0x68000000  # below those of the default settings: a node in production may run on this machine
BIN = Path(sys.executable).parent
NODE_STATE = Path(os.environ.get("PAGURUS_STATE_DIR", "/var/lib/pagurus"))


class Daemon:
    """Started and ready from __enter__ to __exit__. The state directory stays, with what was built."""

    def __init__(self, *, state: Path | None = None, **settings: object) -> None:
        """settings: of pagurusd, over the defaults. state: a state directory instead of the one for all benchmarks."""
        self._rootfs = NODE_STATE / "rootfs"
        self._state = state or NODE_STATE.with_name(NODE_STATE.name + "-bench-http")
        self._run = f"/run/{self._state.name}"
        self._settings = settings
        self._log = tempfile.TemporaryFile("w+")
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Daemon":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._state.mkdir(mode=0o711, exist_ok=True)
        if not (self._state / "rootfs").exists():
            (self._state / "rootfs").symlink_to(self._rootfs)
        settings = {"cgroup_parent": self._state.name, "uid_base": UID_BASE, **self._settings}
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PAGURUS_")}
        environ |= {f"PAGURUS_{name.upper()}": str(value) for name, value in settings.items()}
        command = [BIN / "pagurusd", "--state-dir", self._state, "--run-dir", self._run]
        command += ["--listen", f"127.0.0.1:{self.port}", "--log-level", "info"]
        self._process = subprocess.Popen(command, stderr=self._log, env=environ, process_group=0)
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if error is not None:
            self._log.seek(0)
            print(f"the end of pagurusd's log:\n{self._log.read()[-5000:]}")
        self._log.close()

    @property
    def gateway_pid(self) -> int:
        """Process of the gateway."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            if b"\0gateway\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        raise SystemExit("pagurusd has no gateway")

    def deploy(self, name: str, kind: str) -> None:
        """Deploy the benchmark's function `kind` as `name`."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "main.py").write_text(functions.SOURCES[kind])
            (Path(folder) / "requirements.txt").write_text(functions.REQUIREMENTS[kind])
            self.deploy_folder(name, Path(folder))

    def deploy_folder(self, name: str, folder: Path) -> dict[str, Any]:
        """Deploy a folder with the command line; the function's document."""
        command = [BIN / "pagurus", "--url", self.url, "deploy", "--json", name, folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        return dict(json.loads(done.stdout))

    def connect(self) -> http.client.HTTPConnection:
        """A connection that sends at once."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _wait_ready(self) -> None:
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                connection = self.connect()
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self._log.seek(0)
        raise SystemExit(f"pagurusd does not get ready:\n{self._log.read()[-3000:]}")
