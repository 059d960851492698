"""Values too long for a packet, passed as files in memory whose content cannot change any more. A leaf.

Only a sealed file can be read from an untrusted peer without waiting for it, or being shown one thing and then
another.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from runtime.errors import ProtocolError

BYTES_MAX = 64 << 20
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
Value = TypeVar("Value")


def seal(value: Any) -> int:
    """A file with the value as JSON; the caller closes it."""
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(msgspec.json.encode(value))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def opened(value: Any) -> Iterator[int]:
    """seal(), closed at the end."""
    fd = seal(value)
    try:
        yield fd
    finally:
        os.close(fd)


def unseal(fd: int, kind: type[Value], *, bytes_max: int = BYTES_MAX) -> Value:
    """What a peer has sealed; the descriptor is borrowed. Raises ProtocolError."""
    try:
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        size = os.fstat(fd).st_size
        if not is_sealed or size > bytes_max:
            raise ProtocolError(f"a file that was passed is not sealed, or longer than {bytes_max} bytes")
        return msgspec.json.decode(os.pread(fd, size, 0), type=kind)
    except OSError as error:
        raise ProtocolError(f"a file that was passed is none in memory: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a file that was passed cannot be read: {error}") from error
