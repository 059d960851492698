"""Zip files member by member, so that each of their fields can lie. The same members give the same bytes."""

import functools
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

_DATE = 0x5421  # 2022-01-01
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_COUNT_MAX = 0xFFFF
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `size`, `crc`, `stored_size`: what the headers claim; None is the truth.

    stream: a raw deflate stream instead of content, whose true size and crc must then be given. recorded: whether
    a wheel's RECORD tells of it. local_path: another path in the header before the data than in the directory.
    """

    path: str
    content: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    size: int | None = None
    crc: int | None = None
    stored_size: int | None = None
    stream: bytes | None = None
    flags: int = 0
    method: int = zlib.DEFLATED
    recorded: bool = True
    local_path: str | None = None


def directory(path: str) -> Member:
    return Member(path.rstrip("/") + "/", mode=stat.S_IFDIR | 0o755, method=0, recorded=False)


def symlink(path: str, target: str) -> Member:
    """A symbolic link as zip knows it: a mode, and the target for content."""
    return Member(path, target.encode(), mode=stat.S_IFLNK | 0o777)


def device(path: str) -> Member:
    return Member(path, mode=stat.S_IFCHR | 0o666)


def zeros(path: str, size: int = 1 << 30, *, claimed: int | None = None) -> Member:
    """A bomb: `size` zeros (whole MiB) in a thousandth of the bytes. claimed: the size that the headers tell."""
    chunks = size // _CHUNK_BYTES
    stream = _deflated_zeros() * chunks + b"\x03\x00"  # an empty last block
    crc = _crc_of_zeros(chunks)
    return Member(path, size=size if claimed is None else claimed, crc=crc, stream=stream, recorded=False)


def zip_bytes(members: Iterable[Member], *, claimed_count: int | None = None) -> bytes:
    """The archive, members in the order given. claimed_count: what the end tells of their number (zip64 if large)."""
    body, central, count = bytearray(), bytearray(), 0
    for member in members:
        count += 1
        offset = len(body)
        data = _stored(member)
        body += _local(member, data) + data
        central += _in_directory(member, data, offset)
    claimed = count if claimed_count is None else claimed_count
    return bytes(body + central + _end(claimed, len(central), len(body)))


def _stored(member: Member) -> bytes:
    if member.stream is not None:
        return member.stream
    if member.method == 0:
        return member.content
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(member.content) + packer.flush()


def _fields(member: Member, data: bytes) -> tuple[int, int, int, int, int, int, int]:
    """The fields that both headers share."""
    crc = zlib.crc32(member.content) if member.crc is None else member.crc
    size = len(member.content) if member.size is None else member.size
    stored = len(data) if member.stored_size is None else member.stored_size
    method = 8 if member.method else 0
    return member.flags | (0 if member.path.isascii() else 0x800), method, 0, _DATE, crc, stored, size


def _local(member: Member, data: bytes) -> bytes:
    name = (member.path if member.local_path is None else member.local_path).encode()
    return _LOCAL.pack(b"PK\x03\x04", 20, *_fields(member, data), len(name), 0) + name


def _in_directory(member: Member, data: bytes, offset: int) -> bytes:
    name, unix = member.path.encode(), (3 << 8) | 20
    header = _CENTRAL.pack(
        b"PK\x01\x02", unix, 20, *_fields(member, data), len(name), 0, 0, 0, 0, member.mode << 16, offset
    )
    return header + name


def _end(count: int, size: int, offset: int) -> bytes:
    if count <= _COUNT_MAX:
        return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)
    end64 = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, size, offset)
    locator = _LOCATOR.pack(b"PK\x06\x07", 0, offset + size, 1)
    return end64 + locator + _END.pack(b"PK\x05\x06", 0, 0, _COUNT_MAX, _COUNT_MAX, size, offset, 0)


@functools.cache
def _deflated_zeros() -> bytes:
    """One MiB of zeros as blocks that end at a byte and refer to nothing before them, so that they can be repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(bytes(_CHUNK_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)


def _crc_of_zeros(chunks: int) -> int:
    """CRC of so many MiB of zeros without reading them: a step over zeros is affine, so steps can be doubled."""
    zeros_of_one = bytes(_CHUNK_BYTES)
    step = [zlib.crc32(zeros_of_one, 1 << bit) for bit in range(32)] + [zlib.crc32(zeros_of_one, 0)]
    crc = 0
    while chunks:
        if chunks & 1:
            crc = _stepped(step, crc)
        step = [_stepped(step, image) for image in step]
        chunks >>= 1
    return crc


def _stepped(step: list[int], crc: int) -> int:
    """`step` applied to a CRC; it holds the images of the single bits, then that of 0."""
    result = origin = step[32]
    for bit in range(32):
        if crc >> bit & 1:
            result ^= step[bit] ^ origin
    return result
