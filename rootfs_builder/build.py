"""One build: an archive and its requirements become a code tree and an environment's manifest.

Runs in the builder as the unprivileged user of builds. It resolves, and stacks the layers that pagurusd has made
meanwhile by another process (layering); pagurusd moves the code into the store, or removes it.
"""

import os
import shutil
import sys
from pathlib import Path

import msgspec

from rootfs_builder import archive, compiling, environments, locks, projects, requirements, trees, uv
from rootfs_builder.archive_tree import Bounds
from rootfs_builder.channel import Channel
from rootfs_builder.environments import LayerFacts
from rootfs_builder.events import Reporter
from rootfs_builder.resolving import Resolver
from rootfs_builder.suites import Suite, suite_of
from runtime import syscalls
from runtime.errors import BuildError
from runtime.model import CodeId, EnvironmentManifest, RuntimeName

CODE_SEEN_AT = "/code/"  # where sandboxes have the code mounted
FACTS_BYTES_MAX = 256 << 20


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pagurusd asks for, as one JSON line.

    staging, cache_dir: directories of the builder's user; staging is empty. archive_fd: inherited, seekable.
    requirements: '' takes those of the archive, if it has any. index_url: '' takes the configured one.
    python: an interpreter of the runtime on the host. rootfs: the runtime's base rootfs (its `fs`); with it, its
    own interpreter is used where the host has none, and `python` may be ''.
    """

    runtime: RuntimeName
    staging: str
    archive_fd: int
    cache_dir: str
    unpacked_bytes: int
    archive_entries: int
    requirements: str = ""
    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    url_requirements: bool = False
    sdists: bool = False
    python: str = ""
    rootfs: str = ""


def run(request: Request, reporter: Reporter, channel: Channel) -> None:
    """Do all steps and report the result. Raises BuildError."""
    suite = suite_of(request.runtime)
    staging = Path(request.staging)
    code = _unpack(request, staging / "code", reporter)
    text = request.requirements if request.requirements.strip() else projects.requirements_of(staging / "code")
    wanted = requirements.parse(text, allows_urls=request.url_requirements)
    if wanted:
        reporter.progress("resolve", f"resolving {', '.join(each.name for each in wanted)[:200]}")
    _compile_code(request, suite, staging / "code", reporter)
    manifest, lock = None, ""
    if wanted:
        manifest, lock = _environment(request, suite, wanted, reporter, channel)
    # The rename that follows, and the store that names the code, must not be on the disk before the files.
    syscalls.syncfs(staging)
    reporter.done(code=code, environment=manifest, lock=lock)


def _environment(
    request: Request,
    suite: Suite,
    wanted: tuple[requirements.Requirement, ...],
    reporter: Reporter,
    channel: Channel,
) -> tuple[EnvironmentManifest | None, str]:
    """The manifest, or None when the store has it already; and the lock."""
    scratch = Path(request.staging) / "scratch"
    _make(scratch)
    resolver = Resolver(suite, scratch, _uv(request, suite, scratch), reporter, channel, takes_sources=request.sdists)
    if requirements.is_lock(wanted):
        lock = requirements.lock_text(wanted)
        is_known = channel.is_known(environments.environment_id(suite.runtime, lock))
        locked = () if is_known else resolver.look_up(wanted)
    else:
        locked = resolver.resolve(wanted)
        lock = locks.lock_text(locked)
        is_known = channel.is_known(environments.environment_id(suite.runtime, lock))
    shutil.rmtree(scratch)
    if is_known:
        return None, lock
    facts = msgspec.json.decode(channel.layers(locked, FACTS_BYTES_MAX), type=tuple[LayerFacts, ...])
    names = dict.fromkeys(each.name for each in wanted)
    foreign = requirements.direct(wanted)
    manifest = environments.compose(facts, runtime=suite.runtime, lock=lock, declared=names, foreign=foreign)
    for one in manifest.conflicts:
        reporter.progress("install", f"warning: {one.path} of {one.used} hides the one of {one.hidden}")
    return manifest, lock


def _unpack(request: Request, root: Path, reporter: Reporter) -> CodeId:
    reporter.progress("unpack", "unpacking the archive", 0.0)
    bounds = Bounds(bytes_max=request.unpacked_bytes, entries_max=request.archive_entries)

    def tick(written: int) -> None:
        reporter.tick("unpack", f"unpacked {written >> 20} MiB")

    files = archive.unpack(request.archive_fd, root, bounds, tick)
    code = CodeId(trees.digest(root))
    reporter.progress("unpack", f"unpacked {files} {'file' if files == 1 else 'files'}", 1.0)
    return code


def _compile_code(request: Request, suite: Suite, root: Path, reporter: Reporter) -> None:
    """Put byte code beside the code, so that no first import compiles. The code's id is made without it.

    Code that does not compile, or that breaks the compiler, is left to the import check, which says it better.
    """
    try:
        compiling.compile_tree(
            compiling.interpreter(request.python, request.rootfs, suite.runtime),
            root,
            inside=f"{root}/",
            seen=CODE_SEEN_AT,
            bytes_max=request.unpacked_bytes,
            tick=lambda done, total: reporter.tick("unpack", f"compiled {done} of {total} modules"),
        )
    except BuildError as error:
        if error.kind == "limit":
            raise
        reporter.progress("unpack", f"the code has no byte code: {error.message}")


def _uv(request: Request, suite: Suite, scratch: Path) -> uv.Uv:
    python = request.python if request.python and os.path.exists(request.python) else sys.executable
    environ = uv.environment(
        os.environ,
        cache=request.cache_dir,
        scratch=str(scratch),
        index_url=request.index_url,
        extra_index_urls=request.extra_index_urls,
    )
    return uv.Uv(suite, python, scratch, environ)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=trees.DIRECTORY_MODE)
    except OSError as error:
        raise trees.writing_failed(error, f"make {directory.name}") from error
