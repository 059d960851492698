"""One zygote as pagurusd hosts it: its namespaces, its process, the sandboxes kept ready from it.

Runs in pagurusd and wires runtime.sandbox and runtime.fork. Empty sandboxes (namespaces and cgroup, no process)
and standbys (forked, isolated, parked) are made off the path of requests and refilled after use.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from runtime import attachments, conduct, packets
from runtime.errors import PagurusError, RefusedError, StartError
from runtime.fork import client
from runtime.fork.client import ZygoteClient
from runtime.forking import Forking
from runtime.holdings import Holdings
from runtime.model import MIB, Environment, EnvironmentId, Limits, RuntimeName, SandboxId, ZygoteId
from runtime.netns import loopback
from runtime.parts import Parts
from runtime.protocol import ZygoteReady
from runtime.reaper import Exit
from runtime.sandbox import mounts, sandbox, seccomp
from runtime.sandbox.cgroup import Cgroup
from runtime.sandbox.identity import SandboxUids
from runtime.sandbox.mounts import Attachment
from runtime.sandbox.sandbox import Sandbox, State
from runtime.sandbox.userns import UserNamespace

log = logging.getLogger("pagurus.zygote")

REFILL_QUIET_S = 0.01  # after a start, the cores are the function's first
REFILL_RETRY_S = 1.0
ZYGOTE_TMP_BYTES = 16 << 20


class ZygoteHost:
    """See the module. `on_parked(sandbox)` is called for each new standby, `on_end(host, reason)` once.

    base: folder name of the base rootfs that it and its sandboxes have mounted; '' before it boots.
    """

    def __init__(
        self,
        zygote_id: ZygoteId,
        *,
        runtime: RuntimeName,
        environments: tuple[EnvironmentId, ...],
        imports: tuple[str, ...],
        tenants: tuple[str, ...],
        parts: Parts,
        on_parked: Callable[[Sandbox], None],
        on_end: Callable[["ZygoteHost", str], None],
        watch: Callable[["ZygoteHost", Sandbox, int], None],
    ) -> None:
        self.id = zygote_id
        self.runtime = runtime
        self.environments = environments  # those it can help
        self.mounted = environments
        self.tenants = tenants
        self.holdings = Holdings()
        self.base = ""
        self._root: list[Path] = []
        self._imports = imports
        self._parts = parts
        self._on_parked = on_parked
        self._on_end = on_end
        self._watch = watch
        self._uids = SandboxUids()
        # Not the id alone: a zygote may be made anew while helpers of its namesake still live.
        self._path = f"{zygote_id}-{next(parts.numbers)}"
        self._targets: dict[EnvironmentId | None, int] = {}
        self._empty: dict[EnvironmentId | None, deque[Sandbox]] = {}
        self._standbys: dict[EnvironmentId | None, set[SandboxId]] = {}
        self._living: set[SandboxId] = set()
        self._wanted = asyncio.Event()
        self._last_use_s = 0.0
        self._making = asyncio.Lock()
        self._parent: Cgroup | None = None
        self._cgroup: Cgroup | None = None
        self._namespace: UserNamespace | None = None
        self._client: ZygoteClient | None = None
        self._forking: Forking | None = None
        self._first_uid = -1
        self._is_booting = True
        self._watcher: conduct.Watch | None = None
        self.is_ended = False
        self.is_refused = False
        self.ready: ZygoteReady | None = None

    async def start(self) -> ZygoteReady:
        """Boot the interpreter, import, warm. Raises StartError; nothing stays then."""
        started_s = self._parts.clock.monotonic_s()
        try:
            imported = await self._boot()
            self._refuse_if_ended()
        except BaseException as error:
            if isinstance(error, RefusedError) and self._cgroup is not None and self._cgroup.oom_kills():
                limit_bytes = self._parts.settings.zygote_memory_bytes
                error.message += f": it needed more than zygote_memory_bytes, {limit_bytes / MIB:.0f} MiB"
            self._is_booting = False
            self.end("start failed")
            self._let_go()  # what was made after an `end` that came meanwhile
            raise
        self._is_booting = False
        assert self._cgroup is not None
        for environment, extensions in imported.uncovered.items():
            log.warning(
                "zygote=%s cannot help environment %s: there %s would import differently and cannot be imported again",
                *(self.id, environment[:12], extensions),
            )
        self.environments = tuple(one for one in self.mounted if one not in imported.uncovered)
        self.ready = ZygoteReady(
            zygote=self.id,
            runtime=self.runtime,
            environments=self.environments,
            start_ms=(self._parts.clock.monotonic_s() - started_s) * 1000,
            memory_bytes=self._cgroup.memory_bytes(),
            import_ms=imported.import_ms,
            failed=imported.failed,
            tenants=self.tenants,
        )
        return self.ready

    async def _boot(self) -> client.Imported:
        parts = self._parts
        # Pinned for the zygote's life: a helper must not see other files than its interpreter was started from.
        self._root = parts.layers.root_lowers(self.runtime)
        self.base = self._root[-1].parent.name
        trusted = parts.settings.trusted_packages
        self.holdings = Holdings.read(self.id, parts.layers, self.environments, trusted)
        self.mounted = tuple(self.holdings.environments)
        known = self.holdings.environments
        self._first_uid = parts.ranges.acquire()
        self._parent = parts.cgroups.create(self._path)
        self._parent.allow_entry(self._first_uid)
        self._cgroup = parts.cgroups.create(f"{self._path}/zygote")
        self._cgroup.allow_entry(self._first_uid)
        tree = attachments.tree(parts, self._root, self.base, None)
        try:
            tree.append(Attachment(mounts.tmpfs(ZYGOTE_TMP_BYTES), "tmp", "tmp"))
            if known:
                union = parts.overlays.clone(f"union {self.id}", lambda: parts.layers.environment_lowers(self.mounted))
                tree.append(Attachment(union, "opt/env", "environment"))
            self._namespace = await UserNamespace.create(
                first_uid=self._first_uid,
                cgroups=(self._parent, self._cgroup),
                anchor=str(parts.layers.anchor),
                tree=tree,
                reaper=parts.reaper,
                make_network=loopback.make,
            )
        finally:
            attachments.close(tree)
        limits = Limits(memory_bytes=parts.settings.zygote_memory_bytes, pids=64, cpu_millis=100_000)
        self._cgroup.set_limits(limits)
        return await self._launch(known)

    async def _launch(self, known: dict[EnvironmentId, Environment]) -> client.Imported:
        assert self._namespace is not None
        self._refuse_if_ended()
        ours, theirs = packets.packet_pair()
        with theirs:
            command = client.command(f"/usr/bin/{self.runtime}", self._parts.module)
            launched = await self._namespace.launch(command, client.ENVIRON, control=theirs)
        self._client = ZygoteClient(packets.PacketSocket(ours), launched.pid, launched.pidfd, self._parts.reaper)
        watch = partial(self._watch, self)
        self._forking = Forking(self._client, self._parts.reaper, watch, first_uid=self._first_uid)
        self._parts.reaper.watch(launched.pid, self._zygote_exited)
        assert self._cgroup is not None and self._parent is not None
        limit_bytes = self._parts.settings.zygote_memory_bytes
        self._watcher = conduct.Watch(launched.pid, (self._cgroup, self._parent), limit_bytes)
        return await self._client.configure(
            imports=self._imports,
            environments={name: environment.distributions for name, environment in known.items()},
            zygote_filter=seccomp.zygote_program(),
            helper_filter=seccomp.helper_program(),
            look=self._watcher.look,
        )

    def _refuse_if_ended(self) -> None:
        if self.is_ended:
            raise StartError("fork", f"zygote {self.id} was ended while it started")

    async def run(self) -> None:
        """Take the zygote's answers and keep the pools filled until it ends. Run as a task after `start`."""
        assert self._client is not None
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._refill()), group.create_task(self._keep_watch())]
            await self._client.serve()
            for task in tasks:
                task.cancel()
        self.end("the zygote ended")

    async def _keep_watch(self) -> None:
        assert self._client is not None and self._watcher is not None
        zygote = self._client
        zygote.fault = await self._watcher.until_fault(lambda: zygote.is_asked or self._making.locked())
        zygote.close()

    # --- pools

    def set_targets(self, targets: dict[EnvironmentId | None, int], tenants: tuple[str, ...] | None = None) -> None:
        """How many standbys to keep, by the environment mounted in them; and who has chosen all that it holds."""
        if tenants is not None and tenants != self.tenants:
            self.tenants = tenants
            self.ready = msgspec.structs.replace(self.ready, tenants=tenants) if self.ready else None
        targets = {one: count for one, count in targets.items() if one is None or one in self.environments}
        self._targets = targets
        for environment in list(self._empty):
            if environment not in targets:
                for unused in self._empty.pop(environment):
                    self._scrap(unused)
        self._wanted.set()

    def take_empty_nowait(self, environment: EnvironmentId | None) -> Sandbox | None:
        """An empty sandbox from the pool, if there is one."""
        self._last_use_s = self._parts.clock.monotonic_s()
        self._wanted.set()
        pool = self._empty.get(self._key(environment))
        return pool.popleft() if pool else None

    async def take_empty(self, environment: EnvironmentId | None) -> Sandbox:
        """An empty sandbox, from the pool or made now. Raises StartError."""
        return self.take_empty_nowait(environment) or await self._make_empty(self._key(environment))

    def _key(self, environment: EnvironmentId | None) -> EnvironmentId | None:
        """What is mounted ahead of time for a function with this environment: it, or nothing."""
        return environment if environment in self.environments else None

    @property
    def forking(self) -> Forking:
        """How helpers are forked from it. Raises StartError when it has ended."""
        if self._forking is None or self.is_ended:
            raise StartError("fork", f"zygote {self.id} has ended")
        return self._forking

    def standby_taken(self, taken: Sandbox) -> None:
        """A standby became a function's, or died."""
        self._standbys.get(taken.environment, set()).discard(taken.id)
        self._last_use_s = self._parts.clock.monotonic_s()
        self._wanted.set()

    def sandbox_gone(self, gone: Sandbox) -> None:
        """A sandbox of this zygote is reaped: its uid is free, and the namespaces may go."""
        self._uids.release(gone.uid)
        self._living.discard(gone.id)
        self.standby_taken(gone)
        self._close_if_last()

    async def _refill(self) -> None:
        while not self.is_ended:
            await self._wanted.wait()
            quiet_s = self._last_use_s + REFILL_QUIET_S - self._parts.clock.monotonic_s()
            if quiet_s > 0:
                await asyncio.sleep(quiet_s)
            try:
                if not await self._refill_one():
                    self._wanted.clear()
            except (PagurusError, OSError, TimeoutError) as error:
                log.warning("zygote=%s cannot refill: %s", self.id, error)
                await asyncio.sleep(REFILL_RETRY_S)

    async def _refill_one(self) -> bool:
        """Make the most wanted thing; False when nothing is missing."""
        for environment, count in self._targets.items():
            pool = self._empty.setdefault(environment, deque())
            standbys = self._standbys.setdefault(environment, set())
            if len(standbys) < count:
                await self._add_standby(environment)
                return True
            if len(pool) < self._parts.settings.shells_per_zygote:
                pool.append(await self._make_empty(environment))
                return True
        return False

    async def _add_standby(self, environment: EnvironmentId | None) -> None:
        chosen = await self.take_empty(environment)
        self._standbys[environment].add(chosen.id)
        try:
            forking = self.forking
            await forking.finish(chosen, forking.begin(chosen, standby=True), lambda _: None)
        except BaseException as error:
            self.fail(chosen, str(error))
            raise
        if self.is_ended:
            chosen.kill("its zygote ended")  # it was on its way when the others were killed
        elif chosen.state is State.SPAWNING:
            chosen.become(State.PARKED)
            self._on_parked(chosen)

    def fail(self, chosen: Sandbox, error: str) -> None:
        """A fork that went wrong: kill what there is of it."""
        chosen.error = chosen.error or error
        if chosen.is_watched:
            chosen.kill("start failed")  # the node hears of its end
        elif chosen.state is not State.GONE:
            self._scrap(chosen)

    async def _make_empty(self, environment: EnvironmentId | None) -> Sandbox:
        number = next(self._parts.numbers)
        name = SandboxId(f"{self.id}.{number}")
        uid = self._uids.acquire()
        tree = attachments.tree(self._parts, self._root, self.base, environment)
        try:
            async with self._making:  # the builder answers in order
                if self.is_ended or self._namespace is None:
                    raise StartError("netns", f"zygote {self.id} has ended")
                cgroup = self._parts.cgroups.create(f"{self._path}/{number}")
                made = await sandbox.prepare(
                    name,
                    zygote=self.id,
                    uid=uid,
                    environment=environment,
                    cgroup=cgroup,
                    user_namespace=self._namespace,
                    tree=tree,
                )
        except BaseException:
            self._uids.release(uid)
            raise
        finally:
            attachments.close(tree)
        self._living.add(name)
        if self.is_ended:
            self._scrap(made)
            raise StartError("netns", f"zygote {self.id} has ended")
        return made

    def _scrap(self, unused: Sandbox) -> None:
        """Give back a sandbox whose process never was, or is unknown."""
        unused.cgroup.kill()
        if unused.state is State.SPAWNING:
            unused.become(State.DYING)
        unused.become(State.GONE)
        unused.release()
        self._parts.bury(unused.cgroup)
        self.sandbox_gone(unused)

    # --- end

    def end(self, reason: str) -> None:
        """Stop forking: the zygote, its empty sandboxes and its standbys go; helpers of functions live on."""
        if self.is_ended:
            return
        self.is_ended = True
        fault = self._client.fault if self._client is not None else ""
        self.is_refused = bool(fault)
        reason = f"the zygote was refused: {fault}" if fault else reason
        for pool in self._empty.values():
            for unused in pool:
                self._scrap(unused)
        self._empty.clear()
        self._parts.overlays.forget(f"union {self.id}")
        self._on_end(self, reason)
        self._let_go()

    def _let_go(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._watcher is not None:
            self._watcher.end_others()
        if self._is_booting and self._cgroup is not None:
            self._cgroup.kill()  # so that `start` fails soon
        self._close_if_last()

    def _close_if_last(self) -> None:
        if not self.is_ended or self._living or self._is_booting:
            return
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None
        for cgroup in (self._cgroup, self._parent):
            if cgroup is not None:
                with contextlib.suppress(OSError):
                    cgroup.kill()
                cgroup.close()
                self._parts.bury(cgroup)
        self._cgroup = self._parent = None
        if self._first_uid >= 0:
            self._parts.ranges.release(self._first_uid)
            self._first_uid = -1

    def _zygote_exited(self, ended: Exit) -> None:
        self.end(f"the zygote ended with {ended.describe()}")

    @property
    def memory_bytes(self) -> int:
        """Memory charged to the zygote itself."""
        return self._cgroup.memory_bytes() if self._cgroup is not None else 0

    @property
    def pid(self) -> int:
        return self._client.pid if self._client is not None else -1
