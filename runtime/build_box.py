"""Builds from source: one box for each, with uv in it and an index proxy beside it. Runs in pagurusd.

Who writes an sdist's build code is the hostile party here. It runs in a box (runtime.sandbox.box): no host, no
network but the proxy, no power, bounded memory, processes, output and time. What comes out is one wheel, or a lock
that the proxy has written anew; both are content that the caller has to treat as any package of the index.
"""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime import box_proxy, box_results, box_root, file_names, syscalls
from runtime.box_output import BoxOutput
from runtime.box_proxy import BoxProxy
from runtime.box_root import BoxRoot
from runtime.config import Settings
from runtime.errors import BuildError, StartError
from runtime.file_names import Release
from runtime.model import MIB, Limits, RuntimeName
from runtime.netns import loopback
from runtime.parts import Parts
from runtime.reaper import Exit
from runtime.sandbox import box, mounts, seccomp
from runtime.sandbox.box import Box, BoxPlan, InputFile
from runtime.sandbox.mounts import Attachment

PIDS_MAX = 256
CPU_MILLIS = 2000
WHEEL_BYTES_MAX = 256 * MIB
LOCK_BYTES_MAX = 1 * MIB
REQUIREMENTS_BYTES_MAX = 1 * MIB
_SHM_BYTES = 64 * MIB
_RESOLVING = "resolve the requirements"
_REQUIREMENTS, _LOCK = "requirements.txt", "pylock.toml"
_DATE_EPOCH = "1577836800"  # 2020-01-01: an archive's files have a date that does not depend on when it was built
_NO_COMPILER = re.compile(
    r"(command|program|execute|find) .*\b(cc|gcc|c\+\+|g\+\+|clang)(?![\w+])|Python\.h: No such file"
    r"|No such file or directory: '\S*(cc|\+\+|clang)'|CMAKE_C(XX)?_COMPILER|[Uu]nknown compiler"
)
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ResolvedText:
    """A pylock.toml with the index's own URLs, each with its sha256; only files that the index has shown."""

    text: str


async def resolve(parts: Parts, runtime: RuntimeName, requirements: str, progress: Progress) -> ResolvedText:
    """Resolve requirements where a package's metadata may have to be built. progress: lines, about ten a second.

    Raises BuildError of kind `requirements`, `sdist`, `limit`, `index` or `internal`. Cancelled: nothing stays.
    """
    if len(requirements.encode()) > REQUIREMENTS_BYTES_MAX:
        raise BuildError("requirements", f"the requirements have more than {REQUIREMENTS_BYTES_MAX} bytes")
    given = _memory_file(requirements.encode())
    try:
        arguments = ("pip", "compile", "--format", "pylock.toml", "--no-header", "--no-annotate", "--output-file")
        argv = (*arguments, f"{box_results.OUT}/{_LOCK}", "--python", f"/usr/bin/{runtime}", _REQUIREMENTS)
        async with _built(parts, runtime, InputFile(_REQUIREMENTS, given), argv, progress, _RESOLVING) as run:
            text = await _take_lock(parts, run)
            return ResolvedText(await run.proxy.mapped(text))
    finally:
        os.close(given)


async def build_wheel(
    parts: Parts,
    runtime: RuntimeName,
    sdist: int | Path,
    filename: str,
    *,
    name: str,
    version: str,
    into: Path,
    progress: Progress,
    sha256: str = "",
) -> Path:
    """Build the wheel of one sdist into the folder `into`; its path there, a file of the builder's user.

    sdist: a path, or a descriptor that stays open. filename: the index's, from which uv tells the archive's kind.
    sha256: checked once more on what goes in, unless ''. The wheel's name must say this name and version; its content
    is as hostile as the sdist. Raises BuildError of kind `sdist`, `limit`, `index` or `internal`.
    Cancelled: nothing stays.
    """
    if not file_names.is_safe(filename) or not filename.endswith(file_names.SDIST_SUFFIXES):
        raise BuildError("sdist", f"{filename[:100]!r} is no name of an sdist")
    wanted = Release.of(name, version)

    def accept(found: str) -> str:
        return "" if file_names.of_wheel(found) == wanted else f"{found[:100]} is no wheel of {name} {version}"

    with _opened(sdist) as given, _opened(into, directory=True) as folder:
        argv = ("build", "--wheel", "--no-sources", "--out-dir", box_results.OUT, "--python", f"/usr/bin/{runtime}")
        source = InputFile(filename, given, sha256)
        async with _built(parts, runtime, source, (*argv, filename), progress, f"build {filename}") as run:
            target = box_results.file_in(folder, parts.settings.builder_user)
            try:
                found = await box_results.take(
                    parts.reaper, run.work, suffix=".whl", bytes_max=WHEEL_BYTES_MAX, accept=accept, target=target
                )
            except BuildError as error:
                raise BuildError(error.kind, f"{filename}: {error.message}{_said(run.output)}") from None
            return into / found


