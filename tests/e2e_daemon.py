"""A pagurusd of a test: a real process with its own state, cgroups, uids and port, spoken to over HTTP and the CLI."""

import contextlib
import http.client
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import leaks

BIN = Path(sys.executable).parent
INSTALLED = Path(os.environ.get("PAGURUS_STATE_DIR", "/var/lib/pagurus"))
WAIT_S = 20.0  # nothing takes so long: only a failing test waits for it
POLL_S = 0.01
UID_BASE = 0x58000000  # below those of the default settings and of the benchmarks
UID_SLOTS = 64  # ranges of `leaks.UIDS` up to the benchmarks' base
TYPE_PREFIX = "urn:pagurus:problem:"

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str | None:
        """How the invocation got its sandbox."""
        return self.headers.get("X-Pagurus-Start-Kind")

    @property
    def result(self) -> Any:
        """The result of an invocation that must have worked."""
        assert self.status == 200, self
        return self.json

    def problem(self, word: str, status: int) -> dict[str, Any]:
        """The problem document, which must be of this type and status."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self
        document: dict[str, Any] = self.json
        assert (document["type"], document["status"], self.status) == (TYPE_PREFIX + word, status, status), document
        assert document["title"] and document["detail"], document
        return document


class Daemon:
    """One pagurusd and what it is started with; it can be started again on the same state."""

    def __init__(self, state: Path, owner: leaks.Owner, log: Path, settings: Mapping[str, object]) -> None:
        self.state = state
        self.owner = owner
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._log = log
        self._log.touch()
        self._groups: set[int] = set()
        self._settings = {"cgroup_parent": owner.cgroup_parent, "uid_base": owner.uid_base, **settings}

    def spawn(
        self, *options: str | Path, environ: Mapping[str, str] | None = None, listen: str | None = None
    ) -> subprocess.Popen[bytes]:
        """A pagurusd with these settings, which nobody waits for; its output goes to the log."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAGURUS_")}
        variables = {f"PAGURUS_{name.upper()}": str(value) for name, value in self._settings.items()}
        command = [BIN / "pagurusd", "--state-dir", self.state, "--run-dir", self.state / "run"]
        command += ["--listen", listen or f"127.0.0.1:{self.port}", *options]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **variables, **(environ or {})},
                process_group=0,
            )
        self._groups.add(process.pid)
        return process

    def start(self, *, environ: Mapping[str, str] | None = None) -> None:
        """Start, and wait until it is ready."""
        assert self.process is None
        self.process = self.spawn(environ=environ)
        self.wait_ready()

    def wait_ready(self) -> None:
        process = self.process
        assert process is not None

        def is_ready() -> bool:
            assert process.poll() is None, f"pagurusd ended with {process.returncode}:\n{self.log[-3000:]}"
            try:
                return self.get("/readyz").status == 200
            except (OSError, http.client.HTTPException):
                return False

        self.until(is_ready)

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self.end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL; its exit status."""
        return self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end that something else has caused; the exit status."""
        assert self.process is not None
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def gateway_pid(self) -> int | None:
        """The gateway's process; None while there is none."""
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"\0gateway\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace")

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition holds; its value."""
        end_s = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < end_s, f"waited in vain: {self.processes()}; the log ends:\n{self.log[-3000:]}"
            time.sleep(POLL_S)
        return found

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own. headers: `content_type` stands for Content-Type."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
                connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def invoke(self, name: str, param: object = None) -> Answer:
        return self.request("POST", f"/v1/functions/{name}/invocations", json.dumps(param).encode())

    def deploy(self, name: str, code: str | dict[str, str] | bytes, **settings: object) -> Answer:
        """Deploy. code: the text of main.py, texts by name, or an archive. settings: as the API has them."""
        parts = {"code": code if isinstance(code, bytes) else tar(code), "settings": json.dumps(settings).encode()}
        return self.put(name, parts)

    def put(self, name: str, parts: Mapping[str, bytes]) -> Answer:
        """PUT a function as multipart/form-data."""
        body = b"".join(
            b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\n\r\n%s\r\n'
            % (part.encode(), content)
            for part, content in parts.items()
        )
        form = "multipart/form-data; boundary=edge"
        return self.request("PUT", f"/v1/functions/{name}", body + b"--edge--\r\n", content_type=form)

    def must_deploy(self, name: str, code: str | dict[str, str] | bytes, **settings: object) -> dict[str, Any]:
        answer = self.deploy(name, code, **settings)
        assert answer.status in (200, 201), answer
        deployed: dict[str, Any] = answer.json
        return deployed

    def evict(self, name: str) -> int:
        """End the idle sandboxes of a function; how many."""
        answer = self.request("DELETE", f"/v1/sandboxes?function={name}")
        assert answer.status == 200, answer
        return int(answer.json["ended"])

    def functions(self) -> list[str]:
        return [function["name"] for function in self.get("/v1/functions").json["functions"]]

    def sandboxes(self, name: str) -> list[dict[str, Any]]:
        """The sandboxes of a function."""
        return [one for one in self.get("/v1/sandboxes").json["sandboxes"] if one["function"] == name]

    def wait_zygote(self, *names: str) -> dict[str, Any]:
        """Wait for a ready zygote that covers all these functions."""

        def found() -> dict[str, Any] | None:
            for zygote in self.get("/v1/zygotes").json["zygotes"]:
                if zygote["state"] == "ready" and set(names) <= set(zygote["functions"]):
                    return dict(zygote)
            return None

        return dict(self.until(found))

    def record(self, answer: Answer) -> dict[str, Any]:
        """The record of an invocation; it is written soon after the answer."""
        path = f"/v1/invocations/{answer.headers['X-Pagurus-Invocation-Id']}"
        return dict(self.until(lambda: found.json if (found := self.get(path)).status == 200 else None))

    def cli(self, *arguments: str | Path, status: int = 0) -> str:
        """Run `pagurus`; its output, of both kinds. It must end with this status."""
        command = [BIN / "pagurus", "--url", f"http://127.0.0.1:{self.port}", *arguments]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT_S
        )
        text = ended.stdout.decode()
        assert ended.returncode == status, text
        return text

    def processes(self) -> list[str]:
        """Those in its cgroups or with its uids, and those of its process groups: pagurusd, the gateway."""
        found = list(leaks.processes(self.owner))
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                # state, parent, group: see proc_pid_stat(5)
                state, parent, group = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()[:3]
                if int(group) in self._groups and (state, parent) != ("Z", "1"):
                    found.append(f"{name} of pagurusd's process group")
        return found

    def assert_clean(self) -> None:
        """No build, no half-made layer, nothing that waits for deletion."""
        self.until(lambda: not list(leaks.rubbish(self.state)))


@contextlib.contextmanager
def new_daemon(*, start: bool = True, **settings: object) -> Iterator[Daemon]:
    """A daemon on a new state directory. settings: of pagurusd. At the end it is stopped and must leave nothing."""
    if not (INSTALLED / "rootfs").is_dir():
        pytest.skip(f"no base root file system in {INSTALLED}: run scripts/setup")
    number = next(_numbers)
    slot = (os.getpid() + number) % UID_SLOTS
    owner = leaks.Owner(f"pagurus-e2e-{os.getpid()}-{number}", UID_BASE + slot * leaks.UIDS, counts_descendants=False)
    with tempfile.TemporaryDirectory(prefix="pagurus-e2e-", dir="/var/tmp") as name:
        state = Path(name) / "state"
        for folder in (state.parent, state):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711)  # the gateway and the builder pass through
        (state / "rootfs").symlink_to(INSTALLED / "rootfs")
        daemon = Daemon(state, owner, state.parent / "log", settings)
        with leaks.no_leaks(state, owner):
            try:
                if start:
                    daemon.start()
                yield daemon
                if daemon.process is not None:
                    assert daemon.stop() == 0, daemon.log[-3000:]
                daemon.until(lambda: not daemon.processes())
            finally:
                if daemon.process is not None:
                    print(daemon.log[-10_000:])
                    daemon.kill()
                _remove_parent(owner)
        assert "Traceback" not in daemon.log, daemon.log


def tar(code: str | dict[str, str]) -> bytes:
    """A tar archive of main.py, or of texts by name."""
    files = {"main.py": code} if isinstance(code, str) else code
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _remove_parent(owner: leaks.Owner) -> None:
    """The parent is the operator's, so pagurusd leaves it; only when it is empty can it be removed."""
    for path in leaks.cgroups(owner):
        if path.name == owner.cgroup_parent:
            with contextlib.suppress(OSError):
                path.rmdir()
