"""pagurusd and its gateway: how they start, stop, are killed, and come back."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.leaks import SLOTS, Scope
from tests.pagurusd import BIN, Answer, Daemon, archive

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ECHO = "def main(param):\n    return param\n"
SLEEP = "import time\n\ndef main(param):\n    time.sleep(param)\n    return 'slept'\n"


class Call(threading.Thread):
    """An invocation beside the test's own work. `answer` is None when the connection broke."""

    def __init__(self, daemon: Daemon, name: str, param: object) -> None:
        super().__init__(daemon=True)
        self._ask = lambda: daemon.invoke(name, param)
        self.answer: Answer | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._ask()
        except OSError:
            self.answer = None
        except Exception as error:
            assert "RemoteDisconnected" in type(error).__name__ or "Incomplete" in type(error).__name__, error

    def wait(self) -> Answer | None:
        self.join(30)
        assert not self.is_alive()
        return self.answer


def running(daemon: Daemon) -> int:
    return int(daemon.get("/v1/status")["counts"]["running"])


def test_sigterm_lets_a_running_invocation_finish(fresh: Daemon):
    fresh.deploy("sleep", SLEEP)
    call = Call(fresh, "sleep", 0.7)
    fresh.until(lambda: running(fresh) == 1, "the invocation")
    assert fresh.stop() == 0
    answer = call.wait()
    assert answer is not None and (answer.status, answer.json) == (200, "slept")
    assert fresh.scope.remains() == []


def test_a_second_sigterm_does_not_wait(fresh: Daemon):
    fresh.deploy("sleep", SLEEP)
    call = Call(fresh, "sleep", 25)
    fresh.until(lambda: running(fresh) == 1, "the invocation")
    fresh.signal(signal.SIGTERM)
    fresh.until(lambda: "draining" in fresh.log(), "the drain")
    started = time.monotonic()
    fresh.signal(signal.SIGTERM)
    assert fresh.wait() == 0
    assert time.monotonic() - started < 20, "far less than the invocation"
    answer = call.wait()
    assert answer is None or answer.status >= 500
    assert fresh.scope.remains() == []


@pytest.mark.parametrize("moment", ["idle", "invocation", "deploy", "start"])
def test_a_killed_pagurusd_leaves_nothing_that_the_next_does_not_clear(fresh: Daemon, moment: str):
    fresh.deploy("sleep", SLEEP)
    assert fresh.result("sleep", 0) == "slept"
    call = None
    if moment == "invocation":
        call = Call(fresh, "sleep", 25)
        fresh.until(lambda: running(fresh) == 1, "the invocation")
    elif moment == "deploy":
        slow = archive({"main.py": ECHO, "requirements.txt": "requests\n"})
        body = threading.Thread(target=lambda: _ignore(lambda: fresh.put("half", slow)), daemon=True)
        body.start()
        fresh.until(lambda: list((fresh.state / "staging").iterdir()), "the build")
    elif moment == "start":
        fresh.stop()
        fresh.start()
        fresh.until(lambda: any("zygote" in str(path) for path in fresh.scope.cgroups()), "a zygote that boots")
    fresh.kill()
    if call is not None:
        answer = call.wait()  # the gateway may see pagurusd's end before its own comes
        assert answer is None or answer.word == "draining"
    fresh.start()
    fresh.wait_ready()
    assert list(fresh.scope.rubbish()) == [] or fresh.until(lambda: not list(fresh.scope.rubbish()), "the deletion")
    runs = {path.parts[-1] for path in fresh.scope.cgroups() if path.parent.parent.name == fresh.scope.cgroup_parent}
    assert runs == {fresh.get("/v1/status")["run"]}, "no cgroup of the former run"
    assert fresh.result("sleep", 0) == "slept"
    assert fresh.request("GET", "/v1/functions/half").status == 404


def _ignore(what) -> None:
    try:
        what()
    except Exception:
        return


