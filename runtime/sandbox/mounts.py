"""Detached mounts that sandboxes are put together from. Runs in pagurusd, as root of the initial namespaces.

Everything handed into a zygote's user namespace is a detached mount of one of these kinds: an overlay of lowers
only (no upper: a read-only flag can be cleared from inside, a missing upper cannot be added), a tmpfs, or the
device directory. Each function returns a descriptor that the caller owns.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime import syscalls
from runtime.syscalls import CloneFlag, MountAttr, MountFlag

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
LOWERS_MAX = 500  # OVL_MAX_STACK, fs/overlayfs/params.h


@dataclass(frozen=True, slots=True)
class Attachment:
    """One detached mount and where it goes in the new root ('' is the root itself). `fd` is borrowed."""

    fd: int
    target: str
    what: str

    def describe(self) -> str:
        return f"{self.what} -> /{self.target}"


class MountDesk:
    """pagurusd's own mount namespace: private; what sandboxes share is attached there, on a tmpfs at the anchor.

    Attached, since only Linux 6.15 and newer clone a detached mount. Clones are detached, and the receiver's.
    """

    def __init__(self, anchor: Path) -> None:
        """anchor: an empty directory of ours. Moves the calling process into a mount namespace of its own."""
        self._anchor = str(anchor)
        self._made = 0
        syscalls.unshare(CloneFlag.NEWNS)
        syscalls.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        syscalls.mount("none", self._anchor, "tmpfs", MountFlag.NOSUID | MountFlag.NODEV, "mode=755,size=1m")
        self._namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._root = os.open("/", os.O_PATH | os.O_CLOEXEC)

    @property
    def anchor(self) -> str:
        return self._anchor

    def overlay(self, lowers: Iterable[Path]) -> str:
        """Attach a read-only overlay of two or more directories, the first on top; no upper. Where it is.

        Layers are named by descriptors, so that /proc/self/mountinfo inside shows no path of the host; relative to
        /proc/self/fd, since the options have one page and 500 absolute names would not fit.
        """
        descriptors = [os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in lowers]
        place = self._place()
        try:
            assert 2 <= len(descriptors) <= LOWERS_MAX
            flags = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV
            os.chdir("/proc/self/fd")
            syscalls.mount("overlay", place, "overlay", flags, f"lowerdir={':'.join(map(str, descriptors))}")
        except BaseException:
            os.rmdir(place)
            raise
        finally:
            os.fchdir(self._root)
            for fd in descriptors:
                os.close(fd)
        return place

    def keep(self, mount: int) -> str:
        """Attach a detached mount, whose descriptor is closed; where it is."""
        place = self._place()
        try:
            syscalls.move_mount(mount, place)
        finally:
            os.close(mount)
        return place

    def drop(self, place: str) -> None:
        """Detach what is attached there; clones in use stay."""
        syscalls.umount_detach(place)
        os.rmdir(place)

    def _place(self) -> str:
        self._made += 1
        place = f"{self._anchor}/{self._made}"
        os.mkdir(place)
        return place

    @contextmanager
    def inside(self, mount_namespace: int) -> Iterator[None]:
        """Be in another mount namespace for a moment. The caller has one thread and does not await inside."""
        syscalls.setns(mount_namespace, CloneFlag.NEWNS)
        try:
            yield
        finally:
            syscalls.setns(self._namespace, CloneFlag.NEWNS)
            os.fchdir(self._root)

    def close(self) -> None:
        os.close(self._namespace)
        os.close(self._root)


def tmpfs(size_bytes: int, *, mode: int = 0o1777, executable: bool = True) -> int:
    """An empty tmpfs of its own; its pages are charged to the cgroup that writes them.

    size_bytes: rounded up to a page; at least one page, as tmpfs takes 0 for no limit.
    """
    size_bytes = max(size_bytes, 1)
    context = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig_string(context, "size", str(size_bytes))
        syscalls.fsconfig_string(context, "nr_inodes", str(max(64, size_bytes // 4096)))
        syscalls.fsconfig_string(context, "mode", f"{mode:o}")
        syscalls.fsconfig_create(context)
        flags = MountAttr.NOSUID | MountAttr.NODEV
        return syscalls.fsmount(context, flags if executable else flags | MountAttr.NOEXEC)
    finally:
        os.close(context)


def proc() -> int:
    """A proc of the caller's pid namespace."""
    context = syscalls.fsopen("proc")
    try:
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC)
    finally:
        os.close(context)


def devices() -> int:
    """The device directory that all sandboxes share: five harmless nodes, links, a mount point for shm."""
    context = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig_string(context, "size", "64k")
        syscalls.fsconfig_string(context, "mode", "755")
        syscalls.fsconfig_create(context)
        mount = syscalls.fsmount(context, MountAttr.NOSUID | MountAttr.NOEXEC)
    finally:
        os.close(context)
    mask = os.umask(0)
    try:
        for name, (major, minor) in _DEVICES.items():
            os.mknod(name, 0o20666, os.makedev(major, minor), dir_fd=mount)
        for name, target in _LINKS.items():
            os.symlink(target, name, dir_fd=mount)
        os.mkdir("shm", 0o1777, dir_fd=mount)
    finally:
        os.umask(mask)
    syscalls.mount_setattr(mount, MountAttr.RDONLY)
    return mount


def text_file(name: str, text: str) -> int:
    """A read-only tmpfs with one file that everybody may read."""
    content = text.encode()
    mount = tmpfs(len(content) + 4096, mode=0o755)
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444, dir_fd=mount)
        try:
            os.fchmod(fd, 0o444)
            os.write(fd, content)
        finally:
            os.close(fd)
        syscalls.mount_setattr(mount, MountAttr.RDONLY)
    except BaseException:
        os.close(mount)
        raise
    return mount


class Overlays:
    """Overlays that are mounted once and cloned for each use, the most recently used kept."""

    def __init__(self, desk: MountDesk, *, kept: int = 256) -> None:
        self._desk = desk
        self._kept = kept
        self._places: dict[str, str] = {}

    def clone(self, key: str, lowers: Callable[[], Iterable[Path]]) -> int:
        """A detached clone of the overlay `key`, mounted from what `lowers` tells the first time. Caller closes."""
        place = self._places.pop(key, "")
        if not place:
            place = self._desk.overlay(lowers())
        self._places[key] = place
        while len(self._places) > self._kept:
            self.forget(next(iter(self._places)))
        return syscalls.open_tree(place)

    def forget(self, key: str) -> None:
        """Drop one overlay; clones in use stay."""
        place = self._places.pop(key, "")
        if place:
            self._desk.drop(place)

    def close(self) -> None:
        """Drop all. Idempotent."""
        for key in list(self._places):
            self.forget(key)
