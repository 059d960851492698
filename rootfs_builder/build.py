"""One build: an archive and its requirements become a code tree and an environment in the staging directory.

Runs in the builder as the unprivileged user of builds; pagurusd moves the result into the store, or removes it.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from rootfs_builder import archive, compiling, environments, requirements, trees, uv
from rootfs_builder.archive_tree import Bounds
from rootfs_builder.events import Reporter
from rootfs_builder.suites import Suite, suite_of
from runtime.errors import BuildError
from runtime.model import CodeId, Environment, RuntimeName

CODE_SEEN_AT = "/code/"  # where sandboxes have the code mounted
REQUIREMENTS_FILE = "requirements.txt"
ANSWER_BYTES_MAX = 64


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pagurusd asks for, as one JSON line.

    staging, cache_dir: directories of the builder's user; staging is empty. archive_fd: inherited, seekable.
    requirements: '' takes requirements.txt of the archive, if there is one. index_url: '' takes the configured one.
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
    python: str = ""
    rootfs: str = ""


def run(request: Request, reporter: Reporter, answer: Callable[[], str]) -> None:
    """Do all steps and report the result. answer(): pagurusd's line after `locked`. Raises BuildError."""
    suite = suite_of(request.runtime)
    staging = Path(request.staging)
    code = _unpack(request, staging / "code", reporter)
    _compile_code(request, suite, staging / "code", reporter)
    wanted = requirements.parse(_requirements_text(request, staging / "code"))
    if not wanted:
        reporter.done(code=code, environment=None, lock="")
        return
    scratch = staging / "scratch"
    _make(scratch)
    lock = _resolve(request, suite, scratch, wanted, reporter)
    identity = environments.environment_id(suite.runtime, lock)
    reporter.locked(identity)
    if _is_skipped(answer()):
        shutil.rmtree(scratch)
        reporter.done(code=code, environment={"id": identity, "runtime": suite.runtime}, lock=lock)
        return
    environment = _install(request, suite, lock, wanted, reporter)
    shutil.rmtree(scratch)
    reporter.done(code=code, environment=environment, lock=lock)


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
            _interpreter(request, suite),
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


def _requirements_text(request: Request, code: Path) -> str:
    """The request's text, else the archive's file, else nothing. The archive has no links, so neither has this."""
    path = code / REQUIREMENTS_FILE
    if request.requirements.strip() or not path.is_file():
        return request.requirements
    with open(path, "rb") as file:
        raw = file.read(requirements.BYTES_MAX + 1)
    if len(raw) > requirements.BYTES_MAX:
        raise BuildError(
            "requirements",
            f"{REQUIREMENTS_FILE} has more than {requirements.BYTES_MAX} bytes",
            hint="list direct requirements only",
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BuildError("requirements", f"{REQUIREMENTS_FILE} is not UTF-8", hint="save it as UTF-8") from error


def _resolve(
    request: Request,
    suite: Suite,
    scratch: Path,
    wanted: tuple[requirements.Requirement, ...],
    reporter: Reporter,
) -> str:
    if requirements.is_lock(wanted):
        reporter.progress("resolve", f"{len(wanted)} requirements are pinned with hashes already", 1.0)
        return requirements.lock_text(wanted)
    reporter.progress("resolve", f"resolving {', '.join(each.name for each in wanted)[:200]}")
    source, output = scratch / REQUIREMENTS_FILE, scratch / "pylock.toml"
    source.write_text(requirements.input_text(wanted))
    _uv(request, suite, scratch).compile(source, output, reporter)
    locked = requirements.from_pylock(output.read_text())
    reporter.progress("resolve", f"resolved {len(locked)} packages", 1.0)
    return requirements.lock_text(locked)


def _install(
    request: Request, suite: Suite, lock: str, wanted: tuple[requirements.Requirement, ...], reporter: Reporter
) -> Environment:
    staging = Path(request.staging)
    root, scratch = staging / "environment" / "fs", staging / "scratch"
    _make(root.parent)
    _make(root)
    locked = scratch / "lock.txt"
    locked.write_text(lock)
    reporter.progress("install", "installing the packages")
    _uv(request, suite, scratch).install(locked, root, reporter)
    environments.sanitise(root)
    _compile(request, suite, root, reporter)
    environments.sanitise(root)
    names = dict.fromkeys(each.name for each in wanted)
    environment = environments.describe(root, runtime=suite.runtime, lock=lock, declared=names)
    (root.parent / "manifest.json").write_bytes(environments.manifest(environment, lock))
    return environment


def _compile(request: Request, suite: Suite, root: Path, reporter: Reporter) -> None:
    def tick(done: int, total: int) -> None:
        reporter.tick("compile", f"compiled {done} of {total} modules", done / total)

    reporter.progress("compile", "compiling the packages", 0.0)
    count = compiling.compile_tree(
        _interpreter(request, suite),
        root,
        inside=f"{root}/",
        seen=environments.SEEN_AT,
        wanted=lambda path: not path.startswith(b"bin/"),
        tick=tick,
    )
    reporter.progress("compile", f"compiled {count} modules", 1.0)


def _interpreter(request: Request, suite: Suite) -> compiling.Interpreter:
    """The host's interpreter of the runtime, else the one in the rootfs, started by the rootfs's own loader."""
    if request.python and os.path.exists(request.python):
        return compiling.Interpreter((request.python,), suite.python, {})
    if not request.rootfs:
        raise BuildError("internal", f"no interpreter {request.python!r}", hint=f"install {suite.runtime}")
    return compiling.rootfs_interpreter(Path(request.rootfs), suite.python)


def _uv(request: Request, suite: Suite, scratch: Path) -> uv.Uv:
    python = request.python if request.python and os.path.exists(request.python) else sys.executable
    environ = uv.environment(os.environ, cache=request.cache_dir, scratch=str(scratch), index_url=request.index_url)
    return uv.Uv(suite, python, scratch, environ)


def _is_skipped(answer: str) -> bool:
    word = answer.strip().strip('"')
    if word not in ("build", "skip"):
        raise BuildError("internal", f"the answer to 'locked' is {answer[:ANSWER_BYTES_MAX]!r}, not build or skip")
    return word == "skip"


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=trees.DIRECTORY_MODE)
    except OSError as error:
        raise trees.writing_failed(error, f"make {directory.name}") from error
