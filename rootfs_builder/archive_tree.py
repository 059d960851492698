"""The tree that an archive is unpacked into, and the rules that each of its entries must keep. Builder.

The archive is hostile. What is written has been checked by these rules whatever the format, nothing is ever
written through a link (none is made), and bytes are counted while they come out, not as headers promise them.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rootfs_builder import trees
from runtime.errors import BuildError

NAME_BYTES_MAX = 255  # Linux's NAME_MAX
PATH_BYTES_MAX = 3072  # leaves room for the store's own path below PATH_MAX (4096)
DEPTH_MAX = 64
SHOWN_CHARS_MAX = 160
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an archive may hold: bytes of all files together; files and directories."""

    bytes_max: int
    entries_max: int

    def too_many(self) -> BuildError:
        """The error for an entry beyond entries_max."""
        return BuildError(
            "limit",
            f"the archive has more than {self.entries_max} entries",
            hint="leave out what the function does not need, or raise archive_entries",
        )

    def too_large(self, name: str = "") -> BuildError:
        """The error for a byte beyond bytes_max; `name`: the entry that held it."""
        where = f", reached in {name}" if name else ""
        return BuildError(
            "limit",
            f"the archive unpacks to more than {self.bytes_max} bytes{where}",
            hint="leave out what the function does not need, or raise unpacked_bytes",
        )


def shown(raw: bytes) -> str:
    """An entry's name for people: one line, quoted, of bounded length."""
    text = raw.decode(errors="backslashreplace")
    if len(text) > SHOWN_CHARS_MAX:
        text = text[:SHOWN_CHARS_MAX] + "..."
    return repr(text)


def refusal(raw: bytes, rule: str, *, hint: str = "make the archive again without this entry") -> BuildError:
    """The error for an entry that breaks a rule."""
    return BuildError("archive", f"entry {shown(raw)} of the archive {rule}", hint=hint)


def checked_path(raw: bytes) -> str:
    """The relative path of an entry, '' for the root itself. Raises BuildError that names the broken rule."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise refusal(raw, "has a name that is not UTF-8", hint="rename it, or set the locale to UTF-8") from None
    if not text:
        raise refusal(raw, "has an empty name")
    if _CONTROL.search(text):
        raise refusal(raw, "has a control character in its name")
    if "\\" in text:
        raise refusal(raw, "has a backslash in its name", hint="use '/' between directories")
    if text.startswith("/") or _DRIVE.match(text):
        raise refusal(raw, "has an absolute path", hint="pack with paths relative to the function's directory")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refusal(raw, "has '..' in its path", hint="pack with paths relative to the function's directory")
    if any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        raise refusal(raw, f"has a name longer than {NAME_BYTES_MAX} bytes", hint="shorten it")
    if len(raw) > PATH_BYTES_MAX:
        raise refusal(raw, f"has a path longer than {PATH_BYTES_MAX} bytes", hint="shorten it")
    if len(parts) > DEPTH_MAX:
        raise refusal(raw, f"is more than {DEPTH_MAX} directories deep")
    return "/".join(parts)


class ArchiveTree:
    """Writes one archive's entries below a new directory. A context manager: holds the directory's descriptor."""

    def __init__(self, root: Path, bounds: Bounds, tick: Callable[[int], None]) -> None:
        """root is made and must not exist. tick(bytes written) is called for each chunk."""
        self._bounds = bounds
        self._tick = tick
        self._kinds: dict[str, str] = {}
        self._files = 0
        self._bytes = 0
        try:
            root.mkdir(mode=trees.DIRECTORY_MODE)
            self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise trees.writing_failed(error, "make the code directory") from error

    def __enter__(self) -> "ArchiveTree":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._root)

    @property
    def files(self) -> int:
        """Files written so far."""
        return self._files

    def add_directory(self, raw: bytes) -> None:
        """Make a directory and its parents; one that is there already is fine. Raises BuildError."""
        path = checked_path(raw)
        if path:
            self._make_directories(raw, path.split("/"))

    def add_file(self, raw: bytes, chunks: Iterable[bytes], *, size: int, executable: bool) -> None:
        """Write a file from chunks, each of bounded size. Raises BuildError, and what `chunks` raises.

        size: as the header claims it; only good to refuse early, the chunks are counted all the same.
        """
        path = checked_path(raw)
        if self._bytes + size > self._bounds.bytes_max:
            raise self._bounds.too_large(shown(raw))
        if not path or raw.endswith((b"/", b"/.")):
            raise refusal(raw, "is a file with the name of a directory")
        *parents, _ = path.split("/")
        self._make_directories(raw, parents)
        if path in self._kinds:
            kind = self._kinds[path]
            rule = "is there twice" if kind == "file" else "is a file and also a directory"
            raise refusal(raw, rule)
        self._enter(path, "file")
        self._write(raw, path, chunks, trees.EXECUTABLE_MODE if executable else trees.FILE_MODE)
        self._files += 1

    def _write(self, raw: bytes, path: str, chunks: Iterable[bytes], mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, mode, dir_fd=self._root)
        except OSError as error:
            raise trees.writing_failed(error, f"write {shown(raw)}") from error
        try:
            for chunk in chunks:
                self._bytes += len(chunk)
                if self._bytes > self._bounds.bytes_max:
                    raise self._bounds.too_large(shown(raw))
                _write_all(descriptor, chunk, raw)
                self._tick(self._bytes)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def _make_directories(self, raw: bytes, parts: list[str]) -> None:
        path = ""
        for part in parts:
            path = f"{path}/{part}" if path else part
            kind = self._kinds.get(path)
            if kind == "file":
                raise refusal(raw, f"is below {shown(path.encode())}, which is a file")
            if kind is None:
                self._enter(path, "directory")
                try:
                    os.mkdir(path, trees.DIRECTORY_MODE, dir_fd=self._root)
                except OSError as error:
                    raise trees.writing_failed(error, f"make {shown(path.encode())}") from error

    def _enter(self, path: str, kind: str) -> None:
        if len(self._kinds) >= self._bounds.entries_max:
            raise self._bounds.too_many()
        self._kinds[path] = kind


def _write_all(descriptor: int, chunk: bytes, raw: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as error:
        raise trees.writing_failed(error, f"write {shown(raw)}") from error
