"""Who a process is: uid ranges of zygotes, capabilities it may keep, resource limits it starts with.

Runs in pagurusd and, before exec, in the children it forks.
"""

import os
import resource
import select
import signal
from contextlib import suppress
from enum import IntEnum

import prctl

from runtime import syscalls
from runtime.errors import PoolExhaustedError

RANGE = 65536
FIRST_SANDBOX_UID = 1000  # inside a range; below are root and the distribution's own users
SANDBOX_UIDS = 60_000
OOM_SCORE_ADJUSTMENT = 500
# A part of /proc/PID/status, as the kernel writes it.
_POWERLESS = (
    "".join(f"Cap{name}:\t{0:016x}\n" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")) + "NoNewPrivs:\t1\nSeccomp:\t2\n"
).encode()
PENDING_SIGNALS_MAX = 1024  # and POSIX timers; the default is tens of thousands
# Beside what the cgroup bounds. One message queue of the usual size takes a tenth of what all sandboxes of a zygote
# have together. Niceness and real time: none.
_CONFINED = {
    resource.RLIMIT_SIGPENDING: PENDING_SIGNALS_MAX,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_MEMLOCK: 8 << 20,
    resource.RLIMIT_NPROC: 4096,  # of one uid: the most that a function's limit `pids` can be
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_RTPRIO: 0,
}


class Capability(IntEnum):
    """linux/capability.h: the five a zygote keeps inside its user namespace (research: userns-standby)."""

    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_CHROOT = 18
    SYS_ADMIN = 21


class BuilderCapability(IntEnum):
    """linux/capability.h: what making a tree of all owners takes, with apt under a user of its own."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SYS_CHROOT = 18
    SYS_ADMIN = 21
    MKNOD = 27
    SETFCAP = 31


class UidRanges:
    """Hands out ranges of RANGE uids, one a zygote, and takes them back."""

    def __init__(self, base: int, count: int) -> None:
        self._base = base
        self._count = count
        self._next = 0
        self._used: set[int] = set()

    def acquire(self) -> int:
        """First uid of the free range unused for longest. Raises PoolExhaustedError when all are taken."""
        for _ in range(self._count):
            first = self._base + self._next * RANGE
            self._next = (self._next + 1) % self._count
            if first not in self._used:
                self._used.add(first)
                return first
        raise PoolExhaustedError(f"{self._count} zygotes are alive", hint="raise zygotes_max")

    def release(self, first: int) -> None:
        self._used.discard(first)


class SandboxUids:
    """Uids inside one range: each living sandbox has one of its own, the least recently used is next."""

    def __init__(self) -> None:
        self._next = 0
        self._used: set[int] = set()

    def acquire(self) -> int:
        """Raises PoolExhaustedError when all are in use."""
        for _ in range(SANDBOX_UIDS):
            uid = FIRST_SANDBOX_UID + self._next
            self._next = (self._next + 1) % SANDBOX_UIDS
            if uid not in self._used:
                self._used.add(uid)
                return uid
        raise PoolExhaustedError(f"{SANDBOX_UIDS} sandboxes of one zygote are alive")

    def release(self, uid: int) -> None:
        self._used.discard(uid)


def become_namespace_root() -> None:
    """Be uid 0 of the user namespace just entered, without groups."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def keep_capabilities(kept: frozenset[int]) -> None:
    """Drop all others from the bounding set, so that an exec as uid 0 gets no more than these."""
    for number in range(64):
        try:
            present = prctl.capbset_read(number)
        except (ValueError, OSError):
            return  # past the last capability that is known
        if present and number not in kept:
            prctl.capbset_drop(number)


def die_with_parent() -> None:
    """SIGKILL this process when pagurusd dies. To be called after the last change of uid, which clears it."""
    prctl.set_pdeathsig(signal.SIGKILL)


def has_ended(pidfd: int) -> bool:
    """Whether the process has, without waiting. By poll: select refuses descriptors above 1023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def set_resource_limits(*, open_files: int = 1024, open_files_max: int = 0) -> None:
    """No core dumps, and a bounded number of open files, for this process and all it forks.

    open_files_max: to what they may raise it themselves.
    The limit of dumps is one byte: no file is that short, and a program that takes dumps (core_pattern of the host
    with a pipe, which runs as its root) is started for 0 but not for 1; core(5), do_coredump in the kernel.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    hard = min(max(open_files, open_files_max), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(open_files, hard), hard))


def set_small_limits(*, processes: int) -> None:
    """Of processes and threads of the user, of locked memory, message queues and pending signals."""
    wanted = {resource.RLIMIT_NPROC: processes, resource.RLIMIT_MEMLOCK: 0, resource.RLIMIT_MSGQUEUE: 0}
    for which, value in {**wanted, resource.RLIMIT_SIGPENDING: 1024}.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def confine_resources(*, open_files_max: int = 0) -> None:
    """The limits of a program that may be hostile, where they are not lower already, and a known umask."""
    set_resource_limits(open_files_max=open_files_max)
    for kind, limit in _CONFINED.items():
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))
    os.umask(0o022)


def be_the_first_to_die() -> None:
    """When the machine is out of memory, the kernel ends sandboxes before what the host needs.

    They cannot take it back: a process without CAP_SYS_RESOURCE raises the value only. To be called as the host's
    root, with its /proc.
    """
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE_ADJUSTMENT))


def forbid_new_privileges() -> None:
    """No set-user-ID program gives this process or its children anything."""
    prctl.set_no_new_privs(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends (the init of a zygote's pid namespace)."""
    prctl.set_child_subreaper(1)


def leave_keyrings() -> None:
    """An empty session keyring instead of the one that pagurusd was started with, which may hold keys of a user."""
    with suppress(OSError):  # a kernel without keyrings has none to leave
        syscalls.join_session_keyring()


def power_left(pid: int, uid: int) -> str:
    """What a child that should be uid (of the host) without any power has of it, by the kernel's word; '' if nothing.

    Its five capability sets, no_new_privs, the filter, its ids and groups. One that has ended has nothing.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    ids = "\t".join([str(uid)] * 4)
    if _POWERLESS in status and f"\nUid:\t{ids}\nGid:\t{ids}\n".encode() in status and b"\nGroups:\t \n" in status:
        return ""
    if b"\nState:\tZ" in status or b"\nState:\tX" in status:
        return ""
    names = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:")
    return ", ".join(" ".join(line.split()) for line in status.decode().splitlines() if line.startswith(names))
