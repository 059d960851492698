"""Distributions become layers: downloaded, installed, compiled, each into a folder of its own. Builder.

A process of its own, started by pagurusd while the lock is still being resolved, so that nothing waits for its
imports. It sees wheels only: not the function's code, and not the layers that there are already.
"""

import asyncio
import csv
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, suppress
from email.parser import HeaderParser
from multiprocessing import get_context
from pathlib import Path

import msgspec

from rootfs_builder import compiling, downloads, environments, trees, uv, wheels
from rootfs_builder.channel import Channel
from rootfs_builder.environments import LayerFacts
from rootfs_builder.events import Reporter
from rootfs_builder.requirements import normalised
from rootfs_builder.suites import Suite, suite_of
from runtime import syscalls
from runtime.errors import BuildError
from runtime.model import Distribution, LayerId, Locked, RuntimeName, layer_id

TREE, FACTS = "fs", "layer.json"  # of one layer
_DEPTH = 2  # ID/fs/ above the paths that sandboxes see


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pagurusd asks for, as one JSON line.

    staging: an empty directory of the builder's user; layers/ID is made in it. python, rootfs: see build.Request.
    """

    runtime: RuntimeName
    staging: str
    wanted: tuple[Locked, ...]
    environment_bytes: int
    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    python: str = ""
    rootfs: str = ""


def executor() -> ProcessPoolExecutor:
    """Processes that install wheels: unpacking holds the interpreter's lock too long for threads."""
    pool = ProcessPoolExecutor(
        max_workers=compiling.cores(), mp_context=get_context("fork"), initializer=_die_with, initargs=(os.getpid(),)
    )
    for _ in range(compiling.cores()):
        pool.submit(os.getpid)  # forks now, before there is an event loop and a session
    return pool


def _die_with(parent: int) -> None:
    """A builder that is killed outright takes its processes along."""
    syscalls.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run(request: Request, pool: Executor, reporter: Reporter, channel: Channel) -> None:
    """Make all layers and report them. Raises BuildError; what was made so far stays in staging."""
    suite = suite_of(request.runtime)
    root = Path(request.staging) / "layers"
    root.mkdir(mode=trees.DIRECTORY_MODE)
    started_s = time.monotonic()
    sources = [one for one in request.wanted if one.is_source]
    built = _build(request, sources, reporter, channel) if sources else {}
    asyncio.run(_install_all(request, suite, root, pool, reporter, built))
    installed_s = time.monotonic()
    _compile(request, suite, root, reporter)
    compiled_s = time.monotonic()
    syscalls.syncfs(root)  # the renames that follow must not be on the disk before the files
    facts = [_describe(suite, root, one) for one in request.wanted]
    reporter.done(
        layers=[fact.id for fact in facts],
        install_ms=(installed_s - started_s) * 1000,
        compile_ms=(compiled_s - installed_s) * 1000,
    )


def _build(request: Request, sources: Sequence[Locked], reporter: Reporter, channel: Channel) -> Mapping[str, Path]:
    """Fetch sdists and have them built; the wheels by the sdists' hashes. Nothing of them runs here."""
    downloaded, target = _folder(request, "downloads"), _folder(request, "built")
    count = "1 package" if len(sources) == 1 else f"{len(sources)} packages"
    reporter.progress("build", f"{count} must be built from source: {', '.join(one.name for one in sources)[:200]}")

    async def fetch_all() -> None:
        opened = downloads.opened(_environ(request), bytes_max=request.environment_bytes)
        async with opened as fetching, _all_or_first_error() as group:
            for one in sources:
                group.create_task(fetching.fetch(one, downloaded / one.filename, reporter.alive))

    asyncio.run(fetch_all())
    channel.build(sources)
    wheels_by_name = {normalised(path.name.split("-")[0]): path for path in target.glob("*.whl")}
    missing = [one.name for one in sources if one.name not in wheels_by_name]
    if missing:
        raise BuildError("internal", f"{missing[0]} was not built")
    return {one.sha256: wheels_by_name[one.name] for one in sources}


def _folder(request: Request, name: str) -> Path:
    folder = Path(request.staging) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _environ(request: Request) -> Mapping[str, str]:
    """Which indexes there are, for downloads."""
    return uv.environment(
        os.environ,
        cache="",
        scratch=request.staging,
        index_url=request.index_url,
        extra_index_urls=request.extra_index_urls,
    )


