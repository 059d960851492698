"""Attacks on what a node has: processes, memory, disk, descriptors, processor, time, output. Runs inside a sandbox.

Each is the first invocation of a sandbox, over HTTP; limits: 64 MiB, 24 processes, 4 MiB of /tmp, 1.5 s, a tenth of a
core, 4 KiB of output, 64 KiB of result. A survivor is told to leave afterwards.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time

from .attacker import Target, attack, call

MIB = 1 << 20
_kept = []


@attack(gain="the process table", answer=(504, "function-timed-out"))
def fork_bomb(target: Target):
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


@attack(gain="the process table by threads", seen="RuntimeError")
def thread_bomb(target: Target):
    for _ in range(10_000):
        thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            return type(error).__name__
    return "no end"


@attack(gain="the host's memory", answer=(507, "function-out-of-memory"))
def memory_bomb(target: Target):
    while True:
        _kept.append(bytearray(8 * MIB))


@attack(gain="the host's memory by files in /dev/shm", answer=(507, "function-out-of-memory"))
def memory_bomb_by_shared_files(target: Target):
    for number in range(32):
        with open(f"/dev/shm/{number}", "wb") as file:
            file.write(b"x" * (4 * MIB))
    return "no end"


@attack(gain="the host's memory by System V segments", answer=(507, "function-out-of-memory"))
def memory_bomb_by_system_v_segments(target: Target):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    for key in range(1, 64):
        segment = call(29, key, 4 * MIB, 0o1600)
        ctypes.memset(libc.shmat(segment, None, 0), 1, 4 * MIB)
    return "no end"


@attack(gain="the kernel's memory by sockets nobody reads", answer=(507, "function-out-of-memory"))
def kernel_memory_bomb_by_buffers(target: Target):
    while True:
        pair = socket.socketpair()
        _kept.append(pair)
        pair[0].setblocking(False)
        try:
            while True:
                pair[0].send(bytes(65536))
        except BlockingIOError:
            continue


@attack(gain="the disk by /tmp", seen="ENOSPC")
def disk_fill(target: Target):
    with open("/tmp/fill", "wb", buffering=0) as file:
        while file.write(b"x" * MIB) == MIB:
            continue
        file.write(b"x")


@attack(gain="the disk's inodes", seen="ENOSPC")
def inode_fill(target: Target):
    for number in range(1_000_000):
        os.close(os.open(f"/tmp/{number}", os.O_CREAT))


@attack(gain="the host's descriptors", seen="EMFILE")
def descriptor_exhaustion(target: Target):
    while True:
        _kept.append(os.open("/dev/null", os.O_RDONLY))


@attack(gain="the gateway's memory, or the store's disk, by output", answer=(502, "function-output-limit"))
def output_flood(target: Target):
    while True:
        os.write(1, b"x" * 65536)


@attack(gain="the same from behind an answer", seen="left", ends=True)
def output_flood_after_the_answer(target: Target):
    if os.fork() == 0:
        time.sleep(0.05)
        while True:
            os.write(2, b"x" * 65536)
    return "left"


@attack(gain="a core for ever", answer=(504, "function-timed-out"))
def infinite_loop(target: Target):
    while True:
        continue


@attack(gain="a core for ever, past every polite signal", answer=(504, "function-timed-out"))
def ignore_all_signals_and_loop(target: Target):
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        continue


@attack(gain="a process that nobody can wait for", answer=(504, "function-timed-out"))
def wait_in_vfork_for_a_stopped_child(target: Target):
    if ctypes.CDLL(None).vfork() == 0:
        call(34)  # pause
    return "no end"


@attack(gain="a process that outlives its sandbox", seen="left")
def double_fork_to_outlive_the_invocation(target: Target):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            time.sleep(1000)
        os._exit(0)
    os.wait()
    return "left"


@attack(gain="the neighbours' share of the processor", seen="left")
def starve_the_neighbours_of_the_processor(target: Target):
    for _ in range(16):
        if os.fork() == 0:
            while True:
                continue
    return "left"


@attack(gain="the gateway's memory by a result", answer=(502, "function-result-too-large"))
def result_of_many_megabytes(target: Target):
    return "x" * (16 * MIB)


@attack(gain="the gateway's stack by a nested result", answer=(502, "function-result-invalid"))
def result_of_endless_depth(target: Target):
    found = []
    for _ in range(200_000):
        found = [found]
    return found


@attack(gain="the gateway's memory by an error", answer=(500, "function-exception"))
def error_of_many_megabytes(target: Target):
    raise ValueError("x" * (16 * MIB))


@attack(gain="more than a crash by running out of stack", answer=(502, "function-crashed"))
def overflow_the_stack(target: Target):
    sys.setrecursionlimit(1 << 30)
    threading.stack_size(64 << 10)  # newer interpreters count calls, and stop before a large one is full

    @ctypes.CFUNCTYPE(None)
    def again():
        again()

    thread = threading.Thread(target=again)
    thread.start()
    thread.join()


@attack(gain="an unkillable zombie army", seen="EAGAIN")
def zombies(target: Target):
    while True:
        if os.fork() == 0:
            os._exit(0)
