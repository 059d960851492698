"""One wheel becomes one tree: checked as hostile, installed with the library `installer`, described. Builder.

A wheel is an archive of somebody else's: its paths, sizes, links, RECORD and names are checked before a byte is
written, and each file's content against RECORD while it is. Nothing of it is run.
"""

import base64
import configparser
import csv
import hashlib
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import BinaryIO, cast

import installer
from installer.destinations import SchemeDictionaryDestination
from installer.exceptions import InstallerError
from installer.records import InvalidRecordEntry, parse_record_file
from installer.sources import WheelFile
from installer.utils import parse_entrypoints
from packaging.version import InvalidVersion, Version

from rootfs_builder import trees
from rootfs_builder.requirements import normalised
from runtime.errors import BuildError

ENTRIES_MAX = 100_000
PATH_CHARS_MAX = 1000
DESCRIPTION_BYTES_MAX = 16 << 20  # of each file of .dist-info that is read
SHOWN_CHARS_MAX = 120
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")  # PEP 427: not in RECORD
_READ_BYTES = 1 << 18
# What zipfile, installer and the parsers below them raise for a bad wheel.
_UNREADABLE = (
    zipfile.BadZipFile,
    InstallerError,
    InvalidRecordEntry,
    NotImplementedError,
    UnicodeDecodeError,
    EOFError,
)
_MALFORMED = (ValueError, KeyError, RuntimeError, AssertionError, zlib.error, csv.Error, configparser.Error)


class Refused(BuildError):
    """A wheel that is not what it says, or may not be what it is."""

    def __init__(self, wheel: str, rule: str) -> None:
        super().__init__("install", f"wheel {wheel} {rule}", hint="choose another version; this file is broken or bad")


