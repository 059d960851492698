"""The namespace builder: a process per zygote that makes network and mount namespaces ahead of time.

pagurusd forks it; it lives in the zygote's user namespace (only namespaces owned by that one can be entered from
inside) but outside its pid namespace, so the zygote cannot see it. It runs our code only, and ends with its socket.
"""

import array
import json
import os
import socket
from collections.abc import Callable

from runtime import packets, syscalls
from runtime.packets import Packet
from runtime.sandbox import children, identity
from runtime.sandbox.children import Steps
from runtime.syscalls import CloneFlag, MountFlag

TARGETS = ("code", "opt/env", "tmp", "etc/resolv.conf")


def serve(
    end: socket.socket, steps: Steps, *, user_namespace: int, anchor: str, make_network: Callable[[int], int]
) -> None:
    """Body of the process: enter, settle in an empty root, answer requests until the socket closes.

    make_network: enters a new network namespace and returns its descriptor (runtime.netns).
    """
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
    os.mkdir("proc")
    home = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
    syscalls.pivot_root(".", ".")
    syscalls.umount_detach(".")
    os.chdir("/")
    channel.send(b"{}")
    while True:
        packet = packets.receive(channel)
        if not packet.data:
            return
        _answer(channel, packet, namespaces, home, make_network)


def _answer(
    channel: socket.socket, packet: Packet, namespaces: int, home: int, make_network: Callable[[int], int]
) -> None:
    request: dict[str, str] = json.loads(packet.data)
    made: list[int] = []
    steps = Steps()
    try:
        if request["make"] == "net":
            made = [make_network(namespaces)]
        elif request["make"] == "proc":
            syscalls.move_mount(packet.descriptors[0], "/proc")
        else:
            made = _mounts(namespaces, home, request["attach"].split(":"), packet.descriptors, steps)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", made))] if made else []
        channel.sendmsg([b"{}"], rights)
    except OSError as error:
        children.report(channel, f"{request['make']} {steps.current}", error)
    finally:
        for fd in (*made, *packet.descriptors):
            os.close(fd)


def _mounts(namespaces: int, home: int, targets: list[str], given: list[int], steps: Steps) -> list[int]:
    """A mount namespace of detached mounts; its descriptor, then O_PATH descriptors of TARGETS in it.

    targets[0] is the root, '' ; later ones are attached inside it in order, then the zygote's proc.
    """
    steps("unshare")
    syscalls.unshare(CloneFlag.NEWNS)
    made = [os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)]
    try:
        proc = syscalls.open_tree("/proc")
        try:
            attach_tree("/root", [*targets, "proc"], [*given, proc], steps)
        finally:
            os.close(proc)
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
