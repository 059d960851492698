"""Attacks on the host and its kernel: mounts, namespaces, dangerous calls, other entries.

Runs inside a sandbox. As import-time code they run in a zygote: root of a user namespace of its own, with five
capabilities there that forking helpers takes (SYS_ADMIN among them), which reach nothing outside that namespace.
"""

import ctypes
import mmap
import os

from .attacker import NOT_RUN, Target, attack, call, each, in_child, room, write

_NEW = {"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "mnt": 0x00020000, "ipc": 0x08000000}
_NEW |= {"uts": 0x04000000, "cgroup": 0x02000000}


@attack(gain="a mount", seen="EPERM", at_import="done")  # in the zygote's own mount namespace, in a child of it
def mount_a_file_system(target: Target):
    mount = lambda *how: lambda: call(165, *how)  # noqa: E731
    return in_child(
        lambda: each(
            tmpfs=mount(b"none", b"/tmp", b"tmpfs", 0, None),
            bind=mount(b"/usr", b"/tmp", None, 4096, None),
            proc=mount(b"proc", b"/proc", b"proc", 0, None),
        )
    )


@attack(gain="disks, cgroups or sysfs of the host", seen="EPERM")
def mount_file_systems_of_the_host(target: Target):
    kinds = (b"ext4", b"cgroup", b"sysfs", b"debugfs", b"securityfs", b"tracefs", b"bpf", b"devtmpfs")
    return in_child(
        lambda: each(**{kind.decode(): lambda kind=kind: call(165, b"none", b"/tmp", kind, 0, None) for kind in kinds})
    )


# A zygote may mount the cgroups of its own family, which the kernel owns for the host's root: it cannot change them.
@attack(gain="limits of its own choice", seen="EPERM", at_import="EACCES")
def change_limits_by_mounting_cgroups(target: Target):
    def act():
        call(165, b"none", b"/tmp", b"cgroup2", 0, None)
        names = ("cgroup.freeze", "cgroup.kill", "cgroup.subtree_control", "memory.max", "pids.max", "cpu.max")
        found = [os.path.join(folder, name) for folder, _, here in os.walk("/tmp") for name in here if name in names]
        made = {"a cgroup": lambda: os.mkdir("/tmp/evil")}
        return each(**made, **{path: lambda path=path: write(path) for path in found})

    return in_child(act)


@attack(gain="a root that can be written to", seen="EPERM", at_import="EROFS")
def remount_the_root_for_writing(target: Target):
    def act():
        call(165, None, b"/", None, 0x20 | 0x1000, None)  # MS_REMOUNT | MS_BIND
        write_to = os.open("/usr/evil", os.O_CREAT | os.O_WRONLY)
        os.close(write_to)

    return in_child(act)


@attack(gain="what a mount hides", seen="EPERM")
def unmount_proc_and_devices(target: Target):
    return each(
        proc=lambda: call(166, b"/proc", 2), dev=lambda: call(166, b"/dev", 2), tmp=lambda: call(166, b"/tmp", 2)
    )


@attack(gain="mounts by the newer calls", seen="EPERM")
def use_the_newer_mount_calls(target: Target):
    return each(
        open_tree=lambda: call(428, -100, b"/", 1),
        move_mount=lambda: call(429, -1, b"", -100, b"/tmp", 4),
        fsopen=lambda: call(430, b"tmpfs", 0),
        fsmount=lambda: call(432, -1, 0, 0),
        fspick=lambda: call(433, -100, b"/", 0),
        mount_setattr=lambda: call(442, -100, b"/", 0, room(32), 32),
    )


@attack(gain="namespaces of its own, and capabilities in them", seen="EPERM", at_import={"user": "ENOSPC"})
def unshare_namespaces(target: Target):
    return _by_kind(lambda flag: call(272, flag), target)


@attack(gain="namespaces by clone", seen="EPERM", at_import={"user": "EPERM"})
def clone_with_namespace_flags(target: Target):
    def act(flag):
        if call(56, flag | 17, 0, 0, 0, 0) == 0:
            os._exit(0)
        os.wait()

    return _by_kind(act, target)


def _by_kind(act, target):
    kinds = ("user",) if target.get("in_zygote") else tuple(_NEW)
    seen = {kind: in_child(lambda kind=kind: each(it=lambda: act(_NEW[kind]))) for kind in kinds}
    return seen if target.get("in_zygote") else seen["user"] if len(set(seen.values())) == 1 else seen


@attack(gain="namespaces by a call whose flags no filter can read", seen="ENOSYS", at_import=NOT_RUN)
def clone3_with_namespace_flags(target: Target):
    return call(435, room(88), 88)


@attack(gain="another sandbox's namespaces", seen="EPERM", at_import=NOT_RUN)
def enter_namespaces(target: Target):
    kinds = ("net", "mnt", "pid", "user", "ipc", "uts", "cgroup")
    return each(**{kind: lambda kind=kind: call(308, os.open(f"/proc/self/ns/{kind}", 0), 0) for kind in kinds})


@attack(gain="another root", seen="EPERM")
def pivot_the_root(target: Target):
    return call(155, b"/tmp", b"/tmp")


@attack(gain="another root", seen="EPERM")
def chroot_into_a_folder(target: Target):
    return call(161, b"/tmp")


@attack(gain="the host's files by climbing", seen=[])
def climb_out_of_the_root(target: Target):
    ways = [
        "/" + "../" * 64,
        "/proc/self/root/" + "../" * 64,
        "/proc/1/root/" + "../" * 16,
        "/proc/self/cwd/" + "../" * 16,
    ]
    here = set(os.listdir("/"))
    found = []
    for way in ways:
        try:
            found += sorted(set(os.listdir(way)) - here)
        except PermissionError:
            continue
    return found


@attack(gain="a descriptor of the host's tree left open", seen=[])
def climb_from_open_descriptors(target: Target):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found += [name for _ in os.listdir(f"/proc/self/fd/{name}/..") if not _is_own_listing(name)]
        except OSError:
            continue
    return found


def _is_own_listing(name: str) -> bool:
    return os.readlink(f"/proc/self/fd/{name}").startswith("/proc/")


@attack(gain="a file by its handle, past all directories", seen="EPERM")
def open_files_by_handle(target: Target):
    return each(
        name_to=lambda: call(303, -100, b"/usr", room(), room(8), 0),
        open_by=lambda: call(304, -100, room(), 0),
    )


@attack(gain="code in the kernel", seen="EPERM")
def load_a_bpf_program(target: Target):
    return each(map=lambda: call(321, 0, room(), 72), program=lambda: call(321, 5, room(), 72))


@attack(gain="keys of others", seen="EPERM")
def use_key_rings(target: Target):
    return each(
        keyctl=lambda: call(250, 0, -1, 0, 0, 0),
        add_key=lambda: call(248, b"user", b"a", b"b", 1, -3),
        request_key=lambda: call(249, b"user", b"a", None, -3),
    )


@attack(gain="what the processor does for others", seen="EPERM")
def open_performance_counters(target: Target):
    return each(here=lambda: call(298, room(), 0, -1, -1, 0), machine=lambda: call(298, room(), -1, 0, -1, 0))


@attack(gain="page faults held open at will", seen="EPERM")
def use_userfaultfd(target: Target):
    return each(any=lambda: call(323, 0), user_only=lambda: call(323, 1))


@attack(gain="a queue of system calls past the filter", seen="EPERM")
def use_io_uring(target: Target):
    return each(
        setup=lambda: call(425, 8, room()),
        enter=lambda: call(426, 3, 0, 0, 0, None, 0),
        register=lambda: call(427, 3, 0, None, 0),
    )


@attack(gain="another kernel", seen="EPERM")
def load_another_kernel(target: Target):
    return each(kexec=lambda: call(246, 0, 0, None, 0), file=lambda: call(320, 0, 0, 0, b"", 0))


@attack(gain="code in the kernel", seen="EPERM")
def load_a_kernel_module(target: Target):
    return each(
        init=lambda: call(175, room(), 16, b""),
        finit=lambda: call(313, 0, b"", 0),
        delete=lambda: call(176, b"overlay", 0),
    )


@attack(gain="the machine's state", seen="EPERM", at_import=NOT_RUN)
def change_the_machine(target: Target):
    return each(
        reboot=lambda: call(169, 0xFEE1DEAD, 672274793, 0x1234567, None),
        swapon=lambda: call(167, b"/tmp/x", 0),
        settimeofday=lambda: call(164, room(16), None),
        clock_settime=lambda: call(227, 0, room(16)),
        adjtimex=lambda: call(159, b"\x01" + bytes(207)),
        acct=lambda: call(163, b"/tmp/x"),
        sethostname=lambda: call(170, b"x", 1),
        setdomainname=lambda: call(171, b"x", 1),
        vhangup=lambda: call(153),
    )


@attack(gain="messages of the kernel", seen="EPERM")
def read_the_kernel_log(target: Target):
    return call(103, 3, room(), 256)


@attack(gain="ports of the hardware", seen="EPERM")
def use_hardware_ports(target: Target):
    return each(iopl=lambda: call(172, 3), ioperm=lambda: call(173, 0x80, 1, 1))


@attack(gain="odd execution domains and segments", seen="EPERM")
def change_personality_and_segments(target: Target):
    return each(personality=lambda: call(135, 0x0400000), modify_ldt=lambda: call(154, 1, room(16), 16))


@attack(gain="watching every file of a mount", seen="EPERM")
def watch_the_file_system_by_fanotify(target: Target):
    return call(300, 0, 0)


@attack(gain="a device", seen="EPERM")
def make_device_nodes(target: Target):
    return each(
        mknod=lambda: call(133, b"/tmp/disk", 0o60666, 0x800),
        mknodat=lambda: call(259, -100, b"/tmp/m", 0o20666, 0x101),
    )


@attack(gain="memory of other nodes, moved pages", seen="ENOSYS")
def move_pages_of_memory(target: Target):
    return each(migrate=lambda: call(256, 0, 0, None, None), move=lambda: call(279, 0, 0, None, None, None, 0))


@attack(gain="system calls of another table", seen="ENOSYS")
def use_numbers_of_the_x32_table(target: Target):
    return each(getpid=lambda: call(0x40000000 | 39), mount=lambda: call(0x40000000 | 165, None, None, None, 0, None))


@attack(gain="system calls of 32 bits, which the filter's numbers do not mean", seen="SIGSYS")
def use_the_32_bit_entry(target: Target):
    def act():
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
        return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()

    return in_child(act)


@attack(gain="to be rid of the filter", seen="EINVAL")
def take_the_filter_off(target: Target):
    PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
    return each(
        disable=lambda: call(157, PR_SET_SECCOMP, 0, 0, 0, 0),
        new_privs=lambda: call(157, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0),
    )
