"""Control groups of sandboxes and zygotes: one interface, two back ends. Runs in pagurusd.

`CgroupTree.detect` chooses: pure v2 where memory, pids and cpu are there, else the v1 hierarchies, with the
v2 tree beside them (if mounted) for kill, freeze and CLONE_INTO_CGROUP. Everything of ours lies below
`<base>/<node>/<run>`, so that a later daemon finds what an earlier one left.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runtime import disks, syscalls
from runtime.errors import RequirementError
from runtime.model import Limits
from runtime.sandbox import cgroup_files, cgroup_limits, headroom

CONTROLLERS = ("memory", "pids", "cpu")
OPTIONAL = ("io",)  # of v2


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the hierarchies are mounted. `unified` is None without cgroup v2."""

    unified: Path | None
    v1: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def from_mountinfo(cls, text: str) -> "Hierarchies":
        """Read /proc/self/mountinfo."""
        unified: Path | None = None
        v1: dict[str, Path] = {}
        for line in text.splitlines():
            left, _, right = line.partition(" - ")
            target, fstype, options = left.split()[4], right.split()[0], right.split()[-1]
            if fstype == "cgroup2" and unified is None:
                unified = Path(target)
            elif fstype == "cgroup":
                for controller in set(options.split(",")) & {*CONTROLLERS, "freezer"}:
                    v1.setdefault(controller, Path(target))
        return cls(unified, v1)

    @property
    def is_pure_v2(self) -> bool:
        """Whether all controllers that limits need are in the v2 tree."""
        if self.unified is None:
            return False
        return set(CONTROLLERS) <= set((self.unified / "cgroup.controllers").read_text().split())


@dataclass(frozen=True, slots=True)
class JoinDescriptors:
    """What a process needs to start in or enter a cgroup; owned by the Cgroup.

    directory: for CLONE_INTO_CGROUP, or -1. tasks: v1 `tasks` files into which the process itself writes "0".
    """

    directory: int
    tasks: tuple[int, ...]


