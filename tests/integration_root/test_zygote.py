"""What a zygote is, and what one that is hostile can do."""

import contextlib
import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from runtime import protocol
from runtime.frames import FrameKind
from runtime.model import ZygoteId
from tests.node_bed import Bed, in_node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FIVE = sum(1 << number for number in (6, 7, 8, 18, 21))  # SETGID, SETUID, SETPCAP, SYS_CHROOT, SYS_ADMIN


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}


@in_node()
async def test_a_zygote_is_nobody_on_the_host_and_has_five_capabilities_inside(bed: Bed):
    await bed.zygote()
    host = bed.node._zygotes[ZygoteId("base")]
    found = status(host.pid)
    assert found["Uid"].split() == [str(bed.parts.settings.uid_base)] * 4
    assert found["Gid"].split() == [str(bed.parts.settings.uid_base)] * 4
    assert found["Groups"] == ""
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {FIVE}
    assert (found["NoNewPrivs"], found["Seccomp"], found["Threads"]) == ("1", "2", "1")
    assert found["NSpid"].split()[1:] == ["2"], "pid 2 of one pid namespace below ours"
    for name in ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup"):
        own = os.readlink(f"/proc/self/ns/{name}")
        assert os.readlink(f"/proc/{host.pid}/ns/{name}") != own, name
    init = status(host._namespace.init_pid)
    assert init["Uid"].split() == [str(bed.parts.settings.uid_base)] * 4 and init["NSpid"].split()[1:] == ["1"]
    builder = status(host._namespace.builder_pid)
    assert builder["Uid"].split() == [str(bed.parts.settings.uid_base)] * 4 and len(builder["NSpid"].split()) == 1


@in_node()
async def test_what_the_kernel_counts_for_the_owner_of_a_zygote_is_not_root_s(bed: Bed):
    """Inotify, timers, queued signals: attacks/counts.py. With root as owner these are the host's own."""
    await bed.zygote()
    host = bed.node._zygotes[ZygoteId("base")]
    namespace = os.open(f"/proc/{host.pid}/ns/user", os.O_RDONLY)
    owner = fcntl.ioctl(namespace, 0xB704, bytes(4))  # NS_GET_OWNER_UID, linux/nsfs.h
    os.close(namespace)
    assert int.from_bytes(owner, sys.byteorder) == bed.parts.settings.uid_base


LOOK = """
import json, os
seen = {
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "user_namespaces": open("/proc/sys/user/max_user_namespaces").read().strip(),
    "mountinfo": open("/proc/self/mountinfo").read(),
    "descriptors": {},
    "environ": dict(os.environ),
    "root": sorted(os.listdir("/")),
    "code": sorted(os.listdir("/code")),
    "up": sorted(os.listdir("/proc/self/root/../..")),
}
for name in os.listdir("/proc/self/fd"):
    try:
        seen["descriptors"][name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass

def attempt(what):
    try:
        what()
        return "done"
    except OSError as error:
        return error.strerror

def write(path):
    with open(path, "w") as file:
        file.write("1")

import ctypes
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

seen["attempts"] = {
    "kill the host's 1": attempt(lambda: os.kill(4000000, 9)),
    "write the root": attempt(lambda: write("/x")),
    "write the packages": attempt(lambda: write("/opt/env/x")),
    "more user namespaces": attempt(lambda: write("/proc/sys/user/max_user_namespaces")),
    "remount": attempt(lambda: call(165, b"none", b"/", None, 0x20 | 0x1000, None)),
    "unshare user": attempt(lambda: call(272, 0x10000000)),
    "bpf": attempt(lambda: call(321, 0, None, 0)),
    "chroot": attempt(lambda: call(161, b"/tmp")),
    "host name": attempt(lambda: write("/proc/sys/kernel/hostname")),
    "modules": attempt(lambda: call(175, None, 0, b"")),
}
"""


