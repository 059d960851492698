"""Tries what the kernel lets us do: namespaces, mounts, cgroups, seccomp. A leaf.

A probe returns what it found, in words, or raises. What would change the caller happens in a forked child that
ends at once, so call them while the process has one thread.
"""

import contextlib
import os
import re
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime import syscalls
from runtime.errors import RequirementError
from runtime.syscalls import CloneFlag, MountAttr, MountFlag

KERNEL_MIN = (5, 14)  # cgroup.kill; all else we need is older
CONTROLLERS = ("memory", "pids", "cpu")
NAMESPACES = {
    "mount": CloneFlag.NEWNS,
    "pid": CloneFlag.NEWPID,
    "net": CloneFlag.NEWNET,
    "ipc": CloneFlag.NEWIPC,
    "uts": CloneFlag.NEWUTS,
    "cgroup": CloneFlag.NEWCGROUP,
    "user": CloneFlag.NEWUSER,  # last: what comes after it would be asked of the new one
}
SCRATCH = "/tmp"  # noqa: S108 - covered by a tmpfs of the child's own mount namespace
CHILD_TIMEOUT_S = 10.0
CHILD_TEXT_BYTES = 4096
RMDIR_TRIES = 100
RMDIR_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; see proc_pid_mountinfo(5)."""

    root: str
    point: str
    fstype: str
    options: frozenset[str]


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """The mounts of /proc/PID/mountinfo, in its order."""
    mounts = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, rest = head.split(), tail.split()
        if not separator or len(fields) < 6 or len(rest) < 2:
            continue
        options = {*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ())}
        mounts.append(Mount(_unescape(fields[3]), _unescape(fields[4]), rest[0], frozenset(options)))
    return tuple(mounts)


def mounts_now() -> tuple[Mount, ...]:
    """The mounts that this process sees."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text())


def mount_of(path: str, mounts: tuple[Mount, ...]) -> Mount:
    """The mount that an absolute path lies on; the last mounted of the longest mount points."""
    fitting = [m for m in mounts if path == m.point or path.startswith(m.point.rstrip("/") + "/")]
    if not fitting:
        raise RequirementError(f"no mount holds {path}")
    longest = max(len(m.point) for m in fitting)
    return [m for m in fitting if len(m.point) == longest][-1]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def parse_release(release: str) -> tuple[int, int]:
    """Major and minor of a kernel release such as 6.1.0-18-amd64."""
    match = re.match(r"(\d+)\.(\d+)", release)
    if not match:
        raise RequirementError(f"cannot read the kernel release {release!r}")
    return int(match[1]), int(match[2])