def install(path: Path, root: Path, *, python: str, bytes_max: int) -> int:
    """Install a wheel file below root, which must be there and empty; the bytes that it unpacked to.

    python: the interpreter that its scripts name. Raises Refused, or BuildError for a full disk or limit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = _check_members(path.name, archive, bytes_max)
            source = _Checked(path.name, archive)
            places = dict.fromkeys(("purelib", "platlib", "data"), str(root))
            places |= {"scripts": f"{root}/bin", "headers": f"{root}/include/{source.distribution}"}
            destination = SchemeDictionaryDestination(places, python, "posix")
            source.check_names()
            with warnings.catch_warnings(action="ignore"):  # it leaves out byte code of the wheel's, and says so
                installer.install(source, destination, {"INSTALLER": b"pagurus\n"})
            _check_bookkeeping(path.name, root)
            return size
    except _UNREADABLE as error:
        raise Refused(path.name, f"cannot be read: {_shown(str(error))}") from error
    except _MALFORMED as error:
        raise Refused(path.name, f"is malformed: {_shown(str(error))}") from error
    except FileExistsError as error:
        raise Refused(path.name, "has two files of one name") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Refused(path.name, "has a file where it needs a folder") from error
    except OSError as error:
        raise trees.writing_failed(error, f"install {path.name}") from error


def _check_members(wheel: str, archive: zipfile.ZipFile, bytes_max: int) -> int:
    """Refuse what no honest wheel holds; the sum of the sizes, which unpacking cannot exceed."""
    members = archive.infolist()
    if len(members) > ENTRIES_MAX:
        raise Refused(wheel, f"has {len(members)} files, the limit is {ENTRIES_MAX}")
    total, seen = 0, set[str]()
    for member in members:
        name = member.filename
        parts = name.rstrip("/").split("/")
        is_bad = name.startswith("/") or "\\" in name or "\0" in name or len(name) > PATH_CHARS_MAX
        if is_bad or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
            raise Refused(wheel, f"has the path {_shown(name)!r}")
        if name in seen:
            raise Refused(wheel, f"has {_shown(name)!r} twice")
        seen.add(name)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused(wheel, f"has {_shown(name)!r}, which is a link or no file")
        if member.flag_bits & 0x1:
            raise Refused(wheel, f"has {_shown(name)!r}, which is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(wheel, f"has {_shown(name)!r}, which is packed in an unusual way")  # may need GiBs of memory
        total += member.file_size
        if total > bytes_max:
            raise BuildError(
                "limit",
                f"{wheel} unpacks to more than {bytes_max >> 20} MiB",
                hint="raise environment_bytes, or do without the package",
            )
    return total


def _check_bookkeeping(wheel: str, root: Path) -> None:
    """Refuse a wheel that has brought the RECORD of another distribution, and so could claim its modules."""
    if len([entry for entry in root.iterdir() if entry.name.endswith(".dist-info")]) > 1:
        raise Refused(wheel, "has more than one .dist-info")


class _Checked(WheelFile):
    """installer's wheel, whose contents are compared with RECORD while they are read."""

    def __init__(self, wheel: str, archive: zipfile.ZipFile) -> None:
        self._wheel = wheel
        self._archive = archive
        super().__init__(archive)

    def read_dist_info(self, filename: str) -> str:
        """The text of METADATA, RECORD and the like."""
        if self._archive.getinfo(f"{self.dist_info_dir}/{filename}").file_size > DESCRIPTION_BYTES_MAX:
            raise Refused(self._wheel, f"has more {filename} than one could read")
        return super().read_dist_info(filename)

    def check_names(self) -> None:
        """The file's name and its METADATA must be of one distribution and version."""
        headers = HeaderParser().parsestr(self.read_dist_info("METADATA"))
        name, version = str(headers.get("Name", "")).strip(), str(headers.get("Version", "")).strip()
        if normalised(name) != normalised(self.distribution):
            raise Refused(self._wheel, f"says that it is {_shown(name)!r}")
        if not is_same_version(version, self.version):
            raise Refused(self._wheel, f"says that it is of version {_shown(version)!r}")
        for script in _script_names(self):
            if "/" in script or script in ("", ".", ".."):
                raise Refused(self._wheel, f"has a script named {_shown(script)!r}")

    def get_contents(self) -> Iterator[tuple[tuple[str, str, str], BinaryIO, bool]]:
        """What `installer` asks for. Raises Refused for a file that is not as RECORD has it."""
        records = {row[0]: row for row in parse_record_file(self.read_dist_info("RECORD").splitlines())}
        record_path = f"{self.dist_info_dir}/RECORD"
        signatures = {f"{self.dist_info_dir}/{name}" for name in _SIGNATURES}
        for member in self._archive.infolist():
            if member.is_dir() or member.filename in signatures:
                continue
            row = records.pop(member.filename, None)
            if row is None:
                raise Refused(self._wheel, f"has {_shown(member.filename)!r}, which its RECORD does not list")
            mode = member.external_attr >> 16
            is_executable = bool(stat.S_ISREG(mode) and mode & 0o111)
            with self._archive.open(member) as stream:
                if member.filename == record_path:
                    yield row, cast(BinaryIO, stream), is_executable
                    continue
                checked = _Hashing(cast(BinaryIO, stream))
                yield row, cast(BinaryIO, checked), is_executable
                self._compare(row, checked)
        missing = next((path for path in records if path not in signatures), None)
        if missing is not None:
            raise Refused(self._wheel, f"lacks {_shown(missing)!r}, which its RECORD lists")

    def _compare(self, row: tuple[str, str, str], checked: "_Hashing") -> None:
        path, digest, size = row
        algorithm, _, expected = digest.partition("=")
        checked.drain()
        if algorithm != "sha256":  # PEP 376 and PEP 427: sha256 or better; nobody uses a better one
            raise Refused(self._wheel, f"gives no SHA-256 of {_shown(path)!r} in its RECORD")
        if expected.rstrip("=") != checked.digest() or (size and size != str(checked.size)):
            raise Refused(self._wheel, f"has {_shown(path)!r}, which is not as its RECORD says")


class _Hashing:
    """A stream that knows the digest of what was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    def seek(self, offset: int) -> int:
        """Begin again: how `installer` looks at the first line of a script."""
        assert offset == 0
        self._hash, self.size = hashlib.sha256(), 0
        return self._stream.seek(0)

    def readline(self) -> bytes:
        data = self._stream.readline()
        self._hash.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Read what nobody has read."""
        while self.read(_READ_BYTES):
            pass

    def digest(self) -> str:
        return base64.urlsafe_b64encode(self._hash.digest()).decode().rstrip("=")


def is_same_version(one: str, other: str) -> bool:
    """Whether two spellings are one version (PEP 440)."""
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def _script_names(source: WheelFile) -> Iterator[str]:
    if "entry_points.txt" in source.dist_info_filenames:
        for name, _, _, _ in parse_entrypoints(source.read_dist_info("entry_points.txt")):
            yield name


def _shown(text: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."
