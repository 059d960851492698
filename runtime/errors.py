"""The one tree of errors. A leaf.

PagurusError
|- ConfigError            a setting is wrong; the operator can mend it
|- RequirementError       the machine lacks something (kernel feature, program, user, privilege)
|- BuildError             a deploy failed; `kind` says in which way
|- StartError             a sandbox or zygote could not be made; `phase` says where
|  `- RefusedError        a zygote's packages did what no zygote may do
|- SandboxDiedError       a sandbox ended while it was needed
|- InvocationError        a function's answer was a failure
|  |- UserCodeError       raised, exited, crashed, returned what is not JSON
|  `- InvocationTimeoutError
|- PoolExhaustedError     a limit holds; try again later
|  `- MemoryShortError    the node has too little memory left for a new sandbox
`- ProtocolError          a peer broke the protocol

Messages are lower case without a period. `hint` is the next step where there is one.
"""

from typing import Any


class PagurusError(Exception):
    """Base of all errors of ours. `hint`: what the reader can do, or ''."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pass from one process to another whatever the constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


class ConfigError(PagurusError):
    """A setting is unknown, of the wrong type or out of range."""


class RequirementError(PagurusError):
    """The machine lacks something that pagurusd cannot do without."""


class BuildError(PagurusError):
    """A deploy failed.

    kind: a short stable word, part of the problem type that the API answers with
    (`archive`, `requirements`, `install`, `sdist`, `index`, `limit`, `base`, `internal`).
    """

    def __init__(self, kind: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


class StartError(PagurusError):
    """A sandbox or zygote could not be made. `phase`: the step that failed."""

    def __init__(self, phase: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.phase = phase


class RefusedError(StartError):
    """A zygote's packages did what no zygote may do, and would do it again. `suspect`: the module that did, or ''.

    can_be_alone: a zygote that holds nothing but the suspect's environment may do it.
    """

    def __init__(self, message: str, *, suspect: str = "", can_be_alone: bool = False) -> None:
        super().__init__("imports", message)
        self.suspect = suspect
        self.can_be_alone = can_be_alone


class SandboxDiedError(PagurusError):
    """A sandbox ended while it was needed. One of `exit_status` and `signal` is set, if known."""

    def __init__(self, message: str, *, exit_status: int | None = None, signal: int | None = None) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.signal = signal


class InvocationError(PagurusError):
    """The function's answer was a failure."""


class UserCodeError(InvocationError):
    """User code raised, exited, crashed or returned what is not JSON."""


class InvocationTimeoutError(InvocationError):
    """The function did not answer within its timeout."""


class PoolExhaustedError(PagurusError):
    """A limit holds at the moment. `retry_after_s`: when a new try makes sense."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class MemoryShortError(PoolExhaustedError):
    """The node is short of memory: no new sandboxes at the moment."""


class ProtocolError(PagurusError):
    """A peer sent what the protocol does not allow."""


def _restored(kind: type[PagurusError], arguments: tuple[Any, ...], state: dict[str, Any]) -> PagurusError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error
