"""The leak check: what the kernel and the disk hold of ours before a test must be all that they hold after it.

Looks at processes (descendants, those in our cgroups, those with a uid of our ranges), mounts, named network
namespaces, ports and tables of nftables, cgroups of every hierarchy, descriptors of the calling process, and the
store's folders of rubbish.
"""

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from tests.slowness import patience_s

FIRST_UID = 0x50000000  # no other node of this machine uses the uids from here on
UIDS = 64 * 65536  # of one node: zygotes_max ranges
RETRY_FOR_S = patience_s(5.0)  # the kernel ends namespaces and cgroups after their last process
RETRY_EVERY_S = 0.02
others: set[int] = set()  # pids of daemons that live on beside a test: they and their children are not its leaks
SLOTS = 96  # ranges of uids for nodes that live at once
_numbers = itertools.count(os.getpid())  # so that two runs at once begin at different slots
_taken: set[int] = set()  # slots of nodes that live: one may live as long as all tests together


@dataclass(frozen=True, slots=True)
class Scope:
    """What is one node's: a parent of cgroups, uids, a state directory."""

    cgroup_parent: str
    uid_base: int
    state_dir: Path

    @classmethod
    def new(cls, state_dir: Path) -> "Scope":
        """One that no other living node has; given back by `release`."""
        number = next(number for number in (n % SLOTS for n in _numbers) if number not in _taken)
        _taken.add(number)
        return cls(f"pagurus-test-{os.getpid()}-{number}", FIRST_UID + number * UIDS, state_dir)

    def release(self) -> None:
        """The node has ended: another one may get its slot."""
        _taken.discard((self.uid_base - FIRST_UID) // UIDS)

    @property
    def settings(self) -> dict[str, object]:
        """Settings of a node of this scope."""
        return {"cgroup_parent": self.cgroup_parent, "uid_base": self.uid_base, "state_dir": str(self.state_dir)}

    def cgroups(self) -> Iterator[Path]:
        """Directories below the parent in every hierarchy that is mounted, with the parent."""
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            if right.split()[0] in ("cgroup", "cgroup2"):
                for directory, _, _ in os.walk(Path(left.split()[4]) / self.cgroup_parent):
                    yield Path(directory)

    def processes(self) -> Iterator[str]:
        """Those in our cgroups, and those with a uid of ours."""
        in_cgroups = {int(pid) for path in self.cgroups() for pid in _words(path / "cgroup.procs")}
        for pid, status in _statuses():
            if pid in in_cgroups or self.uid_base <= status["Uid"] < self.uid_base + UIDS:
                yield f"{pid} {_command(pid)}"

    def rubbish(self) -> Iterator[str]:
        """What builds and deletions leave only while they run."""
        for folder in ("staging", "trash"):
            with contextlib.suppress(FileNotFoundError):
                yield from (str(path) for path in (self.state_dir / folder).iterdir())
        for folder in ("code", "environments", "skeleton"):
            with contextlib.suppress(FileNotFoundError):
                yield from (str(path) for path in (self.state_dir / folder).iterdir() if path.name.startswith("."))

    def remains(self) -> list[str]:
        """All that must not be there once the node has ended; empty when it has left nothing."""
        return [*self.processes(), *map(str, self.cgroups()), *self.rubbish()]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the test itself holds. Each entry is a line that a person can read."""

    descendants: frozenset[str]
    mounts: frozenset[str]
    network_names: frozenset[str]
    network_links: frozenset[str]
    network_rules: frozenset[str]
    descriptors: frozenset[str]

    @classmethod
    def now(cls) -> "Holdings":
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return cls(
            descendants=frozenset(f"{pid} {_command(pid)}" for pid in descendants(os.getpid())),
            mounts=frozenset(line.split(" ", 1)[1] for line in mounts),
            network_names=frozenset(os.listdir("/run/netns") if os.path.isdir("/run/netns") else ()),
            network_links=frozenset(name for _, name in socket.if_nameindex() if name.startswith("pg")),
            network_rules=frozenset(_tables()),
            descriptors=frozenset(descriptors()),
        )

    def more_than(self, before: "Holdings") -> list[str]:
        """What is here and was not there."""
        return [
            f"{field.name}: {entry}"
            for field in fields(self)
            for entry in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


@contextlib.contextmanager
def no_leaks(scope: Scope) -> Iterator[None]:
    """Fails, with what stayed, when the block leaves something behind. Daemons in `others` are left out."""
    before = Holdings.now()
    yield
    end_s = time.monotonic() + RETRY_FOR_S
    while stayed := [*Holdings.now().more_than(before), *scope.remains()]:
        if time.monotonic() > end_s:
            raise AssertionError("the test left behind:\n  " + "\n  ".join(stayed))
        time.sleep(RETRY_EVERY_S)


def descendants(ancestor: int) -> list[int]:
    """Children of a process, theirs, and so on, without those of `others`."""
    children: dict[int, list[int]] = {}
    for pid, status in _statuses():
        children.setdefault(status["PPid"], []).append(pid)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in others:
                found.append(pid)
                waiting.append(pid)
    return found


def descriptors() -> Iterator[str]:
    """The caller's open descriptors, with what they are."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(f"/proc/{os.getpid()}/fd"):
                yield f"{name} {target}"


def _tables() -> Iterator[str]:
    """Tables of nftables that are a node's, in this network namespace."""
    if os.path.exists("/usr/sbin/nft"):
        listed = subprocess.run(["/usr/sbin/nft", "list", "tables"], capture_output=True, text=True, check=False)
        yield from (line for line in listed.stdout.splitlines() if " pagurus_" in line)


def _statuses() -> Iterator[tuple[int, dict[str, int]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{name}/status").read_text().splitlines()
                fields = (line.split()[:2] for line in lines if line.startswith(("PPid:", "Uid:")))
                yield int(name), {key[:-1]: int(value) for key, value in fields}


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
