"""The namespace builder: a process per zygote that makes network and mount namespaces ahead of time.

pagurusd forks it; it lives in the zygote's user namespace (only namespaces owned by that one can be entered from
inside) but outside its pid namespace, so the zygote cannot see it. It runs our code only, and ends with its socket.
"""

import array
import fcntl
import json
import os
import socket
import struct

from runtime import packets, syscalls
from runtime.sandbox import children, identity
from runtime.sandbox.children import Steps
from runtime.syscalls import CloneFlag, MountFlag

_SIOCSIFFLAGS, _IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x8914, 0x1, 0x8, 0x40  # linux/sockios.h, linux/if.h
TARGETS = ("code", "opt/env", "tmp")


def serve(end: socket.socket, steps: Steps, *, user_namespace: int, anchor: str) -> None:
    """Body of the process: enter, settle in an empty root, answer requests until the socket closes."""
    steps("descriptors")
    own = os.dup2(end.fileno(), 3), os.dup2(user_namespace, 4)
    syscalls.close_range(5)
    children.redirect_standard_streams()
    channel = socket.socket(fileno=own[0])
    steps("enter user namespace")
    syscalls.setns(own[1], CloneFlag.NEWUSER)
    os.close(own[1])
    identity.become_namespace_root()
    identity.die_with_parent()
    steps("empty root")
    syscalls.unshare(CloneFlag.NEWNS)
    syscalls.mount("none", anchor, "tmpfs", MountFlag(0), "mode=755,size=64k")
    # O_PATH: after the change of uid this process is not dumpable, and opening the files directly is refused.
    namespaces = os.open("/proc/self/ns", os.O_PATH | os.O_CLOEXEC)
    os.chdir(anchor)
    os.mkdir("root")
    home = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
    syscalls.pivot_root(".", ".")
    syscalls.umount_detach(".")
    os.chdir("/")
    channel.send(b"{}")
    while True:
        packet = packets.receive(channel)
        if not packet.data:
            return
        _answer(channel, json.loads(packet.data), packet.descriptors, namespaces, home)


def _answer(channel: socket.socket, request: dict[str, str], given: list[int], namespaces: int, home: int) -> None:
    made: list[int] = []
    steps = Steps()
    try:
        if request["make"] == "net":
            made = [_network(namespaces)]
        else:
            made = _mounts(namespaces, home, request["attach"].split(":"), given, steps)
        channel.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made))])
    except OSError as error:
        children.report(channel, f"{request['make']} {steps.current}", error)
    finally:
        for fd in (*made, *given):
            os.close(fd)


def _network(namespaces: int) -> int:
    """A network namespace in which only `lo` is, and is up."""
    syscalls.unshare(CloneFlag.NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = _IFF_UP | _IFF_LOOPBACK | _IFF_RUNNING
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags))
    return os.open("net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)


def _mounts(namespaces: int, home: int, targets: list[str], given: list[int], steps: Steps) -> list[int]:
    """A mount namespace of detached mounts; its descriptor, then O_PATH descriptors of TARGETS in it.

    targets[0] is the root, '' ; later ones are attached inside it in order.
    """
    steps("unshare")
    syscalls.unshare(CloneFlag.NEWNS)
    made = [os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)]
    try:
        attach_tree("/root", targets, given, steps)
        made += [os.open(f"/{target}", os.O_PATH | os.O_CLOEXEC) for target in TARGETS]
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    finally:
        syscalls.setns(home, CloneFlag.NEWNS)
        os.chdir("/")
    return made


def attach_tree(place: str, targets: list[str], mounts: list[int], steps: Steps) -> None:
    """Attach mounts[0] at `place`, the others inside it, and make it the root of this mount namespace."""
    root = mounts[0]
    steps("attach root")
    syscalls.move_mount(root, place)
    os.fchdir(root)
    for target, mount in zip(targets[1:], mounts[1:], strict=True):
        steps(f"attach {target}")
        syscalls.move_mount(mount, target, dir_fd=root)
    steps("pivot_root")
    syscalls.pivot_root(".", ".")
    syscalls.umount_detach(".")
    os.chdir("/")
