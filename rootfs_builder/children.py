"""The programs that a build starts (uv, interpreters, mmdebstrap): started, watched, never left behind. Builder.

Each child is a process group of its own. SIGTERM and SIGINT kill every group and end the builder with status
143. Where setpriv(1) is, a child also dies when the builder is killed outright.
"""

import contextlib
import errno
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

QUIET_S = 1.0  # the longest silence before on_idle is called
REAP_LIMIT_S = 1.0  # for killed children to be gone, before the builder goes itself
OUTPUT_BYTES_MAX = 256 * 1024  # of a child's output, the end is kept
STATUS_TERMINATED = 128 + signal.SIGTERM
_ANSI = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")


@dataclass(frozen=True, slots=True)
class Command:
    """One program to run. `environ` is all it gets; `stdin` is its standard input. Its stdout may be dropped."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    directory: str = "/"
    stdin: bytes = b""
    drops_stdout: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended: its exit status (negative: signal) and the end of stdout (if kept) and stderr together."""

    status: int
    output: str


class _Live:
    """The groups to kill at a signal. A child that is just being started is killed right after."""

    def __init__(self) -> None:
        self.groups: set[int] = set()
        self.is_spawning = False
        self.is_stopping = False


_live = _Live()


def stop_at_signals() -> None:
    """From now on SIGTERM and SIGINT kill all children and end this process with status 143."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def run(
    command: Command, *, on_line: Callable[[str], None] | None = None, on_idle: Callable[[], None] | None = None
) -> Finished:
    """Run one program to its end. Raises FileNotFoundError when it is not there."""
    return run_all([command], on_line=on_line, on_idle=on_idle)[0]


def run_all(
    commands: Sequence[Command],
    *,
    on_line: Callable[[str], None] | None = None,
    on_idle: Callable[[], None] | None = None,
) -> list[Finished]:
    """Run programs at the same time; lines of all of them reach on_line, without terminal codes.

    on_idle: called after each QUIET_S without a line. On any error all of them are killed.
    """
    children: list[_Child] = []
    try:
        for command in commands:
            children.append(_Child(command))
        _watch(children, on_line or (lambda line: None), on_idle or (lambda: None))
        return [child.finish() for child in children]
    finally:
        for child in children:
            child.kill()


def plain(text: str) -> str:
    """Text without terminal codes and carriage returns."""
    return _ANSI.sub("", text).replace("\r", "")


class _Child:
    def __init__(self, command: Command) -> None:
        program = command.argv[0]
        if shutil.which(program, path=command.environ.get("PATH", os.defpath)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
        keeper = shutil.which("setpriv")
        prefix = (keeper, "--pdeathsig", "KILL") if keeper else ()
        with tempfile.TemporaryFile() as stdin:
            stdin.write(command.stdin)
            stdin.seek(0)
            _live.is_spawning = True
            try:
                self.process = subprocess.Popen(
                    (*prefix, *command.argv),
                    stdin=stdin,
                    stdout=subprocess.DEVNULL if command.drops_stdout else subprocess.PIPE,
                    stderr=subprocess.PIPE if command.drops_stdout else subprocess.STDOUT,
                    env=dict(command.environ),
                    cwd=command.directory,
                    process_group=0,
                )
                _live.groups.add(self.process.pid)
            finally:
                _live.is_spawning = False
                if _live.is_stopping:
                    _kill_all_and_exit()
        pipe = self.process.stderr if command.drops_stdout else self.process.stdout
        assert pipe is not None
        self.pipe = pipe
        self._output = bytearray()
        self._line = bytearray()

    def read(self) -> tuple[bool, Iterable[str]]:
        """What came since: whether more may come, and the whole lines."""
        chunk = os.read(self.pipe.fileno(), 65536)
        self._output += chunk
        del self._output[:-OUTPUT_BYTES_MAX]
        self._line += chunk
        *lines, rest = self._line.split(b"\n") if chunk else [self._line, b""]
        self._line = bytearray(rest[-OUTPUT_BYTES_MAX:])
        return bool(chunk), [plain(bytes(line).decode(errors="replace")) for line in lines]

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def finish(self) -> Finished:
        status = self.process.wait()
        return Finished(status, plain(bytes(self._output).decode(errors="replace")))

    def kill(self) -> None:
        """Kill the whole group, also what the child left behind, and reap the child."""
        _kill_group(self.process.pid)
        self.process.wait()
        _live.groups.discard(self.process.pid)
        self.pipe.close()


def _watch(children: Sequence[_Child], on_line: Callable[[str], None], on_idle: Callable[[], None]) -> None:
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.pipe, selectors.EVENT_READ, child)
        while selector.get_map():
            ready = selector.select(timeout=QUIET_S)
            if not ready:
                on_idle()
                _forget_ended(selector)
            for key, _ in ready:
                is_open, lines = key.data.read()
                if not is_open:
                    selector.unregister(key.fileobj)
                for line in lines:
                    if line.strip():
                        on_line(line)


def _forget_ended(selector: selectors.BaseSelector) -> None:
    """A grandchild may hold the pipe of a child that has ended: nobody waits for it."""
    for key in list(selector.get_map().values()):
        if key.data.has_ended():
            selector.unregister(key.fileobj)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _stop(number: int, frame: FrameType | None) -> None:
    _live.is_stopping = True
    if not _live.is_spawning:
        _kill_all_and_exit()


def _kill_all_and_exit() -> None:
    for group in _live.groups:
        _kill_group(group)
    deadline = time.monotonic() + REAP_LIMIT_S
    for child in _live.groups:
        with contextlib.suppress(ChildProcessError):  # the interrupted code has reaped it
            while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.001)
    os._exit(STATUS_TERMINATED)
