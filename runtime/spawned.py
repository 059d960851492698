"""Programs that pagurusd starts: the gateway and builders. Runs in pagurusd, then in the child.

They cannot gain a capability, and die with pagurusd. Descriptors pass by explicit list only. All but the builder of
a base rootfs are other users, without any capability.
"""

import fcntl
import os
import pwd
import socket
from collections.abc import Callable, Mapping, Sequence

from runtime import packets, syscalls
from runtime.errors import RequirementError
from runtime.gateway_room import Room
from runtime.sandbox import children, identity
from runtime.sandbox.cgroup import Cgroup
from runtime.sandbox.children import Steps
from runtime.syscalls import CloneFlag

ROOM_NAMESPACES = CloneFlag.NEWPID | CloneFlag.NEWNS | CloneFlag.NEWIPC | CloneFlag.NEWUTS
PROCESSES_MAX = 256  # of the user, all its threads on the machine counted


def start_as(
    user: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    descriptors: Sequence[int],
    cgroup: Cgroup | None = None,
    directory: str = "/",
    open_files: int = 65536,
) -> int:
    """Start `command` as `user`; its pid, which the caller reaps. descriptors[i] becomes descriptor i there.

    They stay the caller's here. A child that cannot exec exits with EXIT_FAILED and says why on stderr.
    Raises RequirementError for an unknown user.
    """
    record = _user(user)

    def become(steps: Steps) -> None:
        steps("identity")
        identity.set_resource_limits(open_files=open_files)
        _become(record)

    return _start(command, environ, descriptors, cgroup, directory, become)


def start_confined(
    user: str,
    command: Sequence[str],
    room: Room,
    *,
    environ: Mapping[str, str],
    descriptors: Sequence[int],
    open_files: int = 65536,
) -> int:
    """Like `start_as`, as pid 1 of namespaces of its own (mount, pid, ipc, uts) with `room` for its root.

    The network is the host's.
    """
    record = _user(user)

    def become(steps: Steps) -> None:
        room.enter(steps)
        steps("identity")
        identity.set_resource_limits(open_files=open_files)
        identity.set_small_limits(processes=PROCESSES_MAX)
        _become(record)
        steps("seccomp")
        identity.forbid_new_privileges()
        room.load_filters()

    return _start(command, environ, descriptors, None, "/", become, namespaces=ROOM_NAMESPACES)


def start_base_builder(
    command: Sequence[str], *, environ: Mapping[str, str], descriptors: Sequence[int], cgroup: Cgroup
) -> int:
    """Start the builder of a base rootfs: root with BuilderCapability only, in a mount namespace of its own.

    Else like `start_as`.
    """

    def become(steps: Steps) -> None:
        steps("mounts")
        syscalls.unshare(syscalls.CloneFlag.NEWNS)
        syscalls.mount(None, "/", None, syscalls.MountFlag.REC | syscalls.MountFlag.PRIVATE)
        steps("identity")
        identity.set_resource_limits(open_files=4096)
        identity.keep_capabilities(frozenset(identity.BuilderCapability))
        os.setgroups([])

    return _start(command, environ, descriptors, cgroup, "/", become)


def _user(name: str) -> pwd.struct_passwd:
    try:
        record = pwd.getpwnam(name)
    except KeyError:
        raise RequirementError(f"there is no user {name!r}", hint="run scripts/setup") from None
    if record.pw_uid == 0 or record.pw_gid == 0:
        raise RequirementError(f"user {name!r} is root, or of its group", hint="name one without any power")
    return record


def _become(record: pwd.struct_passwd) -> None:
    identity.keep_capabilities(frozenset())
    os.setgroups([])
    os.setresgid(record.pw_gid, record.pw_gid, record.pw_gid)
    os.setresuid(record.pw_uid, record.pw_uid, record.pw_uid)


def _start(
    command: Sequence[str],
    environ: Mapping[str, str],
    descriptors: Sequence[int],
    cgroup: Cgroup | None,
    directory: str,
    become: Callable[[Steps], None],
    namespaces: CloneFlag = children.NO_NAMESPACES,
) -> int:
    def body(end: socket.socket, steps: Steps) -> None:
        end.close()
        if cgroup is not None:
            steps("cgroup")
            cgroup.join_self()
        steps("descriptors")
        # First above all targets, so that placing one cannot overwrite another.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(descriptors)) for fd in descriptors]
        for index, fd in enumerate(high):
            os.dup2(fd, index)
        syscalls.close_range(len(high))
        become(steps)
        identity.leave_keyrings()
        identity.forbid_new_privileges()
        identity.die_with_parent()
        os.umask(0o022)
        os.chdir(directory)
        steps("exec")
        os.execve(command[0], list(command), dict(environ))

    ours, theirs = packets.packet_pair()
    with ours, theirs:
        return children.fork_child(body, theirs, namespaces=namespaces)


def passed_environ(source: Mapping[str, str]) -> dict[str, str]:
    """Variables that programs of ours may see: language, certificates, proxies, package index."""
    kept = ("LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    prefixes = ("PIP_", "UV_")
    proxies = ("http_proxy", "https_proxy", "no_proxy")
    found = {
        name: value
        for name, value in source.items()
        if name in kept or name.startswith(prefixes) or name.lower() in proxies
    }
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **found}