@in_node()
async def test_a_zygote_sees_nothing_of_the_host(bed: Bed):
    package = bed.write_environment({("look", "1"): {"look.py": LOOK}})
    await bed.zygote("look", [package])
    sandbox = await bed.parked(package.id)
    code = bed.write_code("import look\n\ndef main(param):\n    return look.seen\n")
    bed.assign(sandbox, bed.assignment(code, environment=package.id))
    answer = await bed.call(sandbox)
    assert answer.kind is FrameKind.RESULT, answer.value
    seen = answer.value
    assert seen["processes"] == [1, 2]
    assert seen["user_namespaces"] == "0"
    assert bed.parts.settings.state_dir not in seen["mountinfo"]
    assert seen["code"] == [], "no function's code"
    assert seen["up"] == seen["root"]
    named = {name for name, target in seen["descriptors"].items() if not target.startswith("/proc/")}
    assert named <= {"0", "1", "2", "3"}
    assert not [name for name in seen["environ"] if "PAGURUS" in name or "SECRET" in name]
    attempts = seen["attempts"]
    assert "done" not in {how for name, how in attempts.items() if name not in ("remount", "host name")}, attempts


@in_node()
async def test_packages_that_start_threads_make_no_zygote(bed: Bed):
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    package = bed.write_environment({("threaded", "1"): {"threaded.py": source}})
    failed = await bed.try_zygote("threaded", [package])
    assert isinstance(failed, protocol.ZygoteFailed)
    assert failed.phase == "imports" and "1 thread" in failed.message
    assert failed.is_refused and failed.suspect == "threaded"
    await bed.until(lambda: bed.node.is_empty)
    await bed.zygote()
    code = bed.write_code("import threaded\n\ndef main(param):\n    return threaded.__name__\n")
    sandbox = await bed.parked()
    bed.assign(sandbox, bed.assignment(code, environment=package.id))
    assert (await bed.call(sandbox)).value == "threaded", "it works from the base zygote"


@in_node()
async def test_an_import_that_fails_is_reported_and_the_rest_is_kept(bed: Bed):
    good_bad = {("good", "1"): {"good.py": ""}, ("bad", "1"): {"bad.py": "raise RuntimeError('not today')\n"}}
    package = bed.write_environment(good_bad)
    ready = await bed.zygote("mixed", [package])
    assert set(ready.import_ms) == {"good"}
    assert ready.failed == {"bad": "RuntimeError: not today"}
    sandbox = await bed.parked(package.id)
    code = bed.write_code(
        "import good\ntry:\n    import bad\nexcept RuntimeError as e:\n    text = str(e)\n"
        "def main(param):\n    return text\n"
    )
    bed.assign(sandbox, bed.assignment(code, environment=package.id))
    assert (await bed.call(sandbox)).value == "not today"


@in_node()
async def test_a_zygote_starts_where_pagurusd_has_thousands_of_descriptors(bed: Bed):
    with contextlib.ExitStack() as stack:
        for _ in range(
            1500
        ):  # as many as some hundreds of sandboxes need: more than select takes, or a zygote may have
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        await bed.zygote("base")
        sandbox = await bed.parked(None)
        bed.assign(sandbox, bed.assignment(bed.write_code("def main(param):\n    return param\n")))
        assert (await bed.call(sandbox, 7)).value == 7


