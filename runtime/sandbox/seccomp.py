"""The seccomp programs of zygotes, helpers and build boxes, assembled here and loaded raw. Runs in pagurusd.

An allow list (runtime.sandbox.syscall_list): a zygote loads it before its first import and all that it forks
inherits it. A helper loads a second, short one on top, which takes away what its own first steps needed. Sources:
seccomp(2), linux/filter.h.
"""

import platform
import struct
from collections.abc import Iterable, Mapping
from functools import cache

from runtime.sandbox import syscall_list
from runtime.sandbox.syscall_list import Answer

# linux/bpf_common.h: LD|W|ABS, JMP|JA, JMP|J...|K, ALU|AND|K, RET|K
_LD_ABS, _JA, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x05, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _EINVAL, _ENOSYS = _ERRNO | 1, _ERRNO | 22, _ERRNO | 38
_DONE = _ERRNO  # errno 0: the call is not made and succeeds
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
# CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS}; NEWTIME's bit is part of the exit signal in clone(2).
_CLONE_NEW = 0x7E020000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _NETLINK_ROUTE = 1, 2, 10, 16, 0
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 2, 5, 0xF
_IPPROTO_TCP, _IPPROTO_UDP = 6, 17
# asm-generic/ioctls.h: put input into a terminal, the console's own, change its line discipline, take its output
_TERMINAL_COMMANDS = (0x5412, 0x541C, 0x5423, 0x541D)  # TIOCSTI TIOCLINUX TIOCSETD TIOCCONS
_DEVICE_TYPES = (0x2000, 0x6000)  # S_IFCHR S_IFBLK; fifos, sockets and files are what anybody may make
_S_IFMT = 0xF000
_PERSONALITIES = (0, 0xFFFFFFFF)  # PER_LINUX, and the question which it is
_RLIMIT_CORE = 4
# linux/prctl.h: what libc, interpreters and libraries call. Others answer EINVAL, as a kernel that lacks them.
_PRCTL = (
    *(1, 2, 3, 4),  # {SET,GET}_PDEATHSIG {GET,SET}_DUMPABLE
    *(7, 8, 15, 16, 21),  # {GET,SET}_KEEPCAPS {SET,GET}_NAME GET_SECCOMP
    *(23, 24, 27, 29, 30),  # CAPBSET_{READ,DROP} GET_SECUREBITS {SET,GET}_TIMERSLACK
    *(36, 37, 38, 39, 40, 41, 42),  # CHILD_SUBREAPER NO_NEW_PRIVS TID_ADDRESS THP_DISABLE
    *(47, 50, 51, 54, 55, 56),  # CAP_AMBIENT SVE_{SET,GET}_VL PAC_RESET_KEYS TAGGED_ADDR_CTRL
    *(65, 66, 0x53564D41, 0x41555856),  # {SET,GET}_MDWE SET_VMA GET_AUXV
)
_UNKNOWN_TO_HELPERS = ("clone3",)  # libc takes clone then, whose flags can be read
# An instruction: code, operand, and where to go on when a condition holds or not. A jump to a name is to a check.
_Op = tuple[int, int | str, int, int]


def helper_program(machine: str = platform.machine()) -> bytes:
    """The program a helper loads as its last step: BPF instructions as the kernel takes them.

    Only what its zygote was still allowed: the zygote's program, loaded before any import, is inherited and cannot
    be left. It reads neither architecture nor arguments, and is short: the kernel translates it, and runs it for
    each call that the zygote's program always allows (to remember which are always allowed), at each start.
    """
    known = sorted(syscall_list.answers(machine).items())
    refused = [(number, name) for number, (name, answer) in known if answer is Answer.ZYGOTE]
    # Half of all calls are below the first of these. The rest in a row: a search jumps as often, and is longer.
    tests: list[_Op] = [(_JGE, refused[0][0], 0, len(refused))]
    for at, (number, name) in enumerate(refused):
        tests.append((_JEQ, number, len(refused) - at + (1 if name in _UNKNOWN_TO_HELPERS else 0), 0))
    return _packed([_loaded_number(), *tests, *_result(_ALLOW), *_result(_EPERM), *_result(_ENOSYS)], {})


@cache
def zygote_program(machine: str = platform.machine()) -> bytes:
    """The program of a zygote: the list, with what the spawn path itself calls."""
    always = {
        Answer.ALLOW: _ALLOW,
        Answer.ZYGOTE: _ALLOW,
        Answer.ZERO: _DONE,
        Answer.EPERM: _EPERM,
        Answer.ENOSYS: _ENOSYS,
    }
    known = syscall_list.answers(machine).items()
    results = {number: name if answer is Answer.CHECK else always[answer] for number, (name, answer) in known}
    code: list[_Op] = [
        (_LD_ABS, _OFFSET_ARCH, 0, 0),
        (_JEQ, _AUDIT_ARCH[machine], 1, 0),
        (_RET, _KILL, 0, 0),
        _loaded_number(),
        *_search(_ranges(results, default=_ENOSYS)),  # x32 numbers are above the last range's start: unknown
    ]
    return _packed(code, _checks())


def box_programs(machine: str = platform.machine()) -> tuple[bytes, ...]:
    """The programs of a box, to be loaded in this order: what helpers have."""
    return (zygote_program(machine), helper_program(machine))


def _loaded_number() -> _Op:
    return (_LD_ABS, _OFFSET_NR, 0, 0)