@dataclass(frozen=True, slots=True)
class _Run:
    """A box whose program has ended well and whose processes are gone. `work`: its working directory's mount."""

    work: int
    proxy: BoxProxy
    output: str


@asynccontextmanager
async def _built(
    parts: Parts, runtime: RuntimeName, given: InputFile, argv: Sequence[str], progress: Progress, doing: str
) -> AsyncIterator[_Run]:
    """Run uv in a box of its own. On exit everything is gone. Raises BuildError."""
    if not parts.settings.sdists:
        raise BuildError(
            "sdist",
            f"cannot {doing}: this node takes wheels only",
            hint="choose a version that has a wheel, or set sdists = true",
        )
    root = await box_root.prepare(parts, runtime)
    async with AsyncExitStack() as undo:
        work = mounts.tmpfs(parts.settings.sdist_memory_bytes * 3 // 4)
        undo.callback(os.close, work)
        os.mkdir(box_results.OUT, 0o700, dir_fd=work)
        first_uid = parts.ranges.acquire()
        undo.callback(parts.ranges.release, first_uid)
        os.chown(box_results.OUT, first_uid + box.PROGRAM_UID, first_uid + box.PROGRAM_UID, dir_fd=work)
        timeout_s = parts.settings.sdist_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                proxy, output = await _run_uv(undo, parts, root, first_uid, work, given, argv, progress, doing)
        except TimeoutError:
            raise BuildError(
                "limit", f"cannot {doing} within sdist_timeout_s, {timeout_s:.0f} s", hint="raise it"
            ) from None
        yield _Run(work, proxy, output.tail)


async def _run_uv(
    undo: AsyncExitStack,
    parts: Parts,
    root: BoxRoot,
    first_uid: int,
    work: int,
    given: InputFile,
    argv: Sequence[str],
    progress: Progress,
    doing: str,
) -> tuple[BoxProxy, BoxOutput]:
    """Make the box and the proxy, run uv, end the box. The proxy lives until `undo` ends it."""
    from runtime.fork._spawn import confine

    name = f"box-{next(parts.numbers)}-{secrets.token_hex(4)}"
    cgroup = parts.cgroups.create(name)
    undo.callback(parts.bury, cgroup)
    undo.callback(cgroup.close)
    cgroup.set_limits(Limits(memory_bytes=parts.settings.sdist_memory_bytes, pids=PIDS_MAX, cpu_millis=CPU_MILLIS))
    tree = _tree(parts, root)
    plan = BoxPlan(
        first_uid=first_uid,
        cgroup=cgroup,
        anchor=str(parts.layers.anchor),
        tree=tree,
        work=Attachment(work, box_root.WORK, "work"),
        inputs=(given,),
        make_network=loopback.make,
        confine=confine,
        filters=seccomp.box_programs(),
    )
    try:
        made = await Box.create(plan, parts.reaper)
    except StartError as error:
        raise _not_started(error, given.name) from error
    finally:
        for attachment in tree:
            os.close(attachment.fd)
    undo.push_async_callback(made.end)
    listener = made.take_listener()
    try:
        proxy = await undo.enter_async_context(box_proxy.serving(parts, listener, f"{name}-proxy"))
    finally:
        os.close(listener)
    output, writing = await BoxOutput.open(parts.clock, progress, cgroup.kill)
    undo.callback(output.close)
    try:
        ended = await made.run((box_root.UV, *argv, *_OPTIONS), _environ(), output=writing)
    except StartError as error:
        raise _not_started(error, given.name) from error
    finally:
        os.close(writing)
    await made.end()
    await output.closed
    _judge(ended, output, parts.settings, root, doing, is_out_of_memory=cgroup.oom_kills() > 0)
    return proxy, output


_OPTIONS = ("--no-config", "--no-progress", "--no-python-downloads", "--color", "never")


def _environ() -> dict[str, str]:
    """All that uv and the build code get."""
    place = f"/{box_root.WORK}"
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108  the box's own
        "TMPDIR": "/tmp",  # noqa: S108
        "LANG": "C.UTF-8",
        "UV_CACHE_DIR": f"{place}/cache",
        "UV_DEFAULT_INDEX": f"http://127.0.0.1:{box.PORT}/simple",
        "UV_HTTP_RETRIES": "2",
        "UV_NO_MANAGED_PYTHON": "1",
        "SOURCE_DATE_EPOCH": _DATE_EPOCH,
    }


