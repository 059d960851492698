"""Attacks for power: identities, capabilities, limits, and what proc, sys and dev would give. Runs inside a sandbox."""

import os
import resource
import shutil
import stat
import subprocess
import sys

from .attacker import NOT_RUN, Target, attack, call, each, read, write


@attack(gain="root", seen="EPERM", at_import=NOT_RUN)
def become_root(target: Target):
    return each(
        setuid=lambda: os.setuid(0),
        setgid=lambda: os.setgid(0),
        setresuid=lambda: os.setresuid(-1, 0, -1),
        setgroups=lambda: os.setgroups([0]),
    )


@attack(gain="a capability", seen="EPERM", at_import=NOT_RUN)
def take_capabilities(target: Target):
    head = (0x20080522).to_bytes(4, "little") + bytes(4)
    every = b"\xff" * 12 + b"\xff\x01\x00\x00" * 3
    PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
    return each(
        capset=lambda: call(126, head, every), ambient=lambda: call(157, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0)
    )


@attack(gain="root by a set-user-ID program", seen=[], at_import=NOT_RUN)
def use_set_user_id_programs(target: Target):
    python = os.path.realpath(sys.executable)
    shutil.copy(python, "/tmp/evil")
    os.chmod("/tmp/evil", 0o6755)
    programs = ["/tmp/evil"]
    for folder, _, names in os.walk("/usr"):
        programs += [path for name in names if _is_set_user_id(path := os.path.join(folder, name))]
    code = "import os; print(os.geteuid(), os.getegid())"
    own = f"{os.getuid()} {os.getgid()}\n"
    ended = [
        path for path in programs if subprocess.run([path, "-c", code], capture_output=True, text=True).stdout != own
    ]
    os.unlink("/tmp/evil")
    return [path for path in ended if path == "/tmp/evil"] + [path for path in programs if path != "/tmp/evil"]


def _is_set_user_id(path: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISREG(mode) and bool(mode & 0o6000)


@attack(gain="higher limits, a real-time class, a negative nice", seen="EPERM", at_import=NOT_RUN)
def raise_limits_and_priority(target: Target):
    return each(
        core=lambda: _raise(resource.RLIMIT_CORE),
        files=lambda: _raise(resource.RLIMIT_NOFILE),
        real_time=lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
    )


def _raise(which: int) -> None:
    hard = resource.getrlimit(which)[1]
    try:
        resource.setrlimit(which, (hard, hard + 1))
    except ValueError as error:  # Python's word for EPERM here
        raise PermissionError(1, str(error)) from None
    if resource.getrlimit(which)[1] == hard:  # that of dumps: packages set it and give up if they may not
        raise PermissionError(1, "said to be done, and not done")


@attack(gain="memory and raw devices of the host", seen="ENOENT")
def open_raw_devices(target: Target):
    names = (
        "mem",
        "kmem",
        "port",
        "kmsg",
        "sda",
        "vda",
        "loop-control",
        "fuse",
        "kvm",
        "net/tun",
        "mapper/control",
        "ptmx",
    )
    return each(**{name: lambda name=name: os.open(f"/dev/{name}", os.O_RDWR) for name in names})


@attack(gain="settings of the kernel", seen=[])
def write_settings_of_the_kernel(target: Target):
    names = ["core_pattern", "modprobe", "randomize_va_space", "kptr_restrict", "sysrq", "panic", "ns_last_pid"]
    paths = [f"/proc/sys/kernel/{name}" for name in names]
    paths += [
        "/proc/sys/vm/drop_caches",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/sys/fs/pipe-max-size",
    ]
    paths += ["/proc/sys/vm/overcommit_memory", "/proc/irq/0/smp_affinity", "/proc/sys/kernel/hostname"]
    written = []
    for path in paths:
        if target.get("in_zygote") and path.endswith(("hostname", "ns_last_pid")):
            continue  # of its own UTS and pid namespace
        try:
            write(path)
            written.append(path)
        except OSError:
            continue
    return written


@attack(gain="addresses, memory and keys of the kernel", seen=[])
def read_secrets_of_the_kernel(target: Target):
    found = []
    for name in ("kcore", "kmsg", "vmallocinfo", "slabinfo", "timer_list", "sched_debug", "kpagecount", "iomem_real"):
        try:
            if read(f"/proc/{name}"):
                found.append(name)
        except OSError:
            continue
    try:
        with open("/proc/kallsyms") as symbols:
            if any(int(line.split()[0], 16) for _, line in zip(range(50), symbols, strict=False)):
                found.append("kallsyms")
    except OSError:
        pass
    return found


@attack(gain="cgroups, firmware and devices of the host", seen="ENOENT")
def open_sysfs(target: Target):
    return each(
        cgroup=lambda: os.listdir("/sys/fs/cgroup"),
        kernel=lambda: os.listdir("/sys/kernel"),
        net=lambda: os.listdir("/sys/class/net"),
    )


@attack(gain="to be spared by the kernel's OOM killer", seen="EROFS", at_import=NOT_RUN)
def lower_the_own_oom_score(target: Target):
    return write("/proc/self/oom_score_adj", "-1000")


@attack(gain="the uid map, so as to be root of the host", seen=[], at_import=NOT_RUN)
def rewrite_the_uid_map(target: Target):
    done = []
    for name, text in (("uid_map", "0 0 1"), ("gid_map", "0 0 1"), ("setgroups", "allow")):
        try:
            write(f"/proc/self/{name}", text)
            done.append(name)
        except OSError:
            continue
    return done
