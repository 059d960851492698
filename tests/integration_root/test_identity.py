"""What a zygote and its sandboxes are and have, beside namespaces: power, limits, /proc, keys, names."""

import os
import resource
from pathlib import Path

import pytest

from runtime.frames import FrameKind
from runtime.model import OPEN_FILES_MAX
from runtime.sandbox import identity, user_counts
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LOOK = """
import os, resource

def read(path):
    with open(path) as file:
        return file.read()

def look():
    return {
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if "RLIMIT_" in name},
        "oom_score_adj": int(read("/proc/self/oom_score_adj")),
        "umask": os.umask(0o022),
        "names": [os.uname().nodename, read("/proc/sys/kernel/domainname").strip()],
        "keys": read("/proc/keys"),
        "user": {name: int(read("/proc/sys/user/" + name)) for name in os.listdir("/proc/sys/user")},
        "terminal": os.path.exists("/dev/tty"),
    }
"""


async def seen_by_zygote_and_helper(bed: Bed) -> dict[str, dict[str, object]]:
    package = bed.write_environment({("look", "1"): {"look.py": LOOK + "\nAT_IMPORT = look()\n"}})
    await bed.zygote("look", [package])
    sandbox = await bed.parked(package.id)
    code = bed.write_code("import look\n\ndef main(param):\n    return [look.AT_IMPORT, look.look()]\n")
    bed.assign(sandbox, bed.assignment(code, environment=package.id))
    answer = await bed.call(sandbox)
    assert answer.kind is FrameKind.RESULT, answer.value
    bed.last = sandbox
    return dict(zip(("zygote", "helper"), answer.value, strict=True))


@in_node()
async def test_limits_names_and_keys_are_not_those_of_pagurusd(bed: Bed):
    os.umask(0o077)
    hard, files = (resource.getrlimit(one)[1] for one in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_NOFILE))
    for who, seen in (await seen_by_zygote_and_helper(bed)).items():
        limits = seen["limits"]
        assert isinstance(limits, dict)
        assert limits["RLIMIT_CORE"] == [1, 1], "0 would start the host's handler of dumps"
        assert limits["RLIMIT_NOFILE"] == [1024, min(OPEN_FILES_MAX, files) if who == "zygote" else 1024]
        assert limits["RLIMIT_SIGPENDING"] == [identity.PENDING_SIGNALS_MAX] * 2
        assert limits["RLIMIT_MSGQUEUE"] == limits["RLIMIT_NICE"] == limits["RLIMIT_RTPRIO"] == [0, 0]
        assert limits["RLIMIT_MEMLOCK"] == [min(hard, 8 << 20) if hard >= 0 else 8 << 20] * 2
        assert limits["RLIMIT_NPROC"][1] <= 4096
        assert seen["oom_score_adj"] == identity.OOM_SCORE_ADJUSTMENT
        assert seen["umask"] == 0o022
        assert seen["names"] == ["zygote" if who == "zygote" else bed.last, "(none)"]
        keys = {tuple(line.split()[5:9]) for line in str(seen["keys"]).splitlines()}
        assert keys == {("0", "0", "keyring", "_ses:")}, "empty ones of the zygote's root"
        user = seen["user"]
        assert isinstance(user, dict)
        limited = {name: limit for name, limit in user_counts.NAMESPACE_LIMITS.items() if name in user}
        assert limited.items() <= user.items() and {"max_user_namespaces", "max_inotify_instances"} <= limited.keys()
        assert not seen["terminal"]


@in_node()
async def test_what_counts_for_the_host_s_root_is_limited(bed: Bed):
    await bed.zygote()
    source = """
import ctypes, errno, os, signal, struct

libc = ctypes.CDLL(None, use_errno=True)

def many(call, most):
    for number in range(most):
        if call() < 0:
            return [number, errno.errorcode[ctypes.get_errno()]]
    return [most, ""]

def main(param):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    return {
        "inotify": many(lambda: libc.inotify_init1(0), 100),
        "signals": many(lambda: libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), None), 5000),
        "queue": many(lambda: libc.mq_open(b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None), 1),
    }
"""
    seen = await bed.result(source)
    assert seen["inotify"] == [16, "EMFILE"]
    assert seen["signals"] == [identity.PENDING_SIGNALS_MAX, "EAGAIN"]
    assert seen["queue"] == [0, "ENOSYS"]


