"""A zygote's user namespace: its uid range, its pid 1, its namespace builder. Owned and used by pagurusd.

Who is whose child: pagurusd is the parent of all. The set-up child C makes the namespaces and clones the init I
as its sibling; L enters them and clones the program as its sibling; B, the namespace builder, stays outside the
pid namespace. I's death ends everything inside; I can only be reaped after everyone else in its pid namespace.
"""

import array
import json
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass

from runtime import packets, syscalls
from runtime.model import OPEN_FILES_MAX
from runtime.packets import PacketSocket
from runtime.reaper import Reaper
from runtime.sandbox import cgroup, children, identity, mounts, nsbuilder, user_counts
from runtime.sandbox.cgroup import Cgroup
from runtime.sandbox.children import Steps
from runtime.sandbox.identity import Capability
from runtime.sandbox.mounts import Attachment
from runtime.syscalls import CloneFlag

INIT_PROGRAM = "/opt/pagurus/init"
_ALL = (
    CloneFlag.NEWUSER
    | CloneFlag.NEWPID
    | CloneFlag.NEWNS
    | CloneFlag.NEWNET
    | CloneFlag.NEWIPC
    | CloneFlag.NEWUTS
    | CloneFlag.NEWCGROUP
)


@dataclass(frozen=True, slots=True)
class Launched:
    """A program started inside: pidfd (the receiver's to close), host pid."""

    pid: int
    pidfd: int