async def _install_all(
    request: Request, suite: Suite, root: Path, pool: Executor, reporter: Reporter, built: Mapping[str, Path]
) -> None:
    scratch = _folder(request, "downloads")
    total = sum(one.size for one in request.wanted)
    unpacked, finished = 0, 0
    count = len(request.wanted)
    reporter.progress("download", f"fetching {_packages(count)}, {total / 1e6:.1f} MB", 0.0)

    async def one(locked: Locked, fetching: downloads.Downloads) -> None:
        nonlocal unpacked, finished

        def tick() -> None:
            done = fetching.done_bytes
            share = min(done / total, 1.0) if total else None
            reporter.tick("download", f"fetched {done / 1e6:.1f} of {total / 1e6:.1f} MB", share)

        path = built.get(locked.sha256, scratch / locked.filename)
        if locked.sha256 not in built:
            await fetching.fetch(locked, path, tick)
        layer = root / layer_id(request.runtime, locked.sha256)
        layer.mkdir(mode=trees.DIRECTORY_MODE)
        (layer / TREE).mkdir(mode=trees.DIRECTORY_MODE)
        left = request.environment_bytes - unpacked
        install = asyncio.get_running_loop().run_in_executor
        size = await install(pool, _install_one, path, layer / TREE, suite.runtime, left)
        unpacked += size  # not in one statement with the await: it would add to what was there before
        finished += 1
        reporter.progress("install", f"installed {locked.name} {locked.version}", finished / count)

    opened = downloads.opened(_environ(request), bytes_max=request.environment_bytes)
    async with opened as fetching, _all_or_first_error() as group:
        for locked in sorted(request.wanted, key=lambda each: -each.size):  # the largest first: it takes longest
            group.create_task(one(locked, fetching))
    if unpacked > request.environment_bytes:
        raise BuildError(
            "limit",
            f"the packages unpack to {unpacked >> 20} MiB, environment_bytes is {request.environment_bytes >> 20} MiB",
            hint="raise environment_bytes, or do without a package",
        )
    shutil.rmtree(scratch)


def _install_one(path: Path, root: Path, runtime: str, bytes_max: int) -> int:
    """Runs in a process of the pool."""
    size = wheels.install(path, root, python=f"/usr/bin/{runtime}", bytes_max=bytes_max)
    with suppress(FileNotFoundError):
        path.unlink()
    return size


@asynccontextmanager
async def _all_or_first_error() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup that raises the first of its errors itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, BrokenProcessPool):
            hint = "it may have met the memory limit"
            raise BuildError("limit", "a process that installs packages died", hint=hint) from errors
        raise first from None


def _compile(request: Request, suite: Suite, root: Path, reporter: Reporter) -> None:
    def tick(done: int, total: int) -> None:
        reporter.tick("compile", f"compiled {done} of {total} modules", done / total)

    def wanted(path: bytes) -> bool:
        return not path.split(b"/", _DEPTH)[-1].startswith(b"bin/")

    environments.sanitise(root)
    reporter.progress("compile", "compiling the packages", 0.0)
    count = compiling.compile_tree(
        compiling.interpreter(request.python, request.rootfs, suite.runtime),
        root,
        inside=f"{root}/",
        seen=environments.SEEN_AT,
        depth=_DEPTH,
        wanted=wanted,
        tick=tick,
    )
    environments.sanitise(root)
    reporter.progress("compile", f"compiled {count} modules", 1.0)


def _describe(suite: Suite, root: Path, locked: Locked) -> LayerFacts:
    layer = root / layer_id(suite.runtime, locked.sha256)
    info = next((layer / TREE).glob("*.dist-info"))
    headers = HeaderParser().parsestr((info / "METADATA").read_text(encoding="utf-8", errors="replace"))
    files = dict(_recorded(info / "RECORD"))
    entries = list(trees.walk(layer))
    sources = {os.path.normpath(path) for path in files if path.endswith(".py") and not path.startswith("bin/")}
    made = {os.fsdecode(entry.path) for entry in entries if entry.path.endswith(b".pyc")}
    compiled = {path for path in sources if compiling.cached(f"{TREE}/{path}", suite.runtime) in made}
    facts = LayerFacts(
        id=LayerId(layer.name),
        distribution=Distribution(locked.name, locked.version),
        sha256=locked.sha256,
        uncompiled=tuple(sorted(sources - compiled)),
        requires=tuple(str(line) for line in headers.get_all("Requires-Dist", ())),
        imports=tuple(environments.importable(files)),
        files=files,
        size_bytes=sum(entry.status.st_blocks * 512 for entry in entries),
    )
    (layer / FACTS).write_bytes(msgspec.json.encode(facts))
    return facts


def _recorded(record: Path) -> Iterator[tuple[str, str]]:
    """Path -> digest ('' for RECORD itself) of what is installed."""
    for row in csv.reader(record.read_text(encoding="utf-8").splitlines()):
        yield os.path.normpath(row[0]), row[1].partition("=")[2]


def _packages(count: int) -> str:
    return "1 package" if count == 1 else f"{count} packages"
