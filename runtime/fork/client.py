"""pagurusd's side of a zygote: configure it, ask it for helpers, notice its end. Runs in pagurusd.

The zygote may be hostile: what it sends is checked, and a wrong answer ends it.
"""

import asyncio
import base64
import contextlib
import json
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import RefusedError, StartError
from runtime.model import Distribution, EnvironmentId
from runtime.packets import PacketSocket
from runtime.reaper import Reaper

CONFIGURE_TIMEOUT_S = 300.0  # all imports, of large packages from a cold disk
IMPORT_TIMEOUT_S = 60.0  # one of them: what a deploy's check takes for all
SPAWN_TIMEOUT_S = 15.0
GO = b'{"kind": "go"}'
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_TEXT_MAX = 500  # of what a zygote says; it goes into a message to the gateway, which has a limit
# One thread in every numeric library: a raw clone3 leaves the locks of others taken in the child.
ENVIRON = {
    "HOME": "/tmp",  # noqa: S108  the zygote's own tmpfs
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
}
_ENTRY = "import sys; sys.path.insert(0, '/opt/pagurus'); from _pagurus.fork import {module}; {module}.main()"


def command(interpreter: str, module: str = "zygote") -> list[str]:
    """How the interpreter of a rootfs is started as a zygote: isolated from environment and user site, no bytecode."""
    return [interpreter, "-I", "-B", "-X", "utf8", "-c", _ENTRY.format(module=module)]


@dataclass(frozen=True, slots=True)
class Imported:
    """What a zygote holds: ms per imported module, why others failed, and which environments it cannot help."""

    import_ms: dict[str, float]
    failed: dict[str, str]
    uncovered: dict[EnvironmentId, str]


class _TooLongError(Exception):
    """One import did not end in time."""


