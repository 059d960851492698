"""pagurusd as a process: how it stops, what kill -9 leaves and the next start clears, what it refuses."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.e2e_daemon import BIN, WAIT_S, Answer, Daemon, new_daemon, tar

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ECHO = "def main(param):\n    return param\n"
SLOW = """import time
def main(param):
    print("begun", flush=True)
    time.sleep(param)
    return "done"
"""


class Call(threading.Thread):
    """A request in the background; `answer` is None when the connection broke."""

    def __init__(self, request: Callable[[], Answer]) -> None:
        super().__init__(daemon=True)
        self._request = request
        self._answer: Answer | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._answer = self._request()

    def answer(self) -> Answer | None:
        self.join(WAIT_S)
        assert not self.is_alive()
        return self._answer


def begin(daemon: Daemon, name: str, param: object) -> Call:
    """Invoke, and wait until the invocation runs."""
    call = Call(lambda: daemon.invoke(name, param))
    daemon.until(lambda: any(one["state"] == "busy" for one in daemon.sandboxes(name)))
    return call


def run_refused(daemon: Daemon, *options: str | Path, listen: str | None = None) -> tuple[int, str]:
    """Exit status and output of a pagurusd that must end by itself."""
    before = len(daemon.log)
    process = daemon.spawn(*options, listen=listen)
    try:
        return process.wait(WAIT_S), daemon.log[before:]
    finally:
        process.kill()
        process.wait()


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# --- stopping


def test_sigterm_drains_what_runs_and_leaves_nothing():
    with new_daemon() as daemon:
        daemon.must_deploy("slow", SLOW)
        call = begin(daemon, "slow", 0.5)
        assert daemon.stop() == 0
        answer = call.answer()
        assert answer is not None and answer.result == "done"
        assert not daemon.processes() and not list(leaks.rubbish(daemon.state))


def test_a_draining_node_takes_no_new_work():
    with new_daemon() as daemon:
        daemon.must_deploy("slow", SLOW)
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            assert connection.getresponse().read()
            call = begin(daemon, "slow", 1)
            daemon.process.send_signal(signal.SIGTERM)
            daemon.until(lambda: "stopping" in daemon.log)
            with contextlib.suppress(http.client.HTTPException, OSError):  # or the connection is closed already
                connection.request("POST", "/v1/functions/slow/invocations", b"0")
                assert connection.getresponse().status == 503
        assert daemon.wait() == 0
        assert call.answer().result == "done"


def test_a_second_sigterm_hurries():
    with new_daemon(drain_s=WAIT_S) as daemon:
        daemon.must_deploy("slow", SLOW, limits={"timeout_s": 300})
        call = begin(daemon, "slow", 300)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.until(lambda: "stopping" in daemon.log)
        started_s = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started_s < WAIT_S / 2
        answer = call.answer()
        assert answer is None or answer.status == 503


def test_the_drain_has_an_end():
    with new_daemon(drain_s=0.3) as daemon:
        daemon.must_deploy("slow", SLOW, limits={"timeout_s": 300})
        call = begin(daemon, "slow", 300)
        assert daemon.stop() == 0
        answer = call.answer()
        assert answer is None or answer.status == 503


# --- killed


@pytest.fixture(scope="module")
def killed() -> Iterator[Daemon]:
    """A daemon that tests kill and start again, with two functions."""
    with new_daemon() as daemon:
        daemon.must_deploy("slow", SLOW)
        daemon.must_deploy("packaged", "import six\ndef main(param):\n    return six.__name__\n", requirements="six")
        yield daemon


def assert_recovered(daemon: Daemon) -> None:
    """After a kill -9: all processes die; the next start clears the rest; functions are there and work."""
    daemon.until(lambda: not daemon.processes())
    old = set(leaks.cgroups(daemon.owner))
    daemon.start()
    kept = old & set(leaks.cgroups(daemon.owner))
    assert all(
        path.name == daemon.owner.cgroup_parent or path.parent.name == daemon.owner.cgroup_parent for path in kept
    )
    daemon.assert_clean()
    assert daemon.functions() == ["packaged", "slow"]
    assert daemon.invoke("packaged").result == "six"
    assert daemon.invoke("slow", 0).result == "done"


def test_functions_survive_a_daemon_that_is_killed_idle(killed):
    assert killed.invoke("packaged").result == "six"
    killed.kill()
    assert_recovered(killed)


def test_functions_survive_a_daemon_that_is_killed_during_an_invocation(killed):
    call = begin(killed, "slow", 20)
    killed.kill()
    answer = call.answer()
    assert answer is None or answer.status == 503
    assert_recovered(killed)


@pytest.mark.parametrize("phase", ["unpack", "install", "check"])
def test_functions_survive_a_daemon_that_is_killed_during_a_deploy(killed, phase):
    code = {"main.py": "import time\ntime.sleep(20)\n" + ECHO} if phase == "check" else ECHO
    requirements = {"unpack": "", "install": "numpy\npandas", "check": ""}[phase]
    call = Call(lambda: killed.deploy("new", code, requirements=requirements))
    if phase == "check":
        killed.until(lambda: len(list((killed.state / "code").iterdir())) > 2 or not call.is_alive())
    else:
        killed.until(lambda: any((killed.state / "staging").iterdir()) or not call.is_alive())
    killed.kill()
    call.answer()
    killed.until(lambda: not killed.processes())
    killed.start()
    killed.assert_clean()
    if "new" in killed.functions():  # it was faster than the signal
        killed.request("DELETE", "/v1/functions/new")
    assert killed.functions() == ["packaged", "slow"]
    assert killed.invoke("packaged").result == "six"
    assert killed.deploy("new", ECHO).status == 201
    assert killed.invoke("new", 1).result == 1
    assert killed.request("DELETE", "/v1/functions/new").status == 204


def test_sandboxes_survive_a_gateway_that_is_killed():
    with new_daemon(freeze_after_s=3600) as daemon:
        daemon.must_deploy("echo", ECHO)
        daemon.invoke("echo", 1)
        before = [one["id"] for one in daemon.sandboxes("echo")]
        old = daemon.gateway_pid
        os.kill(old, signal.SIGKILL)
        daemon.until(lambda: daemon.gateway_pid not in (None, old))
        daemon.wait_ready()
        daemon.until(lambda: [one["state"] for one in daemon.sandboxes("echo")] == ["idle"])
        answer = daemon.invoke("echo", 2)
        assert (answer.result, answer.kind) == (2, "warm")
        assert [one["id"] for one in daemon.sandboxes("echo")] == before
        daemon.must_deploy("other", ECHO)
        assert daemon.invoke("other", 3).result == 3
        assert daemon.get("/v1/status").json["counters"]["gateway_restarts"] == 1


def test_a_gateway_that_is_killed_again_and_again_comes_back():
    with new_daemon() as daemon:
        daemon.must_deploy("slow", SLOW)
        for round_number in range(3):
            call = begin(daemon, "slow", 30)
            old = daemon.gateway_pid
            os.kill(old, signal.SIGKILL)
            assert call.answer() is None
            daemon.until(lambda old=old: daemon.gateway_pid not in (None, old))
            daemon.wait_ready()
            assert daemon.invoke("slow", 0).result == "done", round_number


def test_a_zygote_that_is_killed_is_replaced():
    with new_daemon() as daemon:
        daemon.must_deploy("echo", ECHO)
        assert daemon.invoke("echo", 1).result == 1
        for line in daemon.processes():
            if "runtime.fork.zygote" in line or "pagurus-init" in line:
                os.kill(int(line.split()[0]), signal.SIGKILL)
        daemon.evict("echo")
        daemon.until(lambda: daemon.get("/readyz").status == 200)
        answer = daemon.until(lambda: found if (found := daemon.invoke("echo", 2)).status == 200 else None)
        assert answer.result == 2


# --- what it is and what it refuses


def test_the_gateway_has_no_privileges(daemon):
    found = status_of(daemon.gateway_pid)
    uid = found["Uid"].split()
    assert len(set(uid)) == 1 and uid[0] != "0"
    assert subprocess.check_output(["id", "-un", uid[0]], text=True).strip() == "pagurus"
    assert found["Gid"].split()[0] != "0" and "0" not in found["Groups"].split()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert found["NoNewPrivs"] == "1"


def test_a_second_daemon_on_one_state_directory_is_refused(daemon):
    status, text = run_refused(daemon, listen="127.0.0.1:0")
    assert status == 1
    assert f"another pagurusd (pid {daemon.pid}) uses {daemon.state}" in text
    assert daemon.get("/healthz").status == 200


def test_systemd_is_told():
    with new_daemon(start=False) as daemon, contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as end:
        end.bind(str(daemon.state / "notify"))
        end.settimeout(WAIT_S)
        daemon.start(environ={"NOTIFY_SOCKET": str(daemon.state / "notify")})
        assert end.recv(100) == b"READY=1"
        assert daemon.stop() == 0
        assert end.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_an_address_that_others_can_reach_is_refused(address):
    with new_daemon(start=False) as daemon:
        status, text = run_refused(daemon, listen=address)
        assert status == 2 and "other machines could invoke without credentials" in text


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost:http", "127.0.0.1:99999", "name.example:80"])
def test_an_address_that_is_none_is_refused(address):
    with new_daemon(start=False) as daemon:
        status, text = run_refused(daemon, listen=address)
        assert status == 2 and "listen" in text and "Traceback" not in text


def test_a_port_in_use_is_named():
    with new_daemon(start=False) as daemon, contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", daemon.port))
        taken.listen()
        status, text = run_refused(daemon)
        assert status == 1
        assert f"cannot listen on 127.0.0.1:{daemon.port}: Address already in use" in text


def test_bad_settings_are_refused(tmp_path):
    with new_daemon(start=False) as daemon:
        for content, named in (("colour = 1", "colour"), ("uid_base = 5", "uid_base"), ("= 1", "cannot read")):
            file = tmp_path / "pagurus.toml"
            file.write_text(content)
            process = subprocess.run(
                [BIN / "pagurusd", "--config", file, "--state-dir", daemon.state, "--check"],
                env={"PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                timeout=WAIT_S,
            )
            assert process.returncode == 2 and named in process.stderr and "Traceback" not in process.stderr


def test_check_tells_and_starts_nothing():
    with new_daemon(start=False) as daemon:
        status, text = run_refused(daemon, "--check")
        assert status == 0
        assert re.search(r"^ok +\S+: ", text, re.MULTILINE) and not re.search(r"^FAIL", text, re.MULTILINE)
        assert not daemon.processes() and not (daemon.state / "pagurusd.lock").exists()


def test_a_client_that_leaves_during_a_deploy_leaves_nothing(daemon):
    body = tar("import time\ntime.sleep(30)\n" + ECHO)
    form = b'--edge\r\nContent-Disposition: form-data; name="code"; filename="x"\r\n\r\n' + body + b"\r\n--edge--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=WAIT_S)
    with contextlib.closing(connection):
        headers = {"Content-Type": "multipart/form-data; boundary=edge"}
        connection.request("PUT", "/v1/functions/left", form, headers)
        daemon.until(lambda: any((daemon.state / "code").iterdir()))
    daemon.until(lambda: not any((daemon.state / "code").iterdir()))
    daemon.assert_clean()
    assert "left" not in daemon.functions()
