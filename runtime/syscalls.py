"""The kernel's door: thin typed functions over system calls, and nothing else. A leaf.

This module alone touches ctypes. Constants keep the kernel's names; the header is named beside them. Every
function raises OSError with what it was called for. No policy here.
"""

import ctypes
import errno
import os
import platform
from enum import IntEnum, IntFlag


class CloneFlag(IntFlag):
    """linux/sched.h"""

    NEWTIME = 0x00000080
    VM = 0x00000100
    PIDFD = 0x00001000
    PARENT = 0x00008000
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000
    INTO_CGROUP = 0x200000000


class MountFlag(IntFlag):
    """linux/mount.h: mount(2)"""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    BIND = 0x1000
    REC = 0x4000
    PRIVATE = 0x40000


class MountAttr(IntFlag):
    """linux/mount.h: fsmount(2), mount_setattr(2)"""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8


class OpenTree(IntFlag):
    """linux/mount.h: open_tree(2)"""

    CLONE = 0x1
    CLOEXEC = 0o2000000
    EMPTY_PATH = 0x1000
    RECURSIVE = 0x8000


class MoveMount(IntFlag):
    """linux/mount.h: move_mount(2)"""

    F_EMPTY_PATH = 0x4
    T_EMPTY_PATH = 0x40


class FsConfig(IntEnum):
    """linux/mount.h: fsconfig(2) commands"""

    SET_FLAG = 0
    SET_STRING = 1
    SET_FD = 5
    CMD_CREATE = 6


AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
MNT_DETACH = 2
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
_NR_OPEN_TREE, _NR_MOVE_MOUNT, _NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 428, 429, 430, 431, 432
_NR_CLONE3, _NR_CLOSE_RANGE, _NR_MOUNT_SETATTR = 435, 436, 442
_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(platform.machine(), -1)
_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine(), -1)
_KEYCTL_JOIN_SESSION_KEYRING = 1  # linux/keyctl.h

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.syncfs.argtypes = [ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.setdomainname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.syscall.restype = ctypes.c_long


_CLONE_ARGS = (
    *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
    *("set_tid", "set_tid_size", "cgroup"),
)


class _CloneArgs(ctypes.Structure):
    """struct clone_args, linux/sched.h"""

    _fields_ = [(name, ctypes.c_uint64) for name in _CLONE_ARGS]


class _MountAttrs(ctypes.Structure):
    """struct mount_attr, linux/mount.h"""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def _check(result: int, name: str, subject: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        text = f"{name}: {os.strerror(code)}"
        if code == errno.ENOSYS:
            text += " (this kernel does not have it)"
        raise OSError(code, text, subject)
    return result


def _call(number: int, *arguments: object) -> int:
    """syscall(2). Integers go as C longs: ctypes would pass a bare int as a 32-bit one."""
    return int(
        _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    )


def unshare(flags: CloneFlag) -> None:
    """Move the caller into new namespaces; unshare(2)."""
    _check(_libc.unshare(int(flags)), "unshare", str(flags))


def setns(fd: int, flags: CloneFlag) -> None:
    """Enter a namespace, or several of a pidfd's process; setns(2). A mount namespace wants a single thread."""
    _check(_libc.setns(fd, int(flags)), "setns", str(flags))


def syncfs(path: str | os.PathLike[str]) -> None:
    """Write the file system that holds path to its disk; syncfs(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(fd), "syncfs", os.fspath(path))
    finally:
        os.close(fd)


def set_parent_death_signal(number: int) -> None:
    """The caller gets this signal when the thread that forked it ends; PR_SET_PDEATHSIG, prctl(2)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl", "PR_SET_PDEATHSIG")


def join_session_keyring() -> None:
    """Give the caller a new session keyring, empty and without a name; keyctl(2)."""
    _check(_call(_NR_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl", "KEYCTL_JOIN_SESSION_KEYRING")


def setdomainname(name: str) -> None:
    """The NIS domain of the caller's UTS namespace; setdomainname(2)."""
    text = os.fsencode(name)
    _check(_libc.setdomainname(text, len(text)), "setdomainname", name)


def clone_sibling() -> int:
    """fork(2) whose child has the caller's parent as its parent (CLONE_PARENT). Returns 0 in the child.

    The interpreter's fork hooks do not run: the child must exec or _exit soon.
    """
    arguments = _CloneArgs(flags=int(CloneFlag.PARENT))
    return _check(_call(_NR_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)), "clone3")


def clone_into(cgroup_fd: int) -> int:
    """fork(2) whose child starts in another cgroup (v2). Returns 0 in the child, which must exec or _exit soon."""
    sigchld = 17
    arguments = _CloneArgs(flags=int(CloneFlag.INTO_CGROUP), cgroup=cgroup_fd, exit_signal=sigchld)
    return _check(_call(_NR_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)), "clone3", "CLONE_INTO_CGROUP")


def clone_child(namespaces: CloneFlag) -> int:
    """fork(2) whose child is in new namespaces. Returns 0 in the child.

    The interpreter's fork hooks do not run: the child must exec or _exit soon.
    """
    sigchld = 17
    arguments = _CloneArgs(flags=int(namespaces), exit_signal=sigchld)
    return _check(_call(_NR_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)), "clone3", str(namespaces))


def forbid_dumps() -> None:
    """No core file of this process, and no tracing or reading of it by others of its user; PR_SET_DUMPABLE, prctl(2).

    Its files in /proc are root's from now on. An exec undoes it.
    """
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl", "PR_SET_DUMPABLE")


def mount(source: str | None, target: str, fstype: str | None, flags: MountFlag, options: str | None = None) -> None:
    """mount(2)."""

    def encoded(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    result = _libc.mount(encoded(source), encoded(target), encoded(fstype), int(flags), encoded(options))
    _check(result, f"mount {fstype or source}", target)


def umount_detach(target: str) -> None:
    """umount2(2) with MNT_DETACH."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_call(_NR_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root)


def open_tree(path: str, *, dir_fd: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached clone of the mount at `path`, or of `dir_fd` itself when path is ''; open_tree(2). Caller closes."""
    flags = OpenTree.CLONE | OpenTree.CLOEXEC
    if recursive:
        flags |= OpenTree.RECURSIVE
    if not path:
        flags |= OpenTree.EMPTY_PATH
    return _check(_call(_NR_OPEN_TREE, dir_fd, os.fsencode(path), int(flags)), "open_tree", path)


def move_mount(mount_fd: int, target: str, *, dir_fd: int = AT_FDCWD) -> None:
    """Attach a detached mount at `target`, or on `dir_fd` itself when target is ''; move_mount(2)."""
    flags = MoveMount.F_EMPTY_PATH
    if not target:
        flags |= MoveMount.T_EMPTY_PATH
    result = _call(_NR_MOVE_MOUNT, mount_fd, b"", dir_fd, os.fsencode(target), int(flags))
    _check(result, "move_mount", target)


def mount_setattr(mount_fd: int, attributes: MountAttr) -> None:
    """Set attributes of one mount; mount_setattr(2)."""
    attrs = _MountAttrs(attr_set=int(attributes))
    result = _call(_NR_MOUNT_SETATTR, mount_fd, b"", AT_EMPTY_PATH, ctypes.byref(attrs), ctypes.sizeof(attrs))
    _check(result, "mount_setattr")


def fsopen(fstype: str) -> int:
    """A configuration context of a file system; fsopen(2). Caller closes."""
    return _check(_call(_NR_FSOPEN, os.fsencode(fstype), FSOPEN_CLOEXEC), "fsopen", fstype)


def fsconfig_string(fs_fd: int, key: str, value: str) -> None:
    """fsconfig(2) FSCONFIG_SET_STRING; the kernel takes values up to 255 bytes."""
    result = _call(_NR_FSCONFIG, fs_fd, int(FsConfig.SET_STRING), os.fsencode(key), os.fsencode(value), 0)
    _check(result, f"fsconfig {key}", value)


def fsconfig_create(fs_fd: int) -> None:
    """fsconfig(2) FSCONFIG_CMD_CREATE."""
    _check(_call(_NR_FSCONFIG, fs_fd, int(FsConfig.CMD_CREATE), None, None, 0), "fsconfig create")


def fsmount(fs_fd: int, attributes: MountAttr) -> int:
    """A detached mount of a created file system; fsmount(2). Caller closes."""
    return _check(_call(_NR_FSMOUNT, fs_fd, FSMOUNT_CLOEXEC, int(attributes)), "fsmount")


def write_file(path: str, text: str) -> None:
    """One write to a file that is there: the kernel's settings and maps take their value whole. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close all descriptors from `first` to `last`; close_range(2)."""
    _check(_call(_NR_CLOSE_RANGE, first, last, 0), "close_range")


def signalfd(number: int) -> int:
    """A descriptor that becomes readable when signal `number`, which the caller has blocked, arrives; signalfd(2)."""
    mask = (ctypes.c_uint64 * 16)(1 << (number - 1))
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    return _check(_libc.signalfd(-1, ctypes.byref(mask), flags), "signalfd", str(number))
