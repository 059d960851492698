"""The leak check: what the kernel and the disk hold of ours before a test must be all that they hold after it.

Looks at processes (descendants, those in our cgroups, those with a uid of our ranges), mounts and named network
namespaces, cgroups of every hierarchy, descriptors of the calling process, and the store's folders of rubbish.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

CGROUP_PARENT = "pagurus-tests"  # of every node that a test starts
UID_BASE = 0x50000000  # no other node of this machine uses these uids
UIDS = 64 * 65536
RETRY_FOR_S = 3.0  # the kernel ends namespaces and cgroups after their last process
RETRY_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Holdings:
    """What there is. Each entry is a line that a person can read."""

    processes: frozenset[str]
    mounts: frozenset[str]
    network_names: frozenset[str]
    cgroups: frozenset[str]
    descriptors: frozenset[str]
    rubbish: frozenset[str]

    def more_than(self, before: "Holdings") -> list[str]:
        """What is here and was not there."""
        return [
            f"{field.name}: {entry}"
            for field in fields(self)
            for entry in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose things are looked for: a node with its own cgroups and uids.

    counts_descendants: whether the caller's are among them; not where it has several nodes as children.
    """

    cgroup_parent: str = CGROUP_PARENT
    uid_base: int = UID_BASE
    counts_descendants: bool = True


OURS = Owner()


def holdings(state_dir: Path | None = None, owner: Owner = OURS) -> Holdings:
    """All that the calling process can see of the owner's."""
    return Holdings(
        processes=frozenset(processes(owner)),
        mounts=frozenset(line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        network_names=frozenset(os.listdir("/run/netns") if os.path.isdir("/run/netns") else ()),
        cgroups=frozenset(str(path) for path in cgroups(owner)),
        descriptors=frozenset(descriptors()),
        rubbish=frozenset(rubbish(state_dir)) if state_dir else frozenset(),
    )


@contextlib.contextmanager
def no_leaks(state_dir: Path | None = None, owner: Owner = OURS) -> Iterator[None]:
    """Fails, with what stayed, when the block leaves something behind."""
    before = holdings(state_dir, owner)
    yield
    end_s = time.monotonic() + RETRY_FOR_S
    while stayed := holdings(state_dir, owner).more_than(before):
        if time.monotonic() > end_s:
            raise AssertionError("the test left behind:\n  " + "\n  ".join(stayed))
        time.sleep(RETRY_EVERY_S)


def processes(owner: Owner = OURS) -> Iterator[str]:
    """Descendants of the caller if they count, processes in cgroups or with uids of the owner."""
    in_cgroups = {pid for path in cgroups(owner) for pid in _words(path / "cgroup.procs")}
    parents: dict[int, int] = {}
    uids: dict[int, int] = {}  # without zombies that wait for init: those are its matter
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{name}/status").read_text().splitlines()
                fields_of = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
                parents[int(name)] = int(fields_of["PPid"][0])
                if (fields_of["State"][0], parents[int(name)]) != ("Z", 1):
                    uids[int(name)] = int(fields_of["Uid"][0])
    for pid, uid in uids.items():
        if (
            owner.uid_base <= uid < owner.uid_base + UIDS
            or str(pid) in in_cgroups
            or _descends(pid, os.getpid(), parents)
        ):
            yield f"{pid} {_command(pid)}"


def cgroups(owner: Owner = OURS) -> Iterator[Path]:
    """Directories below the owner's parent in every hierarchy that is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            yield from (Path(left.split()[4]) / owner.cgroup_parent).glob("**/")


def descriptors() -> Iterator[str]:
    """The caller's open descriptors, with what they are."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(f"/proc/{os.getpid()}/fd"):
                yield f"{name} {target}"


def rubbish(state_dir: Path) -> Iterator[str]:
    """What builds and deletions leave only while they run."""
    for folder in ("staging", "trash"):
        with contextlib.suppress(FileNotFoundError):
            yield from (str(path) for path in (state_dir / folder).iterdir())
    for folder in ("code", "environments", "skeleton"):
        with contextlib.suppress(FileNotFoundError):
            yield from (str(path) for path in (state_dir / folder).iterdir() if path.name.startswith("."))


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        pid = parents.get(pid, 0)
        if pid == ancestor:
            return True
    return False


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    except OSError:
        return "(ended)"
