"""The seccomp programs, run by an interpreter of classic BPF."""

import errno
import re
import struct
from pathlib import Path

import pytest

from runtime.sandbox import seccomp, syscall_list
from runtime.sandbox.syscall_list import GROUPS, Answer

ALLOW, KILL, DONE = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS, EINVAL = DONE | errno.EPERM, DONE | errno.ENOSYS, DONE | errno.EINVAL
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
AFTER_ALL = 470  # no call had this number when the list was made
DOCUMENT = Path(__file__).parents[4] / "docs" / "decisions" / "seccomp.md"


def run(program: bytes, number: int, *arguments: int, arch: int) -> int:
    """What the kernel would return for a system call: struct seccomp_data through the program."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(*arguments, *[0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, jump_true, jump_false, operand = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x54:
            accumulator &= operand
        elif operation == 0x05:
            at += operand
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += jump_true if holds[operation] else jump_false


class Machine:
    """One architecture: its calls by name, as a zygote and as a helper may make them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arch = ARCHES[name]
        self.numbers = syscall_list.numbers(name)
        self.zygote_program = seccomp.zygote_program(name)
        self.helper_program = seccomp.helper_program(name)

    def zygote(self, call: str | int, *arguments: int) -> int:
        return run(self.zygote_program, self._number(call), *arguments, arch=self.arch)

    def helper(self, call: str | int, *arguments: int) -> int:
        """Both programs apply, and the stricter answer holds; of two refusals that of the newer: seccomp(2)."""
        results = [run(p, self._number(call), *arguments, arch=self.arch) for p in self._programs]
        return min(results, key=lambda result: -1 if result == KILL else result & 0xFFFF0000)

    @property
    def _programs(self) -> tuple[bytes, bytes]:
        return (self.helper_program, self.zygote_program)

    def _number(self, call: str | int) -> int:
        return call if isinstance(call, int) else self.numbers[call]


