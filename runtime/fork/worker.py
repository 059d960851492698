"""A helper's life after its fork: park, become a function, answer invocations. Runs inside the sandbox, pid 1.

Standard library only. Descriptors: 3 control socket to pagurusd (SEQPACKET), 4 invocation socket to the gateway
(stream, runtime/frames.py), 1 and 2 the captured output. User code runs in this process and may do to it what
it likes: nothing here is trusted by the other side.
"""

import gc
import json
import os
import socket
import sys
import time
import traceback
from types import TracebackType
from typing import Any

from ..frames import HEADER, HEADER_BYTES, MAGIC, ErrorKind, FrameKind, pack
from . import purge, warm

CONTROL_FD, INVOCATION_FD = 3, 4
CODE = "/code"
_CONTROL_BYTES_MAX = 1 << 20
_MESSAGE_CHARACTERS_MAX = 16_384
_TRACEBACK_LINES_MAX = 200
_HERE = os.path.dirname(__file__)
_dumps = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


class Context:
    """What a two-argument handler gets: the names AWS Lambda gives them."""

    def __init__(self, function: str, version: str, memory_bytes: int) -> None:
        self.function_name = function
        self.function_version = version
        self.memory_limit_in_mb = memory_bytes >> 20
        self.aws_request_id = ""
        self._deadline_s = 0.0

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation's timeout."""
        return max(0, int((self._deadline_s - time.monotonic()) * 1000))


class Failure(Exception):
    """An answer that is an error: `kind` of ErrorKind, and the payload's other fields."""

    def __init__(self, kind: str, type_name: str, message: str, lines: list[str] | None = None) -> None:
        self.payload = {
            "kind": kind,
            "type": type_name,
            "message": message[:_MESSAGE_CHARACTERS_MAX],
            "traceback": lines or [],
        }


def live(undeclared: tuple[str, ...], timings_ns: tuple[int, int, int], *, standby: bool) -> None:
    """Everything a helper does until it exits. Does not return."""
    gc.freeze()  # what the fork hooks made since the zygote's own freeze
    if undeclared:
        purge.purge(undeclared)
    warm.reseed()
    if standby:
        warm.warm_standby()
    control = socket.socket(fileno=CONTROL_FD)
    called, running, isolated = timings_ns
    parked = {"fork": running - called, "isolate": isolated - running, "park": time.monotonic_ns() - isolated}
    control.send(json.dumps({"kind": "parked", "ns": parked}).encode())
    message = control.recv(_CONTROL_BYTES_MAX)
    if not message:
        os._exit(0)
    _Function(json.loads(message)).serve()


class _Function:
    """The function this sandbox has become."""

    def __init__(self, assignment: dict[str, Any]) -> None:
        self._result_bytes: int = assignment["result_bytes"]
        self._context = Context(assignment["function"], assignment["version"], assignment["memory_bytes"])
        self._socket = socket.socket(fileno=INVOCATION_FD)
        self._socket.setblocking(True)
        os.environ.clear()
        os.environ.update(assignment["environ"])
        os.chdir(CODE)
        sys.path.insert(0, CODE)
        purge.forget_directories()
        self._failure: Failure | None = None
        self._import_us = 0
        started_ns = time.monotonic_ns()
        try:
            self._handler, self._wants_context = _load(assignment["handler"])
        except Failure as failure:
            self._failure = failure
        self._import_us = (time.monotonic_ns() - started_ns) // 1000

    def serve(self) -> None:
        """Answer frames until the gateway closes the socket. Does not return."""
        while True:
            kind, frame_id, payload, time_left_ms = self._receive()
            if kind == FrameKind.PING:
                self._socket.sendall(pack(FrameKind.PONG, frame_id, b""))
                continue
            started_ns = time.monotonic_ns()
            exits = self._failure is not None
            try:
                if self._failure is not None:
                    raise self._failure
                if kind == FrameKind.CHECK:
                    answer = _check_imports(json.loads(payload))
                else:
                    self._context.aws_request_id = frame_id.decode("ascii", "replace")
                    self._context._deadline_s = time.monotonic() + time_left_ms / 1000
                    answer = self._invoke(payload)
                kind = FrameKind.RESULT
            except Failure as failure:
                answer = json.dumps(failure.payload).encode()
                kind = FrameKind.ERROR
                exits = exits or failure.payload["kind"] == ErrorKind.EXIT
            run_us = (time.monotonic_ns() - started_ns) // 1000
            _flush()
            self._socket.sendall(pack(kind, frame_id, answer, self._import_us, min(run_us, 0xFFFFFFFF)))
            self._import_us = 0
            if exits:
                os._exit(0)

    def _receive(self) -> tuple[int, bytes, bytes, int]:
        data = bytearray(self._socket.recv(65536))
        while True:
            if len(data) >= HEADER_BYTES:
                magic, kind, id_length, length, time_left_ms, _ = HEADER.unpack_from(data)
                if magic != MAGIC:
                    os._exit(0)
                end = HEADER_BYTES + id_length + length
                if len(data) >= end:
                    start = HEADER_BYTES + id_length
                    return kind, bytes(data[HEADER_BYTES:start]), bytes(data[start:end]), time_left_ms
            chunk = self._socket.recv(1 << 20)
            if not chunk:
                os._exit(0)
            data += chunk

    def _invoke(self, payload: bytes) -> bytes:
        try:
            param = json.loads(payload)
            result = self._handler(param, self._context) if self._wants_context else self._handler(param)
            if hasattr(result, "__await__"):
                import asyncio  # costs 30 ms: only functions that are coroutines pay it

                result = asyncio.run(result)
        except SystemExit as error:
            raise Failure(ErrorKind.EXIT, "SystemExit", f"the function called sys.exit({error.code!r})") from None
        except BaseException as error:
            raise _described(ErrorKind.EXCEPTION, error) from None
        try:
            answer = _dumps(result).encode()
        except BaseException as error:
            message = f"the result is not JSON: {error}"
            raise Failure(ErrorKind.RESULT, type(error).__name__, message) from None
        if len(answer) > self._result_bytes:
            message = f"the result has {len(answer)} bytes, the limit result_bytes is {self._result_bytes}"
            raise Failure(ErrorKind.RESULT_SIZE, "ResultTooLarge", message)
        return answer


