"""Directory trees: walked in a fixed order, made harmless, digested. Used by base and by environments. Builder."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import BuildError

CHUNK_BYTES = 1 << 20
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644
EXECUTABLE_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a tree. `path`: relative to the root, as bytes."""

    path: bytes
    full: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def is_executable(self) -> bool:
        return bool(self.status.st_mode & 0o111)

    @property
    def name(self) -> str:
        """The path for people."""
        return self.path.decode(errors="backslashreplace")


def walk(root: Path) -> Iterator[Entry]:
    """Everything below root, parents before children, in the order of the paths' bytes; follows no link."""
    pending = [(b"", os.fsencode(root))]
    while pending:
        prefix, directory = pending.pop()
        below = []
        with os.scandir(directory) as found:
            children = sorted(found, key=lambda child: child.name)
        for child in children:
            entry = Entry(prefix + child.name, child.path, child.stat(follow_symlinks=False))
            yield entry
            if entry.is_directory:
                below.append((entry.path + b"/", entry.full))
        pending.extend(reversed(below))


def kind(entry: Entry) -> bytes:
    """One letter: directory, link, executable or other file."""
    if entry.is_directory:
        return b"d"
    if entry.is_link:
        return b"l"
    assert entry.is_file, entry.name
    return b"x" if entry.is_executable else b"f"


def digest(
    root: Path, *, skip: Callable[[bytes], bool] = lambda path: False, label: Callable[[Entry], bytes] = kind
) -> str:
    """SHA-256 over label, path and content of everything below root: 64 hex digits.

    The usual label is kind and x bit; owners, times and the other mode bits do not count then. Raises OSError.
    """
    total = hashlib.sha256()
    for entry in sorted(walk(root), key=lambda entry: entry.path):
        if skip(entry.path):
            continue
        total.update(label(entry) + entry.path + b"\0" + _content(entry) + b"\0")
    return total.hexdigest()


def normalise(entry: Entry) -> None:
    """Give a file or directory the mode that trees of ours have: readable by all, writable by its owner only."""
    if entry.is_directory:
        wanted = DIRECTORY_MODE
    elif entry.is_file:
        wanted = EXECUTABLE_MODE if entry.is_executable else FILE_MODE
    else:
        return
    if stat.S_IMODE(entry.status.st_mode) != wanted:
        os.chmod(entry.full, wanted, follow_symlinks=True)


def writing_failed(error: OSError, doing: str) -> BuildError:
    """What to say of a write that failed: a full disk is a limit, all else is internal."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BuildError("limit", f"cannot {doing}: the disk is full", hint="free space below state_dir")
    return BuildError("internal", f"cannot {doing}: {error}")


def _content(entry: Entry) -> bytes:
    if entry.is_directory:
        return b""
    if entry.is_link:
        return os.readlink(entry.full)
    with open(entry.full, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def resolved_below(root: Path, path: Path) -> Path:
    """Follow a symbolic link at path as if root were '/'; one level. Raises OSError."""
    if not path.is_symlink():
        return path
    target = os.readlink(path)
    return root / target.lstrip("/") if target.startswith("/") else path.parent / target
