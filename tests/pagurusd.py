"""A real pagurusd as a child of the test, spoken to by HTTP and by the command line only."""

import contextlib
import http.client
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import leaks
from tests.leaks import Scope
from tests.slowness import patience_s

BIN = Path(sys.executable).parent
READY_S = patience_s(30.0)
STOP_S = patience_s(30.0)
WAIT_S = patience_s(30.0)
CLI_S = patience_s(120.0)
WAIT_EVERY_S = 0.02
BOUNDARY = "pagurus-test-boundary"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. `json`: its decoded body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def word(self) -> str:
        """The word of a problem document, which this must be."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), (self.status, self.body[:300])
        document = self.json
        assert document["status"] == self.status and document["title"] and document["detail"], document
        return str(document["type"].rpartition(":")[2])


class Daemon:
    """Starts when it is entered, stops in order when it is left. `settings`: PAGURUS_ variables, lower case."""

    def __init__(self, scope: Scope, **settings: Any) -> None:
        self.scope = scope
        self.state = state = scope.state_dir
        self.run_dir = state / "run"
        self.port = free_port()
        self.settings = settings
        self.log_path = state / "pagurusd.log"
        self.process: subprocess.Popen[bytes] | None = None

    def environ(self, **more: str) -> dict[str, str]:
        given = {
            "run_dir": self.run_dir,
            "listen": f"127.0.0.1:{self.port}",
            **self.scope.settings,
            **self.settings,
        }
        return {**os.environ, **{f"PAGURUS_{name.upper()}": str(value) for name, value in given.items()}, **more}

    def start(self, **more: str) -> None:
        assert self.process is None or self.process.poll() is not None
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [BIN / "pagurusd"], env=self.environ(**more), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )

    def wait_ready(self) -> None:
        self.until(self._is_ready, "ready")

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"pagurusd ended with {self.process.returncode}:\n{self.log()[-3000:]}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/readyz").status == 200
        return False

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=STOP_S)

    def kill(self) -> None:
        """kill -9. The gateway, and what is in namespaces of zygotes, must go with it."""
        assert self.process is not None
        family = [os.pidfd_open(pid) for pid in leaks.descendants(self.process.pid)]
        self.signal(signal.SIGKILL)
        self.wait()
        for pidfd in family:
            assert select.select([pidfd], [], [], WAIT_S)[0], "a process outlives pagurusd"
            os.close(pidfd)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> "Daemon":
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    # --- HTTP

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience_s(120))
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def put(self, name: str, code: bytes, **settings: Any) -> Answer:
        """Deploy an archive."""
        body = form({"settings": json.dumps(settings).encode(), "code": code})
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.request("PUT", f"/v1/functions/{name}", body, headers)

    def deploy(self, name: str, source: str | dict[str, str] | Path, **settings: Any) -> dict[str, Any]:
        """Deploy source text, which must succeed."""
        answer = self.put(name, archive(source), **settings)
        assert answer.status in (200, 201), answer.body.decode()
        return dict(answer.json)

    def invoke(self, name: str, param: object = None) -> Answer:
        return self.request("POST", f"/v1/functions/{name}/invocations", json.dumps(param).encode())

    def result(self, name: str, param: object = None) -> Any:
        """Invoke; the result, which there must be."""
        answer = self.invoke(name, param)
        assert answer.status == 200, answer.body.decode()
        return answer.json

    def record(self, answer: Answer) -> dict[str, Any]:
        """The invocation's record, waited for: it is written behind the answer."""
        path = f"/v1/invocations/{answer.headers['X-Pagurus-Invocation-Id']}"
        found = self.until(lambda: (got := self.request("GET", path)).status == 200 and got, "the record")
        return dict(found.json)

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        assert answer.status == 200, answer.body.decode()
        return answer.json

    def sandboxes(self, **wanted: object) -> list[dict[str, Any]]:
        rows = self.get("/v1/sandboxes")["sandboxes"]
        return [row for row in rows if all(row[key] == value for key, value in wanted.items())]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Ask again and again until it is so."""
        end_s = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < end_s, f"waited in vain for {what}; the log:\n{self.log()[-3000:]}"
            time.sleep(WAIT_EVERY_S)
        return found

    # --- the command line, and the processes

    def cli(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [BIN / "pagurus", "--url", f"http://127.0.0.1:{self.port}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=CLI_S, check=False)

    def gateway_pid(self) -> int:
        """Of the gateway that runs now."""
        assert self.process is not None
        for name in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"\0gateway" in Path(f"/proc/{name}/cmdline").read_bytes():
                    return int(name)
        return -1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def archive(source: str | dict[str, str] | Path) -> bytes:
    """A zip of files; a text is main.py, a path a folder."""
    if isinstance(source, Path):
        source = {str(path.relative_to(source)): path.read_text() for path in source.rglob("*") if path.is_file()}
    files = {"main.py": source} if isinstance(source, str) else source
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as found:
        for name, text in files.items():
            found.writestr(name, text)
    return buffer.getvalue()


def form(parts: dict[str, bytes]) -> bytes:
    """A multipart/form-data body."""
    lines = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n\r\n'.encode()
        + body
        + b"\r\n"
        for name, body in parts.items()
    ]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])
