"""Reads hostile zip archives with zipfile, whose every failure becomes a BuildError. Builder.

Only stored and deflated members are taken: zlib's output can be bounded chunk by chunk, zipfile's bz2 and lzma
cannot.
"""

import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from rootfs_builder.archive_tree import ArchiveTree, Bounds, refusal
from runtime.errors import BuildError

CHUNK_BYTES = 1 << 18
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FLAG_ENCRYPTED = 0x1
_FLAG_UTF8 = 0x800
_UNIX = 3
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    OSError,
    LookupError,
    UserWarning,
)


def unpack_zip(file: IO[bytes], tree: ArchiveTree, bounds: Bounds) -> None:
    """Write all members into the tree. Raises BuildError."""
    try:
        # Python 3.13 only warns of members that overlap: to us that is no archive.
        with warnings.catch_warnings(action="error", category=UserWarning), _BoundedZip(file, bounds) as archive:
            for member in archive.infolist():
                _add(archive, member, tree)
    except _BROKEN as error:
        raise BuildError(
            "archive", f"cannot read the zip archive: {error or type(error).__name__}", hint="pack and upload it again"
        ) from error


class _BoundedList(list[zipfile.ZipInfo]):
    """A list that refuses to grow beyond the bounds: a directory of millions of members costs no memory."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self._bounds = bounds

    def append(self, member: zipfile.ZipInfo) -> None:
        if len(self) >= self._bounds.entries_max:
            raise self._bounds.too_many()
        super().append(member)


class _BoundedZip(zipfile.ZipFile):
    def __init__(self, file: IO[bytes], bounds: Bounds) -> None:
        self._members = _BoundedList(bounds)
        super().__init__(file)

    @property
    def filelist(self) -> list[zipfile.ZipInfo]:
        return self._members

    @filelist.setter
    def filelist(self, members: list[zipfile.ZipInfo]) -> None:
        assert not members  # zipfile sets an empty list, then appends


def _add(archive: zipfile.ZipFile, member: zipfile.ZipInfo, tree: ArchiveTree) -> None:
    raw = _raw_name(member)
    mode = member.external_attr >> 16 if member.create_system == _UNIX else 0
    is_directory = _checked_kind(raw, mode) or raw.endswith(b"/")
    if member.flag_bits & _FLAG_ENCRYPTED:
        raise refusal(raw, "is encrypted", hint="pack it without a password")
    if is_directory:
        if member.file_size:
            raise refusal(raw, "is a directory with content")
        tree.add_directory(raw)
        return
    if member.compress_type not in _METHODS:
        name = zipfile.compressor_names.get(member.compress_type, str(member.compress_type))  # type: ignore[attr-defined]
        raise refusal(raw, f"is compressed with {name}", hint="pack it with deflate")
    tree.add_file(raw, _chunks(archive, member), size=member.file_size, executable=bool(mode & 0o111))


def _raw_name(member: zipfile.ZipInfo) -> bytes:
    """The bytes of the name as the archive has them; zipfile cuts at NUL and decodes as cp437 without the flag."""
    return member.orig_filename.encode("utf-8" if member.flag_bits & _FLAG_UTF8 else "cp437")


def _checked_kind(raw: bytes, mode: int) -> bool:
    """Whether the mode says directory. Raises BuildError for all but files and directories."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        raise refusal(raw, "is a symbolic link", hint="pack what it points to (zip without --symlinks)")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refusal(raw, "is neither a file nor a directory")
    return kind == stat.S_IFDIR


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(member) as content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk
