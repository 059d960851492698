"""The invocation stream with one sandbox's worker (runtime/frames.py), and its output.

A raw socket with one permanent reader: a warm invocation costs one send and one recv. The worker runs user
code, so nothing that it sends is trusted: not the length, not the order, not the id.
"""

import asyncio
import os
import socket
import stat
from typing import NamedTuple, Protocol

from gateway.output import OutputLog, OutputPipes
from runtime.frames import HEADER, HEADER_BYTES, MAGIC, FrameKind
from runtime.model import SandboxId

RECEIVE_BYTES = 65536
RECEIVE_BYTES_MAX = 1 << 20
JOIN_BYTES_MAX = 65536  # below this, one copy is cheaper than a vector
ERROR_BYTES_MAX = 1 << 20  # of an ERROR's payload: a traceback

_ANSWERS = (FrameKind.RESULT, FrameKind.ERROR, FrameKind.PONG)


class Answer(NamedTuple):
    """One answer of a worker. import_us: of the user's import, in a sandbox's first answer."""

    kind: int
    payload: bytes
    import_us: int
    handler_us: int


class LinkOwner(Protocol):
    """Who gets the events of a link."""

    def answered(self, link: "SandboxLink", answer: Answer) -> None:
        """The worker answered the running call; the link is free again."""
        ...

    def closed(self, link: "SandboxLink") -> None:
        """The worker's end of the socket is closed."""
        ...

    def broke(self, link: "SandboxLink", word: str, detail: str) -> None:
        """The worker broke a rule: `protocol`, `result-size` or `output`. It must be killed."""
        ...