def _tree(parts: Parts, root: BoxRoot) -> list[Attachment]:
    """Root, devices, /tmp and /dev/shm: the caller's to close."""
    overlay = parts.overlays.clone(root.key, lambda: root.lowers)
    parts.overlays.forget(root.key)  # boxes are rare, and an overlay that is kept would hold an old base
    return [
        Attachment(overlay, "", "root"),
        Attachment(syscalls.open_tree(parts.devices), "dev", "devices"),
        Attachment(mounts.tmpfs(_SHM_BYTES), "dev/shm", "shm"),
        Attachment(mounts.tmpfs(parts.settings.sdist_memory_bytes // 4), "tmp", "tmp"),
    ]


def _not_started(error: StartError, what: str) -> BuildError:
    is_copy = error.phase.startswith("copy ")
    if is_copy and "No space left on device" in error.message:
        return BuildError("limit", f"{what} is too large for a build box", hint="raise sdist_memory_bytes")
    kind = "sdist" if is_copy else "internal"
    return BuildError(kind, f"{error.message} (step {error.phase})", hint=error.hint)


def _judge(
    ended: Exit, output: BoxOutput, settings: Settings, root: BoxRoot, doing: str, *, is_out_of_memory: bool
) -> None:
    """Raise the BuildError for a program that did not end well."""
    limit = settings.sdist_memory_bytes
    if output.is_flood:
        raise BuildError("limit", f"cannot {doing}: it wrote too much output{_said(output.tail)}")
    if ended.exit_status == 0:
        return
    if is_out_of_memory:
        words = f"cannot {doing}: it takes more memory than sdist_memory_bytes, {limit // MIB} MiB"
        raise BuildError("limit", words + _said(output.tail), hint="raise sdist_memory_bytes")
    if "No space left on device" in output.tail:
        words = f"cannot {doing}: its files take more than sdist_memory_bytes, {limit // MIB} MiB, allows"
        raise BuildError("limit", words + _said(output.tail), hint="raise sdist_memory_bytes")
    if ended.signal is not None and not output.tail:
        raise BuildError("sdist", f"cannot {doing}: uv ended with {ended.describe()}")
    is_unresolved = "No solution found" in output.tail and "build" not in output.tail.lower()
    kind = "requirements" if is_unresolved else "sdist"
    raise BuildError(kind, f"cannot {doing}{_said(output.tail)}", hint=_hint(output.tail, root))


def _hint(tail: str, root: BoxRoot) -> str:
    if _NO_COMPILER.search(tail):
        if root.has_toolchain:
            return "this package needs more than a C compiler to be built: choose a version that has a wheel"
        return "run scripts/setup --toolchain, or choose a version that has a wheel"
    if "No solution found" in tail or "was not found in the package registry" in tail:
        return "check the names and versions of what is required"
    return "choose a version that has a wheel, if the package cannot be mended"


def _said(tail: str) -> str:
    return f":\n{tail}" if tail else ""


async def _take_lock(parts: Parts, run: _Run) -> str:
    copy = os.memfd_create("lock", os.MFD_CLOEXEC)
    try:
        await box_results.take(
            parts.reaper,
            run.work,
            suffix=_LOCK,
            bytes_max=LOCK_BYTES_MAX,
            accept=lambda name: "" if name == _LOCK else "another name",
            target=lambda _: os.dup(copy),
        )
        return os.pread(copy, LOCK_BYTES_MAX, 0).decode(errors="replace")
    finally:
        os.close(copy)


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd


@contextmanager
def _opened(path: int | Path, *, directory: bool = False) -> Iterator[int]:
    """A descriptor of it; links are not followed. Raises BuildError."""
    if isinstance(path, int):
        yield path
        return
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_DIRECTORY if directory else 0)
        fd = os.open(path, flags)
    except OSError as error:
        raise BuildError("internal", f"cannot open {path.name}: {os.strerror(error.errno or 0)}") from error
    try:
        yield fd
    finally:
        os.close(fd)