@pytest.fixture(params=sorted(ARCHES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


# --- the list


def test_a_call_is_in_one_group_and_has_a_number():
    names = [name for group in GROUPS for name in group.calls.split()]
    assert len(names) == len(set(names))
    assert set(names) == {*syscall_list.numbers("x86_64"), *syscall_list.numbers("aarch64")}


@pytest.mark.parametrize("name", sorted(ARCHES))
def test_no_two_calls_have_one_number(name: str):
    numbers = syscall_list.numbers(name)
    assert len(set(numbers.values())) == len(numbers)


def test_numbers_are_those_of_the_kernel_s_headers():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no header of x86_64's system calls: install linux-libc-dev")
    known = syscall_list.numbers("x86_64")
    theirs = {name: int(n) for name, n in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    listed = {name: number for name, number in theirs.items() if number < AFTER_ALL}
    assert listed.items() <= known.items() | {("uretprobe", 335), ("uprobe", 336)}


def test_numbers_from_424_on_are_the_same_on_all_architectures():
    x86, arm = syscall_list.numbers("x86_64"), syscall_list.numbers("aarch64")
    assert {name: n for name, n in x86.items() if n >= 424} == {name: n for name, n in arm.items() if n >= 424}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name.replace(" ", "-"))
def test_the_answers_of_a_group(machine: Machine, group: syscall_list.Group):
    expected = {
        Answer.ALLOW: {(ALLOW, ALLOW)},
        Answer.ZYGOTE: {(ALLOW, EPERM), (ALLOW, ENOSYS)},
        Answer.ZERO: {(DONE, DONE)},
        Answer.EPERM: {(EPERM, EPERM)},
        Answer.ENOSYS: {(ENOSYS, ENOSYS)},
    }
    calls = [name for name in group.calls.split() if name in machine.numbers]
    if group.answer is not Answer.CHECK:
        found = {(machine.zygote(name), machine.helper(name)) for name in calls}
        assert found <= expected[group.answer]
        assert found or group.name == "flushing"


def test_each_checked_call_has_a_check_and_no_other_has():
    checked = {name for group in GROUPS if group.answer is Answer.CHECK for name in group.calls.split()}
    assert checked == set(seccomp._checks())


def test_calls_that_are_not_in_the_list_do_not_exist(machine: Machine):
    listed = set(machine.numbers.values())
    others = [*(number for number in range(AFTER_ALL) if number not in listed), AFTER_ALL, 1000, 0x3FFFFFFF]
    assert {answer for number in others for answer in (machine.zygote(number), machine.helper(number))} == {ENOSYS}


def test_a_helper_lacks_what_its_first_steps_needed(machine: Machine):
    lost = {name for name in machine.numbers if machine.zygote(name) == ALLOW != machine.helper(name)}
    assert lost == {"unshare", "setns", "mount", "sethostname", "seccomp", "clone3"}
    assert machine.helper("clone3") == ENOSYS, "so that libc takes clone"


def test_what_reaches_the_kernel_s_depths_is_refused(machine: Machine):
    named = """umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr ptrace
        process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd userfaultfd bpf perf_event_open
        io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl fanotify_init open_by_handle_at
        name_to_handle_at vmsplice quotactl reboot kexec_load kexec_file_load init_module finit_module delete_module
        swapon swapoff settimeofday clock_settime clock_adjtime adjtimex setdomainname acct syslog vhangup"""
    assert {machine.zygote(name) for name in named.split()} == {EPERM}


def test_what_interpreters_and_libraries_call_is_allowed(machine: Machine):
    """Names from traces of CPython 3.11 and 3.13, numpy, pandas, ssl, sqlite3, multiprocessing, asyncio, uvloop."""
    named = """read write close fstat mmap mprotect munmap brk rt_sigaction rt_sigprocmask pread64 pwrite64 writev
        madvise mremap msync mincore dup dup3 getpid sendto recvfrom sendmsg recvmsg shutdown bind listen accept4
        connect getsockname getpeername setsockopt getsockopt execve exit exit_group wait4 waitid uname fcntl flock
        fsync fdatasync ftruncate fallocate getcwd chdir fchdir getuid getgid geteuid getegid setsid sigaltstack
        statfs fstatfs futex sched_yield sched_getaffinity sched_setaffinity getdents64 set_tid_address
        clock_gettime clock_getres clock_nanosleep nanosleep epoll_create1 epoll_ctl epoll_pwait tgkill openat mkdirat
        newfstatat unlinkat renameat2 linkat symlinkat readlinkat fchmodat faccessat faccessat2 ppoll pselect6
        set_robust_list get_robust_list splice utimensat timerfd_create timerfd_settime eventfd2 signalfd4 pipe2
        inotify_init1 inotify_add_watch preadv pwritev recvmmsg sendmmsg getrandom memfd_create
        membarrier copy_file_range statx rseq pidfd_open pidfd_send_signal close_range openat2 epoll_pwait2 getrusage
        sysinfo times umask getpriority shmget semop timer_create setitimer sendfile mlock"""
    refused = [name for name in named.split() if machine.helper(name) != ALLOW]
    assert not refused


def test_old_names_of_x86_64_are_allowed():
    machine = Machine("x86_64")
    named = "open stat lstat poll access pipe select dup2 fork vfork rename mkdir rmdir creat link unlink symlink"
    named += " readlink chmod chown time epoll_wait eventfd arch_prctl getdents pause alarm"
    assert {machine.helper(name) for name in named.split()} == {ALLOW}


# --- arguments


@pytest.mark.parametrize("flag", [0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000])
def test_clone_with_a_new_namespace_is_refused(machine: Machine, flag: int):
    for ask in (machine.zygote, machine.helper):
        assert ask("clone", flag | 17) == ask("clone", flag | 0x7C0F00) == EPERM
        assert ask("clone", 1 << 32 | flag) == EPERM, "the kernel drops the high word"


def test_clone_of_threads_and_processes_is_allowed(machine: Machine):
    for flags in (17, 0x01200011, 0x003D0F00):  # fork, glibc's fork, pthread_create
        assert machine.helper("clone", flags) == ALLOW


UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
STREAM, DGRAM, RAW, RDM, SEQPACKET, DCCP, PACKET = 1, 2, 3, 4, 5, 6, 10
CLOEXEC_NONBLOCK = 0o2000000 | 0o4000


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [(UNIX, STREAM, 0), (UNIX, DGRAM, 0), (UNIX, SEQPACKET, 0), (NETLINK, RAW, 0), (NETLINK, DGRAM, 0)]
    + [(family, STREAM, protocol) for family in (INET, INET6) for protocol in (0, 6)]
    + [(family, DGRAM, protocol) for family in (INET, INET6) for protocol in (0, 17)],
)
def test_plain_sockets_are_allowed(machine: Machine, family: int, kind: int, protocol: int):
    assert machine.helper("socket", family, kind, protocol) == ALLOW
    assert machine.helper("socket", family, kind | CLOEXEC_NONBLOCK, protocol) == ALLOW


@pytest.mark.parametrize("family", sorted({*range(64), 0xFFFFFFFF} - {UNIX, INET, INET6, NETLINK}))
def test_other_families_are_refused(machine: Machine, family: int):
    """Among them AF_PACKET 17, AF_KEY 15, AF_CAN 29, AF_TIPC 30, AF_BLUETOOTH 31, AF_ALG 38, AF_VSOCK 40, AF_XDP 44."""
    for ask in (machine.zygote, machine.helper):
        assert {ask("socket", family, kind, 0) for kind in range(16)} == {EPERM}
        assert ask("socketpair", family, STREAM, 0) == EPERM


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [(INET, RAW, 0), (INET6, RAW, 255), (INET, PACKET, 0x300), (INET, DCCP, 33), (INET, RDM, 0), (INET, SEQPACKET, 132)]
    + [(INET, STREAM, 132), (INET, STREAM, 262), (INET, DGRAM, 1), (INET6, DGRAM, 58), (INET, DGRAM, 136)]
    + [(INET, STREAM, 17), (INET, DGRAM, 6), (INET, DGRAM, 115), (UNIX, RAW, 0), (UNIX, RDM, 0)]
    + [(NETLINK, RAW, protocol) for protocol in (4, 6, 9, 12, 15, 16)],
)
def test_raw_and_unusual_sockets_are_refused(machine: Machine, family: int, kind: int, protocol: int):
    assert machine.helper("socket", family, kind, protocol) == EPERM
    assert machine.helper("socket", family, kind | CLOEXEC_NONBLOCK, protocol) == EPERM