def test_a_killed_gateway_is_replaced_and_its_sandboxes_are_used_again(fresh: Daemon):
    fresh.deploy("echo", ECHO)
    fresh.deploy("sleep", SLEEP)
    assert fresh.result("echo", 1) == 1
    (before,) = fresh.sandboxes(function="echo")
    call = Call(fresh, "sleep", 20)
    fresh.until(lambda: running(fresh) == 1, "the invocation")
    gateway = fresh.gateway_pid()
    os.kill(gateway, signal.SIGKILL)
    assert call.wait() is None, "nobody can answer it any more"
    fresh.wait_ready()
    fresh.until(lambda: fresh.gateway_pid() not in (-1, gateway), "another gateway")
    fresh.until(lambda: fresh.sandboxes(function="echo", state="idle"), "the sandbox to be adopted")
    answer = fresh.invoke("echo", 2)
    assert (answer.json, answer.headers["X-Pagurus-Start-Kind"]) == (2, "warm")
    assert [one["id"] for one in fresh.sandboxes(function="echo")] == [before["id"]]
    assert fresh.result("sleep", 0) == "slept"
    assert fresh.get("/v1/functions/echo")["name"] == "echo"


def test_a_gateway_that_is_killed_again_and_again_comes_back(fresh: Daemon):
    fresh.deploy("echo", ECHO)
    for _ in range(3):
        gateway = fresh.gateway_pid()
        os.kill(gateway, signal.SIGKILL)
        fresh.until(lambda old=gateway: fresh.gateway_pid() not in (-1, old), "another gateway")
        fresh.wait_ready()
    assert fresh.result("echo", 3) == 3


def test_connections_wait_while_the_gateway_restarts(fresh: Daemon):
    fresh.deploy("echo", ECHO)
    os.kill(fresh.gateway_pid(), signal.SIGKILL)
    assert fresh.result("echo", 5) == 5, "the listening socket is pagurusd's"


