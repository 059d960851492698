"""Reads hostile tar archives (ustar, GNU and pax names) from a stream, in constant memory. Builder.

tarfile is not used: it reads extended headers of any size into memory and follows what they say about sparse
files, links and character sets; of all that, names and sizes are enough here.
"""

from collections.abc import Callable, Iterator

from rootfs_builder.archive_tree import ArchiveTree, Bounds, refusal
from runtime.errors import BuildError

BLOCK = 512
CHUNK_BYTES = 1 << 18
EXTENSION_BYTES_MAX = 1 << 16  # of one pax header or GNU long name
HEADERS_PER_ENTRY = 2048  # bytes of headers and padding that the stream may have for each entry
_REFUSED = {
    b"1": ("is a hard link", "pack the file itself (tar --hard-dereference)"),
    b"2": ("is a symbolic link", "pack what it points to (tar --dereference)"),
    b"3": ("is a device", ""),
    b"4": ("is a device", ""),
    b"6": ("is a named pipe", ""),
    b"S": ("is a sparse file", "pack it without --sparse"),
}


def is_tar(block: bytes) -> bool:
    """Whether this first block is a header of a tar archive."""
    return len(block) == BLOCK and any(block) and _checksum_holds(block)


def unpack_tar(read: Callable[[int], bytes], tree: ArchiveTree, bounds: Bounds) -> None:
    """Write all members into the tree. read(n) gives 1..n bytes, or none at the end. Raises BuildError."""
    stream = _Stream(read, bounds)
    names = _Names()
    while True:
        block = stream.exactly(BLOCK)
        if not any(block):
            break
        if not _checksum_holds(block):
            raise _broken("a header's checksum is wrong")
        _member(_Header(block, names), stream, tree, names)
    stream.drain()


class _Names:
    """What extended headers say about the next member."""

    def __init__(self) -> None:
        self.path: bytes | None = None
        self.size: int | None = None

    def take(self, path: bytes, size: int) -> tuple[bytes, int]:
        """Path and size of the member whose own header says these; forgets the extensions."""
        taken = (path if self.path is None else self.path), (size if self.size is None else self.size)
        self.path = self.size = None
        return taken


class _Header:
    def __init__(self, block: bytes, names: _Names) -> None:
        self.type = block[156:157]
        self.mode = _number(block[100:108])
        name, size = _text(block[0:100]), _number(block[124:136])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = prefix + b"/" + name
        self.is_extension = self.type in (b"x", b"g", b"L", b"K")
        self.name, self.size = (name, size) if self.is_extension else names.take(name, size)


class _Stream:
    """Forward only; stops at the byte limit, which counts headers, padding and skipped content too."""

    def __init__(self, read: Callable[[int], bytes], bounds: Bounds) -> None:
        self._read = read
        self._bounds = bounds
        self._left = bounds.bytes_max + HEADERS_PER_ENTRY * (bounds.entries_max + 16)

    def some(self, count: int) -> bytes:
        chunk = self._read(count)
        self._left -= len(chunk)
        if self._left < 0:
            raise self._bounds.too_large()
        return chunk

    def exactly(self, count: int) -> bytes:
        return b"".join(self.chunks(count))

    def chunks(self, count: int) -> Iterator[bytes]:
        while count:
            chunk = self.some(min(count, CHUNK_BYTES))
            if not chunk:
                raise _broken("it ends too early")
            count -= len(chunk)
            yield chunk

    def padding(self, size: int) -> None:
        self.exactly(-size % BLOCK)

    def drain(self) -> None:
        """Read what follows the end mark: the decompressor's checks come last."""
        while self.some(CHUNK_BYTES):
            pass


def _member(header: _Header, stream: _Stream, tree: ArchiveTree, names: _Names) -> None:
    if header.is_extension:
        if header.size > EXTENSION_BYTES_MAX:
            raise _broken(f"an extended header has more than {EXTENSION_BYTES_MAX} bytes")
        payload = stream.exactly(header.size)
        stream.padding(header.size)
        _extend(header.type, payload, names)
    elif header.type in (b"0", b"\0", b"7") and not (header.type == b"\0" and header.name.endswith(b"/")):
        executable = bool(header.mode & 0o111)
        tree.add_file(header.name, stream.chunks(header.size), size=header.size, executable=executable)
        stream.padding(header.size)
    elif header.type in (b"5", b"\0"):
        if header.size:
            raise refusal(header.name, "is a directory with content")
        tree.add_directory(header.name)
    else:
        rule, hint = _REFUSED.get(header.type, (f"is of the unknown type {header.type!r}", ""))
        raise refusal(header.name, rule, hint=hint or "make the archive again without this entry")


def _extend(kind: bytes, payload: bytes, names: _Names) -> None:
    if kind == b"L":
        names.path = _text(payload)
    if kind not in (b"x", b"g"):
        return  # K: the target of a link, and links are refused
    for key, value in _pax_records(payload):
        if key.startswith(b"GNU.sparse."):
            raise _broken("it has a sparse file")
        if kind == b"g":
            if key in (b"path", b"size"):
                raise _broken(f"a global header sets {key.decode()} for all entries")
        elif key == b"path":
            names.path = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise _broken("an extended header has a bad size")
            names.size = int(value)


def _pax_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records 'length key=value newline' of pax(1), where length counts the whole record."""
    while payload.strip(b"\0"):
        digits, space, _ = payload[:8].partition(b" ")
        length = int(digits) if digits.isdigit() and space else 0
        record = payload[len(digits) + 1 : length]
        if not len(digits) + 1 < length <= len(payload) or not record.endswith(b"\n") or b"=" not in record:
            raise _broken("an extended header cannot be read")
        key, _, value = record[:-1].partition(b"=")
        yield key, value
        payload = payload[length:]


def _checksum_holds(block: bytes) -> bool:
    """Sum of all bytes with the sum's own field as spaces; old programs added signed bytes."""
    try:
        wanted = _number(block[148:156])
    except BuildError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    return wanted in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256 for large numbers; negative ones are refused."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise _broken("a header has a bad number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _broken(reason: str) -> BuildError:
    return BuildError("archive", f"cannot read the tar archive: {reason}", hint="pack and upload it again")
