"""One sandbox as pagurusd holds it: from empty namespaces to a function's, to nothing. Runs in pagurusd.

A Sandbox owns its cgroup, namespaces, sockets and process. Its state changes through one method, along the
transitions of one table. What happens inside it is its own affair: it is only ever killed, never asked.
"""

import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import Enum, auto

from runtime import packets, syscalls
from runtime.errors import StartError
from runtime.model import Assignment, EnvironmentId, Limits, SandboxId, ZygoteId
from runtime.packets import PacketSocket
from runtime.sandbox import mounts
from runtime.sandbox.cgroup import Cgroup
from runtime.sandbox.mounts import Attachment, MountDesk
from runtime.sandbox.nsbuilder import TARGETS
from runtime.sandbox.userns import UserNamespace


class State(Enum):
    """Stages of a sandbox's life."""

    EMPTY = auto()  # namespaces and cgroup, no process
    SPAWNING = auto()  # its zygote was asked to fork
    PARKED = auto()  # isolated, waits for its function
    ASSIGNED = auto()  # a function's
    DYING = auto()  # killed or ended, not reaped
    GONE = auto()


_TRANSITIONS = {
    State.EMPTY: {State.SPAWNING, State.GONE},
    State.SPAWNING: {State.PARKED, State.ASSIGNED, State.DYING},
    State.PARKED: {State.ASSIGNED, State.DYING},
    State.ASSIGNED: {State.DYING},
    State.DYING: {State.GONE},
    State.GONE: set(),
}
DEFAULT_LIMITS = Limits()
_PHASES = ("fork", "isolate", "park")


