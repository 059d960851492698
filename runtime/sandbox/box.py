"""One box: namespaces for one hostile program, which sees no host, no network and has no power. Runs in pagurusd.

Who is whose child: pagurusd is the parent of all. The set-up child C makes the namespaces, clones the init I as its
sibling, waits for the command, clones the program J as its sibling, and ends. I is pid 1 inside: its death ends
everything there, and it can be reaped only after all others, so that its end is the end of the box's processes.
"""

import array
import asyncio
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runtime import packets, syscalls
from runtime.errors import StartError
from runtime.packets import PacketSocket
from runtime.reaper import Exit, Reaper
from runtime.sandbox import children, identity, mounts, nsbuilder, user_counts
from runtime.sandbox.cgroup import Cgroup
from runtime.sandbox.children import Steps
from runtime.sandbox.mounts import Attachment
from runtime.sandbox.userns import INIT_PROGRAM, name_machine
from runtime.syscalls import CloneFlag, MountAttr

PORT = 3141  # where the program finds the listening socket; nothing else is in its network namespace
PROGRAM_UID = identity.FIRST_SANDBOX_UID
_BACKLOG = 128
_CHUNK_BYTES = 1 << 20
_NAMESPACES = CloneFlag.NEWPID | CloneFlag.NEWNS | CloneFlag.NEWIPC | CloneFlag.NEWUTS | CloneFlag.NEWCGROUP


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that is in the box when its program starts. `fd`: borrowed, read from its start.

    name: one path component, in the working directory. sha256: checked while copying, unless ''.
    """

    name: str
    fd: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """What a box is made of. Descriptors in `tree` and `inputs`, and the cgroup, are borrowed.

    tree: the root first, then what is attached in it; `work` is the one that the program starts in and may fill.
    make_network: leaves the caller in a new network namespace whose loopback is up (runtime.netns). filters:
    seccomp programs, which `confine` loads.
    """

    first_uid: int
    cgroup: Cgroup
    anchor: str
    tree: Sequence[Attachment]
    work: Attachment
    inputs: Sequence[InputFile]
    make_network: Callable[[int], int]
    confine: Callable[[bytes], None]
    filters: Sequence[bytes]


class Box:
    """Made by `create`; `run` once; `end` gives back everything but the cgroup's directories. One owner."""

    def __init__(self, plan: BoxPlan, reaper: Reaper) -> None:
        self._plan = plan
        self._reaper = reaper
        self._channel: PacketSocket | None = None
        self._listener = -1
        self._ends: list[asyncio.Future[Exit]] = []

    @classmethod
    async def create(cls, plan: BoxPlan, reaper: Reaper) -> "Box":
        """Make the namespaces, with the inputs in place and the socket listening. Raises StartError; nothing stays."""
        self = cls(plan, reaper)
        try:
            await self._create()
        except BaseException:
            await self.end()
            raise
        return self

    async def _create(self) -> None:
        ours, theirs = packets.packet_pair()
        parent = os.getpid()

        def body(end: socket.socket, steps: Steps) -> None:
            self._set_up(end, steps, parent)

        self._channel = PacketSocket(ours)
        with theirs:
            pid = children.fork_child(body, theirs)
            self._ends.append(self._reaper.expect(pid))
        await children.answer(self._channel, "a build box")
        for name in ("uid_map", "gid_map"):
            syscalls.write_file(f"/proc/{pid}/{name}", f"0 {self._plan.first_uid} {identity.RANGE}")
        self._channel.send(b"go")
        for _ in range(2):  # from C, and from I that it is set up, in any order
            message, descriptors = await children.answer(self._channel, "a build box")
            if "pid" in message:
                self._ends.append(self._reaper.expect(int(str(message["pid"]))))
                self._listener = descriptors[0]

    def take_listener(self) -> int:
        """The socket that listens on PORT inside; the caller's to close."""
        taken, self._listener = self._listener, -1
        return taken

    async def run(self, argv: Sequence[str], environ: Mapping[str, str], *, output: int) -> Exit:
        """Run the program to its end, stdout and stderr on `output`. Others may live on. Raises StartError."""
        assert self._channel is not None
        self._channel.send(json.dumps({"argv": list(argv), "environ": dict(environ)}).encode(), [output])
        message, _ = await children.answer(self._channel, argv[0])
        ended = self._reaper.expect(int(str(message["pid"])))
        self._ends.append(ended)
        packet = await self._channel.receive()  # none: the socket closes when the program is executed
        if packet.data:
            failed = json.loads(packet.data)
            raise StartError(str(failed["failed"]), f"cannot start {argv[0]}: {failed['message']}")
        return await asyncio.shield(ended)  # `end` waits for it too

    async def end(self) -> None:
        """Kill and reap every process of the box. What it has written stays in `work` until that is closed."""
        self._plan.cgroup.kill()
        if self._channel is not None:
            self._channel.close()
        if self._listener >= 0:
            os.close(self.take_listener())
        if self._ends:
            await asyncio.wait(self._ends)
        self._ends.clear()

    # --- in the children

    def _set_up(self, end: socket.socket, steps: Steps, parent: int) -> None:
        """Body of C."""
        plan = self._plan
        steps("out-of-memory score")
        identity.be_the_first_to_die()
        steps("cgroup")
        plan.cgroup.join_self()
        for given in plan.inputs:  # after the cgroup: what they take is the box's memory
            steps(f"copy {given.name}")
            _copy_in(given, plan.work.fd)
        # O_PATH: after the change of uid this process is not dumpable, and opening the files directly is refused.
        namespaces = os.open("/proc/self/ns", os.O_PATH | os.O_CLOEXEC)
        keeper = os.pidfd_open(parent)
        os.chdir("/")
        steps("unshare user")
        user_counts.own_namespaces_as(plan.first_uid)
        syscalls.unshare(CloneFlag.NEWUSER)
        children.die_with(parent)
        end.send(b"{}")
        end.recv(16)
        steps("namespace root")
        identity.become_namespace_root()
        children.die_with(parent)
        steps("unshare")
        syscalls.unshare(_NAMESPACES)
        name_machine("box")
        identity.leave_keyrings()
        steps("network")
        os.close(plan.make_network(namespaces))
        with socket.create_server(("127.0.0.1", PORT), backlog=_BACKLOG) as listener:
            steps("clone init")
            pid = syscalls.clone_sibling()
            if pid == 0:
                _or_report(end, steps, lambda: self._be_init(end, steps, keeper))
            rights = array.array("i", [listener.fileno()])
            end.sendmsg([json.dumps({"pid": pid}).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        steps("wait for the command")
        packet = packets.receive(end)
        if not packet.data:
            return
        command = json.loads(packet.data)
        steps("clone program")
        pid = syscalls.clone_sibling()
        if pid == 0:
            _or_report(end, steps, lambda: self._be_program(end, steps, command, packet.descriptors[0]))
        end.send(json.dumps({"pid": pid}).encode())

    def _be_init(self, end: socket.socket, steps: Steps, keeper: int) -> None:
        """I, up to its exec. C has the same mount namespace: the root that is made here becomes C's too.

        keeper: pidfd of pagurusd.
        """
        plan = self._plan
        os.setsid()
        identity.die_with_parent()
        if identity.has_ended(keeper):  # it had died before: no signal comes, and getppid says 0 here
            os._exit(children.EXIT_FAILED)
        steps("mount proc")
        proc = mounts.proc()
        tree = [*plan.tree, plan.work]
        nsbuilder.attach_tree(plan.anchor, [*(a.target for a in tree), "proc"], [*(a.fd for a in tree), proc], steps)
        steps("limits of the user namespace")
        user_counts.limit_namespaces()
        syscalls.mount_setattr(proc, MountAttr.RDONLY)
        children.redirect_standard_streams()
        end.send(b"{}")
        syscalls.close_range(3)
        os.execve(INIT_PROGRAM, ["pagurus-init"], {})

    def _be_program(self, end: socket.socket, steps: Steps, command: dict[str, object], output: int) -> None:
        """J, up to its exec: no descriptor but its three, no capability, no way to get one, filtered."""
        plan = self._plan
        argv, environ = command["argv"], command["environ"]
        assert isinstance(argv, list)
        assert isinstance(environ, dict)
        steps("descriptors")
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        # First above all targets, so that placing one cannot overwrite another.
        *streams, keep = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (null, output, output, end.fileno()))
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        os.dup2(keep, 3, inheritable=False)  # closed by the exec, which tells pagurusd that it happened
        syscalls.close_range(4)
        channel = socket.socket(fileno=3)
        try:
            steps("identity")
            identity.confine_resources()
            identity.keep_capabilities(frozenset())
            os.setgroups([])
            os.setresgid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)
            os.setresuid(PROGRAM_UID, PROGRAM_UID, PROGRAM_UID)
            identity.die_with_parent()
            os.chdir(f"/{plan.work.target}")
            steps("seccomp")
            for program in plan.filters:
                plan.confine(program)
            steps(f"exec {argv[0]}")
            os.execve(argv[0], argv, environ)
        except BaseException as error:
            children.report(channel, steps.current, error)
            os._exit(children.EXIT_FAILED)


def _or_report(end: socket.socket, steps: Steps, body: Callable[[], None]) -> None:
    """Run a cloned child's body, which execs; never return into what its sibling goes on with."""
    try:
        body()
    except BaseException as error:
        children.report(end, steps.current, error)
    os._exit(children.EXIT_FAILED)


def _copy_in(given: InputFile, work: int) -> None:
    """Copy one input into the box's own memory. Raises OSError, ValueError for another content than expected."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target = os.open(given.name, flags, 0o644, dir_fd=work)
    digest, offset = hashlib.sha256(), 0
    try:
        while chunk := os.pread(given.fd, _CHUNK_BYTES, offset):
            offset += len(chunk)
            digest.update(chunk)
            while chunk:
                chunk = chunk[os.write(target, chunk) :]
    finally:
        os.close(target)
    if given.sha256 and digest.hexdigest() != given.sha256:
        raise ValueError(f"{given.name} has the sha256 {digest.hexdigest()}, not {given.sha256}")