def in_child(action: Callable[[], str]) -> str:
    """Run `action` in a forked child that ends with it; its answer, or RequirementError with its error's text."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:  # lives only for `action`; the pipe is all it shares, the parent reaps it
        try:
            answer = f"+{action()}"
        except BaseException as error:
            answer = f"-{error}"
        with contextlib.suppress(OSError):
            os.write(write_fd, answer.encode()[:CHILD_TEXT_BYTES])
        os._exit(0)
    os.close(write_fd)
    try:
        ready, _, _ = select.select([read_fd], [], [], CHILD_TIMEOUT_S)
        answer = os.read(read_fd, CHILD_TEXT_BYTES).decode(errors="replace") if ready else "-timed out"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(read_fd)
    if not answer.startswith("+"):
        raise RequirementError(answer[1:] or "the child that tried it died")
    return answer[1:]


def kernel_release() -> str:
    """The running kernel, if it is new enough."""
    release = os.uname().release
    if parse_release(release) < KERNEL_MIN:
        raise RequirementError(f"{release}, older than {KERNEL_MIN[0]}.{KERNEL_MIN[1]}")
    return release


def namespaces() -> str:
    """All kinds of namespaces that a sandbox gets."""

    def attempt() -> str:
        failed = []
        for name, flag in NAMESPACES.items():
            try:
                syscalls.unshare(flag)
            except OSError as error:
                failed.append(f"{name}: {error.strerror}")
        if failed:
            raise RequirementError("; ".join(failed))
        return " ".join(NAMESPACES)

    return in_child(attempt)


def proc_in_user_namespace() -> str:
    """A new /proc inside a user namespace; refused where the visible /proc is masked, as in most containers."""

    def mount_proc() -> str:
        syscalls.mount("proc", "/proc", "proc", MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC)
        return "can be mounted"

    def attempt() -> str:
        syscalls.unshare(CloneFlag.NEWUSER | CloneFlag.NEWPID | CloneFlag.NEWNS)
        return in_child(mount_proc)  # only a child is in the new pid namespace

    return in_child(attempt)


def overlay(lower: str) -> str:
    """An overlay over `lower`, made by the calls that pagurusd uses, in a mount namespace that goes with the child."""

    def attempt() -> str:
        syscalls.unshare(CloneFlag.NEWNS)
        syscalls.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        base = syscalls.open_tree(lower)
        syscalls.mount("tmpfs", SCRATCH, "tmpfs", MountFlag.NOSUID | MountFlag.NODEV)
        for name in ("empty", "lower", "target"):
            os.mkdir(f"{SCRATCH}/{name}")
        syscalls.move_mount(base, f"{SCRATCH}/lower")
        fs = syscalls.fsopen("overlay")
        syscalls.fsconfig_string(fs, "lowerdir", f"{SCRATCH}/lower:{SCRATCH}/empty")
        syscalls.fsconfig_create(fs)
        made = syscalls.fsmount(fs, MountAttr.NODEV)
        syscalls.mount_setattr(made, MountAttr.RDONLY)
        syscalls.move_mount(made, f"{SCRATCH}/target")
        return "works"

    return in_child(attempt)


def seccomp() -> str:
    """Filters of system calls, with the actions that we use."""
    available = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    missing = {"allow", "errno", "kill_process"} - set(available)
    if missing:
        raise RequirementError(f"without the actions {' '.join(sorted(missing))}")
    return "filters"


def pidfd() -> str:
    """pidfd_open(2)."""
    os.close(os.pidfd_open(os.getpid()))
    return "works"


def cgroup_controllers() -> str:
    """The back end, and whether it has all controllers that the limits need."""
    mounts = mounts_now()
    found, words = describe_cgroups(mounts, v2_controllers(mounts))
    missing = [controller for controller in CONTROLLERS if controller not in found]
    if missing:
        raise RequirementError(f"{words}; no {', '.join(missing)}")
    return words


def describe_cgroups(mounts: tuple[Mount, ...], v2: frozenset[str]) -> tuple[frozenset[str], str]:
    """The controllers of the back end that pagurusd takes, and the back end in words."""
    if set(CONTROLLERS) <= v2:
        return v2, f"version 2: {' '.join(CONTROLLERS)}"
    v1 = frozenset(c for m in mounts if m.fstype == "cgroup" for c in CONTROLLERS if c in m.options)
    if v1:
        unified = "with" if any(m.fstype == "cgroup2" for m in mounts) else "without"
        return v1, f"version 1: {' '.join(sorted(v1))}, {unified} a version 2 hierarchy beside"
    return v2, "version 2" if any(m.fstype == "cgroup2" for m in mounts) else "no cgroups mounted"


def _v2_mount(mounts: tuple[Mount, ...]) -> Mount | None:
    return next((m for m in mounts if m.fstype == "cgroup2" and "rw" in m.options), None)


def v2_controllers(mounts: tuple[Mount, ...]) -> frozenset[str]:
    """Those of the version 2 hierarchy; none without one."""
    v2 = _v2_mount(mounts)
    return frozenset() if v2 is None else frozenset(Path(v2.point, "cgroup.controllers").read_text().split())


def clone_into_cgroup() -> str:
    """clone3(2) with CLONE_INTO_CGROUP, cgroup.kill and cgroup.freeze, in a cgroup made and removed for it."""
    v2 = _v2_mount(mounts_now())
    if v2 is None:
        raise RequirementError("no writable version 2 hierarchy is mounted")
    cgroup = Path(v2.point, f"pagurus-doctor-{os.getpid()}")
    cgroup.mkdir()
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pid = syscalls.clone_into(fd)
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        finally:
            os.close(fd)
        missing = [name for name in ("cgroup.kill", "cgroup.freeze") if not (cgroup / name).exists()]
        if missing:
            raise RequirementError(f"no {' and '.join(missing)}")
    finally:
        _remove_cgroup(cgroup)
    return "CLONE_INTO_CGROUP cgroup.kill cgroup.freeze"


def _remove_cgroup(cgroup: Path) -> None:
    # A cgroup is busy for a moment after its last process was reaped.
    for _ in range(RMDIR_TRIES):
        try:
            cgroup.rmdir()
        except OSError:
            time.sleep(RMDIR_PAUSE_S)
        else:
            return
    cgroup.rmdir()


def swap_limit() -> str:
    """Whether swap counts against a sandbox's memory limit."""
    if len(Path("/proc/swaps").read_text().splitlines()) < 2:
        return "no swap in use"
    for mount in mounts_now():
        if mount.fstype == "cgroup" and "memory" in mount.options:
            if Path(mount.point, "memory.memsw.limit_in_bytes").exists():
                return "accounted"
            raise RequirementError("the kernel does not account swap")
    # Version 2: the root has no such file, its children do.
    v2 = _v2_mount(mounts_now())
    if v2 and any(Path(v2.point).glob("*/memory.swap.max")):
        return "accounted"
    raise RequirementError("no memory.swap.max in any cgroup")
