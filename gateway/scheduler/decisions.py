"""What the pools decide: values that the fleet carries out. Pure."""

from dataclasses import dataclass, field

import msgspec

from runtime.errors import PagurusError
from runtime.model import (
    FunctionName,
    InvocationId,
    SandboxId,
    StartKind,
    VersionId,
    ZygoteId,
)


class Lease(msgspec.Struct, frozen=True):
    """Send the request to the sandbox; before that assign it (a standby) or thaw it (a frozen one).

    The one decision of each warm request, hence a struct of msgspec: a frozen dataclass takes ten times as long.
    """

    request: InvocationId
    sandbox: SandboxId
    function: FunctionName
    version: VersionId
    kind: StartKind
    assign: bool = False
    thaw: bool = False
    note: str = ""  # FunctionModel.note


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
    """End the sandbox. why: the policy's words, for people."""

    sandbox: SandboxId
    reason: str
    why: str = field(default="", compare=False)


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
