"""Byte code for trees that are read-only later: compiled once, on all cores, by the interpreter that will run it.

The .pyc files are unchecked (no source is looked at when they load) and name the path at which sandboxes see the
source, not the one at which it was compiled. Runs in the builder; the workers are children of it.
"""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootfs_builder import trees
from rootfs_builder.children import Command, run_all
from runtime.errors import BuildError
from runtime.model import RuntimeName

# Runs in the target's interpreter: standard library only, also without site. One line a file: "." or "!errno".
WORKER = """
import errno, os, py_compile, sys
want, root, seen, depth, budget = sys.argv[1:]
depth, budget = int(depth), int(budget)
if "%d.%d" % sys.version_info[:2] != want:
    print("?%d.%d" % sys.version_info[:2]); sys.exit(3)
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for path in sys.stdin.buffer.read().split(b"\\0"):
    path = path.decode("utf-8", "surrogateescape")
    try:
        if path and budget > 0:
            shown = seen + path.split("/", depth)[depth]
            made = py_compile.compile(root + path, dfile=shown, doraise=True, invalidation_mode=mode)
            budget -= os.stat(made).st_size
            if budget <= 0:
                os.unlink(made)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print("!%d" % error.errno); sys.exit(4)
    except Exception:
        pass
    print(".", flush=True)
"""


BYTES_MAX = 4 << 30


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How to run the target's interpreter. `version`: "3.11". `environ`: all that it needs and nothing else."""

    argv: tuple[str, ...]
    version: str
    environ: Mapping[str, str]


def compile_tree(
    interpreter: Interpreter,
    root: Path,
    *,
    inside: str,
    seen: str,
    depth: int = 0,
    wanted: Callable[[bytes], bool] = lambda path: True,
    bytes_max: int = BYTES_MAX,
    workers: int | None = None,
    tick: Callable[[int, int], None],
) -> int:
    """Compile every .py file below root for which `wanted` holds; files that do not compile are left alone.

    inside: root as the interpreter sees it; seen: as sandboxes will, both with a slash at the end. depth: how many
    folders below root sandboxes do not see.
    bytes_max: of byte code in all; what would come beyond is left out (a short source can have a long one).
    workers: None takes one a core; byte code is the same bit by bit only for the same files and the same number.
    tick(done, all) is called at least every second. Returns the number of files.
    Raises BuildError when the interpreter is another one than promised, or the disk is full.
    """
    files = [
        (entry.status.st_size, entry.path)
        for entry in trees.walk(root)
        if entry.is_file and entry.path.endswith(b".py") and wanted(entry.path)
    ]
    environ = {**interpreter.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    parts = _parts(files, workers or cores())
    budget = str(bytes_max // max(1, len(parts)))
    options = ("-s", "-S", "-P", "-W", "ignore", "-c", WORKER)
    argv = (*interpreter.argv, *options, interpreter.version, inside, seen, str(depth), budget)
    commands = [Command(argv, environ, stdin=b"\0".join(part)) for part in parts]
    done = 0

    def on_line(line: str) -> None:
        nonlocal done
        done += line == "."
        tick(done, len(files))

    for ended in run_all(commands, on_line=on_line, on_idle=lambda: tick(done, len(files))):
        if ended.status != 0:
            raise _failure(interpreter, ended.status, ended.output.strip().rsplit("\n", 1)[-1])
    return len(files)


def cores() -> int:
    """Cores that this build may use."""
    return len(os.sched_getaffinity(0))


def _parts(files: Sequence[tuple[int, bytes]], count: int) -> list[list[bytes]]:
    """Files dealt out by size, largest first, to the part that has least: the workers end together."""
    parts: list[list[bytes]] = [[] for _ in range(count)]
    sizes = [0] * count
    for size, path in sorted(files, reverse=True):
        least = sizes.index(min(sizes))
        parts[least].append(path)
        sizes[least] += size + 1000  # a file costs something even when it is empty
    return [part for part in parts if part]


def _failure(interpreter: Interpreter, status: int, line: str) -> BuildError:
    if line.startswith("?"):
        text = f"{interpreter.argv[-1]} is Python {line[1:]}, the runtime needs {interpreter.version}"
        return BuildError("install", text, hint="give the interpreter of the runtime")
    if line.startswith("!") and line[1:].isdigit():
        return trees.writing_failed(OSError(int(line[1:]), os.strerror(int(line[1:]))), "compile the packages")
    return BuildError("install", f"cannot compile the packages: {interpreter.argv[-1]} ended with {status}: {line}")


def interpreter(python: str, rootfs: str, runtime: RuntimeName) -> Interpreter:
    """The host's interpreter of the runtime, else the one in the rootfs, started by the rootfs's own loader.

    Raises BuildError.
    """
    version = runtime.removeprefix("python")
    if python and os.path.exists(python):
        return Interpreter((python,), version, {})
    if not rootfs:
        raise BuildError("internal", f"no interpreter {python!r}", hint=f"install {runtime}")
    return rootfs_interpreter(Path(rootfs), version)


def cached(path: str, runtime: RuntimeName) -> str:
    """Where the byte code of a source is, for CPython of the runtime."""
    directory, _, name = path.rpartition("/")
    tag = "cpython-" + runtime.removeprefix("python").replace(".", "")
    return f"{directory}{'/' if directory else ''}__pycache__/{name.removesuffix('.py')}.{tag}.pyc"


def rootfs_interpreter(rootfs: Path, version: str) -> Interpreter:
    """The interpreter of a base rootfs, run without chroot by the rootfs's own loader and libraries.

    Needs no privilege and no interpreter of that version on the host. Raises BuildError when it is not there.
    """
    loaders = sorted([*rootfs.glob("lib64/ld-linux-*.so.*"), *rootfs.glob("lib/ld-linux-*.so.*")])
    python = rootfs / "usr/bin" / f"python{version}"
    if not loaders or not python.exists():
        raise BuildError("internal", f"no interpreter in {rootfs}", hint="build the base rootfs again")
    triplet = f"{platform.machine()}-linux-gnu"
    loader = trees.resolved_below(rootfs, loaders[0])
    libraries = ":".join(f"{rootfs}/{place}/{triplet}" for place in ("lib", "usr/lib"))
    argv = (str(loader), "--library-path", libraries, str(python))
    return Interpreter(argv, version, {"PYTHONHOME": f"{rootfs}/usr"})
