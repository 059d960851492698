"""Takes the one result out of a box that has ended. Runs in a child of pagurusd.

The box's working directory is a tmpfs that nobody can write any more, of content that a hostile program chose:
nothing in it is followed, opened twice, or believed to be of the size that it says.
"""

import json
import os
import pwd
import socket
import stat
from collections.abc import Callable

from runtime import packets
from runtime.errors import BuildError
from runtime.packets import PacketSocket
from runtime.reaper import Reaper
from runtime.sandbox import children
from runtime.sandbox.children import Steps

OUT = "out"
ENTRIES_MAX = 64
_CHUNK_BYTES = 1 << 20
Accept = Callable[[str], str]
Open = Callable[[str], int]


class _RefusedError(Exception):
    """The box's result is not what it was asked for; in words."""


async def take(reaper: Reaper, work: int, *, suffix: str, bytes_max: int, accept: Accept, target: Open) -> str:
    """Copy the only file of OUT with this suffix; its name.

    work: the working directory's mount. accept: why a name is refused, or ''. target: opens what a name is copied to.
    All three are used in the child. Raises BuildError of kind `sdist` or `limit`, StartError.
    """

    def body(end: socket.socket, steps: Steps) -> None:
        steps("take the result")
        try:
            name = _take(work, suffix, bytes_max, accept, target)
            end.send(json.dumps({"name": name}).encode())
        except _RefusedError as error:
            end.send(json.dumps({"refused": str(error)}).encode())

    ours, theirs = packets.packet_pair()
    with PacketSocket(ours) as channel, theirs:
        ended = reaper.expect(children.fork_child(body, theirs))
        theirs.close()
        message, _ = await children.answer(channel, "the copy of a box's result")
        await ended
    if "refused" in message:
        raise BuildError("sdist", f"the build made no usable result: {message['refused']}")
    return str(message["name"])


def file_in(directory: int, user: str) -> Open:
    """Opens a new file of `user` in a directory."""
    record = pwd.getpwnam(user)

    def open_new(name: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=directory)
        os.fchmod(fd, 0o644)
        os.fchown(fd, record.pw_uid, record.pw_gid)
        return fd

    return open_new


def _take(work: int, suffix: str, bytes_max: int, accept: Accept, target: Open) -> str:
    try:
        out = os.open(OUT, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=work)
    except OSError as error:
        raise _RefusedError(f"its output directory is gone ({os.strerror(error.errno or 0)})") from error
    try:
        name = _only(out, suffix)
        if reason := accept(name):
            raise _RefusedError(reason)
        _copy(out, name, bytes_max, target)
        return name
    finally:
        os.close(out)


def _only(out: int, suffix: str) -> str:
    names = []
    with os.scandir(out) as found:
        for count, entry in enumerate(found):
            if count >= ENTRIES_MAX:
                raise _RefusedError(f"there are more than {ENTRIES_MAX} files in its output directory")
            if entry.name.endswith(suffix):
                names.append(entry.name)
    if len(names) != 1:
        raise _RefusedError(f"{len(names)} files '*{suffix}' instead of one")
    return names[0]


def _copy(out: int, name: str, bytes_max: int, target: Open) -> None:
    try:
        # O_NONBLOCK: a named pipe would be waited for
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=out)
    except OSError as error:
        raise _RefusedError(f"{name} is no regular file ({os.strerror(error.errno or 0)})") from error
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise _RefusedError(f"{name} is no regular file")
        if status.st_size > bytes_max:
            raise _RefusedError(f"{name} has {status.st_size} bytes, the limit is {bytes_max}")
        sink, left = target(name), bytes_max
        try:
            while left > 0 and (chunk := os.read(source, min(left, _CHUNK_BYTES))):
                left -= len(chunk)
                while chunk:
                    chunk = chunk[os.write(sink, chunk) :]
        finally:
            os.close(sink)
    finally:
        os.close(source)