class Cgroup:
    """One cgroup: the same relative path in every hierarchy in use. Owns its directories and descriptors."""

    def __init__(self, directories: dict[str, Path], *, io_max: str = "") -> None:
        """directories: by hierarchy name: `unified`, and v1 controllers. io_max: of the disk, written with limits."""
        self._directories = directories
        self._io_max = io_max
        self._join: JoinDescriptors | None = None
        self._limits: Limits | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._directories.values())

    def join_descriptors(self) -> JoinDescriptors:
        """Open (once) what a new process of this cgroup needs. Closed by `close`."""
        if self._join is None:
            unified = self._directories.get("unified")
            # A detached clone, never a directory of the host's mount: `..` stops at it (research: userns-standby).
            directory = syscalls.open_tree(str(unified)) if unified else -1
            tasks = tuple(
                os.open(path / "tasks", os.O_WRONLY | os.O_CLOEXEC)
                for name, path in self._directories.items()
                if name != "unified"
            )
            self._join = JoinDescriptors(directory, tasks)
        return self._join

    def join_self(self) -> None:
        """Move the calling process, which has one thread, into this cgroup."""
        enter(self.open_entries())

    def open_entries(self) -> list[int]:
        """Files for `enter`. The kernel judges a move by who opened them: a process may open now and move later."""
        return [
            os.open(path / ("cgroup.procs" if name == "unified" else "tasks"), os.O_WRONLY | os.O_CLOEXEC)
            for name, path in self._directories.items()
        ]

    def enable_children(self) -> None:
        """v2: let child cgroups have limits; from here on no process can be in this one itself."""
        if "memory" not in self._directories and "unified" in self._directories:
            _enable_controllers(self._directories["unified"])

    def allow_entry(self, uid: int) -> None:
        """Let `uid` clone into this cgroup: it needs write access here and in the common ancestor."""
        if "unified" in self._directories:
            os.chown(self._directories["unified"] / "cgroup.procs", uid, uid)

    def set_limits(self, limits: Limits, *, memory_only: bool = False) -> None:
        """Write memory, pids and cpu limits, of a later call what has changed; swap is off. OSError has the file."""
        if self._io_max and self._limits is None:
            cgroup_files.write(self._directories["unified"] / "io.max", self._io_max)
        cgroup_limits.set_limits(self._directories, limits, self._limits, memory_only=memory_only)
        self._limits = limits

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue every process in it; returns before they have stopped."""
        if "unified" in self._directories:
            cgroup_files.write(self._directories["unified"] / "cgroup.freeze", "1" if frozen else "0")
        elif "freezer" in self._directories:
            cgroup_files.write(self._directories["freezer"] / "freezer.state", "FROZEN" if frozen else "THAWED")

    def kill(self) -> None:
        """SIGKILL for every process in it, also frozen ones; they still have to be reaped.

        A cgroup that is removed already has none.
        """
        with contextlib.suppress(FileNotFoundError):
            self._kill()

    def _kill(self) -> None:
        unified = self._directories.get("unified")
        if unified is not None and (unified / "cgroup.kill").exists():
            cgroup_files.write(unified / "cgroup.kill", "1")
            return
        self.freeze(frozen=True)  # so that none forks while the list is read
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.freeze(frozen=False)

    def processes(self) -> set[int]:
        """Host pids in it, in any hierarchy, without those of child cgroups."""
        found: set[int] = set()
        for path in self._directories.values():
            with contextlib.suppress(FileNotFoundError):
                found |= {int(word) for word in (path / "cgroup.procs").read_text().split()}
        return found

    def memory_bytes(self) -> int:
        """Memory charged to it now."""
        if "memory" in self._directories:
            return int((self._directories["memory"] / "memory.usage_in_bytes").read_text())
        return int((self._directories["unified"] / "memory.current").read_text())

    def oom_kills(self) -> int:
        """Processes the kernel killed here for memory, since the cgroup was made."""
        if "memory" in self._directories:
            return cgroup_files.field((self._directories["memory"] / "memory.oom_control").read_text(), "oom_kill")
        return cgroup_files.field((self._directories["unified"] / "memory.events").read_text(), "oom_kill")

    def try_remove(self) -> bool:
        """Remove the directories; False while a process, or a child cgroup, is still in one of them."""
        gone = True
        for path in self._directories.values():
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                gone = False
        return gone

    def close(self) -> None:
        """Close descriptors; the directories stay until `try_remove`."""
        if self._join is not None:
            for fd in (self._join.directory, *self._join.tasks):
                if fd >= 0:
                    os.close(fd)
            self._join = None


class CgroupTree:
    """All cgroups of one run of one node."""

    def __init__(self, bases: dict[str, Path], *, node: str, run: str) -> None:
        """bases: our own directory in each hierarchy in use (made if missing), by hierarchy name."""
        self._bases = bases
        self._node = node
        self._run = run
        self._io_max = ""
        for name, base in bases.items():
            for directory in (base, base / node, base / node / run):
                directory.mkdir(exist_ok=True)
                if name == "unified" and "memory" not in bases:
                    _enable_controllers(directory)

    @classmethod
    def detect(cls, parent: str, *, node: str, run: str, proc: Path = Path("/proc")) -> "CgroupTree":
        """Choose the back end of this machine. Raises RequirementError that says what is missing."""
        hierarchies = Hierarchies.from_mountinfo((proc / "self/mountinfo").read_text())
        if hierarchies.is_pure_v2 and hierarchies.unified is not None:
            base = _v2_base(hierarchies.unified, parent, (proc / "self/cgroup").read_text())
            return cls({"unified": base}, node=node, run=run)
        missing = [name for name in CONTROLLERS if name not in hierarchies.v1]
        if missing:
            raise RequirementError(
                f"no cgroup controllers for {', '.join(missing)}",
                hint="boot with systemd.unified_cgroup_hierarchy=1 and cgroup_enable=memory",
            )
        roots = {name: hierarchies.v1[name] for name in CONTROLLERS}
        if hierarchies.unified is not None:
            roots["unified"] = hierarchies.unified
        elif "freezer" in hierarchies.v1:
            roots["freezer"] = hierarchies.v1["freezer"]
        return cls({name: root / parent for name, root in roots.items()}, node=node, run=run)

    @property
    def kind(self) -> str:
        """`v2`, `v1+v2` (limits by v1; kill, freeze and clone-into by v2) or `v1`."""
        if "memory" not in self._bases:
            return "v2"
        return "v1+v2" if "unified" in self._bases else "v1"

    def limit_disk(self, folder: Path, bytes_per_s: int) -> None:
        """Let each cgroup made from now on take so much of the disk below `folder`, when it gets limits.

        Raises RequirementError when that cannot be done here.
        """
        trial = self._bases.get("unified", Path()) / self._node / self._run / "io.max"
        if self.kind != "v2" or not trial.exists():
            raise RequirementError("there is no controller io, of cgroup version 2")
        number = disks.below(folder)
        try:
            for limit in (bytes_per_s, None):
                cgroup_files.write(trial, disks.io_max(number, limit))
        except OSError as error:
            raise RequirementError(f"disk {number} cannot be limited: {error.strerror}") from error
        self._io_max = disks.io_max(number, bytes_per_s)

    def headroom(self) -> tuple[int, int] | None:
        """Memory left and in all below the tightest limit above all cgroups of ours; None without a limit."""
        if "memory" in self._bases:
            return headroom.tightest(self._bases["memory"], is_v2=False)
        return headroom.tightest(self._bases["unified"], is_v2=True)

    def create(self, path: str) -> Cgroup:
        """Make the cgroup `path` (relative, below this run). Caller removes and closes it."""
        directories = {name: base / self._node / self._run / path for name, base in self._bases.items()}
        for directory in directories.values():
            directory.mkdir(exist_ok=True)
        return Cgroup(directories, io_max=self._io_max)

    def leftovers(self) -> Iterator[Cgroup]:
        """Cgroups that other runs of this node left, deepest first."""
        seen: set[Path] = set()
        for base in self._bases.values():
            for directory in sorted((base / self._node).glob("**/"), key=lambda path: -len(path.parts)):
                relative = directory.relative_to(base)
                if len(relative.parts) > 1 and relative.parts[1] != self._run and relative not in seen:
                    seen.add(relative)
                    here = {name: root / relative for name, root in self._bases.items()}
                    yield Cgroup({name: path for name, path in here.items() if path.is_dir()})

    def try_remove(self) -> bool:
        """Remove the run's own directories, and the node's when nothing else is in them."""
        gone = True
        for base in self._bases.values():
            gone = Cgroup({"unified": base / self._node / self._run}).try_remove() and gone
            if Cgroup({"unified": base / self._node}).try_remove() and base.name != "":
                with contextlib.suppress(OSError):  # another node may live below it
                    base.rmdir()
        return gone


def _v2_base(root: Path, parent: str, self_cgroup: str) -> Path:
    """Below our own service when systemd delegated it to us, else a cgroup of our own at the top."""
    own = next((line[3:] for line in self_cgroup.splitlines() if line.startswith("0::")), "/")
    service = root / own.lstrip("/")
    if service.name == "daemon":
        service = service.parent  # an exec in place: we have stepped aside before
    if not _is_delegated(service):
        _enable_controllers(root)
        return root / parent
    # v2 keeps processes in leaves: the daemon steps aside before its cgroup gets children.
    (service / "daemon").mkdir(exist_ok=True)
    for pid in (service / "cgroup.procs").read_text().split():
        cgroup_files.write(service / "daemon" / "cgroup.procs", pid)
    _enable_controllers(service)
    return service / parent


def enter(entries: list[int]) -> None:
    """Move the calling process, which has one thread, by files of `open_entries`; closes them."""
    try:
        for fd in entries:
            os.write(fd, b"0")
    finally:
        for fd in entries:
            os.close(fd)


def _enable_controllers(directory: Path) -> None:
    there = (directory / "cgroup.controllers").read_text().split()
    wanted = [*CONTROLLERS, *(name for name in OPTIONAL if name in there)]
    cgroup_files.write(directory / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))


def _is_delegated(directory: Path) -> bool:
    """Whether systemd says that this cgroup's subtree is its processes' (systemd.exec(5), Delegate=)."""
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False