class ZygoteClient:
    """A running zygote. Owns the control socket and the pidfd."""

    def __init__(self, control: PacketSocket, pid: int, pidfd: int, reaper: Reaper) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._control = control
        self._reaper = reaper
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._number = 0
        self._is_closed = False
        self.fault = ""  # what it did that no zygote may do, since it was ready

    async def configure(
        self,
        *,
        imports: Sequence[str],
        environments: dict[EnvironmentId, tuple[Distribution, ...]],
        zygote_filter: bytes,
        helper_filter: bytes,
        look: Callable[[], list[str]],
    ) -> Imported:
        """Let it import and warm up. Raises RefusedError when it misbehaves, ends, or takes too long.

        look: called before its first import and after each; tells what it has done meanwhile that it may not.
        """
        message = {
            "kind": "configure",
            "imports": list(imports),
            "environments": {key: [one.name for one in value] for key, value in environments.items()},
            "zygote_filter": base64.b64encode(zygote_filter).decode(),
            "helper_filter": base64.b64encode(helper_filter).decode(),
        }
        self._control.send(json.dumps(message).encode())
        suspect, faults = "", list[str]()
        try:
            async with asyncio.timeout(CONFIGURE_TIMEOUT_S):
                await self._report("begun", look)
                for suspect in imports:
                    self._control.send(GO)
                    answer, faults = await self._report("imported", look)
                    replaced = _replaced(answer) if len(environments) > 1 else ""
                    if faults or replaced:
                        text = f"importing {suspect} {' and '.join([*faults, *([replaced] if replaced else [])])}"
                        raise RefusedError(text[:500], suspect=suspect, can_be_alone=not faults)
                suspect = ""
                self._control.send(GO)
                answer, faults = await self._report("ready", look)
        except TimeoutError:
            raise RefusedError(f"the zygote's imports took more than {CONFIGURE_TIMEOUT_S:.0f} s") from None
        except _TooLongError:
            text = f"importing {suspect} took more than {IMPORT_TIMEOUT_S:.0f} s"
            raise RefusedError(text, suspect=suspect) from None
        except EOFError:
            text = f"the zygote ended while importing {suspect}".rstrip()
            raise RefusedError(text, suspect=suspect) from None
        except _MALFORMED as error:
            text = f"the zygote sent a malformed report while importing {suspect}".rstrip()
            raise RefusedError(text, suspect=suspect) from error
        if faults:
            raise RefusedError(f"the imports {' and '.join(faults)}"[:500])
        try:
            return Imported(
                {name: _finite(answer["import_ms"][name]) for name in imports if name in answer["import_ms"]},
                {name: str(answer["failed"][name])[:_TEXT_MAX] for name in imports if name in answer["failed"]},
                {key: str(answer["uncovered"][key])[:_TEXT_MAX] for key in environments if key in answer["uncovered"]},
            )
        except _MALFORMED as error:
            raise RefusedError("the zygote sent a malformed report") from error

    async def _report(self, kind: str, look: Callable[[], list[str]]) -> tuple[dict[str, Any], list[str]]:
        """Its next message, which must be of this kind, and what it and pagurusd have to complain of.

        Raises EOFError when it has ended, _TooLongError, and _MALFORMED.
        """
        try:
            async with asyncio.timeout(IMPORT_TIMEOUT_S):
                packet = await self._control.receive()
        except TimeoutError:
            raise _TooLongError from None
        for fd in packet.descriptors:
            os.close(fd)
        if not packet.data:
            raise EOFError
        message = json.loads(packet.data)
        if message["kind"] != kind or packet.descriptors:
            raise ValueError(message["kind"])
        try:
            seen = look()
        except OSError:
            raise EOFError from None
        own = message.get("faults", [])
        return message, [*seen, *(str(one)[:200] for one in list(own)[:3] if isinstance(one, str))]

    def request_helper(
        self,
        *,
        environment: EnvironmentId | None,
        hostname: str,
        uid: int,
        standby: bool,
        descriptors: list[int],
        has_cgroup: bool,
    ) -> asyncio.Future[int]:
        """Ask for a helper; `helper` waits for it. What it needs next can be made while the zygote forks.

        descriptors stay the caller's. Raises StartError when the zygote has ended.
        """
        if self._is_closed:
            raise StartError("fork", "the zygote has ended")
        self._number += 1
        message = {
            "kind": "spawn",
            "id": self._number,
            "environment": environment,
            "hostname": hostname,
            "uid": uid,
            "standby": standby,
            "has_cgroup": has_cgroup,
        }
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._control.send(json.dumps(message).encode(), descriptors)
        # Its answer is not urgent: on few cores, reading it now would take the helper's.
        self._control.pause()
        return future

    async def helper(self, requested: asyncio.Future[int], *, reported: int = -1) -> int:
        """The host pid of a requested helper; -1 when it has already ended. Raises StartError.

        reported: the pid that the helper's own report came from, which its zygote must confirm.
        Cancelled: the helper may still be forked; its sandbox is to be killed by its cgroup.
        """
        self._control.resume()
        try:
            async with asyncio.timeout(SPAWN_TIMEOUT_S):
                pidfd = await requested
        except BaseException as error:
            _give_up(requested)
            if not isinstance(error, TimeoutError):
                raise
            self.close()
            raise StartError("fork", f"the zygote did not fork within {SPAWN_TIMEOUT_S:.0f} s") from None
        try:
            return self._checked_pid(pidfd, reported)
        except StartError:
            self.close()
            raise
        finally:
            os.close(pidfd)

    def abandon(self, requested: asyncio.Future[int]) -> None:
        """Nobody waits for this helper any more; its pidfd is closed when it comes."""
        _give_up(requested)
        self._control.resume()

    async def serve(self) -> None:
        """Take its answers until it ends. The owner runs this as a task once it is configured."""
        while True:
            packet = await self._control.receive()
            if not packet.data or not self._take(packet.data, packet.descriptors):
                break
        self.close()

    def _take(self, data: bytes, descriptors: list[int]) -> bool:
        """Give one answer to who waits for it; False ends a zygote that breaks the protocol."""
        future = self._waiting.popleft() if self._waiting else None
        try:
            message = json.loads(data)
            kind = message["kind"]
            if future is None:
                raise ValueError("nobody asked")
            if kind == "spawned" and len(descriptors) == 1:
                if not future.done():
                    future.set_result(descriptors.pop())
            elif kind in ("refused", "unfit"):
                text = str(message["message"])[:_TEXT_MAX]
                if not future.done():
                    future.set_exception(StartError("fork", text))
                if kind == "unfit":
                    self.fault = text
                    return False
            else:
                raise ValueError(kind)
        except (ValueError, KeyError, TypeError, RecursionError):
            self.fault = "it broke its protocol"
            if future is not None and not future.done():
                future.set_exception(StartError("fork", "the zygote broke its protocol"))
            return False
        finally:
            for fd in descriptors:
                os.close(fd)
        return True

    def _checked_pid(self, pidfd: int, reported: int) -> int:
        """The host pid of a pidfd, which must be the reported one, or of a child of ours that nobody else owns."""
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                pid = int(line.split()[1])
                break
        else:
            raise StartError("fork", "the zygote sent no pidfd")
        if pid == -1:
            return pid  # ended and reaped already; the sandbox will find its socket closed
        if pid == reported:
            return pid
        if reported > 0:
            raise StartError("fork", "the zygote sent the pidfd of another process than its helper")
        try:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            raise StartError("fork", "the zygote sent the pidfd of a process that is not its helper") from None
        if pid <= 0 or pid == self.pid or self._reaper.is_waited_for(pid):
            raise StartError("fork", "the zygote sent the pidfd of another process")
        return pid

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_asked(self) -> bool:
        """Whether it is to answer something."""
        return bool(self._waiting)

    def close(self) -> None:
        """End it, whether it wants to or not. Whoever waits for a helper is told. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._control.close()
        os.close(self._pidfd)
        for future in self._waiting:
            if not future.done():
                future.set_exception(StartError("fork", "the zygote has ended"))
        self._waiting.clear()


def _give_up(requested: asyncio.Future[int]) -> None:
    """Nobody takes this helper's pidfd; one that came at the same moment is closed."""
    if not requested.cancel() and not requested.cancelled() and requested.exception() is None:
        os.close(requested.result())


def _replaced(answer: dict[str, Any]) -> str:
    """What a zygote says that a package has replaced of the standard library. Raises TypeError."""
    found = answer.get("replaced", "")
    if not isinstance(found, str):
        raise TypeError(found)
    return found[:_TEXT_MAX]


def _finite(value: Any) -> float:
    """Milliseconds that a zygote says. Raises ValueError, TypeError, OverflowError."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number
