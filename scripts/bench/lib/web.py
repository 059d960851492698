"""Starts measured over HTTP, at a keep-alive client of a real pagurusd with its gateway."""

import asyncio
import time

from . import functions
from .daemon import Daemon

SETTLE_S = 0.03
STANDBY_WITHIN_S = 180.0  # the policy plans once a minute, by how often the function was started
NOT_THIS_KIND = float("nan")
STANDBY = "helped by a standby"


class Web:
    """The three functions, deployed, each with standbys of its zygote."""

    def __init__(self, daemon: Daemon, names: list[str]) -> None:
        for name in names:
            daemon.deploy(name, name)
        self._connection = daemon.connect()
        self._wait_standbys(names)

    def _wait_standbys(self, names: list[str]) -> None:
        """Start the functions often, until the policy keeps standbys for all of them."""
        end_s = time.monotonic() + STANDBY_WITHIN_S
        print("waiting until the policy keeps standbys", flush=True)
        while True:
            kinds = []
            for name in names:
                self._evict(name)
                time.sleep(SETTLE_S)
                kinds.append(self._invoke(name)[0])
            if set(kinds) == {STANDBY}:
                return
            if time.monotonic() > end_s:
                raise SystemExit(f"not all functions have standbys: {dict(zip(names, kinds, strict=True))}")
            time.sleep(0.5)

    def _invoke(self, name: str) -> tuple[str, float]:
        """The kind of the start, and how long it took in ms."""
        started_s = time.perf_counter()
        self._connection.request("POST", f"/v1/functions/{name}/invocations", functions.PARAM)
        answer = self._connection.getresponse()
        body = answer.read()
        elapsed_s = time.perf_counter() - started_s
        if answer.status != 200:
            raise SystemExit(f"{name}: {answer.status} {body!r}")
        kind = answer.headers["X-Pagurus-Start-Kind"]
        if kind == "helped" and "fork;" not in answer.headers["Server-Timing"]:
            kind = STANDBY
        return kind, elapsed_s * 1000

    def _evict(self, name: str) -> None:
        """End the function's idle sandboxes, so that its next start is helped."""
        self._connection.request("DELETE", f"/v1/sandboxes?function={name}")
        self._connection.getresponse().read()

    async def helped(self, name: str) -> float:
        """Milliseconds of a start from a standby, or NOT_THIS_KIND."""
        self._evict(name)
        await asyncio.sleep(SETTLE_S)
        kind, elapsed_ms = self._invoke(name)
        return elapsed_ms if kind == STANDBY else NOT_THIS_KIND

    async def warm(self, name: str) -> float:
        """Milliseconds of a warm invocation."""
        self._invoke(name)
        kind, elapsed_ms = self._invoke(name)
        return elapsed_ms if kind == "warm" else NOT_THIS_KIND