class UserNamespace:
    """The namespaces of one zygote. Made by `create`, ended by `close`."""

    def __init__(self, first_uid: int, cgroups: tuple[Cgroup, Cgroup], anchor: str, reaper: Reaper) -> None:
        self.first_uid = first_uid
        self._outer, self._cgroup = cgroups
        self._anchor = anchor
        self._reaper = reaper
        self._undo = ExitStack()
        self.init_pid = -1
        self.init_pidfd = -1
        self.builder_pid = -1
        self._builder: PacketSocket | None = None

    @classmethod
    async def create(
        cls,
        *,
        first_uid: int,
        cgroups: tuple[Cgroup, Cgroup],
        anchor: str,
        tree: Sequence[Attachment],
        reaper: Reaper,
        make_network: Callable[[int], int],
    ) -> "UserNamespace":
        """Make namespaces, init and builder. `tree`: the zygote's root and what is attached in it; borrowed.

        make_network: what the builder makes sandboxes' network namespaces with. cgroups: the one that holds those of
        all sandboxes, empty so far, and the one in it for init, builder and zygote; borrowed. The outer is the root of
        the cgroup namespace: where namespaces delimit delegation (nsdelegate, which systemd sets) a zygote can clone
        into cgroups below its namespace's root only. Raises StartError; nothing stays then.
        """
        self = cls(first_uid, cgroups, anchor, reaper)
        async with AsyncExitStack() as undo:
            undo.callback(self.close)
            await self._start_init(tree)
            self._outer.enable_children()
            await self._start_builder(make_network)
            undo.pop_all()
        return self

    async def _start_init(self, tree: Sequence[Attachment]) -> None:
        ours, theirs = packets.packet_pair()
        parent = os.getpid()

        def body(end: socket.socket, steps: Steps) -> None:
            self._set_up(end, steps, tree, parent)

        with PacketSocket(ours) as channel, theirs:
            setup_pid = children.fork_child(body, theirs)
            ended = self._reaper.expect(setup_pid)
            try:
                theirs.close()
                await children.answer(channel, "user namespace")
                for name in ("uid_map", "gid_map"):
                    syscalls.write_file(f"/proc/{setup_pid}/{name}", f"0 {self.first_uid} {identity.RANGE}")
                channel.send(b"go")
                self.init_pid, _ = await _born(channel, "init")
                self._reaper.expect(self.init_pid)  # so that the zygote cannot pass it off as a helper
                self.init_pidfd = os.pidfd_open(self.init_pid)
                self._undo.callback(os.close, self.init_pidfd)
            finally:
                await ended

    def _set_up(self, end: socket.socket, steps: Steps, tree: Sequence[Attachment], parent: int) -> None:
        """Body of C: become the first process of the new namespaces, clone I beside it, end."""
        steps("out-of-memory score")
        identity.be_the_first_to_die()
        steps("cgroup")
        self._outer.join_self()
        entries = self._cgroup.open_entries()
        keeper = os.pidfd_open(parent)
        steps("unshare user")
        user_counts.own_namespaces_as(self.first_uid)
        syscalls.unshare(CloneFlag.NEWUSER)
        children.die_with(parent)
        end.send(b"{}")
        end.recv(16)
        steps("namespace root")
        identity.become_namespace_root()
        steps("unshare")
        syscalls.unshare(_ALL & ~CloneFlag.NEWUSER)
        identity.leave_keyrings()
        name_machine("zygote")
        steps("clone init")
        pid = syscalls.clone_sibling()
        if pid:
            end.send(json.dumps({"pid": pid}).encode())
            return
        try:
            steps("cgroup of init")
            cgroup.enter(entries)
            self._be_init(end, steps, tree, keeper)
        except BaseException as error:
            children.report(end, steps.current, error)
            os._exit(children.EXIT_FAILED)

    def _be_init(self, end: socket.socket, steps: Steps, tree: Sequence[Attachment], keeper: int) -> None:
        """Body of I up to its exec. keeper: pidfd of pagurusd."""
        os.setsid()
        identity.die_with_parent()
        if identity.has_ended(keeper):  # it had died before: no signal comes, and getppid says 0 here
            os._exit(children.EXIT_FAILED)
        steps("mount proc")
        proc = mounts.proc()
        targets = [*(a.target for a in tree), "proc"]
        nsbuilder.attach_tree(self._anchor, targets, [*(a.fd for a in tree), proc], steps)
        steps("limits of the user namespace")
        user_counts.limit_namespaces()
        children.redirect_standard_streams()
        end.send(b"{}")
        syscalls.close_range(3)
        steps("exec init")
        os.execve(INIT_PROGRAM, ["pagurus-init"], {})

    async def _start_builder(self, make_network: Callable[[int], int]) -> None:
        ours, theirs = packets.packet_pair()
        user_namespace = os.open(f"/proc/{self.init_pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        anchor = self._anchor

        def body(end: socket.socket, steps: Steps) -> None:
            identity.be_the_first_to_die()
            self._cgroup.join_self()
            nsbuilder.serve(end, steps, user_namespace=user_namespace, anchor=anchor, make_network=make_network)

        channel = PacketSocket(ours)
        self._undo.callback(channel.close)
        with theirs:
            self.builder_pid = children.fork_child(body, theirs)
            self._reaper.expect(self.builder_pid)
        os.close(user_namespace)
        await children.answer(channel, "namespace builder")
        self._builder = channel

    async def launch(self, program: Sequence[str], environ: dict[str, str], *, control: socket.socket) -> Launched:
        """Start `program` inside as pagurusd's child, with `control` on descriptor 3 and the five capabilities.

        To be called once: it also gives the builder a proc of the pid namespace, which every helper's mount
        namespace needs. Raises StartError.
        """
        ours, theirs = packets.packet_pair()

        def body(end: socket.socket, steps: Steps) -> None:
            self._enter_and_exec(end, steps, program, environ, control)

        with PacketSocket(ours) as channel, theirs:
            ended = self._reaper.expect(children.fork_child(body, theirs))
            try:
                theirs.close()
                pid, descriptors = await _born(channel, program[0])
                await self._give_proc(descriptors[0])
                return Launched(pid, os.pidfd_open(pid))
            finally:
                await ended

    def _enter_and_exec(
        self,
        end: socket.socket,
        steps: Steps,
        program: Sequence[str],
        environ: dict[str, str],
        control: socket.socket,
    ) -> None:
        """Body of L, and of the program up to its exec."""
        steps("out-of-memory score")
        identity.be_the_first_to_die()
        steps("cgroup")
        self._cgroup.join_self()
        steps("enter namespaces")
        syscalls.setns(self.init_pidfd, _ALL)
        identity.become_namespace_root()
        identity.leave_keyrings()
        steps("clone")
        pid = syscalls.clone_sibling()
        if pid:
            end.send(json.dumps({"pid": pid}).encode())
            return
        try:
            os.setsid()
            identity.die_with_parent()
            steps("mount proc")
            proc = mounts.proc()
            end.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [proc]))])
            children.redirect_standard_streams()
            os.dup2(control.fileno(), 3)
            syscalls.close_range(4)
            # Only now: pagurusd may have more open than the limit, and all was copied.
            identity.confine_resources(open_files_max=OPEN_FILES_MAX)
            os.chdir("/")
            identity.keep_capabilities(frozenset(Capability))
            os.execve(program[0], list(program), environ)
        except BaseException as error:
            children.report(end, steps.current, error)
            os._exit(children.EXIT_FAILED)

    async def _give_proc(self, proc: int) -> None:
        """Let the builder attach a proc of the pid namespace: a helper may mount its own only where one is visible."""
        assert self._builder is not None
        try:
            self._builder.send(json.dumps({"make": "proc"}).encode(), [proc])
        finally:
            os.close(proc)
        await children.answer(self._builder, "proc")

    def request_network(self) -> None:
        """Ask for a network namespace; `take_made` returns it, in the order of requests."""
        assert self._builder is not None
        self._builder.send(json.dumps({"make": "net"}).encode())

    def request_mounts(self, tree: Sequence[Attachment]) -> None:
        """Ask for a mount namespace of these mounts (root first) and /proc; descriptors stay the caller's."""
        assert self._builder is not None
        attach = ":".join(a.target for a in tree)
        self._builder.send(json.dumps({"make": "mnt", "attach": attach}).encode(), [a.fd for a in tree])

    async def take_made(self) -> list[int]:
        """Descriptors of the oldest request's namespace, the caller's. Raises StartError."""
        assert self._builder is not None
        _, descriptors = await children.answer(self._builder, "namespaces of a sandbox")
        return descriptors

    def end(self) -> None:
        """Kill init, and with it every process of the pid namespace; the builder ends with its socket.

        pagurusd's reaper collects them all.
        """
        if self.init_pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init_pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End everything and close all descriptors. Idempotent."""
        self.end()
        self.init_pidfd = -1
        self._undo.close()


async def _born(channel: PacketSocket, what: str) -> tuple[int, list[int]]:
    """The pid of a sibling that a child cloned, and the descriptors the sibling sent: two answers, in any order."""
    first, given = await children.answer(channel, what)
    try:
        second, more = await children.answer(channel, what)
    except BaseException:
        for fd in given:  # the sibling had answered before the child was killed
            os.close(fd)
        raise
    return int(str(first["pid"] if "pid" in first else second["pid"])), [*given, *more]


def name_machine(name: str) -> None:
    """Names of the caller's UTS namespace instead of the host's, which it was copied from."""
    socket.sethostname(name)
    syscalls.setdomainname("(none)")
