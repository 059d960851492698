"""Looks at what is installed and set up on this machine: privileges, users, programs, folders, limits. A leaf.

A probe returns what it found, in words, or raises; the hint of a RequirementError is a better way to mend it
than the check's own.
"""

import errno
import grp
import http.client
import importlib.util
import os
import pwd
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime import disks
from runtime.config import Settings, listen_address
from runtime.errors import RequirementError
from runtime.kernel_probes import mount_of, mounts_now, v2_controllers
from runtime.model import MIB, RUNTIME_NAME_PATTERN

# linux/capability.h
CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_admin": 12,
    "sys_chroot": 18,
    "sys_admin": 21,
    "mknod": 27,
    "setfcap": 31,
}
UIDS_PER_ZYGOTE = 65536
UID_BASES = range(0x70000000, 0x7F000000, 0x01000000)  # tried for a hint: above what distributions hand out
DESCRIPTORS_PER_SANDBOX = 8
DESCRIPTORS_PER_ZYGOTE = 64
STATE_BYTES_MIN = 2 << 30
MEMORY_BYTES_MIN = 1 << 30
NAMESPACE_KINDS = ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup")
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")


def root() -> str:
    """Root with the capabilities that pagurusd uses."""
    if os.geteuid() != 0:
        raise RequirementError(f"uid {os.geteuid()}")
    missing = missing_capabilities(Path("/proc/self/status").read_text())
    if missing:
        raise RequirementError(f"root without {' '.join(missing)}", hint="run outside a container, or add them to it")
    return "root"


def missing_capabilities(status: str) -> list[str]:
    """Those of CAPABILITIES that a /proc/PID/status does not have effective."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]


def user(name: str) -> str:
    """A system user that is not root."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise RequirementError(f"no user {name}") from None
    if entry.pw_uid == 0:
        raise RequirementError(f"user {name} is root")
    return f"uid {entry.pw_uid}"


def program(name: str) -> str:
    """A program beside our interpreter or in the path, sbin included."""
    found = find_program(name)
    if found is None:
        raise RequirementError("not found")
    return found


def find_program(name: str) -> str | None:
    """Its path, or None."""
    folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", os.defpath).split(os.pathsep), *SYSTEM_FOLDERS]
    return shutil.which(name, path=os.pathsep.join(folders))


def module(name: str) -> str:
    """A Python module that can be found; it is not imported."""
    if importlib.util.find_spec(name) is None:
        raise RequirementError("not installed")
    return "installed"


def extension() -> str:
    """The C extension, imported: an extension of another interpreter is found but not loadable."""
    loaded = importlib.import_module("runtime.fork._spawn")
    return os.path.basename(str(loaded.__file__))


def init_program() -> str:
    """The static init, an executable beside runtime/sandbox."""
    path = Path(__file__).with_name("sandbox") / "init"
    if not os.access(path, os.X_OK):
        raise RequirementError(f"no program {path}")
    return str(path)


def base_rootfs(settings: Settings) -> str:
    """At least one base rootfs."""
    names = base_names(settings)
    if not names:
        raise RequirementError(f"none in {settings.state_dir}/rootfs")
    return " ".join(names)


def base_names(settings: Settings) -> list[str]:
    """The runtimes whose base rootfs is there."""
    found = Path(settings.state_dir, "rootfs").glob("python3.*")  # links beside the folders python3.11-DIGEST
    return sorted(path.name for path in found if RUNTIME_NAME_PATTERN.fullmatch(path.name) and path.is_dir())


def folder(path: str) -> str:
    """A folder that we can write and that programs can run from; or the nearest parent where it can be made."""
    existing = existing_parent(path)
    mount = mount_of(os.path.realpath(existing), mounts_now())
    if not os.access(existing, os.W_OK):
        raise RequirementError(f"{existing} cannot be written ({mount.fstype})")
    # The gateway, builders and zygotes are no root of this machine: they pass through as others.
    closed = [str(p) for p in (Path(path), *Path(path).parents) if p.is_dir() and not p.stat().st_mode & 0o001]
    if closed:
        raise RequirementError(f"{closed[-1]} is closed to other users", hint=f"chmod o+x {closed[-1]}")
    bad = sorted(mount.options & {"noexec", "nosymfollow"})
    if bad:
        raise RequirementError(f"{mount.point} is mounted {' '.join(bad)}", hint="name a folder of another mount")
    return f"{mount.fstype}" if existing == path else f"{mount.fstype}, not made yet"


def folder_writable(path: str) -> str:
    """A folder that we can write, or the nearest parent where it can be made."""
    existing = existing_parent(path)
    if not os.access(existing, os.W_OK):
        raise RequirementError(f"{existing} cannot be written")
    return path if existing == path else f"{path}, not made yet"


