"""What makes an extracted Debian tree a base rootfs: less of it, the files that maintainer scripts would have
made, byte code, harmless modes. Runs as root, in `base`."""

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

from rootfs_builder import compiling, trees
from rootfs_builder.children import Command, run
from runtime.errors import BuildError

ARCHIVES = Path("var/cache/apt/archives")
SBIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BLOCK_BYTES = 4096
COMPILE_WORKERS = 8
CHECKED_IMPORTS = "asyncio, ctypes, lzma, sqlite3, ssl, zoneinfo"
_REMOVED = (
    *(f"usr/share/{name}" for name in ("bug", "debconf", "doc", "doc-base", "gcc", "gdb", "info", "lintian")),
    *(f"usr/share/{name}" for name in ("locale", "man", "perl5", "pixmaps", "polkit-1")),
    *(f"etc/{name}" for name in ("apt", "cron.daily", "dpkg", "fstab", "logrotate.d", "update-motd.d")),
    *("var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "boot"),
)
_DIRECTORIES = ("dev", "opt/env", "proc", "run", "sys", "tmp", "var/cache", "var/log", "var/tmp")
_WORLD_WRITABLE = ("tmp", "var/tmp")  # with the sticky bit; sandboxes mount their own there
_TEXTS = {
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
    "protocols: files\nservices: files\n",
    "etc/resolv.conf": "",
    "etc/timezone": "Etc/UTC\n",
}
_COPIES = {"etc/passwd": "usr/share/base-passwd/passwd.master", "etc/group": "usr/share/base-passwd/group.master"}
_LINKS = {
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",  # where OpenSSL looks first
}
_ALTERNATIVES = {"usr/bin/cc": "gcc", "usr/bin/c++": "g++"}  # that update-alternatives would have made
_CERTIFICATES, _BUNDLE = "usr/share/ca-certificates", "etc/ssl/certs/ca-certificates.crt"


def packages(root: Path) -> list[dict[str, str]]:
    """Name, version and SHA-256 of each package that apt has downloaded into the tree, sorted."""
    found = []
    for path in sorted((root / ARCHIVES).glob("*.deb")):
        name, version, _ = path.name.split("_", 2)
        with open(path, "rb") as file:
            found.append(
                {"name": name, "version": unquote(version), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
            )
    return found


def trim(root: Path) -> None:
    """Remove what no sandbox needs, and everything in /dev."""
    for name in (*_REMOVED, "dev"):
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)


def configure(root: Path) -> None:
    """Write the files that the packages' maintainer scripts would have made. Raises OSError, BuildError."""
    for name, text in _TEXTS.items():
        _replace(root / name).write_text(text)
    for name, source in _COPIES.items():
        _replace(root / name).write_bytes((root / source).read_bytes())
    for name, target in _LINKS.items():
        _replace(root / name).symlink_to(target)
    for name, target in _ALTERNATIVES.items():
        if (root / name).with_name(target).exists():
            _replace(root / name).symlink_to(target)
    certificates = sorted((root / _CERTIFICATES).rglob("*.crt"))
    if not certificates:
        raise BuildError("base", "the package ca-certificates has no certificates")
    bundle = "".join(path.read_text().rstrip("\n") + "\n" for path in certificates)
    _replace(root / _BUNDLE).write_text(bundle)
    ended = run(Command(("ldconfig", "-r", str(root)), {"PATH": SBIN_PATH}))
    if ended.status != 0:
        raise BuildError("base", f"cannot make ld.so.cache: {ended.output.strip()}")
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)


def compile_stdlib(root: Path, version: str, tick: Callable[[int, int], None]) -> int:
    """Compile the standard library with the tree's own interpreter. Returns the number of modules.

    Always by the same number of workers: which strings of a .pyc are shared depends on what its process has
    compiled before (seen with functools), so the parts must not depend on the number of cores.
    """
    library = f"/usr/lib/python{version}/"
    return compiling.compile_tree(
        interpreter(root, version),
        Path(f"{root}{library}"),
        inside=library,
        seen=library,
        workers=COMPILE_WORKERS,
        tick=tick,
    )


def interpreter(root: Path, version: str) -> compiling.Interpreter:
    """The tree's own interpreter, by chroot(8)."""
    argv = ("chroot", str(root), f"/usr/bin/python{version}")
    return compiling.Interpreter(argv, version, {"PATH": SBIN_PATH})


def checked_version(root: Path, version: str) -> str:
    """The interpreter's full version, told by itself after it has imported CHECKED_IMPORTS. Raises BuildError."""
    code = f"import platform, {CHECKED_IMPORTS}; print(platform.python_version())"
    started = interpreter(root, version)
    ended = run(Command((*started.argv, "-I", "-B", "-c", code), started.environ))
    if ended.status != 0:
        raise BuildError("base", f"the interpreter of the new rootfs does not work: {ended.output.strip()}")
    return ended.output.strip()


def sanitise(root: Path) -> None:
    """Make everything root's own, readable by all and writable by nobody else; no setuid, no capabilities.

    Devices, pipes and sockets are removed.
    """
    for entry in trees.walk(root):
        if not (entry.is_file or entry.is_directory or entry.is_link):
            os.unlink(entry.full)
            continue
        if (entry.status.st_uid, entry.status.st_gid) != (0, 0):
            os.chown(entry.full, 0, 0, follow_symlinks=False)
        for name in os.listxattr(entry.full, follow_symlinks=False):
            os.removexattr(entry.full, name, follow_symlinks=False)
        trees.normalise(entry)
    os.chmod(root, trees.DIRECTORY_MODE)
    for place in _WORLD_WRITABLE:
        os.chmod(root / place, 0o1777)  # noqa: S103  (what every /tmp has)


def digest(root: Path) -> str:
    """Digest over path, mode, link target and content of everything in the tree but etc/ld.so.cache.

    Byte code counts, as sandboxes run it and never look at the source: compile_stdlib makes it the same on every
    machine. ld.so.cache does not: the tree has no ldconfig, so the host's makes it, in the form of the host's release.
    Owners are root's everywhere (sanitise), times are whatever they are.
    """
    return trees.digest(root, skip=lambda path: path == b"etc/ld.so.cache", label=_kind_and_mode)


def disk_bytes(root: Path) -> int:
    """What the tree takes on a file system with blocks of 4 KiB, whatever this one has; directories not counted."""
    files = {entry.status.st_ino: entry.status.st_size for entry in trees.walk(root) if entry.is_file}
    return sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in files.values())


def mounts_below(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> Iterator[str]:
    """Mount points at or below path: such a tree must not be removed."""
    prefix = str(path.resolve())
    for line in mountinfo.read_text().splitlines():
        place = line.split(" ")[4].replace("\\040", " ")
        if place == prefix or place.startswith(prefix + "/"):
            yield place


def _kind_and_mode(entry: trees.Entry) -> bytes:
    return trees.kind(entry) if entry.is_link else b"%s%o " % (trees.kind(entry), stat.S_IMODE(entry.status.st_mode))


def _replace(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
