"""Makes the base rootfs of a runtime: Debian's interpreter and libraries, once, read-only later. Runs as root.

Layout: OUTPUT/RUNTIME-DIGEST12/{fs/,manifest.json}, and the symbolic link OUTPUT/RUNTIME to the one in use; with
compilers, for build boxes, OUTPUT/RUNTIME-toolchain-DIGEST12 and the link OUTPUT/RUNTIME-toolchain. A
new one is built in OUTPUT/.tmp-..., renamed, and the link swapped: whoever follows the link finds a whole rootfs.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rootfs_builder import base_tree, mirrors, trees
from rootfs_builder.children import Command
from rootfs_builder.children import run as run_child
from rootfs_builder.events import Reporter
from rootfs_builder.suites import Suite, suite_of
from runtime.errors import BuildError

PHASE = "base"
INCLUDED = (
    "base-files",
    "base-passwd",
    "ca-certificates",
    "dash",
    "libgomp1",
    "libpython3-stdlib",
    "libstdc++6",
    "netbase",
    "python3",
    "tzdata",
)
TOOLCHAIN = "toolchain"
FORMAT = 2  # raise it when the same packages give another tree
COMPILERS = ("g++", "gcc", "libc6-dev", "make", "pkg-config", "python3-dev")  # of the toolchain, beside INCLUDED
DATE_EPOCH = "1577836800"  # 2020-01-01: any fixed date gives the same files
LOCK_WAIT_S = 600.0
LOCK_POLL_S = 0.2
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_STEPS = {  # what mmdebstrap says, and how far that is
    "running apt-get update": 0.05,
    "downloading packages": 0.15,
    "extracting archives": 0.4,
}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a base rootfs is made of: the content of its manifest.json."""

    runtime: str
    suite: str
    digest: str
    python_version: str
    disk_bytes: int = 0  # 0: made before this was noted
    variant: str = ""  # TOOLCHAIN, or '' for what sandboxes see
    recipe: str = ""  # how it was made: one of another recipe is made anew
    packages: tuple[dict[str, str], ...]


def run(runtime: str, output: Path, reporter: Reporter, *, force: bool, variant: str = "") -> None:
    """Build the base rootfs of `runtime` below output unless there is one, and report it. Raises BuildError.

    variant: TOOLCHAIN makes the one for build boxes instead.
    """
    suite = suite_of(runtime)
    link = output / _link_name(runtime, variant)
    if not force and (found := present(link, suite)) is not None:
        reporter.done(path=str(link.resolve()), digest=found.digest)
        return
    _check_host()
    output.mkdir(mode=trees.DIRECTORY_MODE, parents=True, exist_ok=True)
    with _locked(output, reporter):
        if not force and (found := present(link, suite)) is not None:  # another build was first
            reporter.done(path=str(link.resolve()), digest=found.digest)
            return
        _remove_leftovers(output, runtime)
        work = Path(tempfile.mkdtemp(prefix=f".tmp-{runtime}-", dir=output))
        try:
            os.chmod(work, trees.DIRECTORY_MODE)  # apt's own user reads the package lists
            manifest = _build(suite, variant, work, reporter)
            place = _put_in_place(work, output, manifest)
        finally:
            _remove(work)
        _swap(link, place.name)
    reporter.done(path=str(place), digest=manifest.digest)


