"""The gateway's side of pagurusd's builds: one coroutine waits for each, progress goes to a callback."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import BuildError
from runtime.model import CodeId, EnvironmentId, FunctionName, RuntimeName
from runtime.protocol import (
    BuildFailed,
    BuildProgress,
    BuildRuntime,
    BuildSucceeded,
    BuildVersion,
    CancelBuild,
    DropRuntime,
    RuntimesChanged,
    ToDaemon,
)

Progress = Callable[[str, str, float | None], None]
SendWithDescriptors = Callable[[ToDaemon, tuple[int, ...]], None]
Ending = BuildSucceeded | RuntimesChanged


@dataclass(slots=True)
class _Build:
    future: asyncio.Future[Ending]
    progress: Progress


class Builds:
    """Builds that run. `orphaned`: gets what a cancelled build made all the same."""

    def __init__(self, send: SendWithDescriptors, orphaned: Callable[[CodeId, EnvironmentId | None], None]) -> None:
        self._send = send
        self._orphaned = orphaned
        self._numbers = itertools.count(1)
        self._running: dict[int, _Build] = {}

    async def build(
        self,
        function: FunctionName,
        runtime: RuntimeName,
        requirements: str,
        archive: int,
        progress: Progress,
    ) -> BuildSucceeded:
        """Build code and environment from the archive's descriptor, which stays the caller's.

        Raises BuildError. Cancelled: the build is stopped.
        """
        number = next(self._numbers)
        message = BuildVersion(build=number, function=function, runtime=runtime, requirements=requirements)
        ending = await self._ask(number, message, (archive,), progress)
        assert isinstance(ending, BuildSucceeded), ending
        return ending

    async def build_runtime(self, runtime: RuntimeName, progress: Progress) -> None:
        """Make a base rootfs, unless it is there. Raises BuildError. Cancelled: stopped, if nobody else waits."""
        number = next(self._numbers)
        await self._ask(number, BuildRuntime(build=number, runtime=runtime), (), progress)

    async def drop_runtime(self, runtime: RuntimeName) -> None:
        """Give a base rootfs up. Raises BuildError."""
        number = next(self._numbers)
        await self._ask(number, DropRuntime(build=number, runtime=runtime), (), lambda *_: None)

    def progressed(self, message: BuildProgress) -> None:
        """A step of a build."""
        build = self._running.get(message.build)
        if build is not None:
            build.progress(message.phase, message.message, message.fraction)

    def succeeded(self, message: BuildSucceeded) -> None:
        """A build has ended well."""
        build = self._running.get(message.build)
        if build is None or build.future.done():
            self._orphaned(message.code, message.environment.id if message.environment else None)
        else:
            build.future.set_result(message)

    def runtimes_changed(self, message: RuntimesChanged) -> None:
        """A base rootfs is made or given up."""
        build = self._running.get(message.build)
        if build is not None and not build.future.done():
            build.future.set_result(message)

    def failed(self, message: BuildFailed) -> None:
        """A build has failed."""
        build = self._running.get(message.build)
        if build is not None and not build.future.done():
            build.future.set_exception(BuildError(message.kind, message.message, hint=message.hint))

    async def _ask(self, number: int, message: ToDaemon, descriptors: tuple[int, ...], progress: Progress) -> Ending:
        future: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._running[number] = _Build(future, progress)
        self._send(message, descriptors)
        try:
            return await future
        except asyncio.CancelledError:
            self._send(CancelBuild(build=number), ())
            raise
        finally:
            self._running.pop(number, None)
