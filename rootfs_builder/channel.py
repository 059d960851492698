"""What the builder asks pagurusd, and the answers: on a socket that is its standard input. Builder.

A question is an event (events.py); pagurusd answers each with one line, to which a descriptor may belong. No
answer is sent before its question, so the request's line can be read apart.
"""

import os
import socket
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from rootfs_builder.events import Reporter
from runtime.errors import BuildError
from runtime.model import EnvironmentId, Locked

REQUEST_BYTES_MAX = 4 << 20
LOCK_BYTES_MAX = 4 << 20
_ANSWER_BYTES_MAX = 64
_Request = TypeVar("_Request")


class Channel:
    """Questions of one build. The socket is borrowed."""

    def __init__(self, answers: socket.socket, reporter: Reporter) -> None:
        self._answers = answers
        self._reporter = reporter

    def is_known(self, environment: EnvironmentId) -> bool:
        """Whether the store has this environment."""
        self._reporter.ask("locked", environment=environment)
        return self._answer("known", "new")[0] == "known"

    def layers(self, wanted: Sequence[Locked], bytes_max: int) -> bytes:
        """Have layers made of all these distributions, unless they are there: the JSON list of their facts."""
        self._reporter.ask("wanted", wanted=wanted)
        return self._text("layers", bytes_max)

    def resolved(self, requirements: str) -> str:
        """Have requirements resolved where metadata may have to be built: a pylock.toml."""
        self._reporter.ask("resolve", requirements=requirements)
        return self._text("resolved", LOCK_BYTES_MAX).decode()

    def build(self, sources: Sequence[Locked]) -> None:
        """Have wheels built of sdists that lie in staging/downloads; each is in staging/built then."""
        self._reporter.ask("sources", sources=sources)
        self._answer("built")

    def _text(self, word: str, bytes_max: int) -> bytes:
        _, descriptor = self._answer(word)
        if descriptor is None:
            raise BuildError("internal", f"the answer {word!r} has no descriptor")
        with open(descriptor, "rb", buffering=0) as text:
            if os.fstat(text.fileno()).st_size > bytes_max:
                raise BuildError("limit", f"the answer {word!r} is longer than {bytes_max} bytes", hint="require less")
            text.seek(0)
            return text.read()

    def _answer(self, *expected: str) -> tuple[str, int | None]:
        line, descriptors, _, _ = socket.recv_fds(self._answers, _ANSWER_BYTES_MAX, 1)
        word = line.decode("ascii", "replace").strip()
        if word not in expected:
            raise BuildError("internal", f"the answer is {word!r}, not {' or '.join(expected)}")
        return word, descriptors[0] if descriptors else None


def read_request(source: socket.socket) -> bytes:
    """The first line; nothing after it is read. b'' when there will be none."""
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < REQUEST_BYTES_MAX:
        chunk = source.recv(65536)
        if not chunk:
            return b""
        line += chunk
    return bytes(line)


def decode(line: bytes, kind: type[_Request]) -> _Request:
    """The request. Raises BuildError."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BuildError("internal", f"cannot read the request: {error}") from error
