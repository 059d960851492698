"""Attacks on sandboxes next door: their processes, memory, secrets, files and sockets. Runs inside a sandbox."""

import os
import re
import resource
import socket

from .attacker import NOT_RUN, Target, attack, be_dumpable, call, each, in_child, read, room, secret

_SEARCHED = ("/code", "/tmp", "/dev/shm", "/opt", "/run", "/var", "/home", "/root", "/srv", "/mnt", "/etc", "/media")
_FILE_BYTES_MAX = 1 << 20


# First of all: other attacks put the secret together to look for it, and so leave it in their own memory.
@attack(gain="the secret in memory that was inherited from the zygote", seen=0)
def search_own_memory_for_the_secret(target: Target):
    pattern = re.compile(bytes(reversed(b"-kcolb-terces")) + b"[0-9a-f]{32}")
    hits = set()
    be_dumpable()
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            bounds, access = line.split()[:2]
            if not access.startswith("rw"):
                continue
            first, end = (int(text, 16) for text in bounds.split("-"))
            memory.seek(first)
            hits.update(pattern.findall(memory.read(end - first)))
    return len(hits)


@attack(gain="to stop or kill another sandbox, the zygote or pagurusd", seen="ESRCH")
def signal_a_neighbour(target: Target):
    return each(**{str(pid): lambda pid=pid: os.kill(pid, 9) for pid in target["pids"]})


# A zygote is above its helpers, and may end them: the trust rule decides who they are.
@attack(gain="to kill all processes at once", seen="ESRCH", at_import=NOT_RUN)
def signal_everybody(target: Target):
    return in_child(lambda: os.kill(-1, 9))


@attack(gain="control of a neighbour's process", seen="EPERM")
def trace_a_neighbour(target: Target):
    PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
    pid = target["pids"][0]
    return each(attach=lambda: call(101, PTRACE_ATTACH, pid, 0, 0), seize=lambda: call(101, PTRACE_SEIZE, pid, 0, 0))


@attack(gain="a neighbour's memory", seen="EPERM")
def read_memory_by_process_vm_readv(target: Target):
    return call(310, target["pids"][0], room(), 1, room(), 1, 0)


@attack(gain="to change a neighbour's memory", seen="EPERM")
def write_memory_by_process_vm_writev(target: Target):
    return call(311, target["pids"][0], room(), 1, room(), 1, 0)


@attack(gain="a neighbour's memory", seen="ENOENT")
def open_the_memory_file_of_a_neighbour(target: Target):
    return each(**{str(pid): lambda pid=pid: open(f"/proc/{pid}/mem", "rb") for pid in target["pids"]})


@attack(gain="a neighbour's environment, files and root by proc", seen="ENOENT")
def read_proc_of_a_neighbour(target: Target):
    names = ("environ", "cmdline", "maps", "root/code/main.py", "cwd/main.py", "fd/4", "ns/mnt")
    return each(**{name: lambda name=name: os.stat(f"/proc/{target['pids'][0]}/{name}") for name in names})


@attack(gain="to know which other processes there are", seen=[])
def list_processes(target: Target):
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]


@attack(gain="a handle of a neighbour's process", seen="ESRCH")
def open_a_pidfd_of_a_neighbour(target: Target):
    return each(**{str(pid): lambda pid=pid: os.pidfd_open(pid) for pid in target["pids"]})


@attack(gain="a descriptor out of another process", seen="EPERM")
def take_a_descriptor_by_pidfd_getfd(target: Target):
    pidfd = os.pidfd_open(os.getpid())
    try:
        return call(438, pidfd, 3, 0)
    finally:
        os.close(pidfd)


@attack(gain="to starve a neighbour by its limits or priority", seen="ESRCH")
def change_limits_and_priority_of_a_neighbour(target: Target):
    pid = target["pids"][0]
    return each(
        prlimit=lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)),
        setpriority=lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        affinity=lambda: os.sched_setaffinity(pid, {0}),
    )


@attack(gain="what two processes share", seen="EPERM")
def compare_with_a_neighbour_by_kcmp(target: Target):
    return call(312, os.getpid(), target["pids"][0], 0, 0, 0)


@attack(gain="to advise a neighbour's memory away", seen="EPERM")
def advise_memory_of_a_neighbour(target: Target):
    pidfd = os.pidfd_open(os.getpid())
    try:
        return call(440, pidfd, room(), 1, 21, 0)
    finally:
        os.close(pidfd)


@attack(gain="the secret or the code of the victim in a file", seen=[])
def search_all_files_for_the_secret(target: Target):
    wanted, found = secret(target), []
    for top in _SEARCHED:
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    if os.path.getsize(path) <= _FILE_BYTES_MAX and wanted in read(path, _FILE_BYTES_MAX):
                        found.append(path)
                except OSError:
                    continue
    return found


@attack(gain="the victim's files by their names", seen=[])
def search_for_the_victims_files(target: Target):
    found = []
    for top in _SEARCHED:
        for folder, folders, names in os.walk(top):
            found += [os.path.join(folder, name) for name in (*folders, *names) if "kept-by-the-victim" in name]
    return found


@attack(gain="the secret in an environment variable", seen=[])
def look_for_the_secret_in_the_environment(target: Target):
    wanted = secret(target)
    be_dumpable()
    here = [name for name, value in os.environb.items() if wanted in value]
    return here + (["/proc/self/environ"] if wanted in read("/proc/self/environ", 1 << 20) else [])


@attack(gain="the victim's abstract socket", seen="ECONNREFUSED")
def connect_to_an_abstract_socket_of_a_neighbour(target: Target):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(b"\0" + target["abstract"].encode())


@attack(gain="the victim's server on its loopback", seen="ECONNREFUSED", at_import="ENETUNREACH")
def connect_to_a_port_of_a_neighbour(target: Target):
    with socket.socket() as client:
        client.connect(("127.0.0.1", target["port"]))


@attack(gain="the victim's System V memory", seen="ENOENT")
def attach_shared_memory_of_a_neighbour(target: Target):
    return call(29, target["shm_key"], 1, 0)


@attack(gain="the victim's message queue", seen={"posix": "ENOSYS", "system_v": "ENOENT"})
def open_a_message_queue_of_a_neighbour(target: Target):
    return each(posix=lambda: call(240, b"victim", os.O_RDWR, 0, None), system_v=lambda: call(68, target["shm_key"], 0))