def present(link: Path, suite: Suite) -> Manifest | None:
    """The manifest of the rootfs that the link names, or None when there is none or it is not whole."""
    try:
        manifest = msgspec.json.decode((link / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    is_same = (_link_name(manifest.runtime, manifest.variant), manifest.suite) == (link.name, suite.name)
    is_same = is_same and manifest.recipe == recipe(suite, manifest.variant)
    is_whole = (link / "fs/usr/bin" / suite.runtime).is_file()
    return manifest if is_same and is_whole and link.resolve().name == _directory_name(manifest) else None


def recipe(suite: Suite, variant: str) -> str:
    """Names all that makes the content of a base but the packages' versions."""
    more = COMPILERS if variant == TOOLCHAIN else ()
    content = [FORMAT, suite.name, DATE_EPOCH, *sorted((*INCLUDED, *suite.packages, *more))]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:16]


def bootstrap_command(
    suite: Suite, target: Path, scratch: Path, lines: list[str], options: list[str], *, more: Sequence[str] = ()
) -> Command:
    """mmdebstrap with the host's mirrors (`lines`; none: its default) and transport settings (`options`).

    more: packages beside INCLUDED.
    """
    environ = {name: value for name, value in os.environ.items() if name.lower() in _PROXIES}
    environ |= {"PATH": base_tree.SBIN_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "TMPDIR": str(scratch)}
    environ["SOURCE_DATE_EPOCH"] = os.environ.get("SOURCE_DATE_EPOCH", DATE_EPOCH)
    argv = ("mmdebstrap", "--mode=root", "--variant=extract", "--format=directory", "--skip=cleanup/apt")
    settings = ('APT::Install-Recommends "false";', 'Acquire::Languages "none";', *options)
    arguments = (
        *argv,
        *(f"--aptopt={setting}" for setting in settings),
        f"--include={','.join((*INCLUDED, *suite.packages, *more))}",
    )
    return Command((*arguments, suite.name, str(target), *lines), environ, directory=str(scratch))


def _check_host() -> None:
    if os.geteuid() != 0:
        raise BuildError("base", "only root can make a base rootfs", hint="run it with sudo")
    for program, package in (("mmdebstrap", "mmdebstrap"), ("ldconfig", "libc-bin"), ("chroot", "coreutils")):
        if shutil.which(program, path=base_tree.SBIN_PATH) is None:
            raise BuildError("base", f"the program {program} is missing", hint=f"apt-get install {package}")


def _build(suite: Suite, variant: str, work: Path, reporter: Reporter) -> Manifest:
    root, scratch = work / "fs", work / "scratch"
    scratch.mkdir(mode=trees.DIRECTORY_MODE)
    _bootstrap(suite, variant, root, scratch, reporter)
    packages = base_tree.packages(root)
    reporter.progress(PHASE, f"extracted {len(packages)} packages of {suite.name}", 0.55)
    base_tree.trim(root)
    base_tree.configure(root)

    def tick(done: int, total: int) -> None:
        reporter.tick(PHASE, f"compiled {done} of {total} modules", 0.6 + 0.3 * done / total)

    reporter.progress(PHASE, "compiling the standard library", 0.6)
    count = base_tree.compile_stdlib(root, suite.python, tick)
    reporter.progress(PHASE, f"compiled {count} modules", 0.9)
    base_tree.sanitise(root)
    version = base_tree.checked_version(root, suite.python)
    manifest = Manifest(
        runtime=suite.runtime,
        suite=suite.name,
        digest=base_tree.digest(root),
        python_version=version,
        disk_bytes=base_tree.disk_bytes(root),
        variant=variant,
        recipe=recipe(suite, variant),
        packages=tuple(packages),
    )
    (work / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    shutil.rmtree(scratch)
    reporter.progress(PHASE, f"Python {version}, digest {manifest.digest[:12]}", 0.95)
    return manifest


def _bootstrap(suite: Suite, variant: str, root: Path, scratch: Path, reporter: Reporter) -> None:
    lines = mirrors.host_lines(suite.name)
    dump = run_child(Command(("apt-config", "dump"), {"PATH": base_tree.SBIN_PATH}))
    options = mirrors.transport_options(dump.output) if dump.status == 0 else []
    more = COMPILERS if variant == TOOLCHAIN else ()
    command = bootstrap_command(suite, root, scratch, lines, options, more=more)
    said: list[str] = []

    def on_line(line: str) -> None:
        said.append(line)
        del said[:-50]
        text = line.removeprefix("I: ").strip()
        fraction = next((share for start, share in _STEPS.items() if text.startswith(start)), None)
        if line.startswith(("I: ", "W: ")):
            reporter.progress(PHASE, text, fraction)

    reporter.progress(PHASE, f"bootstrapping {suite.name}", 0.0)
    ended = run_child(command, on_line=on_line, on_idle=reporter.alive)
    if ended.status != 0:
        raise _bootstrap_failure(suite, said)


def _bootstrap_failure(suite: Suite, said: list[str]) -> BuildError:
    errors = [line.removeprefix("E: ").strip() for line in said if line.startswith(("E: ", "Err:"))] or said[-3:]
    text = "; ".join(dict.fromkeys(errors))[:1000]
    if "No space left on device" in text:
        return BuildError("limit", "cannot make the base rootfs: the disk is full", hint="free space below state_dir")
    return BuildError(
        "base",
        f"mmdebstrap cannot bootstrap {suite.name}: {text}",
        hint="check that apt-get update works on this machine, and that debian-archive-keyring is installed",
    )


def _put_in_place(work: Path, output: Path, manifest: Manifest) -> Path:
    """Rename the new rootfs to its name. One of the same digest stays when it is what it says: it may be in use."""
    place = output / _directory_name(manifest)
    os.sync()  # the names must not be on the disk before the files
    if place.exists():
        if base_tree.digest(place / "fs") == manifest.digest and (place / "manifest.json").exists():
            return place
        os.rename(place, work / "broken")
    fresh = work / "new"
    fresh.mkdir(mode=trees.DIRECTORY_MODE)
    os.rename(work / "fs", fresh / "fs")
    os.rename(work / "manifest.json", fresh / "manifest.json")
    os.rename(fresh, place)
    return place


def _directory_name(manifest: Manifest) -> str:
    return f"{_link_name(manifest.runtime, manifest.variant)}-{manifest.digest[:12]}"


def _link_name(runtime: str, variant: str) -> str:
    return f"{runtime}-{variant}" if variant else runtime


def _swap(link: Path, target: str) -> None:
    """Point the link at target in one step."""
    fresh = link.with_name(f".tmp-{link.name}.link")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.rename(fresh, link)


@contextmanager
def _locked(output: Path, reporter: Reporter) -> Iterator[None]:
    """One build at a time below output: whatever else is there with a temporary name is a leftover."""
    descriptor = os.open(output / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BuildError("base", f"another build below {output} does not end") from None
                reporter.tick(PHASE, "waiting for another build")
                time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(output: Path, runtime: str) -> None:
    for path in output.glob(f".tmp-{runtime}-*"):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a tree of ours, but never through a mount that something has left in it."""
    for place in base_tree.mounts_below(path):
        raise BuildError("base", f"cannot remove {path}: {place} is mounted", hint=f"umount {place}")
    shutil.rmtree(path, ignore_errors=True)
