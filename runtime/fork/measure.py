"""What importing costs, by distribution: time and private memory of a function's modules. Runs inside a check.

Standard library only. Each module of the environment is charged what its own execution takes, without the other
modules of the environment that it imports; the standard library is charged to who imports it. Imports of other
threads are not measured: they would be taken for parts of what this one imports meanwhile.
"""

import _thread
import os
import time
from collections.abc import Callable, Mapping
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from typing import Any

from . import ownership

OWN = ""  # the function's own code


class Meter:
    """Measures while it is entered; `costs()`: distribution (OWN: the rest) -> (ms, bytes)."""

    def __init__(self, files: Mapping[str, frozenset[str]]) -> None:
        self._files = files
        self._costs: dict[str, list[float]] = {}
        self._open: list[list[float]] = []  # of the modules being executed: what those below them took
        self._statm = -1
        self._thread = 0
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._originals: list[tuple[type, str, Callable[..., Any]]] = []

    def __enter__(self) -> "Meter":
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._thread = _thread.get_ident()
        for loader, name in (
            (SourceFileLoader, "exec_module"),
            (ExtensionFileLoader, "create_module"),
            (ExtensionFileLoader, "exec_module"),
        ):
            self._originals.append((loader, name, getattr(loader, name)))
            setattr(loader, name, self._measured(getattr(loader, name)))
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(OWN)
        for loader, name, original in self._originals:
            setattr(loader, name, original)
        os.close(self._statm)

    def costs(self) -> dict[str, tuple[float, int]]:
        """Milliseconds and bytes."""
        return {owner: (cost[0] / 1e6, max(0, int(cost[1]))) for owner, cost in self._costs.items()}

    def _measured(self, original: Callable[..., Any]) -> Callable[..., Any]:
        prefix = ownership.ENVIRONMENT + "/"

        def run(loader: Any, subject: Any) -> Any:
            path = str(loader.path)
            owners = self._files.get(path[len(prefix) :]) if path.startswith(prefix) else None
            if not owners or _thread.get_ident() != self._thread:
                return original(loader, subject)
            self._begin()
            try:
                return original(loader, subject)
            finally:
                self._end(min(owners))

        return run

    def _begin(self) -> None:
        self._open.append([0.0, 0.0, *self._now()])

    def _end(self, owner: str) -> None:
        below_ns, below_bytes, began_ns, began_bytes = self._open.pop()
        now_ns, now_bytes = self._now()
        spent_ns, grown_bytes = now_ns - began_ns, now_bytes - began_bytes
        cost = self._costs.setdefault(owner, [0.0, 0.0])
        cost[0] += spent_ns - below_ns
        cost[1] += grown_bytes - below_bytes
        if self._open:
            self._open[-1][0] += spent_ns
            self._open[-1][1] += grown_bytes

    def _now(self) -> tuple[int, int]:
        """Time in ns; private memory in bytes (resident, less what is a file's)."""
        _, resident, shared, *_ = os.pread(self._statm, 128, 0).split()
        return time.monotonic_ns(), (int(resident) - int(shared)) * self._page_bytes
