"""The victim: a function with things to steal, which says at each call whether they are still its own. Shipped."""

import ctypes
import hashlib
import os
import socket

from attacks import counts

_KEY = 0x5EC7
_IPC_CREAT = 0o1000
_libc = ctypes.CDLL(None, use_errno=True)
_secret = os.environ["SECRET"]
_memory = ctypes.create_string_buffer(_secret.encode())
for folder in ("/tmp", "/dev/shm"):
    os.mkdir(folder + "/kept-by-the-victim")
    with open(folder + "/kept-by-the-victim/secret", "w") as file:
        file.write(_secret)

_abstract = socket.socket(socket.AF_UNIX)
_abstract.bind(b"\0kept-by-the-victim")
_server = socket.socket()
_server.bind(("127.0.0.1", 0))
_servers = (_abstract, _server)
for server in _servers:
    server.listen()
    server.setblocking(False)
assert _libc.shmget(_KEY, 4096, _IPC_CREAT | 0o666) >= 0
assert _libc.msgget(_KEY, _IPC_CREAT | 0o666) >= 0


def main(param):
    """What it holds: a digest that must never change, and how often somebody came to its servers."""
    counts.is_left()
    files = []
    for folder in ("/tmp", "/dev/shm"):
        for name in sorted(os.listdir(folder)):
            with open(f"{folder}/{name}/secret") as file:
                files.append(file.read())
    with open(os.__file__, "rb") as file:
        library = hashlib.sha256(file.read()).hexdigest()
    limits = [os.getpriority(os.PRIO_PROCESS, 0), len(os.sched_getaffinity(0))]
    held = [os.environ["SECRET"], _memory.value.decode(), files, library, limits, sorted(os.listdir("/proc/self/task"))]
    return {
        "digest": hashlib.sha256(repr(held).encode()).hexdigest(),
        "guests": _guests(),
        "port": _port(),
        "key": _KEY,
    }


def _port():
    return _server.getsockname()[1]


def _guests():
    count = 0
    for one in _servers:
        try:
            one.accept()[0].close()
            count += 1
        except BlockingIOError:
            continue
    return count
