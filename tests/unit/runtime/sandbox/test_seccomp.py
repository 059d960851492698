"""The seccomp programs, run by an interpreter of classic BPF."""

import struct

import pytest

from runtime.sandbox import seccomp

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003


def run(program: bytes, number: int, *, arch: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would return for a system call: struct seccomp_data through the program."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(*arguments, *[0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, jump_true, jump_false, operand = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}
            at += jump_true if holds[operation] else jump_false


@pytest.fixture(params=sorted(ARCHES))
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def numbers(machine: str) -> dict[str, int]:
    column = sorted(ARCHES, reverse=True).index(machine)
    return {name: pair[column] for name, pair in seccomp._DENIED.items() if pair[column] is not None}


def test_every_listed_call_is_refused_to_a_helper(machine: str):
    """By its own program or by its zygote's, which it inherits: the kernel runs both, and the stricter wins."""
    programs = (seccomp.helper_program(machine), seccomp.zygote_program(machine))
    allowed = [
        name
        for name, n in numbers(machine).items()
        if all(run(program, n, arch=ARCHES[machine]) == ALLOW for program in programs)
    ]
    assert not allowed
    assert {run(programs[1], n, arch=ARCHES[machine]) for n in numbers(machine).values()} == {EPERM, ALLOW}


def test_all_other_calls_are_allowed(machine: str):
    program = seccomp.helper_program(machine)
    denied = {*numbers(machine).values(), 435, seccomp._CLONE[sorted(ARCHES, reverse=True).index(machine)]}
    assert {run(program, n, arch=ARCHES[machine]) for n in range(500) if n not in denied} == {ALLOW}


@pytest.mark.parametrize("flag", [0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000])
def test_clone_with_a_new_namespace_is_refused(machine: str, flag: int):
    program = seccomp.helper_program(machine)
    clone = seccomp._CLONE[sorted(ARCHES, reverse=True).index(machine)]
    assert run(program, clone, arch=ARCHES[machine], arguments=(flag | 17,)) == EPERM
    assert run(program, clone, arch=ARCHES[machine], arguments=(flag | 0x7C0F00,)) == EPERM


def test_clone_of_threads_and_processes_is_allowed(machine: str):
    program = seccomp.helper_program(machine)
    clone = seccomp._CLONE[sorted(ARCHES, reverse=True).index(machine)]
    for flags in (17, 0x01200011, 0x003D0F00):  # fork, glibc's fork, pthread_create
        assert run(program, clone, arch=ARCHES[machine], arguments=(flags,)) == ALLOW


def test_clone3_is_unknown_to_a_helper_and_allowed_to_a_zygote(machine: str):
    assert run(seccomp.helper_program(machine), 435, arch=ARCHES[machine]) == ENOSYS
    assert run(seccomp.zygote_program(machine), 435, arch=ARCHES[machine]) == ALLOW


def test_a_zygote_is_allowed_what_its_helpers_first_steps_need_and_no_more(machine: str):
    program = seccomp.zygote_program(machine)
    allowed = {name for name, n in numbers(machine).items() if run(program, n, arch=ARCHES[machine]) == ALLOW}
    assert allowed == {"unshare", "setns", "mount", "sethostname"}


@pytest.mark.parametrize("make", [seccomp.helper_program, seccomp.zygote_program])
def test_calls_of_another_architecture_end_the_process(machine: str, make):
    others = [I386, *(arch for name, arch in ARCHES.items() if name != machine)]
    assert {run(make(machine), n, arch=arch) for arch in others for n in (0, 1, 165, 435)} == {KILL}


@pytest.mark.parametrize("make", [seccomp.helper_program, seccomp.zygote_program])
def test_x32_calls_are_unknown(make):
    program = make("x86_64")
    assert {run(program, 0x40000000 | n, arch=ARCHES["x86_64"]) for n in (0, 165, 272, 435)} == {ENOSYS}
    assert run(program, 0xFFFFFFFF, arch=ARCHES["x86_64"]) == ENOSYS


def test_programs_fit_the_kernel(machine: str):
    for program in (seccomp.helper_program(machine), seccomp.zygote_program(machine)):
        assert len(program) % 8 == 0 and len(program) // 8 < 4096


def test_a_box_gets_sockets_of_four_families_only(machine: str):
    programs = seccomp.box_programs(machine)
    number = {"x86_64": 41, "aarch64": 198}[machine]
    for family in range(64):
        results = {run(program, number, arch=ARCHES[machine], arguments=(family,)) for program in programs}
        assert results == ({ALLOW} if family in (1, 2, 10, 16) else {ALLOW, EPERM}), family
    denied = {*numbers(machine).values(), 435, seccomp._CLONE[sorted(ARCHES, reverse=True).index(machine)], number}
    for program in programs:
        assert {run(program, n, arch=ARCHES[machine]) for n in range(500) if n not in denied} == {ALLOW}
