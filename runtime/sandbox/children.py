"""Children that pagurusd forks of itself for set-up: they isolate themselves step by step, then exec or serve.

Runs in pagurusd up to the fork, then in the child. The child never touches the event loop; it reports the step
that failed on its socket and leaves by os._exit. pagurusd has one thread, so fork is safe (asserted).
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable

from runtime import syscalls
from runtime.errors import StartError
from runtime.packets import PacketSocket
from runtime.sandbox import identity
from runtime.syscalls import CloneFlag

EXIT_FAILED = 70
NO_NAMESPACES = CloneFlag(0)


class Steps:
    """Names the step a child is in, so that a failure can say where."""

    def __init__(self) -> None:
        self.current = "fork"

    def __call__(self, name: str) -> None:
        self.current = name


def fork_child(
    body: Callable[[socket.socket, Steps], None],
    end: socket.socket,
    *,
    outlives_parent: bool = False,
    namespaces: CloneFlag = NO_NAMESPACES,
) -> int:
    """Fork; the child runs body(end, steps) and exits. Returns the child's pid; `end` stays open here too.

    The caller reaps the child, which dies with it unless it may outlive it: the parent's end of `end` is open in
    the child too, so that waiting for an answer would not end by itself. A failing body sends
    {"failed": step, "errno", "message"} on `end`. namespaces: new ones that the child begins in; the body must exec.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "pagurusd must have one thread"
    parent = os.getpid()
    keeper = os.pidfd_open(parent) if namespaces else -1
    pid = syscalls.clone_child(namespaces) if namespaces else os.fork()
    if pid:
        if namespaces:
            os.close(keeper)
        return pid
    steps = Steps()
    try:
        if namespaces:  # in a pid namespace of its own getppid says 0, whoever lives
            die_with_keeper(keeper)
        elif not outlives_parent:
            die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        end.setblocking(True)
        body(end, steps)
        os._exit(0)
    except BaseException as error:
        report(end, steps.current, error)
        os._exit(EXIT_FAILED)


def die_with(parent: int) -> None:
    """From now on die with the parent, also if it has died already. A change of credentials may undo this."""
    identity.die_with_parent()
    if os.getppid() != parent:
        os._exit(EXIT_FAILED)


def die_with_keeper(keeper: int) -> None:
    """The same for a child in another pid namespace; keeper: a pidfd of the parent."""
    identity.die_with_parent()
    if identity.has_ended(keeper):
        os._exit(EXIT_FAILED)


def report(end: socket.socket, step: str, error: BaseException) -> None:
    """Tell pagurusd which step failed and why."""
    number = error.errno if isinstance(error, OSError) else None
    text = json.dumps({"failed": step, "errno": number, "message": f"{type(error).__name__}: {error}"})
    try:
        end.send(text.encode())
    except OSError:
        sys.stderr.write(f"pagurusd: {step}: {error}\n")


async def answer(channel: PacketSocket, what: str) -> tuple[dict[str, object], list[int]]:
    """The next report of a child. Raises StartError with the child's step when it failed or is gone."""
    packet = await channel.receive()
    if not packet.data:
        raise StartError("fork", f"cannot start {what}: its process ended early")
    message = json.loads(packet.data)
    if "failed" in message:
        for fd in packet.descriptors:
            os.close(fd)
        raise StartError(str(message["failed"]), f"cannot start {what}: {message['message']}")
    return message, packet.descriptors


def redirect_standard_streams() -> None:
    """0, 1 and 2 on /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