def _load(handler: str) -> tuple[Any, bool]:
    """Import the handler; whether it takes a context. Raises Failure."""
    module_name, _, attribute = handler.rpartition(".")
    try:
        module = __import__(module_name, fromlist=[attribute])
    except SystemExit as error:
        raise Failure(ErrorKind.IMPORT, "SystemExit", f"importing it called sys.exit({error.code!r})") from None
    except BaseException as error:
        raise _described(ErrorKind.IMPORT, error) from None
    finally:
        _flush()
    function = getattr(module, attribute, None)
    if function is None:
        raise Failure(ErrorKind.HANDLER, "HandlerMissing", f"module {module_name!r} has no {attribute!r}")
    if not callable(function):
        message = f"{handler} is a {type(function).__name__}, not callable"
        raise Failure(ErrorKind.HANDLER, "HandlerNotCallable", message)
    return function, _positional_count(function, handler) >= 2


def _positional_count(function: Any, handler: str) -> int:
    code = getattr(function, "__code__", None)
    if code is not None and getattr(function, "__wrapped__", None) is None and not hasattr(function, "__self__"):
        count, required = code.co_argcount, code.co_argcount - len(function.__defaults__ or ())
        takes_any = bool(code.co_flags & 0x04)  # CO_VARARGS
    else:
        import inspect  # 10 ms: only for callables that are no plain function

        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return 1
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        count, required = len(positional), sum(p.default is p.empty for p in positional)
    if required > 2 or (count == 0 and not takes_any):
        message = f"{handler} takes {count} positional parameters; it must take (param) or (event, context)"
        raise Failure(ErrorKind.HANDLER, "HandlerSignature", message)
    return 1 if takes_any else (2 if required == 2 or (count >= 2 and required != 1) else 1)


def _check_imports(names: list[str]) -> bytes:
    times_ms = {}
    for name in names:
        started_ns = time.monotonic_ns()
        try:
            __import__(name)
        except BaseException as error:
            raise _described(ErrorKind.IMPORT, error) from None
        times_ms[name] = (time.monotonic_ns() - started_ns) / 1e6
    return json.dumps(times_ms).encode()


def _described(kind: str, error: BaseException) -> Failure:
    """An exception in the user's words: no frames of ours, paths as they were uploaded."""
    try:
        error.__traceback__ = _user_frames(error.__traceback__)
        lines = "".join(traceback.format_exception(error)).splitlines()
        lines = [line.replace(f'"{CODE}/', '"').replace(f'"{purge.ENVIRONMENT}/', '"') for line in lines]
        message = str(error)
    except BaseException as second:  # a hostile __str__ or __traceback__ is the user's own failure too
        lines, message = [], f"(its description failed: {type(second).__name__})"
    if len(lines) > _TRACEBACK_LINES_MAX:
        half = _TRACEBACK_LINES_MAX // 2
        lines = [*lines[:half], f"  [... {len(lines) - 2 * half} lines ...]", *lines[-half:]]
    return Failure(kind, type(error).__name__, message, [line[:2000] for line in lines])


def _user_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_HERE, "<frozen importlib")):
            break
        trace = trace.tb_next
    return trace


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: S112  the user may have replaced or closed it
            continue
