"""Whether a zygote has behaved, as seen from outside: by what the kernel says of its process. Runs in pagurusd.

A helper is a copy of its zygote without its threads, children and descriptors, so one that has such things gives its
helpers a broken copy; and what changes signals or the umask changes them for functions that never declared it. Nothing
the process says is relied on, and nothing is looked at while a function starts.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.model import MIB
from runtime.sandbox.cgroup import Cgroup

MEMORY_SHARE = 0.75  # of the zygote's limit that its own pages may take: a fork needs room for what is written next
LOOK_EVERY_S, LOOK_AGAIN_S = 5.0, 0.2  # at a zygote that is ready
_NAMED_MAX = 5
_THREADING = 0x180000000  # 32 and 33 are glibc's own


@dataclass(frozen=True, slots=True)
class Conduct:
    """State of a zygote's process at one time. descriptors: number -> what it is. processes: of its cgroup."""

    threads: int
    blocked: int
    ignored: int
    caught: int
    umask: str
    own_bytes: int
    descriptors: dict[int, str]
    processes: frozenset[int]

    @classmethod
    def look(cls, pid: int, processes: Iterable[int], proc: Path = Path("/proc")) -> "Conduct":
        """Read it. Raises OSError when the process is gone."""
        lines = (proc / str(pid) / "status").read_text().splitlines()
        found = {key: text.strip() for key, _, text in (line.partition(":") for line in lines)}
        blocked, ignored, caught = (int(found[name], 16) & ~_THREADING for name in ("SigBlk", "SigIgn", "SigCgt"))
        folder = proc / str(pid) / "fd"
        descriptors = {}
        for name in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                descriptors[int(name)] = os.readlink(folder / name)
        return cls(
            threads=int(found["Threads"]),
            blocked=blocked,
            ignored=ignored,
            caught=caught,
            umask=found.get("Umask", ""),
            own_bytes=int(found.get("RssAnon", "0 kB").split()[0]) * 1024,
            descriptors=descriptors,
            processes=frozenset(processes),
        )

    def faults(self, before: "Conduct", memory_bytes: int) -> list[str]:
        """What it may not have done since `before`, in words. memory_bytes: the zygote's limit."""
        found = []
        if self.threads > 1:
            found.append(f"started {_count(self.threads - 1, 'thread')}")
        left = self.processes - before.processes
        if left:
            found.append(f"left {_count(len(left), 'process')}")
        found += _descriptor_faults(before.descriptors, self.descriptors)
        changed = _signals((before.caught ^ self.caught) | (before.ignored ^ self.ignored))
        if changed:
            found.append(f"changed what happens at {changed}")
        blocked = _signals(before.blocked ^ self.blocked)
        if blocked:
            found.append(f"blocked {blocked}")
        if self.umask != before.umask:
            found.append(f"set the umask to {self.umask}")
        if self.own_bytes > MEMORY_SHARE * memory_bytes:
            text = f"took {self.own_bytes / MIB:.0f} MiB of zygote_memory_bytes, {memory_bytes / MIB:.0f} MiB"
            found.append(f"{text}, and a fork needs a quarter")
        return found


class Watch:
    """Looks at one zygote. cgroups: its own, with init and builder in it, and the one around that; borrowed."""

    def __init__(self, pid: int, cgroups: tuple[Cgroup, Cgroup], memory_bytes: int) -> None:
        self._pid = pid
        self._cgroups = cgroups
        self._memory_bytes = memory_bytes
        self._first: Conduct | None = None

    def look(self) -> list[str]:
        """What it has done since the first look that no zygote may do. Raises OSError when it is gone."""
        now = Conduct.look(self._pid, self._processes())
        self._first = self._first or now
        return now.faults(self._first, self._memory_bytes)

    async def until_fault(self, is_busy: Callable[[], bool]) -> str:
        """Look now and then, while nothing is asked of it: a package may wait until it is trusted.

        What is seen twice is no trace of a fork that has just ended. Returns what it has done, in words.
        """
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for _ in range(2):
                try:
                    faults = [] if is_busy() else self.look()
                except OSError:
                    faults = []  # it is gone: its exit says more
                if not faults:
                    break
                await asyncio.sleep(LOOK_AGAIN_S)
            else:
                return " and ".join(faults)[:500]

    def end_others(self) -> None:
        """Kill what the zygote has left in its cgroup beside itself. Helpers live on, so init has to."""
        known = self._first.processes if self._first is not None else self._processes()
        for pid in self._processes() - known:
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                try:
                    if pid in self._processes():  # the number has not become another process's meanwhile
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)

    def _processes(self) -> set[int]:
        return {pid for cgroup in self._cgroups for pid in cgroup.processes()}


def _descriptor_faults(before: dict[int, str], now: dict[int, str]) -> list[str]:
    found = []
    lost = [str(fd) for fd in sorted(before) if now.get(fd) != before[fd]]
    if lost:
        found.append(f"closed or replaced descriptor {', '.join(lost)}")
    left = [now[fd][:100] for fd in sorted(set(now) - set(before))]
    if left:
        more = f" and {len(left) - _NAMED_MAX} more" if len(left) > _NAMED_MAX else ""
        found.append(f"left open {', '.join(left[:_NAMED_MAX])}{more}")
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "es" if what.endswith("s") else "s")


def _signals(mask: int) -> str:
    return ", ".join(_signal_name(number) for number in range(1, 65) if mask >> (number - 1) & 1)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