def existing_parent(path: str) -> str:
    """`path`, or the nearest of its parents that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def free_space(path: str) -> str:
    """Room for layers."""
    free = shutil.disk_usage(existing_parent(path)).free
    if free < STATE_BYTES_MIN:
        raise RequirementError(f"{free / 2**30:.1f} GiB free")
    return f"{free / 2**30:.1f} GiB free"


def memory() -> str:
    """Memory that can be given to sandboxes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            if available < MEMORY_BYTES_MIN:
                raise RequirementError(f"{available / 2**30:.1f} GiB available")
            return f"{available / 2**30:.1f} GiB available"
    raise RequirementError("/proc/meminfo has no MemAvailable")


def descriptors(settings: Settings) -> str:
    """Open files for the wanted number of sandboxes; root may raise its own limit up to fs.nr_open."""
    wanted = DESCRIPTORS_PER_SANDBOX * settings.sandboxes_max + DESCRIPTORS_PER_ZYGOTE * settings.zygotes_max
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = int(Path("/proc/sys/fs/nr_open").read_text()) if hard == resource.RLIM_INFINITY else hard
    if limit < wanted:
        raise RequirementError(f"{limit}, {wanted} wanted for sandboxes_max {settings.sandboxes_max}")
    return str(limit)


def namespace_limits(settings: Settings) -> str:
    """How many namespaces of each kind may exist; user.max_*_namespaces."""
    wanted = settings.sandboxes_max + settings.zygotes_max
    low = {}
    for kind in NAMESPACE_KINDS:
        limit = int(Path(f"/proc/sys/user/max_{kind}_namespaces").read_text())
        if limit < (settings.zygotes_max if kind == "user" else wanted):
            low[f"user.max_{kind}_namespaces"] = limit
    if low:
        raise RequirementError(", ".join(f"{name} = {limit}" for name, limit in low.items()))
    return f"at least {wanted} each"


def uid_range(settings: Settings) -> str:
    """The uids and gids of the zygotes, which nobody else may have or hand out."""
    size = settings.zygotes_max * UIDS_PER_ZYGOTE
    first, after = settings.uid_base, settings.uid_base + size
    taken = list(taken_ids())
    for one in taken:
        if one.first < after and first < one.after:
            free = next(
                (base for base in UID_BASES if not any(t.first < base + size and base < t.after for t in taken)), 0
            )
            hint = f"set uid_base = {free} (PAGURUS_UID_BASE)" if free else ""
            raise RequirementError(f"uid_base {first} takes {first}..{after - 1}, but {one.words}", hint=hint)
    return f"{first}..{after - 1}"


@dataclass(frozen=True, slots=True)
class TakenIds:
    """Uids or gids first <= id < after that somebody has, and who, in words."""

    first: int
    after: int
    words: str


def taken_ids(etc: Path = Path("/etc")) -> Iterator[TakenIds]:
    """What the files of users, groups and subordinate ids give, then what other sources of users and groups have."""
    for name in ("subuid", "subgid"):
        for where, (_, first, count, *_) in _entries(etc / name, 3):
            if first.isdigit() and count.isdigit():
                yield TakenIds(int(first), int(first) + int(count), f"{where} gives {count} from {first} on")
    for name, columns in (("passwd", 4), ("group", 3)):
        for where, fields in _entries(etc / name, columns):
            for number in fields[2:columns]:
                if number.isdigit():
                    yield TakenIds(int(number), int(number) + 1, f"{where} has {number}")
    for user in pwd.getpwall():
        yield TakenIds(user.pw_uid, user.pw_uid + 1, f"user {user.pw_name} has {user.pw_uid}")
    for group in grp.getgrall():
        yield TakenIds(group.gr_gid, group.gr_gid + 1, f"group {group.gr_name} has {group.gr_gid}")


def _entries(file: Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    """Lines of a file of colon-separated fields, with the place: (file and line in words, fields without spaces)."""
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        fields = [field.strip() for field in line.split(":")]
        if len(fields) >= columns:
            yield f"{file} line {number} ({fields[0]})", fields


def disk_limit(settings: Settings) -> str:
    """The disk of which each sandbox has a bounded part, and the part."""
    if not settings.disk_bytes_per_s:
        return "off: disk_bytes_per_s is 0"
    if "io" not in v2_controllers(mounts_now()):
        raise RequirementError("no controller io, of cgroup version 2")
    number = disks.below(Path(existing_parent(settings.state_dir)))
    return f"{settings.disk_bytes_per_s // MIB} MiB/s of disk {number} for each sandbox"


def listen(settings: Settings) -> str:
    """The address of the gateway: free, or held by a gateway of ours."""
    host, port = listen_address(settings)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return f"{settings.listen} is free"
    if not _is_ours(host, port):
        raise RequirementError(f"{settings.listen} is in use by another program")
    return f"{settings.listen} is held by a running pagurusd"


def _is_ours(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status == 200 and b"agurus" in answer.read(1 << 20)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def forwarding() -> str:
    """Whether the host forwards packets; if not, pagurusd lets single interfaces do so (docs/network.md)."""
    path = "/proc/sys/net/ipv4/ip_forward"
    with open(path) as file:
        forwards = file.read().strip() == "1"
    if not os.access(path, os.W_OK):
        raise RequirementError(f"{path} cannot be written")
    return "on" if forwards else "off; on for the uplinks while functions with egress have been started"
