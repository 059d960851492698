"""Starts of deployed functions, by the phases that the gateway tells, and memory of what they leave."""

import json
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from .daemon import Daemon

SETTLE_S = 0.05  # standbys are full again, exits are over
WAIT_S = 60.0
_PHASE = re.compile(r"([a-z]+);dur=([0-9.]+)")


@dataclass
class Seen:
    """What was seen of one function: starts without imports and handler, imports, memory when idle.

    All by how it started: `standby`, `fork` (helped, by one or the other), `cold`, `warm`.
    """

    start_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    imports_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory_bytes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


class Starts:
    """A client of one daemon, with one connection."""

    def __init__(self, daemon: Daemon) -> None:
        self._connection = daemon.connect()

    def get(self, path: str) -> Any:
        return json.loads(self._ask("GET", path)[1])

    def wait_zygotes(self) -> None:
        """Until all zygotes are ready and have their standbys."""
        end_s = time.monotonic() + WAIT_S
        before = -1
        while time.monotonic() < end_s:
            zygotes = self.get("/v1/zygotes")["zygotes"]
            standbys = sum(zygote["standbys"] for zygote in zygotes)
            if all(zygote["state"] == "ready" for zygote in zygotes) and standbys == before:
                return
            before = standbys
            time.sleep(0.5)
        raise SystemExit("the zygotes do not get ready")

    def measure(self, name: str, seen: Seen) -> None:
        """One start that is not warm, and a warm one."""
        self._ask("DELETE", f"/v1/sandboxes?function={name}")
        time.sleep(SETTLE_S)
        how = self._invoke(name, seen)
        memory = [one["memory_bytes"] for one in self.get("/v1/sandboxes")["sandboxes"] if one["function"] == name]
        seen.memory_bytes[how] += [one for one in memory if one]
        self._invoke(name, seen)

    def end(self, name: str) -> None:
        self._ask("DELETE", f"/v1/sandboxes?function={name}")

    def standby_ms(self, name: str) -> float:
        """How long a standby that is taken is missing; NaN when the start took none."""
        self.end(name)
        time.sleep(SETTLE_S)
        full = self._standbys()
        self._invoke(name, Seen())
        began_s = time.perf_counter()
        was_short = False
        while (now := self._standbys()) != full or not was_short:
            was_short |= now < full
            if time.perf_counter() - began_s > 1.0:
                return float("nan")
        return (time.perf_counter() - began_s) * 1000

    def _standbys(self) -> int:
        return sum(zygote["standbys"] for zygote in self.get("/v1/zygotes")["zygotes"])

    def _invoke(self, name: str, seen: Seen) -> str:
        headers, _ = self._ask("POST", f"/v1/functions/{name}/invocations", b'{"duration_s": 0}')
        kind = headers["X-Pagurus-Start-Kind"]
        phases = {key: float(value) for key, value in _PHASE.findall(headers["Server-Timing"])}
        imports_ms = phases.get("imports", 0.0)
        how = str(kind)
        if kind == "helped":  # the phases may be missing where the answer was faster than the report of them
            how = "standby" if "assign" in phases else "fork" if "plan" in phases else "unknown"
        seen.start_ms[how].append(phases["total"] - phases["run"] - imports_ms)
        seen.imports_ms[how].append(imports_ms)
        return how

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[Any, bytes]:
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.status} {content!r}")
        return answer.headers, content
