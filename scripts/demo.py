"""Starts pagurusd, deploys the examples, invokes each twice over HTTP, and stays until Ctrl-C (or stops: --once).

scripts/run calls it with the interpreter of the virtual environment, as root.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from gateway.cli.client import Client, items
from gateway.cli.invoke import phases_ms
from runtime.config import Settings, listen_address, load
from runtime.errors import ConfigError, PagurusError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BIN = Path(sys.executable).parent
READY_TIMEOUT_S = 60.0
ZYGOTES_TIMEOUT_S = 20.0
READY_POLL_S = 0.05
SAY_EVERY_S = 2.0
STOP_MARGIN_S = 10.0
LOG_LINES_SHOWN = 40
INVOKE_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Example:
    """One folder of examples/: what it is called with, and a part of the answer that must come."""

    name: str
    parameter: dict[str, Any]
    expected: dict[str, Any]


EXAMPLE_RUNS = (
    Example("hello", {"name": "Ada"}, {"greeting": "Hello, Ada!"}),
    Example("sales-report", {"top": 2}, {"total": 380.4, "best_product": "notebook"}),
    Example("http-check", {"path": "/"}, {"status": 200, "text": "all is well"}),
)


class DemoError(Exception):
    """The demonstration cannot go on; the text says why."""


class Daemon:
    """A pagurusd that ends with us: by SIGTERM when we stop, by its parent-death signal when we are killed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.host, self.port = listen_address(settings)
        fd, self.log_path = tempfile.mkstemp(prefix="pagurusd-", suffix=".log")
        with os.fdopen(fd, "wb") as log:
            # A session of its own: Ctrl-C must reach only us, who stop it in order.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", str(BIN / "pagurusd")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return when /readyz says so. Raises DemoError when pagurusd ends or takes too long."""
        started = said = time.monotonic()
        while True:
            if self.process.poll() is not None:
                raise DemoError(f"pagurusd ended with status {self.process.returncode} before it was ready")
            answer = self._readiness()
            if answer == "":
                print(f"  ready after {time.monotonic() - started:.1f} s", flush=True)
                return
            now = time.monotonic()
            if now - started > READY_TIMEOUT_S:
                raise DemoError(f"pagurusd was not ready after {READY_TIMEOUT_S:.0f} s: {answer}")
            if now - said > SAY_EVERY_S:
                print(f"  … {now - started:.0f} s: {answer}; its log: {self._last_line()}", flush=True)
                said = now
            time.sleep(READY_POLL_S)

    def wait_zygotes(self, names: set[str]) -> None:
        """Return when ready zygotes with standbys cover these functions: a call right after a deploy may be earlier."""
        deadline = time.monotonic() + ZYGOTES_TIMEOUT_S
        print("waiting for the zygotes of these functions", flush=True)
        while (missing := names - self._covered()) and time.monotonic() < deadline:
            time.sleep(READY_POLL_S)
        if missing:
            print(f"  going on without one for {', '.join(sorted(missing))}", flush=True)

    def _covered(self) -> set[str]:
        try:
            zygotes = items(Client(f"http://{self.settings.listen}").get("/v1/zygotes"), "zygotes")
        except PagurusError:
            return set()
        ready = [zygote for zygote in zygotes if zygote.get("state") == "ready" and zygote.get("standbys")]
        return {name for zygote in ready for name in zygote.get("functions", ())}

    def _readiness(self) -> str:
        """'' when ready, or what is not yet so."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace").strip()
            return "" if answer.status == 200 else text or f"HTTP {answer.status}"
        except (OSError, http.client.HTTPException):
            return "the gateway does not listen yet"
        finally:
            connection.close()

    def _last_line(self) -> str:
        lines = Path(self.log_path).read_text(errors="replace").splitlines()
        return lines[-1][:160] if lines else "empty"

    def stop(self) -> int:
        """SIGTERM, wait for its drain; a second Ctrl-C hurries it. Returns its exit status."""
        deadline = time.monotonic() + self.settings.drain_s + STOP_MARGIN_S
        self._signal(signal.SIGTERM)
        while True:
            try:
                return self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except KeyboardInterrupt:
                self._signal(signal.SIGTERM)
            except subprocess.TimeoutExpired:
                print("demo: pagurusd did not end in time and is killed", file=sys.stderr)
                self._signal(signal.SIGKILL)
                return self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def show_log_end(self) -> None:
        """The last lines of its log, on standard error."""
        lines = Path(self.log_path).read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        print(f"demo: the end of pagurusd's log ({self.log_path}):", file=sys.stderr)
        for line in lines:
            print(f"  | {line}", file=sys.stderr)

    def follow(self) -> int:
        """Show what it logs until it ends by itself; its exit status."""
        with open(self.log_path, errors="replace") as log:
            log.seek(0, os.SEEK_END)
            while self.process.poll() is None:
                _copy(log)
                time.sleep(0.2)
            _copy(log)
        return self.process.returncode


def _copy(log: IO[str]) -> None:
    text = log.read()
    if text:
        print(text, end="", flush=True)


def refuse_if_taken(settings: Settings) -> None:
    """Raise DemoError when something listens where our gateway would."""
    host, port = listen_address(settings)
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        raise DemoError(
            f"something listens on {settings.listen} already, perhaps a pagurusd of yours\n"
            f"  next step: stop it (Ctrl-C where it runs, or `systemctl stop pagurus`), or run this one beside it:\n"
            f"  sudo PAGURUS_LISTEN={host}:{port + 1} PAGURUS_STATE_DIR=/var/lib/pagurus-2"
            f" PAGURUS_RUN_DIR=/run/pagurus-2 PAGURUS_CGROUP_PARENT=pagurus-2 scripts/run"
        )


def deploy(url: str, example: Example) -> None:
    """Deploy by the command line program, whose progress is shown."""
    command = [str(BIN / "pagurus"), "--url", url, "deploy", example.name, str(EXAMPLES / example.name)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise DemoError(f"deploying {example.name} failed (status {done.returncode})")


def invoke(host: str, port: int, example: Example) -> None:
    """One invocation over HTTP: show result, start kind and phases."""
    connection = http.client.HTTPConnection(host, port, timeout=INVOKE_TIMEOUT_S)
    started = time.perf_counter()
    try:
        connection.request(
            "POST",
            f"/v1/functions/{example.name}/invocations",
            body=json.dumps(example.parameter),
            headers={"Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise DemoError(f"invoking {example.name}: {error}") from error
    finally:
        connection.close()
    elapsed_ms = (time.perf_counter() - started) * 1000
    if answer.status != 200:
        raise DemoError(f"invoking {example.name}: HTTP {answer.status}: {body.decode(errors='replace')[:2000]}")
    result = json.loads(body)
    phases = phases_ms(answer.headers.get("Server-Timing", ""))
    print(f"  {answer.headers.get('X-Pagurus-Start-Kind', '?'):<9}{elapsed_ms:9.2f} ms   {json.dumps(result)[:160]}")
    if phases:
        print("           phases in ms: " + "  ".join(f"{name} {value:.2f}" for name, value in phases.items()))
    wrong = {key: result.get(key) for key, value in example.expected.items() if result.get(key) != value}
    if wrong:
        raise DemoError(f"{example.name} answered {wrong}, expected {example.expected}")


def demonstrate(daemon: Daemon) -> None:
    """Deploy all examples, then invoke each twice."""
    url = f"http://{daemon.settings.listen}"
    for example in EXAMPLE_RUNS:
        deploy(url, example)
    daemon.wait_zygotes({example.name for example in EXAMPLE_RUNS})
    for example in EXAMPLE_RUNS:
        print(f"\n{example.name} {json.dumps(example.parameter)}")
        for _ in range(2):
            invoke(daemon.host, daemon.port, example)
    option = "" if daemon.settings.listen == Settings().listen else f" --url {url}"
    print("\nTry next:")
    for line in ("invoke hello '\"you\"' -v".replace('"you"', '{"name": "you"}'), "ls", "ps", "status", "logs hello"):
        print(f"  pagurus{option} {line}")
    print(f"  curl -i -d '{{\"top\": 1}}' {url}/v1/functions/sales-report/invocations", flush=True)


def run(*, once: bool) -> int:
    """The whole demonstration; the exit status."""
    settings = load(None, os.environ)
    refuse_if_taken(settings)
    print(f"starting pagurusd on {settings.listen}, state in {settings.state_dir}", flush=True)
    daemon = Daemon(settings)
    status = 1
    try:
        daemon.wait_ready()
        demonstrate(daemon)
        if once:
            status = 0
        else:
            print(f"\npagurusd runs; Ctrl-C stops it. Its log ({daemon.log_path}):", flush=True)
            status = daemon.follow()
            print(f"demo: pagurusd ended by itself with status {status}", file=sys.stderr)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopping pagurusd (once more hurries it)", flush=True)
        status = 0
    ended = daemon.stop()
    if ended != 0 or status != 0:
        daemon.show_log_end()
        return status or 1
    os.unlink(daemon.log_path)
    print("pagurusd has stopped.", flush=True)
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop pagurusd after the demonstration")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        return run(once=arguments.once)
    except (ConfigError, DemoError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
