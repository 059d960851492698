"""Cgroups whose processes are dead but which the kernel still holds: removed as soon as it lets go. In pagurusd."""

import logging
from collections import Counter

from runtime.sandbox.cgroup import Cgroup

log = logging.getLogger("pagurus.node")

RETRY_S = 0.02
TRIES_MAX = 250


class Graves:
    """`bury` never fails and never waits; `dig` is to be called every RETRY_S while there is something."""

    def __init__(self, counters: Counter[str]) -> None:
        self._waiting: dict[tuple[str, ...], tuple[Cgroup, int]] = {}
        self._counters = counters

    def __len__(self) -> int:
        return len(self._waiting)

    def bury(self, cgroup: Cgroup) -> None:
        """Remove a cgroup, now or later."""
        if not cgroup.try_remove():
            self._waiting[tuple(map(str, cgroup.paths))] = (cgroup, 0)

    def dig(self) -> None:
        """Try again; one that still holds a process after TRIES_MAX is logged, counted and left to the next start."""
        for key, (cgroup, tries) in list(self._waiting.items()):
            if cgroup.try_remove():
                del self._waiting[key]
            elif tries >= TRIES_MAX:
                log.error("cannot remove cgroup %s: something still lives there", key[0])
                self._counters["cgroups_left"] += 1
                del self._waiting[key]
            else:
                self._waiting[key] = (cgroup, tries + 1)
