"""Frames between the gateway and a sandbox's worker: a stream socket, one invocation at a time. A leaf.

Standard library only: this file is also mounted into sandboxes. A frame is a header, an id and a payload.
The header's two counters mean, in a request, the time left in ms and nothing; in an answer, the
microseconds of the user's import (first answer of a sandbox only) and of the handler.
Either side ends the connection when the magic or a length is wrong: the peer is hostile.
"""

import struct
from enum import IntEnum

MAGIC = 0x5067
HEADER = struct.Struct("!HBBIII")  # magic, kind, id length, payload length, counter a, counter b
HEADER_BYTES = HEADER.size
ID_BYTES_MAX = 64


class FrameKind(IntEnum):
    """Requests are below 16, answers above."""

    INVOKE = 1  # payload: the JSON parameter
    CHECK = 2  # payload: JSON list of module names to import; answers RESULT or ERROR
    PING = 3  # answers PONG with the same id: proves the stream is in step
    RESULT = 17  # payload: the JSON result
    ERROR = 18  # payload: JSON {"kind", "type", "message", "traceback": list of lines}
    PONG = 19


class ErrorKind:
    """The `kind` of an ERROR's payload."""

    EXCEPTION = "exception"  # the handler raised
    EXIT = "exit"  # the handler called sys.exit; the sandbox ends after this answer
    IMPORT = "import"  # the handler's module or a module to check raised on import
    HANDLER = "handler"  # the handler is missing or not callable
    RESULT = "result"  # the result is not JSON
    RESULT_SIZE = "result-size"  # the result is longer than the limit


def pack(kind: int, frame_id: bytes, payload: bytes, counter_a: int = 0, counter_b: int = 0) -> bytes:
    """One frame as bytes. `frame_id`: at most ID_BYTES_MAX bytes."""
    header = HEADER.pack(MAGIC, kind, len(frame_id), len(payload), counter_a, counter_b)
    return header + frame_id + payload
