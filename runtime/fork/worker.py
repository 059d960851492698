"""A helper's life after its fork: park, become a function, answer invocations. Runs inside the sandbox, pid 1.

Standard library only. Descriptors: 3 control socket to pagurusd (SEQPACKET), 4 invocation socket to the gateway
(stream, runtime/frames.py), 1 and 2 the captured output. User code runs in this process and may do to it what
it likes: nothing here is trusted by the other side.
"""

import json
import marshal
import os
import resource
import socket
import sys
import time
import traceback
from contextlib import nullcontext
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER
from types import CodeType, ModuleType, TracebackType
from typing import Any

from ..frames import HEADER, HEADER_BYTES, MAGIC, ErrorKind, FrameKind, pack
from . import measure, ownership, purge

CONTROL_FD, INVOCATION_FD = 3, 4
CODE = "/code"
_CONTROL_BYTES_MAX = 1 << 16  # larger buffers are mapped and faulted in anew for each read
_MESSAGE_CHARACTERS_MAX = 16_384
_TRACEBACK_LINES_MAX = 200
_HERE = os.path.dirname(__file__)
_PYC_UNCHECKED = MAGIC_NUMBER + b"\x01\x00\x00\x00"  # PEP 552
_REHEARSALS_STANDBY = 3
_REHEARSAL_CODE = "/opt/pagurus/rehearsal"
_REHEARSAL = b"""{"kind": "assign", "function": "rehearsal", "version": "0", "handler": "main.main",
 "environ": {"HOME": "/tmp", "LANG": "C.UTF-8"}, "memory_bytes": 1,
 "result_bytes": 65536, "environment_is_new": false}"""
_READ_BYTES = 1 << 16
_loads = json.JSONDecoder().decode
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


def live(forgotten: tuple[str, ...], timings_ns: tuple[int, int, int], *, standby: bool) -> None:
    """Everything a helper does until it exits. Does not return."""
    if forgotten:
        purge.purge(forgotten)
    if standby:
        for _ in range(_REHEARSALS_STANDBY):
            rehearse()
        called, running, isolated = timings_ns
        report = b'{"kind":"parked","ns":{"fork":%d,"isolate":%d,"park":%d}}'
        os.write(CONTROL_FD, report % (running - called, isolated - running, time.monotonic_ns() - isolated))
    message = os.read(CONTROL_FD, _CONTROL_BYTES_MAX)
    if not message:
        os._exit(0)
    function = Function(message, INVOCATION_FD, CODE)
    while function.serve_one():
        pass
    os._exit(0)


def rehearse() -> None:
    """Become a function of our own, answer once, and forget it.

    Run by zygotes, so that their helpers inherit a warm interpreter, and by standbys, so that the pages the first
    invocation writes are copied before it comes: it is the very same code.
    """
    environ, path, directory = dict(os.environ), list(sys.path), os.getcwd()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(pack(FrameKind.INVOKE, b"rehearsal", b'{"values": [1, 2, 3], "name": "x"}', 1000))
        Function(_REHEARSAL, theirs.fileno(), _REHEARSAL_CODE).serve_one()
        ours.recv(65536)
    sys.modules.pop("main", None)
    for name in [name for name in os.environ if name not in environ]:
        del os.environ[name]
    os.environ.update(environ)
    sys.path[:] = path
    os.chdir(directory)


