"""The conversation with a builder, which the test plays: no process, no root."""

import asyncio
import getpass
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime import builder_process
from runtime.builder_process import LINE_BYTES_MAX, BuilderProcess
from runtime.config import Settings
from runtime.errors import BuildError
from runtime.reaper import Exit

PID = 1 << 30  # no process can have it


class Builder:
    """The other side: what the process was started with, and its ends of socket and pipe. As its own cgroup."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.calls: list[str] = []
        self.oom = 0
        self.can_start = True
        self.command: list[str] = []
        self.environ: dict[str, str] = {}
        self.socket: socket.socket | None = None
        self.events = -1
        self.ended: asyncio.Future[Exit] | None = None

    def parts(self) -> Any:
        layers = SimpleNamespace(
            make_staging=self.make_staging,
            discard_path=lambda path: self.calls.append(f"discard {path.name}"),
            cache=self.place / "cache",
        )
        return SimpleNamespace(
            settings=Settings(builder_user=getpass.getuser()),
            layers=layers,
            cgroups=SimpleNamespace(create=lambda name: self),
            reaper=SimpleNamespace(expect=self.expect),
            bury=lambda cgroup: self.calls.append("bury"),
        )

    def make_staging(self, name: str) -> Path:
        (self.place / name).mkdir()
        return self.place / name

    def start_as(self, user: str, command: list[str], **options: Any) -> int:
        if not self.can_start:
            raise OSError("no more processes")
        self.command, self.environ = command, options["environ"]
        answers, events, *rest = options["descriptors"]
        assert rest[0] == 2 and options["cgroup"] is self
        self.descriptors = rest[1:]
        self.socket = socket.socket(fileno=os.dup(answers))
        self.events = os.dup(events)
        return PID

    def expect(self, pid: int) -> asyncio.Future[Exit]:
        assert pid == PID
        self.ended = asyncio.get_running_loop().create_future()
        return self.ended

    def kill_process(self, pid: int, number: int) -> None:
        assert (pid, number) == (PID, signal.SIGKILL)
        self.calls.append("kill process")

    # --- as a cgroup

    def set_limits(self, limits: object) -> None:
        self.calls.append("limits")

    def oom_kills(self) -> int:
        return self.oom

    def kill(self) -> None:
        self.calls.append("kill")
        self.leave()
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(Exit(None, 9))

    def close(self) -> None:
        self.calls.append("close")

    # --- as a builder

    def leave(self) -> None:
        if self.events >= 0:
            os.close(self.events)
            self.events = -1
        if self.socket is not None:
            self.socket.close()

    def say(self, *lines: bytes | dict[str, Any]) -> None:
        for line in lines:
            os.write(self.events, line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")


def talk(
    place: Path, monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Builder, BuilderProcess], Awaitable[None]]
) -> Builder:
    """Run a scenario with a started process; afterwards nothing of it is left."""
    builder = Builder(place)
    monkeypatch.setattr(builder_process.spawned, "start_as", builder.start_as)
    monkeypatch.setattr(os, "kill", builder.kill_process)

    async def run() -> None:
        process = await BuilderProcess.start(builder.parts(), "build", "build-1", (0,))
        try:
            await scenario(builder, process)
        finally:
            await process.aclose()
            await asyncio.sleep(0)  # the transport closes its pipe in the next turn

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert set(os.listdir("/proc/self/fd")) == before
    assert builder.calls[-4:] == ["kill", "close", "bury", "discard build-1"]
    return builder


async def heard(process: BuilderProcess) -> list[dict[str, Any]]:
    return [event async for event in process.events()]


def failure(place: Path, monkeypatch: pytest.MonkeyPatch, *lines: bytes | dict[str, Any], oom: int = 0) -> BuildError:
    """What becomes of these lines, after which the builder ends."""
    errors = []

    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        builder.oom = oom
        builder.say(*lines)
        builder.leave()
        with pytest.raises(BuildError) as caught:
            await heard(process)
        errors.append(caught.value)

    talk(place, monkeypatch, scenario)
    return errors[0]


PROGRESS = {"event": "progress", "phase": "resolve", "message": "one", "fraction": 0.5}


def test_it_is_started_with_its_own_folder_and_nothing_of_pagurusd_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        assert builder.command[1:] == ["-I", "-m", "rootfs_builder", "build"]
        assert builder.environ["TMPDIR"] == str(process.staging) == str(tmp_path / "build-1")
        assert builder.environ["HOME"] == str(tmp_path / "cache")
        assert "SECRET_OF_THE_OPERATOR" not in builder.environ
        assert builder.descriptors == [0]
        assert builder.calls == ["limits"]

    monkeypatch.setenv("SECRET_OF_THE_OPERATOR", "x")
    talk(tmp_path, monkeypatch, scenario)


def test_what_it_says_comes_in_order_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = [
        PROGRESS,
        {**PROGRESS, "fraction": None},
        {"event": "locked", "environment": "e"},
        {"event": "resolve", "requirements": "a"},
        {"event": "wanted", "wanted": []},
        {"event": "sources", "sources": [{}]},
        {"event": "ready"},
        {"event": "mapped", "text": "lock"},
        {"event": "done", "code": "c"},
    ]

    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        builder.say(*told, {"event": "progress after the end"})
        assert await heard(process) == told

    talk(tmp_path, monkeypatch, scenario)


def test_a_request_is_one_line_and_answers_may_carry_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        assert builder.socket is not None
        await process.request({"a": "é\n"})
        line = builder.socket.recv(1000)
        assert json.loads(line) == {"a": "é\n"} and line.count(b"\n") == 1
        process.answer("known")
        assert builder.socket.recv(1000) == b"known\n"
        (tmp_path / "facts").write_text("[]")
        with open(tmp_path / "facts") as facts:
            process.answer("layers", facts.fileno())
            word, (descriptor,), _, _ = socket.recv_fds(builder.socket, 100, 1)
            assert (word, os.read(descriptor, 10), facts.closed) == (b"layers\n", b"[]", False)
            os.close(descriptor)

    talk(tmp_path, monkeypatch, scenario)


def test_a_builder_that_has_ended_is_told_by_request_and_events_not_by_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        builder.leave()
        with pytest.raises(BuildError, match="the builder ended early"):
            await process.request({})
        process.answer("known")
        with pytest.raises(BuildError, match="the builder ended without a result"):
            await heard(process)

    talk(tmp_path, monkeypatch, scenario)


def test_its_failure_is_raised_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = {"event": "failed", "kind": "requirements", "message": "no such package", "hint": "check the name"}
    error = failure(tmp_path, monkeypatch, PROGRESS, told)
    assert (error.kind, error.message, error.hint) == ("requirements", "no such package", "check the name")


def test_words_without_end_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    error = failure(tmp_path, monkeypatch, {"event": "failed", "kind": "install", "message": "x" * 60_001})
    assert len(error.message) == 60_000


def test_an_end_for_want_of_memory_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    error = failure(tmp_path, monkeypatch, PROGRESS, oom=1)
    assert error.kind == "limit" and "2048 MiB of memory" in error.message


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"words\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"1\n",
        b"null\n",
        b"{}\n",
        b'{"event": 1}\n',
        b'{"event": []}\n',
        b'{"event": "unheard"}\n',
        b"[" * 50_000 + b"\n",
        b'{"event": "done"',
        {"event": "progress"},
        {**PROGRESS, "phase": None},
        {**PROGRESS, "message": ["x"]},
        {**PROGRESS, "fraction": "half"},
        {"event": "locked"},
        {"event": "locked", "environment": 1},
        {"event": "resolve", "requirements": {}},
        {"event": "wanted", "wanted": {}},
        {"event": "wanted"},
        {"event": "sources", "sources": None},
        {"event": "mapped"},
        {"event": "failed"},
        {"event": "failed", "kind": 1, "message": "x"},
        {"event": "failed", "kind": "x", "message": None},
    ],
    ids=lambda line: str(line)[:60],
)
def test_a_line_that_no_builder_of_ours_says_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes | dict[str, Any]
):
    error = failure(tmp_path, monkeypatch, PROGRESS, line)
    assert error.kind == "internal" and "the builder sent a line that cannot be read" in error.message


def test_a_line_without_end_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(builder_process, "LINE_BYTES_MAX", 1000)
    assert "cannot be read" in failure(tmp_path, monkeypatch, b"x" * 5000).message
    assert LINE_BYTES_MAX >= 1 << 20, "a lock of all packages is one line"


def test_what_cannot_be_started_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    builder = Builder(tmp_path)
    builder.can_start = False
    monkeypatch.setattr(builder_process.spawned, "start_as", builder.start_as)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no more processes"):
        asyncio.run(BuilderProcess.start(builder.parts(), "build", "build-1"))
    assert set(os.listdir("/proc/self/fd")) == before
    assert builder.calls == ["limits", "kill", "close", "bury", "discard build-1"]


def test_ending_twice_is_ending_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        await process.end()
        assert builder.ended is not None and builder.ended.done()
        assert builder.calls == ["limits", "kill process", "kill", "kill"], "its cgroup again: it may have forked"
        await process.end()
        assert builder.calls.count("kill process") == 1, "the pid may be another's by now"

    talk(tmp_path, monkeypatch, scenario)


def test_a_process_that_is_reaped_is_not_killed_by_its_pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def scenario(builder: Builder, process: BuilderProcess) -> None:
        assert builder.ended is not None
        builder.ended.set_result(Exit(0, None))

    assert "kill process" not in talk(tmp_path, monkeypatch, scenario).calls
