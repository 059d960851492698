"""The conversation with pagurusd: one question, one answer, on a real socket pair."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rootfs_builder import channel
from rootfs_builder.build import Request
from rootfs_builder.channel import Channel
from rootfs_builder.events import Reporter
from rootfs_builder.locks import Locked
from runtime.errors import BuildError
from runtime.model import EnvironmentId

LOCKED = Locked(name="a", version="1", filename="a-1-py3-none-any.whl", url="https://index.test/a", sha256="d" * 64)
ENVIRONMENT = EnvironmentId("e" * 64)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Ask something while an answer lies ready: what comes of it, and what was asked."""
    ours, theirs = socket.socketpair()

    def ask(
        question: Callable[[Channel], Any], answer: bytes | None, *contents: bytes
    ) -> tuple[Any, list[dict[str, Any]]]:
        with files(tmp_path, contents) as descriptors:
            if answer is None:
                theirs.shutdown(socket.SHUT_WR)
            else:
                socket.send_fds(theirs, [answer], descriptors)
        with open(tmp_path / "events", "wb") as events:
            result = question(Channel(ours, Reporter(events.fileno())))
        return result, [json.loads(line) for line in (tmp_path / "events").read_bytes().splitlines()]

    with ours, theirs:
        yield ask


@contextmanager
def files(place: Path, contents: tuple[bytes, ...]) -> Iterator[list[int]]:
    descriptors = []
    for number, content in enumerate(contents):
        (place / str(number)).write_bytes(content)
        descriptors.append(os.open(place / str(number), os.O_RDWR))
        os.lseek(descriptors[-1], 0, os.SEEK_END)  # as one has it that has just been written
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(("answer", "known"), [(b"known\n", True), (b"new\n", False)])
def test_pagurusd_knows_an_environment_or_not(talk, answer: bytes, known: bool):
    found, asked = talk(lambda each: each.is_known(ENVIRONMENT), answer)
    assert found is known
    assert asked == [{"event": "locked", "environment": ENVIRONMENT}]


def test_layers_are_asked_for_with_all_that_is_locked_and_their_facts_come_as_a_file(talk):
    before = open_descriptors()
    found, asked = talk(lambda each: each.layers([LOCKED], 100), b"layers\n", b"[facts]")
    assert found == b"[facts]"
    (question,) = asked
    assert question["event"] == "wanted"
    (wanted,) = question["wanted"]
    assert (wanted["name"], wanted["sha256"], wanted["url"]) == ("a", "d" * 64, "https://index.test/a")
    assert open_descriptors() == before


def test_what_boxes_resolve_and_build_is_asked_for(talk):
    found, asked = talk(lambda each: each.resolved("a>=1\n"), b"resolved\n", b"lock = 1\n")
    assert (found, asked) == ("lock = 1\n", [{"event": "resolve", "requirements": "a>=1\n"}])
    found, asked = talk(lambda each: each.build([LOCKED]), b"built\n")
    assert found is None and [each["filename"] for each in asked[0]["sources"]] == [LOCKED.filename]


def test_facts_that_are_too_long_are_not_read(talk):
    before = open_descriptors()
    with pytest.raises(BuildError, match="longer than 3 bytes") as caught:
        talk(lambda each: each.layers([LOCKED], 3), b"layers\n", b"[facts]")
    assert caught.value.kind == "limit"
    assert open_descriptors() == before


@pytest.mark.parametrize("answer", [None, b"", b"perhaps\n", b"layers\n", b"KNOWN\n", b"known new\n", b"\xff\n"])
def test_another_answer_ends_the_build(talk, answer: bytes | None):
    with pytest.raises(BuildError, match="not known or new") as caught:
        talk(lambda each: each.is_known(ENVIRONMENT), answer or None)
    assert caught.value.kind == "internal"


@pytest.mark.parametrize("answer", [b"layers\n", b"known\n", None])
def test_facts_that_do_not_come_end_the_build(talk, answer: bytes | None):
    with pytest.raises(BuildError) as caught:
        talk(lambda each: each.layers([], 100), answer)
    assert caught.value.kind == "internal"


# --- the request


def read(*chunks: bytes) -> tuple[bytes, bytes]:
    """What is taken as the request, and what is left."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for chunk in chunks:
            theirs.sendall(chunk)
        theirs.shutdown(socket.SHUT_WR)
        return channel.read_request(ours), ours.recv(100)


def test_a_request_is_one_line_however_it_comes():
    assert read(b'{"a": 1}\n') == (b'{"a": 1}\n', b"")
    assert read(b"x" * 100_000, b"y\n") == (b"x" * 100_000 + b"y\n", b"")


@pytest.mark.parametrize("chunks", [(), (b"half of a li",), (b"x" * 100_000,)])
def test_a_request_that_does_not_come_is_none(chunks: tuple[bytes, ...]):
    assert read(*chunks)[0] == b""


def test_a_request_is_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channel, "REQUEST_BYTES_MAX", 1000)
    assert len(read(b"x" * 5000)[0]) <= 65536


@pytest.mark.parametrize(
    "line", [b"", b"x", b"{}", b"[]", b'{"runtime": 1}', b'{"unknown": 1}', b'"\xff"', b"[" * 9999]
)
def test_a_request_that_cannot_be_read_is_an_error_of_ours(line: bytes):
    with pytest.raises(BuildError, match="cannot read the request") as caught:
        channel.decode(line, Request)
    assert caught.value.kind == "internal"