# A package that takes its zygote over while it is imported, and answers the next request for a helper.
HOSTILE = """
import array, ctypes, json, os, socket, sys, time

libc = ctypes.CDLL(None)
frame = sys._getframe()
while type(frame.f_locals.get("self")).__name__ != "Zygote":
    frame = frame.f_back
zygote = frame.f_locals["self"]
control = zygote._control
SPAWNED = {"kind": "spawned", "id": 1}

def pidfd(pid):
    return libc.syscall(434, pid, 0)

def child(flags):
    pid = libc.syscall(56, flags | 17, 0, 0, 0, 0)
    if pid == 0:
        time.sleep(1000)
    return pid

def send(message, descriptors):
    rights = array.array("i", descriptors)
    control.sendmsg([json.dumps(message).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

WAYS = {
    "init": lambda: send(SPAWNED, [pidfd(1)]),
    "itself": lambda: send(SPAWNED, [pidfd(os.getpid())]),
    "file": lambda: send(SPAWNED, [0]),
    "grandchild": lambda: send(SPAWNED, [pidfd(child(0))]),
    "outside": lambda: send(SPAWNED, [pidfd(child(0x8000))]),  # CLONE_PARENT, but not in the sandbox's cgroup
    "many": lambda: send(SPAWNED, [0] * 9),
    "too many": lambda: send(SPAWNED, [0] * 40),
    "none": lambda: control.send(json.dumps(SPAWNED).encode()),
    "twice": lambda: [control.send(b'{"kind": "refused", "message": "no"}') for _ in range(2)],
    "unknown": lambda: control.send(b'{"kind": "hello"}'),
    "list": lambda: control.send(b"[1, 2]"),
    "garbage": lambda: control.send(b"\\xff\\x00garbage"),
    "long": lambda: control.send(b"[" * 200_000),
    "silence": lambda: None,
    "exit": lambda: os._exit(0),
}
type(zygote).spawn = lambda self, message, descriptors: WAYS["%s"]()
"""
WAYS = (
    *("init", "itself", "file", "grandchild", "outside", "many", "too many", "none", "twice", "unknown", "list"),
    *("garbage", "long", "silence", "exit"),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are those of x86_64")
def test_a_hostile_zygote_is_ended_and_harms_nobody(way: str):
    async def scenario(bed: Bed) -> None:
        from runtime.fork import client

        client.SPAWN_TIMEOUT_S = 0.3  # in this forked process only
        await bed.zygote()
        package = bed.write_environment({("evil", "1"): {"evil.py": HOSTILE % way}})
        ready = await bed.zygote("evil", [package], standbys=0)
        assert not ready.failed, ready.failed
        source = bed.write_code("def main(param):\n    return param\n")
        innocent = await bed.parked()
        sandbox = await bed.start("evil", bed.assignment(source, environment=package.id))
        died = await bed.died(sandbox)
        assert died.error
        if way == "outside":  # it broke no rule that can be seen; what it passed off is gone all the same
            bed.node.handle(protocol.DropZygote(zygote=ZygoteId("evil")), [])
        await bed.until(lambda: bed.told(protocol.ZygoteDied, zygote="evil"))
        assert len(bed.told(protocol.SandboxDied, sandbox=sandbox)) == 1
        bed.assign(innocent, bed.assignment(source))
        assert (await bed.call(innocent, 7)).value == 7

    in_node()(scenario)()


@in_node()
async def test_a_hostile_zygote_cannot_pass_off_another_sandbox_as_its_helper(bed: Bed):
    """The pidfd of a process somebody else owns is refused by `_checked_pid`; seen here with a real one."""
    await bed.zygote(standbys=1)
    client = bed.node._zygotes[ZygoteId("base")]._client
    other = await bed.parked()
    for pid in (bed.pid(other), client.pid, os.getpid(), 1):
        pidfd = os.pidfd_open(pid)
        with pytest.raises(Exception, match=r"another process|not its helper"):
            client._checked_pid(pidfd, -1)
        os.close(pidfd)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    with pytest.raises(Exception, match="no pidfd"):
        client._checked_pid(null, -1)
    os.close(null)


@in_node()
async def test_a_stopped_zygote_is_given_up(bed: Bed):
    from runtime.fork import client

    client.SPAWN_TIMEOUT_S = 0.2  # in this forked process only
    await bed.zygote(standbys=0)
    os.kill(bed.node._zygotes[ZygoteId("base")].pid, signal.SIGSTOP)
    sandbox = await bed.start("base", bed.assignment(bed.write_code("def main(param):\n    return 1\n")))
    died = await bed.died(sandbox)
    assert "did not fork within" in died.error
    await bed.until(lambda: bed.told(protocol.ZygoteDied, zygote="base"))
    assert bed.node._zygotes == {}


SECRET = "correct-horse-battery-staple-91"


def memory_holds(pid: int, needle: bytes) -> bool:
    """Whether a process has these bytes anywhere in its writable memory."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, access = line.split()[:2]
            if access.startswith("rw"):
                first, end = (int(text, 16) for text in bounds.split("-"))
                memory.seek(first)
                if needle in memory.read(end - first):
                    return True
    return False


@in_node()
async def test_environment_and_code_of_a_function_are_not_in_its_zygote(bed: Bed):
    await bed.zygote()
    code = bed.write_code(f"import os\nNAME = '{SECRET[::-1]}'\n\ndef main(param):\n    return os.environ['TOKEN']\n")
    assignment = bed.assignment(code, environ={"TOKEN": SECRET})
    standby = await bed.parked()
    bed.assign(standby, assignment)
    forked = await bed.start("base", assignment)
    zygote = bed.node._zygotes[ZygoteId("base")].pid
    for sandbox in (standby, forked):
        assert (await bed.call(sandbox)).value == SECRET
        await bed.until(lambda: bed.pid(sandbox) > 0)  # noqa: B023  its report may come after its answer
        for needle in (SECRET, SECRET[::-1]):
            assert memory_holds(bed.pid(sandbox), needle.encode()), "else this test could not fail"
            assert not memory_holds(zygote, needle.encode())