class Sandbox:
    """See the module. Made by `prepare`; `release` gives everything back once its process is reaped."""

    def __init__(
        self,
        sandbox_id: SandboxId,
        *,
        zygote: ZygoteId,
        uid: int,
        environment: EnvironmentId | None,
        cgroup: Cgroup,
        namespaces: Sequence[int],
    ) -> None:
        """namespaces: descriptors of the network and mount namespace, then of TARGETS; owned from here on."""
        self.id = sandbox_id
        self.zygote = zygote
        self.uid = uid
        self.environment = environment
        self.cgroup = cgroup
        self.state = State.EMPTY
        self.assignment: Assignment | None = None
        self.reason = ""
        self.error = ""
        self.pid = -1
        self.frozen = False
        self.reporter = -1  # host pid of who reported, by the kernel's word; a hostile zygote's process may have
        self.is_offered = False  # the gateway knows it
        self.was_ready = False
        self.is_watched = False  # it has or had a process, whose end the node hears of
        self._network, self._mounts, *targets = namespaces
        self._targets = dict(zip(TARGETS, targets, strict=True))
        self._limits = DEFAULT_LIMITS
        self._undo = ExitStack()
        for fd in namespaces:
            self._undo.callback(os.close, fd)
        self._control: PacketSocket | None = None
        self._theirs: list[socket.socket | int] = []
        self._gateway_ends: list[int] = []

    def become(self, state: State) -> None:
        """Change state. A transition that the table lacks is a programmer's error."""
        assert state in _TRANSITIONS[self.state], f"{self.id}: {self.state} -> {state}"
        self.state = state
        self.was_ready = self.was_ready or state in (State.PARKED, State.ASSIGNED)

    @property
    def is_live(self) -> bool:
        return self.state in (State.SPAWNING, State.PARKED, State.ASSIGNED)

    @property
    def gateway_descriptors(self) -> list[int]:
        """Invocation socket, stdout, stderr: the gateway's ends. Kept here too, for a gateway that restarts."""
        return self._gateway_ends

    @property
    def network(self) -> int:
        """Descriptor of its network namespace; the sandbox's."""
        return self._network

    def on_release(self, undo: Callable[[], None]) -> None:
        """Call `undo` when the sandbox has ended, before its namespaces are let go."""
        self._undo.callback(undo)

    def open_channels(self) -> None:
        """Make sockets and pipes, and open what joining the cgroup takes: all that a fork needs, off its path."""
        self.cgroup.join_descriptors()
        control, control_theirs = packets.packet_pair()
        packets.ask_for_sender(control)
        invocation, invocation_theirs = socket.socketpair()
        out_read, out_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        err_read, err_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for fd in (out_write, err_write):
            os.set_blocking(fd, True)
        self._control = PacketSocket(control)
        self._undo.callback(self._control.close)
        self._gateway_ends = [invocation.detach(), out_read, err_read]
        for fd in self._gateway_ends:
            self._undo.callback(os.close, fd)
        self._theirs = [control_theirs, invocation_theirs, out_write, err_write]

    def spawn_descriptors(self) -> tuple[list[int], bool]:
        """All descriptors a zygote needs to fork into this sandbox, and whether a cgroup directory is among them."""
        join = self.cgroup.join_descriptors()
        directory = [join.directory] if join.directory >= 0 else []
        theirs = [end.fileno() if isinstance(end, socket.socket) else end for end in self._theirs]
        return [*theirs, self._network, self._mounts, *directory, *join.tasks], bool(directory)

    def close_helper_ends(self) -> None:
        """Close the helper's ends here, once its zygote has them."""
        for end in self._theirs:
            if isinstance(end, socket.socket):
                end.close()
            else:
                os.close(end)
        self._theirs = []

    async def parked(self) -> dict[str, float]:
        """Wait until the helper has isolated itself; its phases in ms. Raises StartError with the failed step."""
        assert self._control is not None
        packet = await self._control.receive()
        if packet.sender is not None:
            self.reporter = packet.sender[0]
        phases_ms = _phases_ms(packet.data)
        # From here on it may be user code that writes there: nobody reads it any more.
        if self.assignment is None:
            self._control.pause()
        else:
            self._control.close()
        return phases_ms

    def start_failure(self) -> str:
        """Why a helper that has ended, and whose report nobody has taken, was never isolated; '' if it was."""
        if self._control is None:
            return ""
        try:
            _phases_ms(self._control.peek().data)
        except StartError as error:
            return f"{error.phase}: {error.message}"
        return ""

    def assign(
        self,
        assignment: Assignment,
        code: int,
        environment: int | None,
        desk: MountDesk,
        *,
        resolv_conf: int | None = None,
    ) -> None:
        """Make it the function's: limits, code and environment attached from outside, then one message.

        code, environment, resolv_conf: detached mounts, consumed. May come before the helper runs: the message waits.
        Raises OSError; the sandbox is to be killed then.
        """
        assert self._control is not None
        self._set_limits(assignment.limits)
        attachments = [Attachment(code, "code", "code")]
        if environment is not None:
            attachments.append(Attachment(environment, "opt/env", "environment"))
        if resolv_conf is not None:
            attachments.append(Attachment(resolv_conf, "etc/resolv.conf", "resolv.conf"))
        if assignment.limits.tmp_bytes != DEFAULT_LIMITS.tmp_bytes:
            attachments.append(Attachment(mounts.tmpfs(assignment.limits.tmp_bytes), "tmp", "tmp"))
        try:
            with desk.inside(self._mounts):
                for attachment in attachments:
                    syscalls.move_mount(attachment.fd, "", dir_fd=self._targets[attachment.target])
        finally:
            for attachment in attachments:
                os.close(attachment.fd)
        self._control.send(_message(assignment, environment_is_new=environment is not None))
        self.assignment = assignment
        if self.state is State.PARKED:
            self._control.close()  # what was sent stays readable for the helper

    def _set_limits(self, limits: Limits) -> None:
        wanted = (limits.memory_bytes, limits.pids, limits.cpu_millis)
        if wanted != (self._limits.memory_bytes, self._limits.pids, self._limits.cpu_millis):
            self.cgroup.set_limits(limits)
            self._limits = limits

    def freeze(self, *, frozen: bool) -> None:
        """Stop or continue its processes."""
        self.cgroup.freeze(frozen=frozen)
        self.frozen = frozen

    def kill(self, reason: str) -> None:
        """SIGKILL for everything in it. Its exit is collected by the reaper."""
        if not self.is_live:
            return
        self.reason = self.reason or reason
        self.become(State.DYING)
        self.kill_processes()

    def kill_processes(self) -> None:
        """SIGKILL for all in the cgroup, and for the process that the zygote named: a hostile one may be outside."""
        self.cgroup.kill()
        if self.pid > 0:  # our child, and not reaped: the pid is still its own
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def release(self) -> None:
        """Close every descriptor. The cgroup's directories are the caller's to remove. Idempotent."""
        self.close_helper_ends()
        self._undo.close()
        self.cgroup.close()


