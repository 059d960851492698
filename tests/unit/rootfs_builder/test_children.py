"""Children: their words, their ends, and that none is left behind."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rootfs_builder import children
from rootfs_builder.children import Command

ENVIRON = {"PATH": os.defpath}
ROOT = Path(__file__).resolve().parents[3]


def sh(script: str, **extra: object) -> Command:
    return Command(("/bin/sh", "-c", script), ENVIRON, **extra)  # type: ignore[arg-type]


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child ends soon; it has been killed already."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(descriptor, closefd=True) as pidfd:
        return bool(select.select([pidfd], [], [], 5)[0])


def test_lines_arrive_plain_and_whole():
    lines: list[str] = []
    ended = children.run(sh("printf '\\033[1mone\\033[0m\\n\\ntwo'; exit 3"), on_line=lines.append)
    assert lines == ["one", "two"]
    assert (ended.status, ended.output) == (3, "one\n\ntwo")


def test_stdin_is_given_and_stdout_can_be_dropped():
    assert children.run(Command(("cat",), ENVIRON, stdin=b"x" * 200_000)).output == "x" * 200_000
    assert children.run(sh("echo out; echo err >&2", drops_stdout=True)).output == "err\n"


def test_output_is_bounded():
    ended = children.run(Command(("cat",), ENVIRON, stdin=b"x" * 400_000 + b"end"))
    assert len(ended.output) == children.OUTPUT_BYTES_MAX
    assert ended.output.endswith("xend")


def test_an_error_of_the_listener_kills_the_child():
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        children.run(sh("echo $$; exec sleep 60"), on_line=on_line)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_what_a_child_leaves_behind_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(children, "QUIET_S", 0.05)
    ended = children.run(sh("sleep 60 & echo $!"))
    assert has_ended(int(ended.output))


def test_a_silent_child_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(children, "QUIET_S", 0.01)
    idle: list[int] = []
    children.run(sh("sleep 0.05"), on_idle=lambda: idle.append(1))
    assert idle


def test_a_missing_program_is_an_error():
    with pytest.raises(FileNotFoundError, match="/nonexistent"):
        children.run(Command(("/nonexistent",), ENVIRON))


def test_sigterm_kills_children_and_ends_with_143():
    script = (
        "from rootfs_builder import children as c; c.stop_at_signals();"
        "c.run(c.Command(('/bin/sh', '-c', 'echo $$; exec sleep 60'), {'PATH': '/bin'}),"
        " on_line=lambda line: print(line, flush=True))"
    )
    builder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert builder.stdout is not None
    with builder.stdout:
        child = int(builder.stdout.readline())
        builder.send_signal(signal.SIGTERM)
        assert builder.wait() == 143
    with pytest.raises(ProcessLookupError):  # not even a zombie is left for others to reap
        os.kill(child, 0)
