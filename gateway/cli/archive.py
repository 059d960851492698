"""Packs what `pagurus deploy` is given into one archive: the same files give the same bytes. Runs in `pagurus`."""

import gzip
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from runtime.errors import BuildError

SKIPPED_NAMES = frozenset(
    {".git", ".hg", ".svn", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store"}
)
SKIPPED_SUFFIXES = (".pyc", ".pyo")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
COMPRESS_LEVEL = 6


class Packed(NamedTuple):
    """Name for the upload, bytes, and how many files are in it (None: an archive taken as it is)."""

    filename: str
    data: bytes
    files: int | None


def pack(path: Path) -> Packed:
    """A folder, a .py file (it becomes main.py) or an archive. Raises BuildError of kind `archive`."""
    try:
        if path.is_dir():
            return _pack_folder(path)
        if path.name.endswith(ARCHIVE_SUFFIXES):
            return _take_archive(path)
        if path.suffix == ".py":
            buffer = BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                _add(tar, path, "main.py")
            return Packed("code.tar.gz", _compressed(buffer), 1)
    except OSError as error:
        raise BuildError("archive", f"cannot read {path}: {error.strerror or error}") from error
    if not path.exists():
        raise BuildError("archive", f"{path} does not exist", hint="name a folder, a .py file or an archive")
    raise BuildError(
        "archive", f"{path} is no folder, .py file or archive", hint=f"known: {' '.join(ARCHIVE_SUFFIXES)}"
    )


def _take_archive(path: Path) -> Packed:
    if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        raise BuildError("archive", f"{path} is named like an archive but is none")
    return Packed(path.name, path.read_bytes(), None)


def _pack_folder(folder: Path) -> Packed:
    buffer = BytesIO()
    count = 0
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, name in _walk(folder):
            _add(tar, path, name)
            count += not path.is_dir() or path.is_symlink()
    if not count:
        raise BuildError("archive", f"{folder} has no files", hint="it should hold main.py")
    return Packed("code.tar.gz", _compressed(buffer), count)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files, links and folders below `folder` in an order that does not depend on the file system."""
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_NAMES)
        for name in sorted([*folders, *files]):
            if name in SKIPPED_NAMES or name.endswith(SKIPPED_SUFFIXES):
                continue
            path = Path(root, name)
            yield path, path.relative_to(folder).as_posix()


def _compressed(tar: BytesIO) -> bytes:
    # mtime 0: the header of gzip would otherwise carry the time of the deploy.
    return gzip.compress(tar.getvalue(), COMPRESS_LEVEL, mtime=0)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    status = path.lstat()
    entry = tarfile.TarInfo(name)
    entry.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    if stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        tar.addfile(entry)
    elif stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
        with path.open("rb") as source:
            tar.addfile(entry, source)
    else:
        raise BuildError("archive", f"{path} is no file, folder or link", hint="take it out of the folder")
