"""Reading and writing the files of control groups. Runs in pagurusd."""

import contextlib
import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write one value. Raises OSError with the value and the file."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {text!r}: {os.strerror(error.errno or 0)}", str(path)) from error
    finally:
        os.close(fd)


def write_if_there(path: Path, text: str) -> bool:
    """Write, unless this kernel does not have the file; whether it has."""
    with contextlib.suppress(FileNotFoundError):
        write(path, text)
        return True
    return False


def field(text: str, name: str) -> int:
    """The number behind `name` in a file of lines `name number`; 0 if it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
