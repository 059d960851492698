"""The network of a sandbox without egress: `lo`, up, and nothing else.

Runs in a zygote's namespace builder, which is given the function; the process's own namespace is left behind.
"""

import fcntl
import os
import socket
import struct

from runtime import syscalls
from runtime.syscalls import CloneFlag

_SIOCSIFFLAGS, _IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x8914, 0x1, 0x8, 0x40  # linux/sockios.h, linux/if.h


def make(namespaces: int) -> int:
    """A new network namespace; its descriptor, the caller's. `namespaces`: O_PATH of the caller's /proc/self/ns.

    One ioctl brings `lo` up: a netlink socket for it costs more than the namespace. Raises OSError.
    """
    syscalls.unshare(CloneFlag.NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = _IFF_UP | _IFF_LOOPBACK | _IFF_RUNNING
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags))
    return os.open("net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