def _phases_ms(report: bytes) -> dict[str, float]:
    """What a helper says once it is isolated. Raises StartError with the step that failed."""
    if not report:
        raise StartError("fork", "the helper ended before it was isolated")
    try:
        message = json.loads(report)
        if message["kind"] == "failed":
            raise StartError(str(message["step"])[:40], os.strerror(int(message["errno"])))
        return {name: int(message["ns"][name]) / 1e6 for name in _PHASES if name in message["ns"]}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise StartError("fork", "the helper sent a malformed report") from error


def _message(assignment: Assignment, *, environment_is_new: bool) -> bytes:
    limits = assignment.limits
    environ = {  # beside what the zygote was started with: HOME, LANG, PATH, one thread in numeric libraries
        "PAGURUS_FUNCTION": assignment.function,
        "PAGURUS_VERSION": assignment.version,
        **assignment.environ,
    }
    return json.dumps(
        {
            "kind": "assign",
            "function": assignment.function,
            "version": assignment.version,
            "handler": assignment.handler,
            "environ": environ,
            "memory_bytes": limits.memory_bytes,
            "open_files": limits.open_files,
            "result_bytes": limits.result_bytes,
            "environment_is_new": environment_is_new,
            **({"is_check": True} if assignment.is_check else {}),
        }
    ).encode()


async def _take_both(user_namespace: UserNamespace) -> list[int]:
    """Both answers are taken also when one is a failure: the next sandbox must not get the other."""
    made: list[int] = []
    failure: StartError | None = None
    try:
        for _ in range(2):
            try:
                made += await user_namespace.take_made()
            except StartError as error:
                failure = failure or error
        if failure is not None:
            raise failure
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    return made


async def prepare(
    sandbox_id: SandboxId,
    *,
    zygote: ZygoteId,
    uid: int,
    environment: EnvironmentId | None,
    cgroup: Cgroup,
    user_namespace: UserNamespace,
    tree: Sequence[Attachment],
) -> Sandbox:
    """An EMPTY sandbox: namespaces made by the zygote's builder, limits set.

    cgroup: owned by the sandbox from the call on, also when it fails. tree: root, devices, environment...;
    borrowed; tmp and shm are added here. Raises StartError.
    """
    made: list[int] = []
    own = [
        Attachment(mounts.tmpfs(DEFAULT_LIMITS.tmp_bytes, executable=False), "dev/shm", "shm"),
        Attachment(mounts.tmpfs(DEFAULT_LIMITS.tmp_bytes), "tmp", "tmp"),
    ]
    try:
        cgroup.set_limits(DEFAULT_LIMITS)
        cgroup.allow_entry(user_namespace.first_uid)
        user_namespace.request_network()
        user_namespace.request_mounts([*tree, *own])
        made += await _take_both(user_namespace)
    except BaseException:
        for fd in made:
            os.close(fd)
        cgroup.close()
        cgroup.try_remove()
        raise
    finally:
        for attachment in own:
            os.close(attachment.fd)
    made_sandbox = Sandbox(sandbox_id, zygote=zygote, uid=uid, environment=environment, cgroup=cgroup, namespaces=made)
    made_sandbox.open_channels()
    return made_sandbox