class Function:
    """The function this sandbox has become."""

    def __init__(self, message: bytes, invocations: int, code: str) -> None:
        """message: pagurusd's assignment. invocations: the socket's descriptor, borrowed: an object for it would

        cost pages. code: where the function's files are. Imports the handler.
        """
        assignment: dict[str, Any] = _loads(message.decode())
        self._result_bytes: int = assignment["result_bytes"]
        self._context = Context(assignment["function"], assignment["version"], assignment["memory_bytes"])
        self._socket = invocations
        open_files = assignment.get("open_files")
        if open_files:  # not in a rehearsal: a limit that was lowered is so for good
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
        for name, value in assignment["environ"].items():
            os.environ[name] = value
        os.chdir(code)
        sys.path.insert(0, code)
        if assignment["environment_is_new"]:
            purge.forget_directories()
        self._failure: Failure | None = None
        self._meter = measure.Meter(ownership.file_owners()) if assignment.get("is_check") else None
        started_ns = time.monotonic_ns()
        try:
            with self._meter or nullcontext():
                self._handler, self._wants_context = _load(assignment["handler"], code)
        except Failure as failure:
            self._failure = failure
        self._import_us = min((time.monotonic_ns() - started_ns) // 1000, 0xFFFFFFFF)

    def serve_one(self) -> bool:
        """Answer the next frame; whether there can be another."""
        frame = self._receive()
        if frame is None:
            return False
        kind, frame_id, payload, time_left_ms = frame
        if kind == FrameKind.PING:
            _write(self._socket, pack(FrameKind.PONG, frame_id, b""))
            return True
        started_ns = time.monotonic_ns()
        goes_on = self._failure is None
        try:
            if self._failure is not None:
                raise self._failure
            if kind == FrameKind.CHECK:
                answer = self._check_imports(json.loads(payload))
            else:
                self._context.aws_request_id = frame_id.decode("ascii", "replace")
                self._context._deadline_s = time.monotonic() + time_left_ms / 1000
                answer = self._invoke(payload)
            kind = FrameKind.RESULT
        except Failure as failure:
            answer = json.dumps(failure.payload).encode()
            kind = FrameKind.ERROR
            goes_on = goes_on and failure.payload["kind"] != ErrorKind.EXIT
        run_us = (time.monotonic_ns() - started_ns) // 1000
        _flush()
        _write(self._socket, pack(kind, frame_id, answer, self._import_us, min(run_us, 0xFFFFFFFF)))
        self._import_us = 0
        return goes_on

    def _check_imports(self, names: list[str]) -> bytes:
        """Import what is declared; the costs of it and of the handler's import, by distribution."""
        meter = self._meter or measure.Meter({})
        with meter:
            for name in names:
                try:
                    __import__(name)
                except BaseException as error:
                    raise _described(ErrorKind.IMPORT, error) from None
        return json.dumps(meter.costs()).encode()

    def _receive(self) -> tuple[int, bytes, bytes, int] | None:
        """The next frame: kind, id, payload, counter; None at the end of the stream or out of step with it."""
        data = os.read(self._socket, _READ_BYTES)
        while True:
            if len(data) >= HEADER_BYTES:
                magic, kind, id_length, length, time_left_ms, _ = HEADER.unpack_from(data)
                if magic != MAGIC:
                    return None
                end = HEADER_BYTES + id_length + length
                if len(data) >= end:
                    start = HEADER_BYTES + id_length
                    return kind, bytes(data[HEADER_BYTES:start]), bytes(data[start:end]), time_left_ms
            chunk = os.read(self._socket, 1 << 20)
            if not chunk:
                return None
            data += chunk

    def _invoke(self, payload: bytes) -> bytes:
        try:
            param = _loads(payload.decode())
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


def _write(fd: int, data: bytes) -> None:
    """All of `data`, however much the socket takes at once."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _load(handler: str, code: str) -> tuple[Any, bool]:
    """Import the handler; whether it takes a context. Raises Failure."""
    module_name, _, attribute = handler.rpartition(".")
    try:
        module = _import_module(module_name, code)
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


def _import_module(name: str, code: str) -> Any:
    """Import by name. A module at the top of the code skips the search of sys.path, which costs 0.3 ms."""
    file = f"{code}/{name}.py"
    compiled = None if "." in name or name in sys.modules else _compiled(name, file, code)
    if compiled is None:
        return __import__(name, fromlist=["_"])
    loader = SourceFileLoader(name, file)
    module = ModuleType(name)
    module.__file__, module.__loader__, module.__package__ = file, loader, ""
    module.__spec__ = ModuleSpec(name, loader, origin=file)
    module.__spec__.has_location = True
    sys.modules[name] = module
    try:
        exec(compiled, vars(module))  # noqa: S102  the user's code: that is what we are for
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return sys.modules.get(name, module)  # a module may replace itself


def _compiled(name: str, file: str, code: str) -> CodeType | None:
    """The module's code: from the byte code of the build (unchecked, as it is read-only), else compiled now.

    None when there is no such file.
    """
    try:
        with open(f"{code}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc", "rb") as cached:
            data = cached.read()
        if data[:8] == _PYC_UNCHECKED:
            loaded = marshal.loads(memoryview(data)[16:])  # noqa: S302
            if isinstance(loaded, CodeType):
                return loaded
    except (OSError, ValueError, EOFError, TypeError):
        pass
    try:
        with open(file, "rb") as source:
            text = source.read()
    except OSError:
        return None
    return compile(text, file, "exec", dont_inherit=True)


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