def _checks() -> dict[str, list[_Op]]:
    """What is done for calls that are allowed with some arguments only; each ends in a result.

    The kernel takes these arguments as 32-bit numbers, so the low words are all that counts.
    """
    return {
        "clone": [_load(0), (_JSET, _CLONE_NEW, 0, 1), *_result(_EPERM), *_result(_ALLOW)],
        "prctl": [_load(0), *_search(_ranges(dict.fromkeys(_PRCTL, _ALLOW), default=_EINVAL))],
        "socket": _socket_check(),
        "socketpair": [_load(0), *_one_of((_AF_UNIX,), _ALLOW, _EPERM)],
        "ioctl": [_load(1), *_one_of(_TERMINAL_COMMANDS, _EPERM, _ALLOW)],
        "personality": [_load(0), *_one_of(_PERSONALITIES, _ALLOW, _EPERM)],
        "mknod": [_load(1), (_AND, _S_IFMT, 0, 0), *_one_of(_DEVICE_TYPES, _EPERM, _ALLOW)],
        "mknodat": [_load(2), (_AND, _S_IFMT, 0, 0), *_one_of(_DEVICE_TYPES, _EPERM, _ALLOW)],
        # Core dumps stay off, whoever asks: a limit of 0 would let the host's handler of dumps run (core(5)).
        "setrlimit": [_load(0), *_one_of((_RLIMIT_CORE,), _DONE, _ALLOW)],
        "prlimit64": [
            _load(1),
            (_JEQ, _RLIMIT_CORE, 1, 0),
            *_result(_ALLOW),
            _load(2),
            (_JEQ, 0, 0, 3),
            _load(2, high=True),
            (_JEQ, 0, 0, 1),
            *_result(_ALLOW),  # it asks for the limit
            *_result(_DONE),
        ],
    }


def _socket_check() -> list[_Op]:
    """Families that a network namespace holds in; of those, the plain types and protocols.

    AF_VSOCK reaches the machine below a virtual one past every namespace, AF_PACKET and raw sockets the wire,
    AF_ALG the kernel's ciphers; and any other family or protocol makes the kernel load its module.
    """
    kind = [_load(1), (_AND, _SOCK_TYPE_MASK, 0, 0)]
    unix = [*kind, *_one_of((_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET), _ALLOW, _EPERM)]
    netlink = [_load(2), *_one_of((_NETLINK_ROUTE,), _ALLOW, _EPERM)]
    stream = [_load(2), *_one_of((0, _IPPROTO_TCP), _ALLOW, _EPERM)]
    datagram = [_load(2), *_one_of((0, _IPPROTO_UDP), _ALLOW, _EPERM)]
    internet = [
        *kind,
        (_JEQ, _SOCK_STREAM, 0, len(stream)),
        *stream,
        (_JEQ, _SOCK_DGRAM, 0, len(datagram)),
        *datagram,
        *_result(_EPERM),
    ]
    return [
        _load(0),
        (_JEQ, _AF_UNIX, 0, len(unix)),
        *unix,
        (_JEQ, _AF_NETLINK, 0, len(netlink)),
        *netlink,
        (_JEQ, _AF_INET, 1, 0),
        (_JEQ, _AF_INET6, 0, len(internet)),
        *internet,
        *_result(_EPERM),
    ]


def _load(argument: int, *, high: bool = False) -> _Op:
    """The low or the high word of an argument of the call; both architectures are little-endian."""
    return (_LD_ABS, _OFFSET_ARGUMENTS + 8 * argument + (4 if high else 0), 0, 0)


def _result(result: int | str) -> list[_Op]:
    """End with a result; or go on in the check of that name."""
    return [(_JA, result, 0, 0) if isinstance(result, str) else (_RET, result, 0, 0)]


def _one_of(values: Iterable[int], among: int, otherwise: int) -> list[_Op]:
    wanted = list(values)
    tests: list[_Op] = [(_JEQ, value, len(wanted) - at, 0) for at, value in enumerate(wanted)]
    return [*tests, *_result(otherwise), *_result(among)]


def _ranges(results: Mapping[int, int | str], *, default: int) -> list[tuple[int, int | str]]:
    """(start, result) of each run of numbers with one result, from 0 on; numbers that are not given get the default."""
    runs: list[tuple[int, int | str]] = [(0, results.get(0, default))]
    edges = sorted({edge for number in results for edge in (number, number + 1)})
    for edge in edges:
        result = results.get(edge, default)
        if result != runs[-1][1]:
            runs.append((edge, result))
    return runs


def _search(runs: list[tuple[int, int | str]]) -> list[_Op]:
    """A balanced search for the run that the loaded number is in."""
    if len(runs) == 1:
        return _result(runs[0][1])
    middle = len(runs) // 2
    low, high = _search(runs[:middle]), _search(runs[middle:])
    return [(_JGE, runs[middle][0], len(low), 0), *low, *high]


def _packed(code: list[_Op], checks: Mapping[str, list[_Op]]) -> bytes:
    """The bytes of a program whose checks follow its search."""
    starts: dict[str, int] = {}
    whole = list(code)
    for name, check in checks.items():
        starts[name] = len(whole)
        whole += check
    packed = []
    for at, (operation, operand, jump_true, jump_false) in enumerate(whole):
        assert jump_true < 256 and jump_false < 256, "a jump is one byte"
        value = starts[operand] - at - 1 if isinstance(operand, str) else operand
        packed.append(struct.pack("=HBBI", operation, jump_true, jump_false, value))
    return b"".join(packed)
