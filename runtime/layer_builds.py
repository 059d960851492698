"""Layers that are being made: each by one build, whoever else needs it waits. Runs in pagurusd.

Nothing that waits for a layer makes one meanwhile, so builds cannot wait for each other in a circle. A layer
that fails is made again by the next who needs it.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec

from runtime import build_box
from runtime.builder_process import BuilderProcess
from runtime.errors import BuildError
from runtime.model import DIGEST_PATTERN, LayerId, Locked, RuntimeName, layer_id
from runtime.parts import Parts

Progress = Callable[[dict[str, Any]], None]


class LayerBuilds:
    """All of the node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._making: dict[LayerId, asyncio.Event] = {}

    @asynccontextmanager
    async def opened(self, runtime: RuntimeName, name: str) -> AsyncIterator["LayerBuild"]:
        """What one build wants of layers; `name` is unique."""
        build = LayerBuild(self._parts, self._making, runtime, name)
        try:
            yield build
        finally:
            layers = self._parts.layers
            layers.pinned.subtract(build.layers)
            layers.pinned += Counter()  # drops the zeros
            layers.trim()
            await build.aclose()

    def pin(self, build: "LayerBuild", wanted: Iterable[Locked]) -> None:
        """From now on the layers of these are kept, until the build ends."""
        self._parts.layers.pinned.subtract(build.layers)
        build.layers = [layer_id(build.runtime, one.sha256) for one in wanted]
        self._parts.layers.pinned.update(build.layers)
        self._parts.layers.touch(build.layers)


class LayerBuild:
    """One build's part. Its process is started early by `prepare`, so that its imports are done when it is needed."""

    def __init__(self, parts: Parts, making: dict[LayerId, asyncio.Event], runtime: RuntimeName, name: str) -> None:
        self.runtime = runtime
        self.layers: Sequence[LayerId] = ()
        self.phases_ms: dict[str, float] = {}
        self._parts = parts
        self._making = making
        self._name = name
        self._process: BuilderProcess | None = None
        self._count = 0

    async def prepare(self) -> None:
        """Start the process. Raises OSError."""
        if self._process is None:
            self._count += 1
            self._process = await BuilderProcess.start(self._parts, "layers", f"{self._name}-layers-{self._count}")

    async def make(self, wanted: Sequence[Locked], progress: Progress) -> None:
        """Return when all layers are there. Raises BuildError."""
        while missing := {
            layer: one
            for one in wanted
            if not self._parts.layers.has_layer(layer := layer_id(self.runtime, one.sha256))
        }:
            mine = {layer: one for layer, one in missing.items() if layer not in self._making}
            if mine:
                await self._make_mine(mine, progress)
            else:
                await self._making[next(iter(missing))].wait()

    async def _make_mine(self, mine: dict[LayerId, Locked], progress: Progress) -> None:
        for layer in mine:
            self._making[layer] = asyncio.Event()
        try:
            await self.prepare()
            process, self._process = self._process, None
            assert process is not None
            try:
                await self._converse(process, list(mine.values()), progress)
                await process.end()  # from here on nothing of it can touch what it made
                for layer in mine:
                    self._parts.layers.adopt_layer(process.staging / "layers" / layer, layer)
            finally:
                await process.aclose()
        finally:
            for layer in mine:
                self._making.pop(layer).set()

    async def _converse(self, process: BuilderProcess, wanted: list[Locked], progress: Progress) -> None:
        settings = self._parts.settings
        await process.request(
            {
                "runtime": self.runtime,
                "staging": str(process.staging),
                "wanted": msgspec.to_builtins(wanted),
                "environment_bytes": settings.environment_bytes,
                "index_url": settings.index_url,
                "extra_index_urls": settings.extra_index_urls,
                "python": f"/usr/bin/{self.runtime}",
                "rootfs": str(self._parts.layers.root_lowers(self.runtime)[-1]),
            }
        )
        async for event in process.events():
            if event["event"] == "progress":
                progress(event)
            elif event["event"] == "sources":
                await self._build(process, [checked(entry) for entry in event["sources"]], progress)
                process.answer("built")
            elif event["event"] == "done":
                for name in ("install", "compile"):
                    spent_ms = event.get(f"{name}_ms")
                    if isinstance(spent_ms, float):
                        self.phases_ms[name] = self.phases_ms.get(name, 0.0) + spent_ms

    async def _build(self, process: BuilderProcess, sources: list[Locked], progress: Progress) -> None:
        """Build sdists that it has fetched, one after another: a box has all cores."""
        for number, one in enumerate(sources):

            def tell(line: str, done: float = number / len(sources)) -> None:
                progress({"phase": "build", "message": line, "fraction": done})

            await build_box.build_wheel(
                self._parts,
                self.runtime,
                process.staging / "downloads" / one.filename,
                one.filename,
                name=one.name,
                version=one.version,
                into=process.staging / "built",
                progress=tell,
                sha256=one.sha256,
            )

    async def aclose(self) -> None:
        """End a process that was not needed."""
        if self._process is not None:
            await self._process.aclose()
            self._process = None


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """A file in memory, for a builder to read."""
    fd = os.memfd_create("answer", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield fd
    finally:
        os.close(fd)


def checked(entry: object) -> Locked:
    """One distribution of a builder's question. Raises BuildError."""
    try:
        wanted = msgspec.convert(entry, Locked)
    except msgspec.ValidationError as error:
        raise BuildError("internal", f"the builder wants what cannot be: {error}") from error
    if not DIGEST_PATTERN.fullmatch(wanted.sha256):
        raise BuildError("internal", "the builder sent a malformed hash")
    return wanted
