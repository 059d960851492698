"""Starts measured over HTTP, at a keep-alive client of a real pagurusd with its gateway."""

import asyncio
import time

from . import functions
from .daemon import Daemon

SETTLE_S = 0.03
HELPED_WITHIN_S = 60.0
NOT_THIS_KIND = float("nan")


class Web:
    """The three functions, deployed, each with standbys of its zygote."""

    def __init__(self, daemon: Daemon, names: list[str]) -> None:
        for name in names:
            daemon.deploy(name, name)
        self._connection = daemon.connect()
        for name in names:
            self._wait_helped(name)

    def _wait_helped(self, name: str) -> None:
        end_s = time.monotonic() + HELPED_WITHIN_S
        while time.monotonic() < end_s:
            kind, _ = self._invoke(name)
            self._evict(name)
            if kind == "helped":
                return
            time.sleep(0.2)
        raise SystemExit(f"{name} never got a helped start")

    def _invoke(self, name: str) -> tuple[str, float]:
        started_s = time.perf_counter()
        self._connection.request("POST", f"/v1/functions/{name}/invocations", functions.PARAM)
        answer = self._connection.getresponse()
        body = answer.read()
        elapsed_s = time.perf_counter() - started_s
        if answer.status != 200:
            raise SystemExit(f"{name}: {answer.status} {body!r}")
        return answer.headers["X-Pagurus-Start-Kind"], elapsed_s * 1000

    def _evict(self, name: str) -> None:
        """End the function's idle sandboxes, so that its next start is helped."""
        self._connection.request("DELETE", f"/v1/sandboxes?function={name}")
        self._connection.getresponse().read()

    async def helped(self, name: str) -> float:
        """Milliseconds of a helped start, or NOT_THIS_KIND."""
        self._evict(name)
        await asyncio.sleep(SETTLE_S)
        kind, elapsed_ms = self._invoke(name)
        return elapsed_ms if kind == "helped" else NOT_THIS_KIND

    async def warm(self, name: str) -> float:
        """Milliseconds of a warm invocation."""
        self._invoke(name)
        kind, elapsed_ms = self._invoke(name)
        return elapsed_ms if kind == "warm" else NOT_THIS_KIND