def test_socket_pairs_are_unix_sockets(machine: Machine):
    assert machine.helper("socketpair", UNIX, STREAM, 0) == ALLOW
    assert {machine.helper("socketpair", family, STREAM, 0) for family in (INET, INET6, NETLINK, 30)} == {EPERM}


@pytest.mark.parametrize("command", [0x5412, 0x541C, 0x5423, 0x541D])
def test_terminals_take_no_forged_input(machine: Machine, command: int):
    assert machine.helper("ioctl", 0, command) == EPERM
    assert machine.helper("ioctl", 0, 1 << 32 | command) == EPERM, "the kernel drops the high word"


def test_other_ioctls_are_allowed(machine: Machine):
    for command in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x8912):  # TCGETS TIOCGWINSZ FIONREAD FIONBIO ...
        assert machine.helper("ioctl", 0, command) == ALLOW


def test_prctl_has_the_options_that_programs_use(machine: Machine):
    for option in (1, 3, 4, 15, 16, 23, 24, 36, 38, 39, 40, 41, 47, 0x53564D41):
        assert machine.helper("prctl", option) == ALLOW
    # SET_SECCOMP, SET_SECUREBITS, TASK_PERF_EVENTS, MCE_KILL, SET_MM, SPECULATION_CTRL, IO_FLUSHER,
    # SYSCALL_USER_DISPATCH, SCHED_CORE, SET_PTRACER, and one that does not exist
    for option in (22, 28, 26, 31, 32, 33, 35, 53, 57, 59, 62, 0x59616D61, 12345):
        assert machine.helper("prctl", option) == machine.zygote("prctl", option) == EINVAL


