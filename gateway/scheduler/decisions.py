"""What the pools decide: values that the fleet carries out. Pure."""

from dataclasses import dataclass

from runtime.errors import PagurusError
from runtime.model import (
    EnvironmentId,
    FunctionName,
    InvocationId,
    RuntimeName,
    SandboxId,
    StartKind,
    VersionId,
    ZygoteId,
)


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """The current version of a function, as far as its start depends on it. environment None: no packages."""

    name: FunctionName
    version: VersionId
    runtime: RuntimeName
    environment: EnvironmentId | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Send the request to the sandbox; before that assign it (a standby) or thaw it (a frozen one)."""

    request: InvocationId
    sandbox: SandboxId
    function: FunctionName
    version: VersionId
    kind: StartKind
    assign: bool = False
    thaw: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Fork a sandbox for the function from the zygote, now."""

    ticket: int
    function: FunctionName
    version: VersionId
    zygote: ZygoteId
    kind: StartKind


@dataclass(frozen=True, slots=True)
class Kill:
    """End the sandbox."""

    sandbox: SandboxId
    reason: str


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop the sandbox's processes until its next lease."""

    sandbox: SandboxId


@dataclass(frozen=True, slots=True)
class Reject:
    """Answer the request with this error; it waits no longer."""

    request: InvocationId
    error: PagurusError


Decision = Lease | Start | Kill | Freeze | Reject
