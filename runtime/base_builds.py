"""Base rootfs that are being built, at most one a runtime, and those given up. Runs in pagurusd.

The builder of a base is root: mmdebstrap makes files of all owners, and chroots. It takes no input but the name of a
known runtime, reads the host's own apt settings, and has a cgroup and a mount namespace of its own, so that
neither a process nor a mount of it outlives it.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from runtime import bases, spawned
from runtime.errors import BuildError, PagurusError
from runtime.model import Limits, RuntimeName
from runtime.parts import Parts
from runtime.protocol import BuildFailed, BuildProgress, BuildRuntime, DropRuntime, RuntimesChanged
from runtime.sandbox.cgroup import Cgroup
from runtime.suites import SUITES

log = logging.getLogger("pagurus.bases")

_LINE_BYTES_MAX = 1 << 20
_LIMITS = Limits(memory_bytes=2 << 30, pids=256, cpu_millis=100_000)

Send = Callable[[BuildProgress | BuildFailed | RuntimesChanged], None]


@dataclass(eq=False, slots=True)
class _Build:
    """One builder. `askers`: the numbers of the BuildRuntime messages that it answers; without any it ends."""

    runtime: RuntimeName
    askers: set[int]
    task: asyncio.Task[None] | None = None
    last: tuple[str, str, float | None] = field(default=("base", "starting the builder", 0.0))


class BaseBuilds:
    """See the module. `in_use` tells the names of the folders that zygotes and sandboxes have mounted."""

    def __init__(self, parts: Parts, send: Send, in_use: Callable[[], Collection[str]]) -> None:
        self._parts = parts
        self._send = send
        self._in_use = in_use
        self._rootfs = Path(parts.settings.state_dir) / "rootfs"
        self._running: dict[RuntimeName, _Build] = {}
        self._ending: set[_Build] = set()
        self._dropped: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._running) + len(self._ending)

    def start(self, group: asyncio.TaskGroup, message: BuildRuntime) -> None:
        """Build a base as a task of `group`, or wait for the build of it that runs."""
        if message.runtime not in SUITES:
            text = f"unknown runtime {message.runtime!r}"
            hint = f"choose one of {', '.join(SUITES)}"
            self._send(BuildFailed(build=message.build, kind="base", message=text, hint=hint))
            return
        build = self._running.get(message.runtime)
        if build is not None:
            build.askers.add(message.build)
            self._tell(message.build, build.last)
            return
        build = self._running[message.runtime] = _Build(message.runtime, {message.build})
        build.task = group.create_task(self._run(build))
        build.task.add_done_callback(lambda _: self._ended(build))  # also of one that is cancelled before it runs

    def cancel(self, number: int) -> None:
        """One asker has gone; a build without askers ends, and nothing of it stays."""
        for build in list(self._running.values()):
            if number in build.askers:
                build.askers.discard(number)
                self._send(BuildFailed(build=number, kind="cancelled", message="the build was cancelled"))
                if not build.askers:
                    self._end(build)

    def cancel_all(self) -> None:
        for build in list(self._running.values()):
            self._end(build)

    def drop(self, message: DropRuntime) -> None:
        """Give a runtime up. Its files go when nothing mounts them any more: see `tick`."""
        try:
            self._dropped.add(bases.unlink(self._rootfs, message.runtime))
        except (BuildError, OSError) as error:
            self._send(BuildFailed(build=message.build, kind="base", message=str(error)))
            return
        log.info("runtime=%s given up", message.runtime)
        self._changed(message.build)

    def tick(self) -> None:
        """Remove what was given up, once nothing uses it."""
        if self._dropped and not self._dropped <= set(self._in_use()):
            self.discard_old()

    def old(self) -> list[Path]:
        """Folders that `discard_old` would remove now."""
        with bases.exclusive(self._rootfs) as held:
            return bases.old(self._rootfs, self._in_use()) if held and not self.count else []

    def discard_old(self) -> list[str]:
        """Remove every base rootfs that no link names and nothing mounts; their names. For garbage collection.

        Nothing happens while a base is being built, here or by scripts/setup: that build may be about to link an
        old one again. Must not be called while functions are built: these read a base, too.
        """
        with bases.exclusive(self._rootfs) as held:
            if not held or self.count:
                return []
            folders = bases.old(self._rootfs, self._in_use())
            for folder in folders:
                self._parts.overlays.forget(f"root {folder.name}")
                self._discard(folder)
        names = [folder.name for folder in folders]
        self._dropped &= set(self._in_use())
        return names

    def discard_leftovers(self) -> int:
        """Remove what killed builders have left, unless one is at work; how many folders."""
        with bases.exclusive(self._rootfs) as held:
            found = bases.leftovers(self._rootfs) if held else []
            for path in found:
                self._discard(path)
        return len(found)

    def _discard(self, path: Path) -> None:
        try:
            if path.is_symlink():
                path.unlink()
            else:
                self._parts.layers.discard_path(path)
        except OSError as error:  # a rootfs folder that is a link to another file system
            log.warning("cannot remove %s: %s", path.name, error)

    def _end(self, build: _Build) -> None:
        """From here on the runtime can be asked for again; the builder's own lock puts the two in order."""
        if self._running.get(build.runtime) is build:
            del self._running[build.runtime]
            self._ending.add(build)
        assert build.task is not None
        build.task.cancel()

    def _ended(self, build: _Build) -> None:
        self._ending.discard(build)
        if self._running.get(build.runtime) is build:
            del self._running[build.runtime]

    async def _run(self, build: _Build) -> None:
        failure: BuildError | None = None
        try:
            await self._build(build)
        except BuildError as error:
            failure = error
        except (PagurusError, OSError, ValueError, LookupError) as error:
            failure = BuildError("internal", f"the build broke: {error}")
        except asyncio.CancelledError:
            failure = BuildError("cancelled", "the build was cancelled")
            raise
        finally:
            for number in sorted(build.askers):
                if failure is None:
                    self._changed(number)
                else:
                    message = BuildFailed(build=number, kind=failure.kind, message=failure.message, hint=failure.hint)
                    self._send(message)

    async def _build(self, build: _Build) -> None:
        """Raises BuildError. Nothing stays then."""
        limit_s = self._parts.settings.build_timeout_s
        cgroup = self._parts.cgroups.create(f"base-{build.runtime}-{os.urandom(4).hex()}")
        try:
            cgroup.set_limits(_LIMITS)
            async with asyncio.timeout(limit_s):
                await self._converse(build, cgroup)
        except TimeoutError:
            raise BuildError("limit", f"the build took longer than build_timeout_s, {limit_s:.0f} s") from None
        finally:
            cgroup.kill()
            cgroup.close()
            self._parts.bury(cgroup)
            self.discard_leftovers()
        log.info("runtime=%s built", build.runtime)

    async def _converse(self, build: _Build, cgroup: Cgroup) -> None:
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        command = [sys.executable, "-I", "-m", "rootfs_builder", "base"]
        command += ["--runtime", build.runtime, "--output", str(self._rootfs)]
        try:
            pid = spawned.start_base_builder(
                command,
                environ={**spawned.passed_environ(os.environ), "HOME": "/root"},
                descriptors=[null, events_write, 2],
                cgroup=cgroup,
            )
        except BaseException:
            os.close(events_read)
            raise
        finally:
            os.close(null)
            os.close(events_write)
        ended = self._parts.reaper.expect(pid)
        reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
        events = open(events_read, "rb", buffering=0)  # noqa: SIM115  closed by the transport
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), events)
        try:
            await self._events(build, reader)
        finally:
            transport.close()
            cgroup.kill()
            await ended

    async def _events(self, build: _Build, reader: asyncio.StreamReader) -> None:
        while True:
            line = await reader.readline()
            if not line:
                raise BuildError("internal", "the builder ended without a result", hint="see the log of pagurusd")
            event = json.loads(line)
            if event["event"] == "progress":
                build.last = (str(event["phase"])[:40], str(event["message"])[:2000], event.get("fraction"))
                for number in build.askers:
                    self._tell(number, build.last)
            elif event["event"] == "failed":
                raise BuildError(str(event["kind"]), str(event["message"])[:60_000], hint=str(event.get("hint", "")))
            elif event["event"] == "done":
                return

    def _tell(self, number: int, step: tuple[str, str, float | None]) -> None:
        phase, message, fraction = step
        self._send(BuildProgress(build=number, phase=phase, message=message, fraction=fraction))

    def _changed(self, number: int) -> None:
        self._send(RuntimesChanged(build=number, runtimes=bases.built(self._rootfs)))
