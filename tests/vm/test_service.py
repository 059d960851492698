"""scripts/pagurus.service under a real systemd with pure cgroup v2: the life of a node as an operator sees it.

The tests are one story and run in the order of the file: the service is started once and stopped by the last ones.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.model import MIB
from tests.index import Index
from tests.pagurusd import BIN
from tests.slowness import patience_s
from tests.vm.service import BELOW, CGROUPS, CLONE, UNIT, Service, cgroup_file, cgroup_path, systemctl
from tests.wheels import packed

CONTROLLERS = {"cpu", "memory", "pids"}
# Idle sandboxes are frozen at once and kept: what the tests look at must not go while they look.
SETTINGS = {"freeze_after_s": 0.2, "standbys_per_zygote": 2, "policy": "keepalive", "drain_s": patience_s(10)}
HOSTILE = """
import os, time

kept = []

def main(param):
    how = param["how"]
    if how == "memory":
        while True:
            kept.append(bytearray(8 << 20))
    if how == "forks":
        made = 0
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(1000)
            except BlockingIOError:
                return made
            made += 1
    if how == "sleep":
        if os.fork() == 0:
            os.setsid()
        time.sleep(1000)
    return "fine"
"""
LIMITS = {"memory_bytes": 64 * MIB, "pids": 12, "cpu_millis": 500, "timeout_s": 20}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Index(packed("dep", "1.0", {"dep.py": "VALUE = 7\n"})) as index:
        service = Service(index_url=index.url, **SETTINGS)
        service.install()
        with service:
            service.deploy("hostile", HOSTILE, limits=LIMITS)
            yield service


def test_the_machine_has_systemd_and_pure_cgroup_v2():
    assert Path("/proc/1/comm").read_text().strip() == "systemd"
    mounts = [line.split(" - ")[1].split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert "cgroup2" in mounts and "cgroup" not in mounts
    assert set((CGROUPS / "cgroup.controllers").read_text().split()) >= CONTROLLERS


def test_the_unit_has_no_line_that_systemd_does_not_know():
    done = subprocess.run(["systemd-analyze", "verify", CLONE / "scripts" / UNIT], capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT in line]) == (0, [])


def test_doctor_finds_all_that_sandboxes_need(service: Service):
    checks = {check["name"]: check for check in json.loads(service.cli("doctor", "--json").stdout)["checks"]}
    assert [check for check in checks.values() if check["required"] and not check["ok"]] == []
    assert checks["cgroup controllers"]["found"].startswith("version 2")
    assert checks["disk limit"]["ok"], checks["disk limit"]
    for feature in ("CLONE_INTO_CGROUP", "cgroup.kill", "cgroup.freeze"):
        assert feature in checks["cgroup version 2"]["found"]


def test_the_unit_is_ready_and_the_rest_of_it_has_no_power(service: Service):
    assert service.shown("ActiveState") == "active" and service.shown("Type") == "notify"
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{service.gateway()}/status").read_text().splitlines())
    assert status["CapEff"].strip("0") == status["CapPrm"].strip("0") == "" and status["NoNewPrivs"] == "1"
    assert status["Uid"].split()[0] != "0"


def test_a_function_is_deployed_and_invoked_over_http(service: Service):
    service.deploy("hello", CLONE / "examples/hello")
    answer = service.invoke("hello", {"name": "Ada"})
    assert (answer.status, answer.json["greeting"]) == (200, "Hello, Ada!")
    assert answer.headers["X-Pagurus-Start-Kind"] == "helped"


def test_a_function_with_a_package_is_built_and_invoked(service: Service):
    files = {"main.py": "import dep\n\ndef main(param):\n    return dep.VALUE + param\n", "requirements.txt": "dep\n"}
    service.deploy("packaged", files)
    assert service.result("packaged", 1) == 8


def test_systemd_has_delegated_the_controllers_and_the_tree_is_below_the_unit(service: Service):
    assert service.shown("Delegate") == "yes"
    assert set(service.shown("DelegateControllers").split()) >= CONTROLLERS
    assert service.result("hostile", {"how": "nothing"}) == "fine"
    pid = service.sandbox("hostile", "frozen")["pid"]
    assert cgroup_path(pid).startswith(f"{BELOW}/pagurus/")
    for ours in (service.main_pid(), service.gateway()):
        assert cgroup_path(ours) == f"{BELOW}/daemon"
    assert os.getxattr(CGROUPS / BELOW.lstrip("/"), "trusted.delegate") == b"1"


def test_limits_are_in_the_kernel_and_stay_when_systemd_reloads(service: Service):
    pid = service.sandbox("hostile", "frozen")["pid"]
    for _ in range(2):
        assert cgroup_file(pid, "memory.max") == str(64 * MIB)
        assert cgroup_file(pid, "memory.swap.max") == "0"
        assert cgroup_file(pid, "pids.max") == "12"
        assert cgroup_file(pid, "cpu.max") == "50000 100000"
        assert cgroup_file(pid, "io.max").endswith(f"rbps={256 * MIB} wbps={256 * MIB} riops=16384 wiops=16384")
        systemctl("daemon-reload")
    assert service.result("hostile", {"how": "nothing"}) == "fine"


def test_an_idle_sandbox_is_frozen_and_thawed_for_the_next_invocation(service: Service):
    pid = service.sandbox("hostile", "frozen")["pid"]
    assert "frozen 1" in cgroup_file(pid, "cgroup.events")
    answer = service.invoke("hostile", {"how": "nothing"})
    assert (answer.status, answer.headers["X-Pagurus-Start-Kind"]) == (200, "warm")
    assert service.sandbox("hostile", "frozen")["pid"] == pid, "it is the same one, and rests again"


def test_out_of_memory_is_an_answer_with_its_cause_and_ends_one_sandbox_only(service: Service):
    main_pid, restarts = service.main_pid(), service.shown("NRestarts")
    answer = service.invoke("hostile", {"how": "memory"})
    assert (answer.status, answer.word) == (507, "function-out-of-memory"), answer.body.decode()
    assert "memory_bytes, 64 MiB" in answer.json["detail"]
    assert service.result("hostile", {"how": "nothing"}) == "fine"
    assert service.result("hello", {"name": "Bob"})["greeting"] == "Hello, Bob!"
    assert (service.main_pid(), service.shown("NRestarts")) == (main_pid, restarts)


def test_a_fork_bomb_meets_the_limit(service: Service):
    assert service.result("hostile", {"how": "forks"}) == 11
    pid = service.sandbox("hostile", "frozen")["pid"]
    assert cgroup_file(pid, "pids.current") == "12"
    assert service.cli("evict", "hostile").returncode == 0
    assert service.sandboxes(function="hostile") == []


def test_a_timeout_kills_every_process_of_the_sandbox(service: Service):
    service.deploy("hostile", HOSTILE, limits={**LIMITS, "timeout_s": 8})
    assert service.result("hostile", {"how": "nothing"}) == "fine"
    cgroup = CGROUPS / cgroup_path(service.sandbox("hostile", "frozen")["pid"]).lstrip("/")
    answer = service.invoke("hostile", {"how": "sleep"})
    assert (answer.status, answer.word) == (504, "function-timed-out"), answer.body.decode()
    service.until(lambda: not cgroup.exists(), "the cgroup to go, which it does after its last process")
    assert service.sandboxes(function="hostile") == []
    assert service.result("hostile", {"how": "nothing"}) == "fine"


def test_a_killed_pagurusd_is_started_again_by_systemd_and_clears_what_was_left(service: Service):
    before = service.main_pid()
    ended = [os.pidfd_open(row["pid"]) for row in service.sandboxes() if row["pid"]]
    run = service.get("/v1/status")["run"]
    assert runs() == {run}
    os.kill(before, signal.SIGKILL)
    service.until(lambda: service.main_pid() not in (0, before), "systemd to start it again")
    service.wait_ready()
    assert service.result("hello", {"name": "Eve"})["greeting"] == "Hello, Eve!"
    for pidfd in ended:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, 0)
        os.close(pidfd)
    service.until(lambda: run not in runs(), "the former run's cgroups to go")
    assert cgroup_path(service.main_pid()) == f"{BELOW}/daemon"
    assert service.shown("NRestarts") == "1"


def runs() -> set[str]:
    """Runs of the node that have cgroups."""
    return {path.name for path in CGROUPS.glob(f"{BELOW.lstrip('/')}/pagurus/*/*") if path.is_dir()}


def test_stopping_lets_an_invocation_finish_and_leaves_nothing(service: Service):
    service.deploy("slow", "import time\n\ndef main(param):\n    time.sleep(param)\n    return 'slept'\n")
    answers: list[object] = []
    call = threading.Thread(target=lambda: answers.append(service.result("slow", 3)))
    call.start()
    service.until(lambda: service.get("/v1/status")["counts"]["running"] == 1, "the invocation")
    assert service.stop() == 0
    call.join(patience_s(30))
    assert answers == ["slept"]
    assert (service.shown("Result"), service.shown("ActiveState")) == ("success", "inactive")
    assert service.scope.remains() == []
    assert not (CGROUPS / BELOW.lstrip("/")).exists()
    assert not [line for line in service.log().splitlines() if "internal error" in line or "Traceback" in line]


def test_started_again_it_has_its_functions(service: Service):
    service.start()
    service.wait_ready()
    done = subprocess.run([BIN / "pagurus", "invoke", "hello", '{"name": "Ada"}'], capture_output=True, text=True)
    assert done.returncode == 0 and "Hello, Ada!" in done.stdout, done.stderr
    assert service.stop() == 0
    assert service.scope.remains() == []