def test_the_personality_can_be_asked_for_and_not_changed(machine: Machine):
    assert machine.helper("personality", 0) == machine.helper("personality", 0xFFFFFFFF) == ALLOW
    assert {machine.helper("personality", value) for value in (8, 0x0040000, 0x0400000, 0x20000, 1)} == {EPERM}


def test_fifos_can_be_made_and_devices_cannot(machine: Machine):
    for kind in (0, 0o010000, 0o100000, 0o140000):
        assert machine.helper("mknodat", 3, 0, kind | 0o644, 0) == ALLOW
    for kind in (0o020000, 0o060000):
        assert machine.helper("mknodat", 3, 0, kind | 0o666, 0x103) == EPERM
    if machine.name == "x86_64":
        assert machine.helper("mknod", 0, 0o010644, 0) == ALLOW
        assert machine.helper("mknod", 0, 0o020666, 0x103) == EPERM


def test_the_limit_of_core_dumps_stays(machine: Machine):
    """The call succeeds: what it asks for, no dumps, is so."""
    address = 0x7FFF12345678
    assert machine.helper("setrlimit", 4, address) == DONE
    assert machine.helper("prlimit64", 0, 4, address, 0) == DONE
    assert machine.helper("prlimit64", 0, 4, 1 << 32, 0) == DONE
    assert machine.helper("prlimit64", 0, 4, 0, address) == ALLOW
    assert machine.helper("setrlimit", 7, address) == machine.helper("prlimit64", 0, 7, address, 0) == ALLOW


# --- the programs


def test_calls_of_another_architecture_end_the_process(machine: Machine):
    for arch in (I386, *(arch for arch in ARCHES.values() if arch != machine.arch)):
        machine.arch = arch
        assert {ask(n) for ask in (machine.zygote, machine.helper) for n in (0, 1, 165, 435)} == {KILL}


def test_x32_calls_are_unknown():
    machine = Machine("x86_64")
    assert {machine.helper(0x40000000 | n) for n in (0, 56, 165, 272, 435)} == {ENOSYS}
    assert machine.helper(0xFFFFFFFF) == ENOSYS


def test_programs_are_small_and_end(machine: Machine):
    """A helper's is loaded at each start; the kernel takes 4096 instructions, and jumps go forwards only."""
    assert len(machine.helper_program) // 8 <= 12
    assert len(machine.zygote_program) // 8 <= 400
    for program in machine._programs:
        code = list(struct.iter_unpack("=HBBI", program))
        assert code[-1][0] == 0x06
        for at, (operation, jump_true, jump_false, operand) in enumerate(code):
            furthest = operand if operation == 0x05 else max(jump_true, jump_false)
            assert operation == 0x06 or at + 1 + furthest < len(code)


def test_the_search_is_short(machine: Machine):
    """Calls whose arguments are checked run the program each time."""
    code = list(struct.iter_unpack("=HBBI", machine.zygote_program))

    def depth(at: int) -> int:
        operation, jump_true, jump_false, _ = code[at]
        if operation in (0x05, 0x06):
            return 1
        return 1 + max(depth(at + 1 + jump) for jump in {jump_true, jump_false})

    assert depth(4) <= 9


def test_a_box_has_what_helpers_have(machine: Machine):
    assert seccomp.box_programs(machine.name) == (machine.zygote_program, machine.helper_program)


def test_the_document_shows_the_list_as_it_is():
    """docs/decisions/seccomp.md has a row for each group: answer, calls, reason."""
    text = DOCUMENT.read_text()
    for group in GROUPS:
        row = f"| {group.name} | {group.answer.name} | {' '.join(group.calls.split())} | {group.reason} |"
        assert row in text, row
