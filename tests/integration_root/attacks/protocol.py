"""Attacks on the sockets and pipes that lead out of a sandbox: forged, foreign, endless and missing answers.

Runs inside a sandbox, over HTTP as in resources.py. 4 is the invocation socket, 3 was pagurusd's until the function
was assigned, 1 and 2 are the output.
"""

import array
import fcntl
import os
import socket
import struct
import threading
import time

from .attacker import Target, attack, attempt

_HEADER = struct.Struct("!HBBIII")
_MAGIC, _RESULT, _ERROR, _PONG = 0x5067, 17, 18, 19
_CRASHED = (502, "function-crashed")
_TOO_LARGE = (502, "function-result-too-large")
_TIMED_OUT = (504, "function-timed-out")


def _frame(target: Target, payload: bytes, *, kind: int = _RESULT, magic: int = _MAGIC, length: int = -1) -> bytes:
    name = target["id"].encode()
    size = len(payload) if length < 0 else length
    return _HEADER.pack(magic, kind, len(name), size, 0xFFFFFFFF, 0xFFFFFFFF) + name + payload


def _send_and_wait(data: bytes) -> None:
    os.write(4, data)
    time.sleep(60)


@attack(gain="the answer of another invocation", answer=_CRASHED)
def reply_for_another_invocation(target: Target):
    other = {"id": target["id"][:-4] + "0000"}
    return _send_and_wait(_frame(other, b'"forged"'))


@attack(gain="a stream that is out of step", answer=_CRASHED)
def two_answers_at_once(target: Target):
    return _send_and_wait(_frame(target, b'"one"') * 2)


@attack(gain="the answer of the next invocation", seen="forged", ends=True)
def answer_twice_and_lie_about_the_time(target: Target):
    os.write(4, _frame(target, b'"forged"'))  # its own to give; the worker's follows, which nobody asked for
    time.sleep(0.5)  # else both may come as one frame that is too long: two_answers_at_once
    return "second"


@attack(gain="the answer of the next invocation, prepared in between", seen="left", ends=True)
def answer_between_invocations(target: Target):
    threading.Timer(0.05, os.write, (4, _frame(target, b'"early"'))).start()
    return "left"


@attack(gain="a gateway that guesses", answer=_CRASHED)
def forged_bytes_on_the_invocation_socket(target: Target):
    return _send_and_wait(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@attack(gain="a gateway that guesses", answer=_CRASHED)
def forged_kind_of_frame(target: Target):
    return _send_and_wait(_frame(target, b"1", kind=1))


@attack(gain="a gateway that guesses", answer=_CRASHED)
def pong_instead_of_an_answer(target: Target):
    return _send_and_wait(_frame(target, b"", kind=_PONG))


@attack(gain="the gateway's memory", answer=_TOO_LARGE)
def reply_of_a_gigabyte(target: Target):
    os.write(4, _frame(target, b"", length=1 << 30))
    while True:
        os.write(4, bytes(65536))


@attack(gain="the gateway's memory by an error", answer=_CRASHED)
def error_of_four_gigabytes(target: Target):
    return _send_and_wait(_frame(target, b"", kind=_ERROR, length=0xFFFFFFFF))


@attack(gain="the gateway's parser", answer=_CRASHED)
def error_that_is_nested_without_end(target: Target):
    return _send_and_wait(_frame(target, b'{"kind":' * 100_000, kind=_ERROR))


@attack(gain="the gateway's parser", answer=_CRASHED)
def error_of_other_types(target: Target):
    return _send_and_wait(_frame(target, b'{"kind": ["exit"], "type": 1, "traceback": {"a": "\xff"}}', kind=_ERROR))


@attack(gain="an invocation that never ends", answer=_TIMED_OUT)
def slow_reply(target: Target):
    data = _frame(target, b'"' + b"x" * 30_000 + b'"')
    for at in range(len(data)):
        os.write(4, data[at : at + 1])
        time.sleep(0.01)


@attack(gain="an invocation that never ends", answer=_TIMED_OUT)
def half_a_reply(target: Target):
    return _send_and_wait(_frame(target, b'"half', length=1000))


@attack(gain="a sandbox that the gateway forgets", answer=_TIMED_OUT)
def close_the_socket_and_stay(target: Target):
    os.close(4)
    time.sleep(60)


@attack(gain="a sandbox that the gateway forgets", answer=_TIMED_OUT)
def shut_the_socket_down_and_stay(target: Target):
    with socket.socket(fileno=os.dup(4)) as end:
        end.shutdown(socket.SHUT_RDWR)
    time.sleep(60)


@attack(gain="descriptors and memory of the gateway", seen="sent")
def pass_descriptors_to_the_gateway(target: Target):
    end = socket.socket(fileno=os.dup(4))
    null = os.open("/dev/null", os.O_RDONLY)
    data = _frame(target, b'"sent"')
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * 200))]
    end.sendmsg([data[:1]], rights)
    os.write(4, data[1:])
    os._exit(0)


@attack(gain="pagurusd's ear, or the zygote's", seen=["/dev/null", "EPIPE"])
def write_to_inherited_descriptors(target: Target):
    return [os.readlink("/proc/self/fd/0"), attempt(lambda: os.write(3, b'{"kind":"parked","ns":{}}'))]


@attack(gain="other descriptors than its five", seen=[])
def find_other_inherited_descriptors(target: Target):
    return [name for name in os.listdir("/proc/self/fd") if int(name) > 4 and _is_open(int(name))]


def _is_open(fd: int) -> bool:
    try:
        return not os.readlink(f"/proc/self/fd/{fd}").endswith("/fd")
    except OSError:
        return False


@attack(gain="a pipe that holds more than the gateway reads at once", answer=(502, "function-output-limit"))
def widen_the_output_pipe_and_fill_it(target: Target):
    F_SETPIPE_SZ = 1031
    for fd in (1, 2):
        fcntl.fcntl(fd, F_SETPIPE_SZ, 1 << 20)
    while True:
        os.write(1, b"x" * (1 << 20))


@attack(gain="a gateway that trusts a result", seen="(not JSON)")
def result_that_is_not_json(target: Target):
    os.write(4, _frame(target, b"<script>\xff\x00"))
    os._exit(0)