PROC = """
import os

def main(param):
    found = {"writable": [], "hidden": {}, "read": []}
    for top, folders, names in os.walk("/proc"):
        if top == "/proc":
            folders[:] = [name for name in folders if not name.isdigit() or name == "1"]
        for name in names:
            path = os.path.join(top, name)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                found["writable"].append(path)
            except OSError:
                pass
    for path in param["hidden"]:
        if os.path.isdir(path):
            found["hidden"][path] = os.listdir(path)
        elif os.path.exists(path):
            with open(path) as file:
                found["hidden"][path] = list(file.read())
    for path in param["closed"]:
        try:
            with open(path, "rb") as file:
                file.read(1)
            found["read"].append(path)
        except OSError:
            pass
    for path in "meminfo cpuinfo stat uptime loadavg version self/status net/dev sys/kernel/osrelease".split():
        with open("/proc/" + path) as file:
            assert file.read(), path
    found["sys"] = os.listdir("/sys")
    return found
"""


@in_node()
async def test_proc_shows_nothing_of_the_machine_and_cannot_be_written(bed: Bed):
    await bed.zygote()
    hidden = [f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "scsi")]
    closed = [
        f"/proc/{name}"
        for name in ("kcore", "kmsg", "timer_list", "latency_stats", "sched_debug", "slabinfo", "vmallocinfo")
    ]
    closed += ["/proc/kpagecount", "/proc/pagetypeinfo", "/proc/sysrq-trigger", "/proc/1/mem"]
    seen = await bed.result(PROC, {"hidden": hidden, "closed": closed})
    there = [path for path in hidden if Path(path).exists()]
    assert seen["hidden"] == {path: [] for path in there} and there
    null = ("/proc/interrupts", "/proc/1/fd/0", "/proc/1/task/1/fd/0")
    assert [path for path in seen["writable"] if path not in null] == []
    assert seen["read"] == []
    assert seen["sys"] == [], "it is not mounted"


@in_node()
async def test_shared_memory_and_proc_hold_no_programs(bed: Bed):
    await bed.zygote()
    source = """
import os, shutil, subprocess

def main(param):
    flags = {line.split()[4]: line.split()[5].split(",") for line in open("/proc/self/mountinfo")}
    shutil.copy("/bin/sh", "/dev/shm/sh")
    try:
        subprocess.run(["/dev/shm/sh", "-c", "exit 0"])
        ran = True
    except PermissionError:
        ran = False
    return [flags, ran]
"""
    flags, ran = await bed.result(source)
    assert not ran
    assert all("nosuid" in one for one in flags.values())
    assert all("nodev" in one for place, one in flags.items() if place not in ("/dev", "/proc/interrupts"))
    assert all("noexec" in flags[place] for place in ("/dev", "/dev/shm", "/proc"))
    assert all("ro" in flags[place] for place in ("/", "/code", "/dev", "/proc"))


@in_node()
async def test_a_helper_that_keeps_power_is_found_by_pagurusd(bed: Bed):
    """Its zygote's imports have replaced the part of ours that gives power up; it reports as if all were well."""
    hostile = """
import ctypes, gc, os, types

libc = ctypes.CDLL(None, use_errno=True)

def spawn(control, invocation, out, err, cgroup, tasks, net, mnt, hostname, uid, reports):
    for fd in tasks:
        os.write(fd, b"0")
    pidfd = ctypes.c_int(-1)
    arguments = (ctypes.c_uint64 * 11)(0x8000 | 0x1000, ctypes.addressof(pidfd))
    pid = libc.syscall(435, arguments, 88)
    if pid:
        return pid, pidfd.value
    os.dup2(control, 3)
    os.dup2(invocation, 4)
    os.write(3, b'{"kind":"parked","ns":{"fork":1,"isolate":1}}')
    return 0, -1

for found in gc.get_objects():
    if isinstance(found, types.ModuleType) and found.__name__.endswith("_spawn"):
        found.spawn = spawn
"""
    package = bed.write_environment({("hostile", "1"): {"hostile.py": hostile}})
    await bed.zygote("hostile", [package], standbys=0)
    sandbox = await bed.start("hostile", bed.assignment(bed.write_code("main = print\n"), environment=package.id))
    died = await bed.died(sandbox)
    assert died.reason == "start failed"
    assert (
        "capability check: the helper is not without power" in died.error and "CapEff: 00000000002401c0" in died.error
    )
