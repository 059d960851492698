"""Attacks by what is uploaded and by packages of an index: tried at a deploy, which must refuse them.

Not shipped: the archives are made here.
"""

import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.wheels import packed

_MAIN = b"def main(param):\n    return 1\n"


@dataclass(frozen=True)
class Bundle:
    """One deploy. archive: what is uploaded. wheels: what the index serves. words: problem types that hold it."""

    name: str
    gain: str
    archive: Callable[[], bytes]
    words: tuple[str, ...]
    wheels: dict[str, bytes] = field(default_factory=dict)


BUNDLES: dict[str, Bundle] = {}


def _tar(*members: tuple[str, bytes, str, bytes]) -> bytes:
    """name, type, link target, content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind, link, content in (("main.py", tarfile.REGTYPE, "", _MAIN), *members):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content)
            info.devmajor, info.devminor, info.mode = 8, 0, 0o6777
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _link_in_a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", _MAIN)
        info = zipfile.ZipInfo("data")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/shadow")
    return buffer.getvalue()


def _with_package(code: str) -> tuple[Callable[[], bytes], dict[str, bytes]]:
    files = {"main.py": b"import evil\n" + _MAIN, "requirements.txt": b"evil\n"}
    return lambda: _zip(**files), packed("evil", "1.0", {"evil.py": code})


def _add(name: str, gain: str, archive: Callable[[], bytes], *words: str) -> None:
    BUNDLES[name] = Bundle(name, gain, archive, words)


def _add_package(name: str, gain: str, code: str, *words: str) -> None:
    archive, wheels = _with_package(code)
    BUNDLES[name] = Bundle(name, gain, archive, words, wheels)


_ARCHIVE = "build-archive"
_add("symlink in a zip", "a file of the builder's host", _link_in_a_zip, _ARCHIVE)
_add("symlink in a tar", "the same", lambda: _tar(("data", tarfile.SYMTYPE, "/etc/shadow", b"")), _ARCHIVE)
_add(
    "write through a symlink",
    "a file outside the bundle",
    lambda: _tar(("sub", tarfile.SYMTYPE, "/tmp", b""), ("sub/evil", tarfile.REGTYPE, "", b"x")),
    _ARCHIVE,
)
_add("hard link in a tar", "a file of the host", lambda: _tar(("data", tarfile.LNKTYPE, "/etc/passwd", b"")), _ARCHIVE)
_add("fifo in a tar", "a builder that waits for ever", lambda: _tar(("data", tarfile.FIFOTYPE, "", b"")), _ARCHIVE)
_add("device in a tar", "a disk", lambda: _tar(("data", tarfile.BLKTYPE, "", b"")), _ARCHIVE)
_add("path that climbs", "a file above", lambda: _tar(("../../evil", tarfile.REGTYPE, "", b"x")), _ARCHIVE)
_add("absolute path", "a file anywhere", lambda: _tar(("/tmp/evil", tarfile.REGTYPE, "", b"x")), _ARCHIVE)
_add_package(
    "fork bomb in a package's import",
    "the process table",
    "import os\nwhile True:\n    os.fork()\n",  # BlockingIOError, in the end; or they have taken all the memory
    "function-import-failed",
    "function-out-of-memory",
)
_add_package(
    "memory bomb in a package's import",
    "the host's memory",
    "kept = []\nwhile True:\n    kept.append(bytearray(8 << 20))\n",
    "function-out-of-memory",
)
_add_package(
    "a package that ends its process",
    "a zygote or pagurusd",
    "import os\nos._exit(0)\n",
    "function-exited",
)
_add_package(
    "output flood in a package's import",
    "the gateway's memory",
    "import os\nwhile True:\n    os.write(1, b'x' * 65536)\n",
    "start-failed",
)
_add_package(
    "forged check in a package's import",
    "a version that passes without its check",
    "import os\nos.write(4, b'Pg' + bytes(64))\nwhile True:\n    pass\n",
    "start-failed",
)
