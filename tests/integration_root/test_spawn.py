"""What a helper is once it is forked, as seen from inside it."""

import os
import re
import signal

import pytest

from runtime.frames import FrameKind
from runtime.model import MIB, Limits
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LOOK = """
import os

def read(path):
    with open(path) as file:
        return file.read()

def main(param):
    status = dict(line.split(":\\t", 1) for line in read("/proc/self/status").splitlines() if ":\\t" in line)
    return {
        "pid": os.getpid(),
        "processes": [name for name in os.listdir("/proc") if name.isdigit()],
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "status": {key: value.strip() for key, value in status.items()},
        "uid_map": read("/proc/self/uid_map").split(),
        "descriptors": {name: os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd")
                        if os.path.exists("/proc/self/fd/" + name) or int(name) < 5},
        "interfaces": [line.split(":")[0].strip() for line in read("/proc/net/dev").splitlines()[2:]],
        "hostname": os.uname().nodename,
        "cgroups": [line.split(":", 2)[2] for line in read("/proc/self/cgroup").splitlines()],
        "mountinfo": read("/proc/self/mountinfo"),
        "session": [os.getsid(0), os.getpgrp()],
        "directory": os.getcwd(),
        "dev": sorted(os.listdir("/dev")),
        "environ": dict(os.environ),
    }
"""


@in_node()
async def test_a_helper_is_alone_and_has_no_power(bed: Bed):
    await bed.zygote()
    seen = await bed.result(LOOK, environ={"COLOUR": "blue"})
    uid = bed.node._sandboxes[bed.last].uid
    assert seen["pid"] == 1
    assert seen["processes"] == ["1"]
    assert seen["ids"] == [[uid] * 3, [uid] * 3, []]
    status = seen["status"]
    assert {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16
    )
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    assert seen["uid_map"] == ["0", str(bed.parts.settings.uid_base), "65536"], "0 inside is nobody's root outside"
    assert seen["interfaces"] == ["lo"]
    assert seen["hostname"] == bed.last
    assert set(seen["cgroups"]) == {"/"} or _hides_ours(seen["cgroups"])
    assert seen["session"][0] == seen["session"][1] == 1
    assert seen["directory"] == "/code"
    assert seen["environ"]["COLOUR"] == "blue"
    assert seen["environ"]["OPENBLAS_NUM_THREADS"] == "1", "the same in cold and helped starts"


def _hides_ours(paths: list[str]) -> bool:
    """Hierarchies that we do not use are shown relative to where pagurusd itself is."""
    return not [path for path in paths if "pagurus" in path]


@in_node()
async def test_a_helper_has_five_descriptors_and_none_of_the_zygote(bed: Bed):
    await bed.zygote()
    seen = (await bed.result(LOOK))["descriptors"]
    assert set(seen) <= {"0", "1", "2", "3", "4"}
    assert seen["0"] == "/dev/null"
    assert seen["1"].startswith("pipe:") and seen["2"].startswith("pipe:")
    assert seen["3"].startswith("socket:") and seen["4"].startswith("socket:")


@in_node()
async def test_a_helper_sees_no_path_of_the_host(bed: Bed):
    await bed.zygote()
    seen = await bed.result(LOOK)
    text = seen["mountinfo"]
    assert bed.parts.settings.state_dir not in text
    assert "/var/lib" not in text and "/sys" not in re.sub(r"rw,\S*| /sys /proc/", "", text)
    targets = [line.split()[4] for line in text.splitlines()]
    shown = {target for target in targets if not target.startswith("/proc/")}  # those hide what is below
    assert sorted(shown) == ["/", "/code", "/dev", "/dev/shm", "/proc", "/tmp"]
    assert set(seen["dev"]) == {"fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"}


WRITE = """
import errno, os

def attempt(path):
    try:
        with open(path, "w") as file:
            file.write("x")
        return "written"
    except OSError as error:
        return errno.errorcode[error.errno]

def main(param):
    return {path: attempt(path) for path in param}
"""


@in_node()
async def test_only_tmp_and_shm_can_be_written(bed: Bed):
    package = bed.write_environment({("lib", "1"): {"lib.py": ""}})
    await bed.zygote()
    places = ["/x", "/code/x", "/code/main.py", "/opt/env/x", "/opt/env/lib.py", "/usr/bin/x", "/opt/pagurus/init"]
    places += ["/proc/sys/kernel/hostname", "/proc/sys/user/max_user_namespaces", "/dev/x", "/dev/shm/x", "/tmp/x"]
    seen = await bed.result(WRITE, places, environment=package.id)
    assert {path: how for path, how in seen.items() if how == "written"} == {
        "/dev/shm/x": "written",
        "/tmp/x": "written",
    }
    assert {how for how in seen.values() if how != "written"} <= {"EROFS", "EACCES", "EPERM"}


@in_node()
async def test_tmp_is_private_and_limited(bed: Bed):
    await bed.zygote(standbys=2)
    fill = """
import errno, os

def main(param):
    found = os.listdir("/tmp")
    try:
        with open("/tmp/big", "wb") as file:
            for _ in range(4):
                file.write(b"x" * (1 << 20))
                file.flush()
        return [found, "all"]
    except OSError as error:
        return [found, errno.errorcode[error.errno]]
"""
    assert await bed.result(fill, limits=Limits(tmp_bytes=2 * MIB)) == [[], "ENOSPC"]
    assert await bed.result(fill) == [[], "all"], "the first one's file is not here, and the usual limit is larger"


