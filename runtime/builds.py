"""Builds: one builder process each, its progress passed on, its result taken into the store. Runs in pagurusd.

A builder only ever sees its own staging folder; what it made is moved into the store after it and all its
children have ended. Layers are made by processes apart (layer_builds).
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from runtime import build_box, layer_builds
from runtime.builder_process import BuilderProcess
from runtime.errors import BuildError, PagurusError
from runtime.layer_builds import LayerBuild, LayerBuilds
from runtime.model import DIGEST_PATTERN, CodeId, EnvironmentId, EnvironmentManifest
from runtime.parts import Parts
from runtime.protocol import BuildFailed, BuildProgress, BuildSucceeded, BuildVersion


class Builds:
    """All running builds of the node, by number."""

    def __init__(self, parts: Parts, send: Callable[[BuildProgress | BuildSucceeded | BuildFailed], None]) -> None:
        self._parts = parts
        self._send = send
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.layers = LayerBuilds(parts)

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
            self._send(await _Build(request, archive, self._parts, self._send, self.layers).run())
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
    """One build: its process, the conversation, the result."""

    def __init__(
        self,
        request: BuildVersion,
        archive: int,
        parts: Parts,
        progress: Callable[[BuildProgress], None],
        layers: LayerBuilds,
    ) -> None:
        self._request = request
        self._archive = archive
        self._parts = parts
        self._progress = progress
        self._layers = layers
        self._environment: EnvironmentId | None = None
        self._phases_ms: dict[str, float] = {}
        self._phase, self._phase_began_s = "unpack", time.monotonic()

    async def run(self) -> BuildSucceeded:
        """Raises BuildError. Nothing but whole layers stays then."""
        limit_s = self._parts.settings.build_timeout_s
        name = f"build-{self._request.build}-{os.urandom(4).hex()}"
        try:
            async with asyncio.timeout(limit_s), self._layers.opened(self._request.runtime, name) as layers:
                process = await BuilderProcess.start(self._parts, "build", name, (self._archive,))
                try:
                    done = await self._converse(process, layers)
                    await process.end()
                    return self._adopt(done, process, layers)
                finally:
                    await process.aclose()
        except TimeoutError:
            raise BuildError("limit", f"the build took longer than build_timeout_s, {limit_s:.0f} s") from None

    async def _converse(self, process: BuilderProcess, layers: LayerBuild) -> dict[str, Any]:
        await process.request(self._what(process))
        async for event in process.events():
            kind = event["event"]
            if kind == "progress":
                self._tell(event)
                if event["phase"] == "resolve":
                    await layers.prepare()
            elif kind == "locked":
                self._environment = EnvironmentId(_check_digest(str(event["environment"])))
                is_known = self._parts.layers.has_environment(self._environment)
                process.answer("known" if is_known else "new")
            elif kind == "resolve":
                await self._resolve(process, str(event["requirements"]))
            elif kind == "wanted":
                wanted = [layer_builds.checked(entry) for entry in event["wanted"]]
                self._layers.pin(layers, wanted)
                self._enter("layers")
                await layers.make(wanted, self._tell)
                self._enter("compose")
                facts = [self._parts.layers.facts(layer) for layer in layers.layers]
                with layer_builds.memory_file(b"[" + b",".join(facts) + b"]") as descriptor:
                    process.answer("layers", descriptor)
            elif kind == "done":
                return event
        raise AssertionError("events end with done or an error")

    async def _resolve(self, process: BuilderProcess, requirements: str) -> None:
        """Where wheels alone do not do, metadata has to be built: in a box."""
        runtime = self._request.runtime

        def tell(line: str) -> None:
            self._tell({"phase": "resolve", "message": line})

        resolved = await build_box.resolve(self._parts, runtime, requirements, tell)
        with layer_builds.memory_file(resolved.text.encode()) as descriptor:
            process.answer("resolved", descriptor)

    def _what(self, process: BuilderProcess) -> dict[str, Any]:
        settings = self._parts.settings
        return {
            "runtime": self._request.runtime,
            "requirements": self._request.requirements,
            "staging": str(process.staging),
            "archive_fd": 3,
            "cache_dir": str(self._parts.layers.cache),
            "index_url": settings.index_url,
            "extra_index_urls": settings.extra_index_urls,
            "url_requirements": settings.url_requirements,
            "sdists": settings.sdists,
            "unpacked_bytes": settings.unpacked_bytes,
            "archive_entries": settings.archive_entries,
            "python": f"/usr/bin/{self._request.runtime}",
            "rootfs": str(self._parts.layers.root_lowers(self._request.runtime)[-1]),
        }

    def _tell(self, event: dict[str, Any]) -> None:
        phase = str(event["phase"])[:40]
        if phase in ("unpack", "resolve"):
            self._enter(phase)
        self._progress(
            BuildProgress(
                build=self._request.build,
                phase=phase,
                message=str(event["message"])[:2000],
                fraction=event.get("fraction"),
            )
        )

    def _enter(self, phase: str) -> None:
        """Time from here on is this phase's."""
        now_s = time.monotonic()
        spent_ms = (now_s - self._phase_began_s) * 1000
        self._phases_ms[self._phase] = self._phases_ms.get(self._phase, 0.0) + spent_ms
        self._phase, self._phase_began_s = phase, now_s

    def _adopt(self, done: dict[str, Any], process: BuilderProcess, layers: LayerBuild) -> BuildSucceeded:
        store = self._parts.layers
        code = CodeId(_check_digest(str(done.get("code"))))
        if done.get("environment") is not None:
            manifest = _manifest(done["environment"])
            is_as_wanted = set(manifest.layers) == set(layers.layers)
            if manifest.environment.id != self._environment or not is_as_wanted:
                raise BuildError("internal", "the builder made another environment than it had locked")
            store.put_environment(manifest)
        store.adopt_code(process.staging / "code", code)
        manifest_of = store.manifest(self._environment) if self._environment is not None else None
        self._enter("adopted")
        phases_ms = {**self._phases_ms, **layers.phases_ms}
        return BuildSucceeded(
            build=self._request.build,
            code=code,
            environment=manifest_of.environment if manifest_of else None,
            conflicts=manifest_of.conflicts if manifest_of else (),
            lock=manifest_of.lock if manifest_of else "",
            phases_ms={name: spent_ms for name, spent_ms in phases_ms.items() if name != "adopted"},
        )


def _manifest(value: object) -> EnvironmentManifest:
    try:
        return msgspec.convert(value, EnvironmentManifest)
    except msgspec.ValidationError as error:
        raise BuildError("internal", f"the builder sent a malformed environment: {error}") from error


def _check_digest(text: str) -> str:
    if not DIGEST_PATTERN.fullmatch(text):
        raise BuildError("internal", "the builder sent a malformed id")
    return text
