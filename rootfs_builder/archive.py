"""Unpacks the archive of a function's code: finds the format by content, bounds what it inflates to. Builder."""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from rootfs_builder.archive_tar import BLOCK, is_tar, unpack_tar
from rootfs_builder.archive_tree import ArchiveTree, Bounds
from rootfs_builder.archive_zip import unpack_zip
from runtime.errors import BuildError

INPUT_BYTES = 1 << 16
STREAMS_MAX = 4096  # compressed streams one after the other, as parallel compressors make them
XZ_MEMORY_BYTES_MAX = 128 << 20  # xz -9 needs 65 MiB
_BROKEN = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


def unpack(descriptor: int, root: Path, bounds: Bounds, tick: Callable[[int], None]) -> int:
    """Unpack a zip or tar (plain, gzip, bzip2, xz) into the new directory root; return the number of files.

    descriptor: readable and seekable, stays open. tick(bytes written so far) is called often.
    Links of any kind are refused. On an error root may exist in part: the caller removes it.
    Raises BuildError of kind `archive`, `limit` or `internal`.
    """
    with os.fdopen(os.dup(descriptor), "rb") as file, ArchiveTree(root, bounds, tick) as tree:
        file.seek(0)
        start = file.read(BLOCK)
        file.seek(0)
        if not start:
            raise BuildError("archive", "the archive has no bytes", hint="upload a zip or tar archive")
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            unpack_zip(file, tree, bounds)
        else:
            _unpack_stream(file, start, tree, bounds)
        if not tree.files:
            raise BuildError("archive", "the archive has no files", hint="pack at least the handler's module")
        return tree.files


class _Decoder(Protocol):
    """What bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor in the shape of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _xz() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES_MAX)


_DECODERS: dict[bytes, Callable[[], _Decoder]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": _xz,
}


class _Inflated:
    """The content of a compressed file, a bounded chunk at a time; streams one after the other are joined."""

    def __init__(self, file: IO[bytes], make: Callable[[], _Decoder]) -> None:
        self._file = file
        self._make = make
        self._decoder = make()
        self._streams = 1

    def read(self, count: int) -> bytes:
        """1..count bytes, or none at the end. Raises EOFError when the file is cut, and what decoders raise."""
        is_last = False
        while True:
            if self._decoder.eof:
                data = self._next_stream()
                if not data:
                    return b""
            elif self._decoder.needs_input:
                data = self._file.read(INPUT_BYTES)
                is_last = not data  # zlib may still hold output, so one try more
            else:
                data = b""
            if chunk := self._decoder.decompress(data, count):
                return chunk
            if is_last and not self._decoder.eof:
                raise EOFError("the compressed data ends too early")

    def _next_stream(self) -> bytes:
        """The start of the next stream, for a new decoder; zeros and nothing else may follow the last one."""
        data = self._decoder.unused_data or self._file.read(INPUT_BYTES)
        while data and not data.strip(b"\0"):
            data = self._file.read(INPUT_BYTES)
        if data:
            self._streams += 1
            if self._streams > STREAMS_MAX:
                raise ValueError(f"more than {STREAMS_MAX} compressed streams")
            self._decoder = self._make()
        return data


def _unpack_stream(file: IO[bytes], start: bytes, tree: ArchiveTree, bounds: Bounds) -> None:
    for magic, make in _DECODERS.items():
        if start.startswith(magic):
            try:
                unpack_tar(_Inflated(file, make).read, tree, bounds)
            except _BROKEN as error:
                raise BuildError(
                    "archive", f"cannot decompress the archive: {error}", hint="pack and upload it again"
                ) from error
            return
    if not is_tar(start):
        raise BuildError(
            "archive", "the archive is neither zip nor tar", hint="upload .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz"
        )
    unpack_tar(file.read, tree, bounds)
