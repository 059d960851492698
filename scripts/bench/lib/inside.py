"""Starts of one function, measured at pagurusd. A series' name is its method's, with dashes."""

import asyncio
import json
import socket
import time
from pathlib import Path

from runtime.frames import FrameKind, pack
from runtime.model import SandboxId

from . import functions
from .bed import Bed

SETTLE_S = 0.03  # pools are full again, exits are over


class Inside:
    """See the module."""

    def __init__(self, bed: Bed, name: str) -> None:
        self._bed = bed
        self._name = name
        environment = bed.environments[name]
        self._environment = environment.id if environment else None
        self._zygote = f"z-{name}" if environment else "base"
        self._warm: SandboxId | None = None

    async def helped_standby(self) -> float:
        sandbox = await self._bed.parked(self._environment)
        await asyncio.sleep(SETTLE_S)
        elapsed_ms = self._bed.assign_and_call(sandbox, self._name)
        await self._bed.kill(sandbox)
        return elapsed_ms

    async def helped_fork(self) -> float:
        await asyncio.sleep(SETTLE_S)
        elapsed_ms, sandbox = await self._bed.start_and_call(self._zygote, self._name)
        await self._bed.kill(sandbox)
        return elapsed_ms

    async def cold(self) -> float:
        """Nothing is ready but the base zygote: namespaces, fork and imports are all on the path."""
        elapsed_ms, sandbox = await self._bed.start_and_call("base-unpooled", self._name)
        await self._bed.kill(sandbox)
        return elapsed_ms

    async def warm(self) -> float:
        if self._warm is None:
            self._warm = await self._bed.parked(self._environment)
            self._bed.assign_and_call(self._warm, self._name)
        self._bed.call(self._warm)
        return self._bed.call(self._warm)

    async def warm_frozen(self) -> float:
        """The same sandbox frozen, as after some idle time: thawing it is on the path."""
        await self.warm()
        assert self._warm is not None
        await self._bed.freeze(self._warm)
        started_s = time.perf_counter()
        self._bed.thaw(self._warm)
        return (time.perf_counter() - started_s) * 1000 + self._bed.call(self._warm)

    async def bare_fork(self) -> float:
        """The baseline in the zygote itself: bench_zygote.py."""
        await asyncio.sleep(SETTLE_S)
        ours, theirs = socket.socketpair()
        assignment = {
            "function": self._name,
            "version": "0",
            "handler": "main.main",
            "environ": {"PAGURUS_FUNCTION": self._name, "PAGURUS_VERSION": "0"},
            "memory_bytes": 1 << 28,
            "result_bytes": 1 << 20,
            "environment_is_new": False,
        }
        source = functions.SOURCES[self._name]
        message = {"kind": "bare", "name": self._name, "source": source, "assignment": assignment}
        data = json.dumps(message).encode()
        with ours, theirs:
            started_s = time.perf_counter()
            ours.sendall(pack(FrameKind.INVOKE, b"bench", functions.PARAM, 30_000))
            self._bed.to_zygote(self._zygote, data, [theirs.fileno()])
            answer = ours.recv(65536)
            elapsed_s = time.perf_counter() - started_s
        assert b'"ok"' in answer
        return elapsed_s * 1000

    async def private_bytes(self) -> int:
        """Private memory of an idle helper that has served one invocation."""
        sandbox = await self._bed.parked(self._environment)
        self._bed.assign_and_call(sandbox, self._name)
        lines = Path(f"/proc/{self._bed.pid(sandbox)}/smaps_rollup").read_text().splitlines()
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
        await self._bed.kill(sandbox)
        return fields["Private_Dirty"] + fields["Private_Clean"]
