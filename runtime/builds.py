"""Builds: one builder process each, its progress passed on, its result taken into the store. Runs in pagurusd.

The builder speaks JSON lines (rootfs_builder). It only ever sees its own staging folder; what it made is moved
into the store after it and all its children have ended.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from runtime import spawned
from runtime.errors import BuildError, PagurusError
from runtime.layers import Layers
from runtime.model import DIGEST_PATTERN, CodeId, Environment, EnvironmentId, Limits
from runtime.parts import Parts
from runtime.protocol import BuildFailed, BuildProgress, BuildSucceeded, BuildVersion
from runtime.sandbox.cgroup import Cgroup

_LINE_BYTES_MAX = 1 << 20
_BUILDER_LIMITS = Limits(memory_bytes=2 << 30, pids=256, cpu_millis=100_000)


class Builds:
    """All running builds of the node, by number."""

    def __init__(self, parts: Parts, send: Callable[[BuildProgress | BuildSucceeded | BuildFailed], None]) -> None:
        self._parts = parts
        self._send = send
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._building: dict[str, asyncio.Event] = {}

    @property
    def count(self) -> int:
        return len(self._tasks)

    def start(self, group: asyncio.TaskGroup, request: BuildVersion, archive: int) -> None:
        """Build as a task of `group`; `archive` is owned by it. The end is reported by `send`."""
        if self.count >= 4 * self._parts.settings.builds_at_once:
            os.close(archive)
            self._send(BuildFailed(build=request.build, kind="limit", message="too many builds at once"))
            return
        task = group.create_task(self._run(request, archive))
        self._tasks[request.build] = task
        task.add_done_callback(lambda _: self._tasks.pop(request.build, None))

    def cancel(self, build: int) -> None:
        """Stop a build; reported as failed."""
        task = self._tasks.get(build)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _run(self, request: BuildVersion, archive: int) -> None:
        try:
            self._send(await _Build(request, archive, self._parts, self._send, self._building).run())
        except BuildError as error:
            message = BuildFailed(build=request.build, kind=error.kind, message=error.message, hint=error.hint)
            self._send(message)
        except (PagurusError, OSError, ValueError) as error:
            self._send(BuildFailed(build=request.build, kind="internal", message=f"the build broke: {error}"))
        except asyncio.CancelledError:
            self._send(BuildFailed(build=request.build, kind="cancelled", message="the build was cancelled"))
            raise
        finally:
            os.close(archive)


class _Build:
    """One build: process, conversation, result."""

    def __init__(
        self,
        request: BuildVersion,
        archive: int,
        parts: Parts,
        progress: Callable[[BuildProgress], None],
        building: dict[str, asyncio.Event],
    ) -> None:
        self._request = request
        self._archive = archive
        self._parts = parts
        self._progress = progress
        self._building = building
        self._mine: str | None = None

    async def run(self) -> BuildSucceeded:
        """Raises BuildError. Nothing stays then."""
        layers, name = self._parts.layers, f"build-{self._request.build}-{os.urandom(4).hex()}"
        staging = layers.make_staging(name)
        cgroup = self._parts.cgroups.create(name)
        try:
            cgroup.set_limits(_BUILDER_LIMITS)
            async with asyncio.timeout(self._parts.settings.build_timeout_s):
                done = await self._converse(staging, cgroup)
            return self._adopt(done, staging, layers)
        except TimeoutError:
            limit_s = self._parts.settings.build_timeout_s
            raise BuildError("limit", f"the build took longer than build_timeout_s, {limit_s:.0f} s") from None
        finally:
            cgroup.kill()
            cgroup.close()
            self._parts.bury(cgroup)
            layers.discard_path(staging)
            if self._mine is not None:
                self._building.pop(self._mine).set()

    async def _converse(self, staging: Path, cgroup: Cgroup) -> dict[str, object]:
        requests_read, requests_write = os.pipe2(os.O_CLOEXEC)
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        archive_fd = 3
        command = [sys.executable, "-I", "-m", "rootfs_builder", "build"]
        environ = {
            **spawned.passed_environ(os.environ),
            "HOME": str(self._parts.layers.cache),
            "TMPDIR": str(staging),
        }
        try:
            pid = spawned.start_as(
                self._parts.settings.builder_user,
                command,
                environ=environ,
                descriptors=[requests_read, events_write, 2, self._archive],
                cgroup=cgroup,
                directory=str(staging),
            )
        except BaseException:
            for fd in (requests_read, events_write, requests_write, events_read):
                os.close(fd)
            raise
        ended = self._parts.reaper.expect(pid)
        os.close(requests_read)
        os.close(events_write)
        with open(requests_write, "wb", buffering=0) as requests:
            requests.write(self._first_line(staging, archive_fd))
            reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
            loop = asyncio.get_running_loop()
            events = open(events_read, "rb", buffering=0)  # noqa: SIM115  closed by the transport
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), events)
            try:
                return await self._events(reader, requests.write)
            finally:
                transport.close()
                cgroup.kill()
                await ended

    def _first_line(self, staging: Path, archive_fd: int) -> bytes:
        settings = self._parts.settings
        request = {
            "runtime": self._request.runtime,
            "requirements": self._request.requirements,
            "staging": str(staging),
            "archive_fd": archive_fd,
            "cache_dir": str(self._parts.layers.cache),
            "index_url": settings.index_url,
            "unpacked_bytes": settings.unpacked_bytes,
            "archive_entries": settings.archive_entries,
            "python": f"/usr/bin/{self._request.runtime}",
            "rootfs": str(self._parts.layers.root_lowers(self._request.runtime)[-1]),
        }
        return json.dumps(request).encode() + b"\n"

    async def _events(self, reader: asyncio.StreamReader, answer: Callable[[bytes], object]) -> dict[str, object]:
        while True:
            line = await reader.readline()
            if not line:
                raise BuildError("internal", "the builder ended without a result", hint="see the log of pagurusd")
            event = json.loads(line)
            if event["event"] == "progress":
                self._progress(
                    BuildProgress(
                        build=self._request.build,
                        phase=str(event["phase"])[:40],
                        message=str(event["message"])[:2000],
                        fraction=event.get("fraction"),
                    )
                )
            elif event["event"] == "locked":
                answer(await self._decide(str(event["environment"])))
            elif event["event"] == "failed":
                raise BuildError(str(event["kind"]), str(event["message"])[:60_000], hint=str(event.get("hint", "")))
            elif event["event"] == "done":
                return dict(event)

    async def _decide(self, environment: str) -> bytes:
        """Whether this build installs the environment, or finds it in the store: two builds at once do it once."""
        _check_digest(environment)
        while True:
            if self._parts.layers.has_environment(EnvironmentId(environment)):
                return b"skip\n"
            other = self._building.get(environment)
            if other is None:
                self._building[environment] = asyncio.Event()
                self._mine = environment
                return b"build\n"
            await other.wait()

    def _adopt(self, done: dict[str, object], staging: Path, layers: Layers) -> BuildSucceeded:
        code = CodeId(_check_digest(str(done["code"])))
        environment: Environment | None = None
        if done.get("environment") is not None:
            environment = msgspec.convert(done["environment"], Environment)
            _check_digest(environment.id)
            if self._mine is not None:
                if environment.id != self._mine:
                    raise BuildError("internal", "the builder made another environment than it had locked")
                layers.adopt_environment(staging / "environment", environment.id)
            environment = layers.environment(environment.id)
        layers.adopt_code(staging / "code", code)
        lock = layers.lock(environment.id) if environment is not None else ""
        return BuildSucceeded(build=self._request.build, code=code, environment=environment, lock=lock)


def _check_digest(text: str) -> str:
    if not DIGEST_PATTERN.fullmatch(text):
        raise BuildError("internal", "the builder sent a malformed id")
    return text
