"""What the gateway sees: a root of its own with the interpreter, our code and its store. Runs in pagurusd's child.

Everything but the store is read-only, and none of the other state of the node is there: no code of functions, no
layers, no settings file, no host's /etc, /home or /run. /proc shows its own process only. The network namespace is
the host's, since it listens there.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import runtime
from runtime import syscalls
from runtime.config import Settings
from runtime.sandbox import mounts, nsbuilder, seccomp
from runtime.sandbox.children import Steps
from runtime.syscalls import MountAttr

_ROOT_BYTES = 4 << 20  # mount points, links and a few files
_LINKED = ("bin", "lib", "lib32", "lib64", "sbin")  # of a merged /usr
_FILES = ("ld.so.cache", "localtime")  # of /etc
_READ_ONLY = MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV
_WRITABLE = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
_PASSED = ("LANG", "TZ")


class Room:
    """Made once, entered by each gateway between fork and exec."""

    def __init__(self, settings: Settings) -> None:
        state = Path(settings.state_dir)
        self._anchor = str(state / "anchor")
        self._store = (state / "store").resolve()
        self._shown = shown()
        self._filters = seccomp.box_programs()
        self._confine = _confine()

    def enter(self, steps: Steps) -> None:
        """Make the new root and move there. The caller is root and alone in its mount namespace."""
        os.umask(0o022)  # mount points are for another user
        steps("host name")
        socket.sethostname("gateway")
        steps("root")
        root = mounts.tmpfs(_ROOT_BYTES, mode=0o755)
        _fill(root)
        parts: list[tuple[str, int]] = []
        for path in self._shown:
            steps(f"show {path}")
            parts.append((_place(root, path), _clone(path, _READ_ONLY)))
        steps("store")
        parts.append((_place(root, self._store), _clone(self._store, _WRITABLE)))
        steps("proc and dev")
        for name, mount in (("proc", _own_proc()), ("dev", mounts.devices())):
            os.mkdir(name, 0o755, dir_fd=root)
            parts.append((name, mount))
        syscalls.mount_setattr(root, _READ_ONLY | MountAttr.NOEXEC)
        targets, given = [target for target, _ in parts], [mount for _, mount in parts]
        nsbuilder.attach_tree(self._anchor, ["", *targets], [root, *given], steps)
        for mount in (root, *given):
            os.close(mount)

    def load_filters(self) -> None:
        """What a build box is denied the gateway is too: namespaces, mounts, tracing, most families of sockets."""
        for program in self._filters:
            self._confine(program)


def _confine() -> Callable[[bytes], None]:
    from runtime.fork._spawn import confine  # where the sources are read only it is not built

    return confine


def shown() -> tuple[Path, ...]:
    """Folders that the interpreter and our code are read from, none of them inside another.

    All of /usr, since its libraries are; of a checkout that code is imported from directly only our packages.
    """
    ours = Path(runtime.__file__).resolve().parents[1]
    prefixes = [Path("/usr"), Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
    prefixes += [Path(sys.executable).parent, Path(sys.executable).resolve().parent]
    prefixes += [Path(f"/{name}") for name in _LINKED if _is_real(Path(f"/{name}"))]
    packages = [ours / name for name in ("runtime", "gateway") if (ours / name).is_dir()]
    return outermost([*prefixes, *packages])


def outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Without those that lie inside another one. The root itself would show everything: refused."""
    found: list[Path] = []
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        assert path != Path("/"), "the interpreter's prefix is the root directory"
        if not any(path.is_relative_to(one) for one in found):
            found.append(path)
    return tuple(found)


def environ(settings: Settings, source: Mapping[str, str]) -> dict[str, str]:
    """Variables of the gateway: language and time zone, and where its temporary files go, which is its store."""
    kept = {name: source[name] for name in _PASSED if name in source}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": f"{settings.state_dir}/store", **kept}


def _is_real(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _fill(root: int) -> None:
    """Links of a merged /usr, and copies of the few files of /etc that libraries look for."""
    for name in _LINKED:
        path = f"/{name}"
        if os.path.islink(path):
            os.symlink(os.readlink(path), name, dir_fd=root)
    os.mkdir("etc", 0o755, dir_fd=root)
    for name in _FILES:
        try:
            content = Path("/etc", name).read_bytes()
        except OSError:
            continue
        fd = os.open(f"etc/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root)
        with os.fdopen(fd, "wb") as file:
            file.write(content)


def _place(root: int, path: Path) -> str:
    """Make the mount point of an absolute path; its name in the new root."""
    made = ""
    for part in path.parts[1:]:
        made = f"{made}/{part}" if made else part
        try:
            os.mkdir(made, 0o755, dir_fd=root)
        except FileExistsError:
            continue
    return made


def _clone(path: Path, attributes: MountAttr) -> int:
    mount = syscalls.open_tree(str(path))
    syscalls.mount_setattr(mount, attributes)
    return mount


def _own_proc() -> int:
    """The processes of this pid namespace, and nothing else of /proc."""
    context = syscalls.fsopen("proc")
    try:
        syscalls.fsconfig_string(context, "subset", "pid")
        syscalls.fsconfig_create(context)
        return syscalls.fsmount(context, _WRITABLE | MountAttr.RDONLY)
    finally:
        os.close(context)