FORBIDDEN = """
import ctypes, errno, os

libc = ctypes.CDLL(None, use_errno=True)

def attempt(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    return errno.errorcode.get(ctypes.get_errno(), "OK") if result == -1 else "OK"

def main(param):
    buffer = ctypes.create_string_buffer(256)
    return {
        "mount": attempt(165, b"none", b"/tmp", b"tmpfs", 0, None),
        "umount2": attempt(166, b"/tmp", 2),
        "unshare user": attempt(272, 0x10000000),
        "unshare net": attempt(272, 0x40000000),
        "clone user": attempt(56, 0x10000000 | 17, 0, 0, 0, 0),
        "clone pid": attempt(56, 0x20000000 | 17, 0, 0, 0, 0),
        "clone3": attempt(435, buffer, 88),
        "setns": attempt(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0),
        "ptrace": attempt(101, 0, 0, 0, 0),
        "keyctl": attempt(250, 0, -1, 0, 0, 0),
        "add_key": attempt(248, b"user", b"a", b"b", 1, -1),
        "bpf": attempt(321, 0, buffer, 48),
        "perf_event_open": attempt(298, buffer, 0, -1, -1, 0),
        "io_uring_setup": attempt(425, 8, buffer),
        "userfaultfd": attempt(323, 0),
        "open_tree": attempt(428, -100, b"/", 1),
        "move_mount": attempt(429, -1, b"", -100, b"/tmp", 4),
        "fsopen": attempt(430, b"tmpfs", 0),
        "chroot": attempt(161, b"/tmp"),
        "pivot_root": attempt(155, b"/tmp", b"/tmp"),
        "mknod": attempt(133, b"/tmp/n", 0o20666, 0x103),
        "setuid": attempt(105, 0),
        "sethostname": attempt(170, b"x", 1),
        "reboot": attempt(169, 0, 0, 0, None),
        "process_vm_readv": attempt(310, 1, buffer, 1, buffer, 1, 0),
    }
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are those of x86_64")
@in_node()
async def test_dangerous_system_calls_are_refused(bed: Bed):
    await bed.zygote()
    seen = await bed.result(FORBIDDEN)
    assert seen.pop("clone3") == "ENOSYS", "so that libc falls back to clone, whose flags the filter reads"
    assert set(seen.values()) == {"EPERM"}, seen


NEIGHBOURS = """
import os

def main(param):
    found = {}
    for pid in [*range(-1, 400), *param]:
        if pid in (-1, 0, 1):
            continue
        try:
            os.kill(pid, 0)
            found[pid] = "there"
        except ProcessLookupError:
            pass
        except OSError as error:
            found[pid] = error.strerror
    return found
"""


@in_node()
async def test_a_helper_reaches_neither_sibling_nor_zygote_nor_host(bed: Bed):
    ready = await bed.zygote(standbys=2)
    other = await bed.parked()
    host = bed.node._zygotes[ready.zygote]
    pids = [bed.pid(other), host.pid, host._namespace.init_pid, host._namespace.builder_pid, os.getpid()]
    assert await bed.result(NEIGHBOURS, pids) == {}
    os.kill(bed.pid(other), 0)


@in_node()
async def test_helpers_have_uids_of_their_own_and_cannot_read_each_other_files(bed: Bed):
    await bed.zygote(standbys=2)
    first, second = await bed.parked(), await bed.parked()
    uids = {bed.node._sandboxes[one].uid for one in (first, second)}
    assert len(uids) == 2
    host_uids = {os.stat(f"/proc/{bed.pid(one)}").st_uid for one in (first, second)}
    status = {line for one in (first, second) for line in _uids(bed.pid(one))}
    assert status == {bed.parts.settings.uid_base + uid for uid in uids}
    assert 0 in host_uids or host_uids == status, "not dumpable processes belong to root in /proc"


def _uids(pid: int) -> set[int]:
    with open(f"/proc/{pid}/status") as file:
        line = next(line for line in file if line.startswith("Uid:"))
    return {int(word) for word in line.split()[1:]}


@in_node()
async def test_network_is_loopback_only_and_works(bed: Bed):
    await bed.zygote()
    source = """
import errno, socket

def main(param):
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1).close()
    except OSError as error:
        return errno.errorcode[error.errno]
"""
    assert await bed.result(source) == "ENETUNREACH"


@in_node()
async def test_signals_of_a_helper_are_as_a_program_expects(bed: Bed):
    await bed.zygote()
    source = """
import signal

def main(param):
    return [sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
            signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, signal.getsignal(signal.SIGINT) is not None]
"""
    blocked, ignores_pipe, _ = await bed.result(source)
    assert blocked == [] and ignores_pipe


@in_node()
async def test_subprocesses_and_threads_work_inside(bed: Bed):
    await bed.zygote()
    source = """
import concurrent.futures, subprocess, sys

def main(param):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        squares = list(pool.map(lambda x: x * x, range(8)))
    out = subprocess.run([sys.executable, "-c", "print('hi')"], capture_output=True, text=True, check=True).stdout
    return [squares, out]
"""
    answer = await bed.run(source)
    assert answer.kind is FrameKind.RESULT, answer.value
    assert answer.value == [[0, 1, 4, 9, 16, 25, 36, 49], "hi\n"]


@in_node()
async def test_a_kill_leaves_no_process_of_the_sandbox(bed: Bed):
    await bed.zygote()
    source = """
import os, time

def main(param):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.wait()
    return len([name for name in os.listdir("/proc") if name.isdigit()])
"""
    assert await bed.result(source) == 2
    processes = bed.node._sandboxes[bed.last].cgroup.processes()
    assert len(processes) == 2
    died = await bed.end(bed.last)
    assert (died.signal, died.reason) == (signal.SIGKILL, "test")
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
