"""One invocation from its arrival to its answer, and the words for all ways in which it can fail."""

import asyncio
import os
import signal

import msgspec

from gateway.output import OutputLog
from runtime.frames import ErrorKind
from runtime.model import MIB, FunctionName, InvocationId, StartKind, VersionId
from runtime.protocol import SandboxDied


class UserError(msgspec.Struct, frozen=True, kw_only=True):
    """What user code did wrong, as the user knows it."""

    type: str
    message: str = ""
    traceback: str = ""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no result. word: of the problem type, see gateway.api.problems. hint: the next step, or ''."""

    word: str
    detail: str
    hint: str = ""
    error: UserError | None = None
    retry_after_s: float | None = None


class _WorkerError(msgspec.Struct):
    kind: str
    type: str = ""
    message: str = ""
    traceback: str | list[str] = ""  # lines, or the whole


_DRAWN_BYTES = 2048
_randomness: list[str] = []  # unused halves of ids; the gateway never forks
_worker_error = msgspec.json.Decoder(_WorkerError)

_WORDS = {
    ErrorKind.EXCEPTION: ("function-exception", "the handler raised {type}"),
    ErrorKind.EXIT: ("function-exited", "the handler ended its process"),
    ErrorKind.IMPORT: ("function-import-failed", "the import raised {type}"),
    ErrorKind.HANDLER: ("function-handler-invalid", "the handler is missing or cannot be called"),
    ErrorKind.RESULT: ("function-result-invalid", "the result is not JSON"),
    ErrorKind.RESULT_SIZE: ("function-result-too-large", "the result is longer than result_bytes"),
}
ENDING_KINDS = (ErrorKind.EXIT, ErrorKind.IMPORT, ErrorKind.HANDLER)  # the worker ends after these


class Invocation:
    """State of one invocation. `future` ends, without an exception, when result or failure is set."""

    __slots__ = (
        "arrived_s",
        "deadline_s",
        "failure",
        "function",
        "future",
        "id",
        "kind",
        "leased_s",
        "note",
        "output",
        "payload",
        "phases_ms",
        "result",
        "sandbox",
        "started_wall_s",
        "timeout_s",
        "timer",
        "version",
    )

    def __init__(
        self,
        function: FunctionName,
        version: VersionId,
        payload: bytes,
        *,
        now_s: float,
        wall_s: float,
        timeout_s: float,
        output: OutputLog,
        future: asyncio.Future[None],
    ) -> None:
        self.id = new_invocation_id(wall_s)
        self.function = function
        self.version = version
        self.payload = payload
        self.arrived_s = now_s
        self.started_wall_s = wall_s
        self.timeout_s = timeout_s
        self.deadline_s = now_s + timeout_s
        self.leased_s = 0.0
        self.output = output
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        self.kind: StartKind | None = None
        self.note = ""  # why its start was cold, where that is more than that nobody had imported its packages
        self.sandbox: str | None = None
        self.phases_ms: dict[str, float] = {}
        self.result: bytes | None = None
        self.failure: Failure | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has its answer."""
        return self.result is not None or self.failure is not None


def new_invocation_id(wall_s: float) -> InvocationId:
    """An id that sorts by time and that nobody guesses."""
    if not _randomness:
        drawn = os.urandom(_DRAWN_BYTES).hex()  # one call of the kernel for many ids
        _randomness.extend(drawn[start : start + 16] for start in range(0, len(drawn), 16))
    return InvocationId(f"{int(wall_s * 1000):012x}{_randomness.pop()}")


def failure_of_answer(payload: bytes) -> tuple[str, Failure]:
    """Kind and failure of an ERROR's payload; what does not decode is the worker's fault."""
    try:
        error = _worker_error.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", Failure(word="function-crashed", detail="the worker's error cannot be decoded")
    word, detail = _WORDS.get(error.kind, ("function-crashed", "the worker failed"))
    traceback = error.traceback if isinstance(error.traceback, str) else "\n".join(error.traceback)
    user = UserError(type=error.type, message=error.message, traceback=traceback)
    return error.kind, Failure(word=word, detail=detail.format(type=error.type or "an exception"), error=user)


def failure_of_death(died: SandboxDied | None) -> Failure:
    """Why an invocation got no answer from a sandbox that is gone; None: nobody knows why."""
    if died is None:
        return Failure(word="function-crashed", detail="the sandbox closed its connection and did not say why")
    if died.error:
        return Failure(word="start-failed", detail=died.error, retry_after_s=1.0)
    if died.out_of_memory:
        return Failure(
            word="function-out-of-memory",
            detail=f"the sandbox needed more memory than memory_bytes, {died.memory_bytes / MIB:.0f} MiB",
            error=UserError(type="MemoryError", message="killed by the kernel: memory_bytes was reached"),
        )
    if died.signal:
        name = _signal_name(died.signal)
        return Failure(
            word="function-crashed",
            detail=f"the process was killed by {name}",
            error=UserError(type=name, message=f"killed by signal {died.signal}"),
        )
    status = died.exit_status if died.exit_status is not None else "unknown"
    return Failure(
        word="function-exited",
        detail=f"the process ended with status {status} before it answered",
        error=UserError(type="SystemExit", message=str(status)),
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
