"""The process: its lines and exit statuses."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rootfs_builder import events
from rootfs_builder.events import Reporter

ROOT = Path(__file__).resolve().parents[3]


def builder(*arguments: str, stdin: str = "") -> tuple[int, list[dict[str, object]]]:
    command = [sys.executable, "-m", "rootfs_builder", *arguments]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(stdin.encode())
        ours.shutdown(socket.SHUT_WR)
        ended = subprocess.run(command, stdin=theirs, capture_output=True, text=True, cwd=ROOT, check=False)
    assert not ended.stderr
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize(("command", "stdin"), [("build", ""), ("build", "{}\n"), ("layers", '{"runtime": 1}\n')])
def test_a_request_that_cannot_be_read_fails(command: str, stdin: str):
    status, (line,) = builder(command, stdin=stdin)
    assert (status, line["event"], line["kind"]) == (1, "failed", "internal")
    assert "cannot read the request" in str(line["message"])


def test_layers_that_nobody_wants_in_the_end_are_no_failure():
    assert builder("layers") == (0, [])


def test_an_unknown_runtime_fails_with_the_known_ones(tmp_path: Path):
    status, (line,) = builder("base", "--runtime", "python2.7", "--output", str(tmp_path))
    assert status == 1
    assert line == {
        "event": "failed",
        "kind": "base",
        "message": "unknown runtime 'python2.7'",
        "hint": "choose one of python3.11, python3.13",
    }


def test_lines_are_written_whole_and_ticks_are_rare(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    read, write = os.pipe()
    with open(read, "rb") as reader:
        reporter = Reporter(write)
        reporter.progress("unpack", "one", 0.12345)
        reporter.tick("unpack", "too soon")
        now[0] += events.TICK_S
        reporter.tick("unpack", "two", 7.0)
        reporter.alive()
        os.close(write)
        lines = [json.loads(line) for line in reader.read().splitlines()]
    assert [(line["message"], line["fraction"]) for line in lines] == [("one", 0.123), ("two", 1.0), ("two", 1.0)]
