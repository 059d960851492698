"""A zygote: imports packages once, then forks helpers for ever. Runs inside its own user namespace.

Standard library only. It holds no user code, no environment of a function, no secret. It has one thread: checked
before each fork, since a raw clone3 leaves other threads' locks taken in the child. Descriptor 3 is the control
socket to pagurusd, whose end ends the zygote.
"""

import array
import base64
import faulthandler
import gc
import json
import os
import socket
import sys
import time
from typing import Any

from . import _spawn, manners, ownership, purge, warm, worker

CONTROL_FD = 3
_MESSAGE_BYTES_MAX = 1 << 20
_DESCRIPTORS_MAX = 16
# What most functions import from the standard library; more would make every fork dearer.
_REHEARSALS = 20  # until the allocator and the specialising interpreter have settled
_PRELOADED = "base64 collections datetime decimal functools hashlib itertools json math random re string traceback"


class Zygote:
    """State of the process, and one method for each message of pagurusd."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._forgotten: dict[str, tuple[str, ...]] = {}

    def configure(self, message: dict[str, Any]) -> None:
        """Confine this process, import, warm, and say what was imported how fast."""
        _spawn.configure(base64.b64decode(message["helper_filter"]))
        _spawn.confine(base64.b64decode(message["zygote_filter"]))
        for name in _PRELOADED.split():
            __import__(name)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable()  # a crash of user code leaves its traceback on stderr
        before, as_before = frozenset(sys.modules), manners.Manners()
        self._send({"kind": "begun"})  # pagurusd looks at the process now, and after each import
        with ownership.ImportGraph() as graph:
            times_ms, failed = self._import_all(message["imports"], as_before)
        owners = ownership.module_owners(ownership.file_owners(), before, creators=graph.creators)
        uncovered: dict[str, str] = {}
        for environment, distributions in message["environments"].items():
            forgotten, extensions = ownership.foreign(owners, graph.importers, distributions, graph.creators)
            self._forgotten[environment] = forgotten
            if extensions:
                uncovered[environment] = ", ".join(extensions[:5])
        self._forgotten[""] = tuple(owners)
        warm.warm_packages()
        for _ in range(_REHEARSALS):
            worker.rehearse()
        gc.collect()
        gc.freeze()
        report = {"import_ms": times_ms, "failed": failed, "uncovered": uncovered}
        self._send({"kind": "ready", **report, **_seen(as_before)})

    def _import_all(self, names: list[str], as_before: manners.Manners) -> tuple[dict[str, float], dict[str, str]]:
        """Import modules; how long each took, and why some failed (those are imported in the helper or fail there)."""
        times_ms: dict[str, float] = {}
        failed: dict[str, str] = {}
        for name in names:
            self._control.recv(_MESSAGE_BYTES_MAX)  # pagurusd has looked, and says go on
            started_ns = time.monotonic_ns()
            try:
                __import__(name)
            except BaseException as error:
                failed[name] = f"{type(error).__name__}: {error}"[:500]
            else:
                times_ms[name] = (time.monotonic_ns() - started_ns) / 1e6
            self._send({"kind": "imported", **_seen(as_before)})
        self._control.recv(_MESSAGE_BYTES_MAX)
        return times_ms, failed

    def spawn(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Fork one helper. Returns in the zygote only."""
        if _threads() != 1:
            self._send({"kind": "unfit", "id": message["id"], "message": "it has more than one thread"})
            return
        control, invocation, out, err, net, mnt, *rest = descriptors
        cgroup = rest.pop(0) if message["has_cgroup"] else -1
        forgotten = self._forgotten[message["environment"] or ""]
        warm.reseed()  # here, not in the helper: these pages are private already
        try:
            pid, pidfd = _spawn.spawn(
                *(control, invocation, out, err, cgroup, tuple(rest), net, mnt),
                *(message["hostname"], message["uid"], not message["standby"]),
            )
        except OSError as error:
            self._send({"kind": "refused", "id": message["id"], "message": f"clone3: {error.strerror}"})
            return
        if pid == 0:
            try:
                worker.live(forgotten, _spawn.timings(), standby=message["standby"])
            finally:
                os._exit(71)
        self._send({"kind": "spawned", "id": message["id"]}, [pidfd])
        os.close(pidfd)

    def serve(self) -> None:
        """Take messages until pagurusd closes the socket."""
        space = socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX)
        while True:
            data, ancillary, _, _ = self._control.recvmsg(_MESSAGE_BYTES_MAX, space, socket.MSG_CMSG_CLOEXEC)
            descriptors = _descriptors(ancillary)
            if not data:
                return
            message = json.loads(data)
            try:
                self.handle(message, descriptors)
            finally:
                for fd in descriptors:
                    os.close(fd)

    def handle(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Do what one message says; descriptors stay the caller's."""
        if message["kind"] == "configure":
            self.configure(message)
        elif message["kind"] == "spawn":
            self.spawn(message, descriptors)

    def _send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._control.sendmsg([json.dumps(message).encode()], ancillary)


def _seen(as_before: manners.Manners) -> dict[str, Any]:
    """What the packages have done that pagurusd cannot see."""
    return {"faults": as_before.faults(), "replaced": as_before.replaced()}


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _threads() -> int:
    """Threads of this process: proc counts them as links of the directory, and stat is cheaper than listing."""
    return os.stat("/proc/self/task").st_nlink - _TASK_LINKS


# links of /proc/self/task that are no threads; this process has one when it is imported
_TASK_LINKS = os.stat("/proc/self/task").st_nlink - len(os.listdir("/proc/self/task"))


def main(zygote_class: type[Zygote] = Zygote) -> None:
    """Entry of the process: `zygote_class` lets a benchmark add a message of its own."""
    sys.path[:] = [*(p for p in sys.path if "_pagurus" not in p and p != "/opt/pagurus"), purge.ENVIRONMENT]
    sys.argv[:] = [""]
    # Our modules stay reachable from here, but a user's `import runtime` must find the user's.
    for name in [name for name in sys.modules if name.partition(".")[0] == "_pagurus"]:
        del sys.modules[name]
    zygote_class(socket.socket(fileno=CONTROL_FD)).serve()
