"""Tokens on a real node: on loopback once there is one, on the network always."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pagurusd import BIN, Answer, Daemon

ADDRESS = "198.51.100.1"  # TEST-NET-2, on the loopback device of a network namespace of the test's own
ECHO = "def main(param):\n    return param\n"
IN_OWN_NETWORK = f"""
import fcntl, os, socket, struct, sys
from runtime import syscalls
syscalls.unshare(syscalls.CloneFlag.NEWNET)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
    address = struct.pack("16sH2s4s8x", b"lo", socket.AF_INET, b"", socket.inet_aton("{ADDRESS}"))
    fcntl.ioctl(end, 0x8916, address)  # SIOCSIFADDR
    fcntl.ioctl(end, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS: up
os.execv(sys.argv[1], sys.argv[1:])
"""


def token(daemon: Daemon, *arguments: str) -> str:
    done = daemon.cli("token", "--state-dir", str(daemon.state), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearing(daemon: Daemon, text: str, method: str, path: str, body: bytes | None = None) -> Answer:
    return daemon.request(method, path, body, {"Authorization": f"Bearer {text}"})


def test_on_loopback_the_first_token_closes_the_node_and_the_last_one_opens_it(fresh: Daemon):
    fresh.deploy("echo", ECHO)
    assert fresh.result("echo", 1) == 1
    admin = token(fresh, "create", "admin")
    invoke = token(fresh, "create", "ci", "--role", "invoke", "--function", "echo")
    fresh.until(lambda: fresh.invoke("echo", 1).status == 401, "the tokens")
    path = "/v1/functions/echo/invocations"
    fresh.until(lambda: bearing(fresh, invoke, "POST", path, b"2").json == 2, "the second token")
    assert bearing(fresh, invoke, "GET", "/v1/functions").word == "forbidden"
    assert bearing(fresh, invoke, "POST", "/v1/functions/other/invocations").word == "forbidden"
    assert bearing(fresh, admin, "GET", "/v1/functions").status == 200
    assert fresh.request("GET", "/readyz").status == 200
    # A new gateway knows them too, and so does the next pagurusd.
    os.kill(fresh.gateway_pid(), 9)
    assert fresh.request("GET", "/v1/functions").word == "unauthorized"
    fresh.stop()
    fresh.start()
    fresh.wait_ready()
    assert fresh.request("GET", "/v1/functions").word == "unauthorized"
    kept = (fresh.state / "tokens.json").stat()
    assert (kept.st_mode & 0o7777, kept.st_uid) == (0o600, 0)
    for text in (admin, invoke):
        files = [path for path in fresh.state.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in files if text.encode() in path.read_bytes()]
    token(fresh, "rm", "admin", "ci")
    fresh.until(lambda: fresh.request("GET", "/v1/functions").status == 200, "the node to be open again")


def test_pagurusd_refuses_the_network_without_a_token_and_says_what_to_do(fresh: Daemon):
    fresh.stop()
    for more in ({"PAGURUS_LISTEN": f"{ADDRESS}:8080"}, {"PAGURUS_AUTH": "always"}):
        done = subprocess.run(
            [BIN / "pagurusd"], env=fresh.environ(**more), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2 and "pagurus token create" in done.stderr and "Traceback" not in done.stderr


@contextmanager
def on_the_network(daemon: Daemon) -> Iterator[subprocess.Popen[bytes]]:
    """pagurusd listening on an address that is none of loopback, in a network namespace that ends with it."""
    daemon.stop()
    command = [sys.executable, "-P", "-c", IN_OWN_NETWORK, str(BIN / "pagurusd")]
    environ = daemon.environ(PAGURUS_LISTEN=f"{ADDRESS}:8080", PAGURUS_HOSTS="node.example")
    with open(daemon.log_path, "ab") as log:
        daemon.process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    yield daemon.process
    assert daemon.stop() == 0


def test_on_the_network_every_request_needs_a_token(fresh: Daemon, tmp_path: Path):
    admin = token(fresh, "create", "admin")
    (tmp_path / "main.py").write_text(ECHO)
    with on_the_network(fresh) as process:

        def ask(*arguments: str, text: str = admin) -> subprocess.CompletedProcess[str]:
            inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", BIN / "pagurus"]
            environ = {**os.environ, "PAGURUS_TOKEN": text}
            command = [*inside, "--url", f"http://{ADDRESS}:8080", *arguments]
            return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

        fresh.until(lambda: ask("status").returncode == 0, "the node")
        assert ask("deploy", "echo", str(tmp_path / "main.py")).returncode == 0
        assert ask("invoke", "echo", "7").stdout.strip() == "7"
        for wrong in ("", "pgs_wrong", admin[:-1]):
            refused = ask("invoke", "echo", "7", text=wrong)
            assert refused.returncode == 1 and "HTTP 401" in refused.stderr, refused.stderr
        token(fresh, "rm", "admin")
        fresh.until(lambda: "HTTP 401" in ask("ls").stderr, "the removal: nobody may, not everybody")