def test_a_second_daemon_on_the_same_state_directory_refuses(fresh: Daemon):
    environ = fresh.environ(PAGURUS_LISTEN="127.0.0.1:0")
    done = subprocess.run([BIN / "pagurusd"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert fresh.process is not None
    assert f"another pagurusd (pid {fresh.process.pid}) uses {fresh.state}" in done.stderr
    assert "hint" in done.stderr
    fresh.deploy("echo", ECHO)
    assert fresh.result("echo", 1) == 1


def test_an_address_in_use_is_said_in_words(fresh: Daemon):
    other = fresh.state / "other"  # pytest's own folders are closed to other users
    other.mkdir(mode=0o711)
    environ = fresh.environ(PAGURUS_STATE_DIR=str(other), PAGURUS_RUN_DIR=str(other / "run"))
    (other / "rootfs").symlink_to(fresh.state / "rootfs")
    done = subprocess.run([BIN / "pagurusd"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "cannot listen on" in done.stderr


def test_bad_settings_are_said_in_words(tmp_path: Path):
    for name, value, word in [
        ("PAGURUS_LISTEN", "0.0.0.0:80", "credentials"),
        ("PAGURUS_SANDBOXES_MAX", "many", "sandboxes_max"),
        ("PAGURUS_STATE_DIR", "relative", "absolute"),
    ]:
        environ = {**os.environ, name: value}
        done = subprocess.run([BIN / "pagurusd"], env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        assert word in done.stderr and "Traceback" not in done.stderr


MODES = {  # what only root needs is closed; the gateway and builders pass through what they must
    ".": (0o711, "root"),
    "anchor": (0o755, "root"),
    "cache": (0o700, "pagurus-build"),
    "code": (0o700, "root"),
    "empty": (0o755, "root"),
    "environments": (0o700, "root"),
    "layers": (0o700, "root"),
    "node-id": (0o600, "root"),
    "pagurusd.lock": (0o600, "root"),
    "run": (0o700, "root"),
    "skeleton": (0o755, "root"),
    "staging": (0o711, "root"),
    "store": (0o700, "pagurus"),
    "store/pagurus.sqlite3": (0o600, "pagurus"),
    "store/secrets.key": (0o600, "pagurus"),
    "trash": (0o700, "root"),
}


def test_folders_and_files_are_open_to_nobody_who_does_not_need_them(fresh: Daemon):
    fresh.deploy("echo", ECHO)
    own = [*fresh.state.iterdir(), *(fresh.state / "store").iterdir()]
    names = {str(path.relative_to(fresh.state)) for path in own} - {"rootfs", "pagurusd.log"}
    assert {name for name in names if not name.endswith(("-wal", "-shm"))} == set(MODES) - {"."}
    found = {name: (fresh.state / name).lstat() for name in MODES}
    assert {name: (one.st_mode & 0o7777, (fresh.state / name).owner()) for name, one in found.items()} == MODES


@pytest.mark.parametrize("what", ["writable", "owned", "above", "run", "file"])
def test_what_others_can_change_is_refused_with_the_fix(fresh: Daemon, what: str):
    fresh.stop()
    more, path = {}, fresh.state
    if what == "writable":
        path.chmod(0o731)
    elif what == "owned":
        os.chown(path, 65534, 0)
    elif what == "above":
        path = fresh.state / "above"
        (path / "state").mkdir(parents=True)
        (path / "state/rootfs").symlink_to(fresh.state / "rootfs")
        path.chmod(0o777)
        more = {"PAGURUS_STATE_DIR": str(path / "state")}
    elif what == "run":
        path = fresh.run_dir
        path.chmod(0o770)
    else:
        path = fresh.state / "pagurus.toml"
        path.write_text("gateway_user = 'root'\n")
        path.chmod(0o666)
    command = [BIN / "pagurusd", *(["--config", path] if what == "file" else [])]
    done = subprocess.run(command, env=fresh.environ(**more), capture_output=True, text=True, timeout=60, check=False)
    os.chown(fresh.state, 0, 0)
    fresh.state.chmod(0o711)
    assert done.returncode == 2, done.stderr
    assert str(path) in done.stderr and "hint: chown root:root" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("file", ["subuid", "subgid"])
def test_uids_that_another_user_has_are_refused_with_setting_and_line(fresh: Daemon, file: str):
    fresh.stop()
    taken = fresh.state / file
    taken.write_text(f"# one line\nann:{fresh.scope.uid_base + 100}:65536\n")
    command = f'mount --bind "$0" /etc/{file} && exec "$@"'  # in a mount namespace of the command's own
    for program in ([BIN / "pagurusd"], [BIN / "pagurus", "doctor"]):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", command, taken, *program],
            env=fresh.environ(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        output = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == 1, output
        assert f"uid_base {fresh.scope.uid_base} takes" in output
        assert f"/etc/{file} line 2 (ann) gives 65536 from {fresh.scope.uid_base + 100} on" in output
        assert "set uid_base = " in output and "Traceback" not in output


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(fresh: Daemon):
    fresh.stop()
    path = fresh.state / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        end.settimeout(30)
        fresh.start(NOTIFY_SOCKET=str(path))
        assert end.recv(100) == b"READY=1"
        fresh.wait_ready()
        assert fresh.stop() == 0
        assert end.recv(100) == b"STOPPING=1"


def test_the_gateway_has_no_power(fresh: Daemon):
    lines = Path(f"/proc/{fresh.gateway_pid()}/status").read_text().splitlines()
    status = {key: text.split() for key, _, text in (line.partition(":") for line in lines)}
    import pwd

    user = pwd.getpwnam("pagurus")
    assert status["Uid"] == [str(user.pw_uid)] * 4 and status["Gid"] == [str(user.pw_gid)] * 4
    assert status["Groups"] == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    assert status["NoNewPrivs"] == ["1"]


def test_the_gateway_is_in_namespaces_of_its_own_and_sees_its_store_only(fresh: Daemon):
    pid, daemon = fresh.gateway_pid(), fresh.process.pid
    spaces = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("mnt", "pid", "ipc", "uts", "net", "user")}
    ours = {name: os.readlink(f"/proc/{daemon}/ns/{name}") for name in spaces}
    assert {name for name in spaces if spaces[name] != ours[name]} == {"mnt", "pid", "ipc", "uts"}
    root = Path(f"/proc/{pid}/root")
    ways = {"opt", fresh.state.parts[1]}  # to the installation and to the store
    assert set(os.listdir(root)) <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "usr", *ways}
    assert set(os.listdir(root / "etc")) <= {"ld.so.cache", "localtime"}
    assert os.listdir(Path(f"{root}{fresh.state}")) == ["store"]
    assert [name for name in os.listdir(root / "proc") if name.isdigit()] == ["1"]
    assert not (root / "proc/sys").exists() and not (root / "proc/meminfo").exists()
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    writable = {fields[4] for fields in mounts if "rw" in fields[5].split(",")}
    assert writable == {f"{fresh.state}/store"}
    assert all("nosuid" in fields[5].split(",") for fields in mounts)


def test_the_gateway_is_filtered_bounded_and_not_dumpable(fresh: Daemon):
    pid = fresh.gateway_pid()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Seccomp"].strip() == "2"
    limits = {line[:26].strip(): line[26:].split()[:2] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    assert limits["Max locked memory"] == limits["Max msgqueue size"] == ["0", "0"]
    assert limits["Max core file size"] == ["1", "1"], "0 would start the host's handler of dumps"
    assert int(limits["Max processes"][1]) <= 256
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0, "its user cannot read or trace it"
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {one.partition(b"=")[0] for one in variables if one} <= {b"PATH", b"LANG", b"TZ", b"TMPDIR", b"LC_CTYPE"}


def test_pagurusd_has_one_thread_and_no_http(fresh: Daemon):
    assert fresh.process is not None
    assert len(os.listdir(f"/proc/{fresh.process.pid}/task")) == 1
    maps = Path(f"/proc/{fresh.process.pid}/maps").read_text()
    assert "aiohttp" not in maps and "_http_parser" not in maps


def test_a_gateway_of_another_process_is_refused(fresh: Daemon):
    """The peer check of the SEQPACKET socket: a stranger who got hold of the gateway's end is noticed."""
    gateway = fresh.gateway_pid()
    pidfd = os.pidfd_open(gateway)
    import ctypes

    stolen = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(438), pidfd, 3, 0)  # pidfd_getfd(2)
    os.close(pidfd)
    if stolen < 0:
        pytest.skip(f"pidfd_getfd is refused here: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=stolen) as end:
        end.send(b"\xc0")
    fresh.until(lambda: "not from the gateway" in fresh.log(), "the refusal")
    fresh.until(lambda: fresh.gateway_pid() not in (-1, gateway), "another gateway")
    fresh.wait_ready()


def test_doctor_and_check_agree_that_this_machine_is_fit(fresh: Daemon):
    environ = fresh.environ()
    done = subprocess.run(
        [BIN / "pagurusd", "--check"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and "FAIL" not in done.stdout
    doctor = fresh.cli("doctor", "--json")
    assert doctor.returncode == 0, doctor.stderr
    assert json.loads(doctor.stdout)


def test_scopes_do_not_meet():
    first, second = Scope.new(Path("/a")), Scope.new(Path("/b"))
    assert first.cgroup_parent != second.cgroup_parent and first.uid_base != second.uid_base
    first.release()
    for _ in range(2 * SLOTS):
        other = Scope.new(Path("/c"))
        assert other.uid_base != second.uid_base, "it lives on"
        other.release()
    second.release()