class SandboxLink:
    """Socket and pipes of one sandbox. Owns the three descriptors.

    call: what the owner has running here. phases_ms: of its start, once known and until told.
    is_standby: it gets its function by AssignSandbox.
    is_delivered: the worker had not ended when the call's frame was sent.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sandbox: SandboxId,
        descriptors: tuple[int, int, int],
        owner: LinkOwner,
    ) -> None:
        self.sandbox = sandbox
        self.call: object | None = None
        self.phases_ms: dict[str, float] | None = None
        self.is_assigned = True
        self.is_standby = False
        self.is_delivered = True
        self.is_doomed = False  # it is being killed or is dead: no call goes out any more
        self._loop = loop
        self._owner = owner
        self._socket = socket.socket(fileno=descriptors[0])
        self._socket.setblocking(False)
        self._receive = self._socket.recv
        self._fileno = descriptors[0]
        self._is_open = True
        self._expected = b""
        self._result_bytes_max = 0
        self._in = bytearray()
        self._in_bytes = 0  # of the whole frame, once its header is there
        self._out: list[memoryview] = []
        self.pipes = OutputPipes(loop, (descriptors[1], descriptors[2]), self._has_output)
        loop.add_reader(self._fileno, self._readable)

    @property
    def has_begun(self) -> bool:
        """Whether the worker may have got the call's frame.

        Not where a standby ended, mostly with its zygote, before it became a function's: SandboxAssigned comes before
        all that user code does.
        """
        return self.is_delivered and (self.is_assigned or not self.is_standby)

    def send(
        self,
        call: object,
        kind: FrameKind,
        frame_id: bytes,
        payload: bytes,
        *,
        time_left_ms: int,
        result_bytes_max: int,
        output: OutputLog | None = None,
    ) -> None:
        """Start `call`: write its frame, and expect one answer with its id."""
        assert self.call is None and not self.is_doomed
        self.call, self._expected, self._result_bytes_max = call, frame_id, result_bytes_max
        self.pipes.log = output
        head = HEADER.pack(MAGIC, kind, len(frame_id), len(payload), time_left_ms, 0) + frame_id
        if len(payload) < JOIN_BYTES_MAX:
            frame = head + payload
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.is_delivered = False  # the reader sees the end, and what came before it
                return
            if sent == len(frame):
                return
            self._out.append(memoryview(frame)[sent:])
        else:
            self._out += [memoryview(head), memoryview(payload)]
        self._write(is_first=True)

    def poll(self) -> None:
        """Take what the worker sent before it ended."""
        if self._is_open:
            self._readable()

    def close(self) -> None:
        """Close all descriptors; output that is in the pipes is taken first. Idempotent."""
        self.is_doomed = True
        self._close_socket()
        self.pipes.drain()
        self.pipes.close()

    def _write(self, *, is_first: bool) -> None:
        while self._out and self._is_open:
            try:
                sent = self._socket.send(self._out[0]) if len(self._out) == 1 else self._socket.sendmsg(self._out)
            except BlockingIOError:
                if is_first:
                    self._loop.add_writer(self._fileno, self._writable)
                return
            except OSError:
                self.is_delivered = not is_first
                break  # the reader sees the end, and what came before it
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.pop(0))
            if sent:
                self._out[0] = self._out[0][sent:]
        self._out.clear()
        if not is_first and self._is_open:
            self._loop.remove_writer(self._fileno)

    def _writable(self) -> None:
        self._write(is_first=False)

    def _readable(self) -> None:
        wanted = min(max(RECEIVE_BYTES, self._in_bytes - len(self._in)), RECEIVE_BYTES_MAX)
        try:
            chunk = self._receive(wanted)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._close_socket()
            self._owner.closed(self)
        elif self.call is None:
            self._broke("protocol", "the worker sent what nobody asked for")
        elif self._in or not self._take(chunk):
            self._in += chunk
            self._accumulate()

    def _accumulate(self) -> None:
        if len(self._in) < max(self._in_bytes, HEADER_BYTES):
            return
        if self._take(bytes(self._in)):
            self._in.clear()
        elif self._is_open and not self._in_bytes:
            self._in_bytes = _frame_bytes(self._in)

    def _take(self, frame: bytes) -> bool:
        """Take a whole frame; False when more bytes have to come."""
        if len(frame) < HEADER_BYTES:
            return False
        magic, kind, id_bytes, payload_bytes, import_us, handler_us = HEADER.unpack_from(frame)
        if magic != MAGIC or kind not in _ANSWERS or id_bytes != len(self._expected):
            return self._broke("protocol", "the worker sent a frame that the protocol does not know")
        bytes_max = self._result_bytes_max if kind == FrameKind.RESULT else ERROR_BYTES_MAX
        if payload_bytes > bytes_max:
            word = "result-size" if kind == FrameKind.RESULT else "protocol"
            return self._broke(word, f"the answer has {payload_bytes} bytes, the limit is {bytes_max}")
        start = HEADER_BYTES + id_bytes
        if len(frame) < start + payload_bytes:
            return False
        if len(frame) > start + payload_bytes or frame[HEADER_BYTES:start] != self._expected:
            return self._broke("protocol", "the worker answered another invocation than the running one")
        self._in_bytes = 0
        if self._out:
            return self._broke("protocol", "the worker answered before it had read the whole request")
        self._owner.answered(self, Answer(kind, frame[start:], import_us, handler_us))
        return True

    def _broke(self, word: str, detail: str) -> bool:
        self._close_socket()
        self._owner.broke(self, word, detail)
        return True

    def _has_output(self) -> None:
        log = self.pipes.log
        if log is not None and log.is_flooded and not self.is_doomed:
            detail = f"{log.total_bytes} bytes of output are far above log_bytes, which is {log.limit_bytes}"
            self._owner.broke(self, "output", detail)

    def _close_socket(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._fileno)
            self._loop.remove_writer(self._fileno)
            self._socket.close()


def _frame_bytes(head: bytearray) -> int:
    _, _, id_bytes, payload_bytes, _, _ = HEADER.unpack_from(head)
    return HEADER_BYTES + int(id_bytes) + int(payload_bytes)


def open_link(
    loop: asyncio.AbstractEventLoop, sandbox: SandboxId, descriptors: list[int], owner: LinkOwner
) -> SandboxLink | None:
    """A link that owns the descriptors of an offer: stream socket, stdout, stderr.

    None when they are something else; then they are closed.
    """
    modes = [os.fstat(one).st_mode for one in descriptors]
    if len(modes) == 3 and stat.S_ISSOCK(modes[0]) and all(map(stat.S_ISFIFO, modes[1:])):
        return SandboxLink(loop, sandbox, (descriptors[0], descriptors[1], descriptors[2]), owner)
    for descriptor in descriptors:
        os.close(descriptor)
    return None
