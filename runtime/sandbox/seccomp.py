"""The seccomp program of helpers and zygotes, assembled here and loaded raw. Runs in pagurusd.

A deny list for now: what reaches kernel code that no function needs. Denied calls give EPERM, clone3 gives ENOSYS
so that libc falls back to clone, whose flags can be read. Sources: seccomp(2), linux/filter.h, the system call
tables of the kernel.
"""

import platform
import struct

_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|...|K, BPF_RET|K
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARG0_LOW = 0, 4, 16
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
# CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS,TIME}; NEWTIME's bit is part of the exit signal in clone(2).
_CLONE_NEW = 0x7E020000

# name: (x86_64, aarch64); None where the architecture lacks it
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458), "open_tree_attr": (467, 467),
    # other processes' memory and state
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_getfd": (438, 438), "userfaultfd": (323, 282),
    # kernel surfaces with a history
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "fanotify_init": (300, 262), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "lookup_dcookie": (212, 18), "vmsplice": (278, 75), "modify_ldt": (154, None), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "nfsservctl": (180, 42), "uselib": (134, None), "personality": (135, 92),
    # the machine
    "reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89), "syslog": (103, 116),
    "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58), "mknod": (133, None), "mknodat": (259, 33),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "set_mempolicy": (238, 237), "mbind": (237, 235),
    "create_module": (174, None), "get_kernel_syms": (177, None), "query_module": (178, None),
}  # fmt: skip
# A zygote forks helpers, so it keeps what their first steps need (the filter is inherited).
_ZYGOTE_NEEDS = frozenset({"unshare", "setns", "mount", "sethostname"})
_CLONE = (56, 220)
_SOCKET = (41, 198)
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: what a network namespace holds in
_CLONE3 = 435


def helper_program(machine: str = platform.machine()) -> bytes:
    """The program a helper loads as its last step: BPF instructions as the kernel takes them.

    Only what its zygote was still allowed: the zygote's program, loaded before any import, is inherited and
    cannot be left. Loading a short program costs a start half as much.
    """
    return _assemble(machine, _ZYGOTE_NEEDS, allow_namespaces=False)


def zygote_program(machine: str = platform.machine()) -> bytes:
    """The program of a zygote: the same without what the spawn path itself calls."""
    return _assemble(machine, frozenset(_DENIED) - _ZYGOTE_NEEDS, allow_namespaces=True)


def box_programs(machine: str = platform.machine()) -> tuple[bytes, ...]:
    """The programs of a box, to be loaded in this order: all that zygotes and helpers are denied, and most sockets.

    AF_VSOCK reaches the machine below a virtual one past every network namespace, AF_ALG the kernel's ciphers.
    """
    return (_socket_program(machine), zygote_program(machine), helper_program(machine))


def _socket_program(machine: str) -> bytes:
    """EPERM for socket(2) with another family than _FAMILIES. Another architecture is the other programs' matter."""
    column = {"x86_64": 0, "aarch64": 1}[machine]
    last = len(_FAMILIES) - 1
    code = [
        _op(_LD_ABS, _OFFSET_NR),
        _op(_JEQ, _SOCKET[column], jump_false=len(_FAMILIES) + 2),
        _op(_LD_ABS, _OFFSET_ARG0_LOW),
        *(_op(_JEQ, family, jump_true=last - at + 1) for at, family in enumerate(_FAMILIES)),
        _op(_RET, _ERRNO | _EPERM),
        _op(_RET, _ALLOW),
    ]
    return b"".join(code)


def _assemble(machine: str, denied: frozenset[str], *, allow_namespaces: bool) -> bytes:
    column = {"x86_64": 0, "aarch64": 1}[machine]
    numbers = sorted({n for name in denied if (n := _DENIED[name][column]) is not None})
    code = [
        _op(_LD_ABS, _OFFSET_ARCH),
        _op(_JEQ, _AUDIT_ARCH[machine], jump_true=1),
        _op(_RET, _KILL),
        _op(_LD_ABS, _OFFSET_NR),
        _op(_JGE, _X32_BIT, jump_false=1),
        _op(_RET, _ERRNO | _ENOSYS),
    ]
    if not allow_namespaces:
        code += [
            _op(_JEQ, _CLONE3, jump_false=1),
            _op(_RET, _ERRNO | _ENOSYS),
            _op(_JEQ, _CLONE[column], jump_false=4),
            _op(_LD_ABS, _OFFSET_ARG0_LOW),
            _op(_JSET, _CLONE_NEW, jump_false=1),
            _op(_RET, _ERRNO | _EPERM),
            _op(_RET, _ALLOW),
        ]
    return b"".join([*code, *_search(numbers)])


def _search(numbers: list[int]) -> list[bytes]:
    """A balanced search: EPERM for the numbers, ALLOW for all others.

    The kernel runs the program once for every system call when it is loaded (its cache of calls that are always
    allowed), so depth is time at each start of a helper.
    """
    if len(numbers) == 1:
        return [_op(_JEQ, numbers[0], jump_false=1), _op(_RET, _ERRNO | _EPERM), _op(_RET, _ALLOW)]
    middle = len(numbers) // 2
    low, high = _search(numbers[:middle]), _search(numbers[middle:])
    assert len(low) < 256, "a jump is one byte"
    return [_op(_JGE, numbers[middle], jump_true=len(low)), *low, *high]


def _op(code: int, operand: int, *, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, operand)
