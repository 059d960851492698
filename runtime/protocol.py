"""Messages between pagurusd and the gateway over one SEQPACKET unix socket. A leaf.

One packet is one message (msgpack, tagged by class name), with the file descriptors that belong to it
as SCM_RIGHTS. pagurusd checks the peer's credentials once; both sides drop the connection on a message
that does not decode. No message waits for an answer: answers carry the `ticket` or id of the question.
"""

from typing import Any

import msgspec

from runtime.errors import ProtocolError
from runtime.model import (
    DEFAULT_TENANT,
    Assignment,
    EnvironmentId,
    RuntimeName,
    SandboxId,
    ZygoteId,
)
from runtime.protocol_store import (
    Base,
    BuildFailed,
    BuildProgress,
    BuildRuntime,
    BuildSucceeded,
    BuildVersion,
    CancelBuild,
    CollectGarbage,
    Discard,
    DropRuntime,
    GarbageCollected,
    GarbageItem,
    Keep,
    Message,
    RuntimesChanged,
)
from runtime.tokens import Token

__all__ = [  # beside what is defined here
    "Base",
    "BuildFailed",
    "BuildProgress",
    "BuildRuntime",
    "BuildSucceeded",
    "BuildVersion",
    "CancelBuild",
    "CollectGarbage",
    "Discard",
    "DropRuntime",
    "GarbageCollected",
    "GarbageItem",
    "Keep",
    "RuntimesChanged",
]

VERSION = 1
MESSAGE_BYTES_MAX = 200_000  # below the kernel's default send buffer of 208 KiB
DESCRIPTORS_MAX = 4


# --- gateway -> pagurusd ---------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """First message of a gateway; pagurusd answers Welcome, then offers all that is alive."""

    protocol: int = VERSION


class StandbyTarget(msgspec.Struct, frozen=True, kw_only=True):
    """How many standbys to keep for functions with exactly this environment (None: no packages)."""

    environment: EnvironmentId | None
    count: int


class EnsureZygote(Message, frozen=True, kw_only=True):
    """Make a zygote with the union of these environments, or set the standby targets of a live one.

    `imports` are imported at its start. No environments: the base zygote of the runtime. Targets with an
    environment outside `environments` are refused. Answered by ZygoteReady or ZygoteFailed.
    tenants: who has chosen all that it holds; functions of others it helps within the rule of runtime.trust only.
    """

    zygote: ZygoteId
    runtime: RuntimeName
    environments: tuple[EnvironmentId, ...] = ()
    imports: tuple[str, ...] = ()
    standbys: tuple[StandbyTarget, ...] = ()
    tenants: tuple[str, ...] = (DEFAULT_TENANT,)


class DropZygote(Message, frozen=True, kw_only=True):
    """End a zygote and its standbys; assigned helpers live on until killed. Answered by ZygoteDied.

    The zygote's namespaces go when its last helper has gone.
    """

    zygote: ZygoteId


class AssignSandbox(Message, frozen=True, kw_only=True):
    """Give a standby its function. The gateway may write the first frame right behind this message."""

    sandbox: SandboxId
    assignment: Assignment


class StartSandbox(Message, frozen=True, kw_only=True):
    """Fork a new sandbox from a zygote for a function, now.

    Answered by SandboxOffered with the same ticket, at once, and by SandboxAssigned when it is isolated;
    or by SandboxRefused. Uncovered distributions are imported in the sandbox (a cold start).
    """

    ticket: int
    zygote: ZygoteId
    assignment: Assignment


class FreezeSandbox(Message, frozen=True, kw_only=True):
    """Freeze or thaw an assigned sandbox. No answer: frames sent meanwhile wait in its socket."""

    sandbox: SandboxId
    frozen: bool


class KillSandbox(Message, frozen=True, kw_only=True):
    """End a sandbox with everything in it. Answered by SandboxDied with this reason."""

    sandbox: SandboxId
    reason: str


class GetNodeStatus(Message, frozen=True, kw_only=True):
    """Ask for NodeStatus."""

    ticket: int


# --- pagurusd -> gateway ---------------------------------------------------------------------------------


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `pagurus doctor`."""

    name: str
    ok: bool
    required: bool
    found: str
    lost: str = ""
    fix: str = ""


class Welcome(Message, frozen=True, kw_only=True):
    """Answer to Hello. `settings`: the resolved settings (runtime.config.Settings as builtins).

    egress_refusal: why no function can have egress on this node, or ''.
    """

    protocol: int
    node: str
    run: str
    version: str
    settings: dict[str, Any]
    runtimes: tuple[Base, ...]
    checks: tuple[Check, ...] = ()
    tokens: tuple[Token, ...] = ()
    egress_refusal: str = ""


class TokensChanged(Message, frozen=True, kw_only=True):
    """All tokens there are from now on."""

    tokens: tuple[Token, ...]


class ZygoteReady(Message, frozen=True, kw_only=True):
    """A zygote is parked and can fork. `import_ms`: per module of `imports`; failed ones are in `failed`.

    environments: those it can help, which may be fewer than it has: functions of the others would find modules
    that are not as their own environment makes them.
    """

    zygote: ZygoteId
    runtime: RuntimeName
    environments: tuple[EnvironmentId, ...]
    start_ms: float
    memory_bytes: int
    import_ms: dict[str, float] = msgspec.field(default_factory=dict)
    failed: dict[str, str] = msgspec.field(default_factory=dict)
    tenants: tuple[str, ...] = (DEFAULT_TENANT,)


class ZygoteFailed(Message, frozen=True, kw_only=True):
    """A zygote could not be made; `phase` and `message` say why. Not retried by pagurusd.

    is_refused: its packages did what no zygote may do, and would again. suspect: the module whose import did it, if
    that is known. can_be_alone: it harms those only who have not chosen the package: a zygote with nothing else may.
    """

    zygote: ZygoteId
    phase: str
    message: str
    is_refused: bool = False
    suspect: str = ""
    can_be_alone: bool = False


class ZygoteDied(Message, frozen=True, kw_only=True):
    """A zygote ended, asked for or not; its standbys are gone, its assigned helpers are not.

    is_refused: pagurusd ended it, as it did what no zygote may do.
    """

    zygote: ZygoteId
    reason: str
    is_refused: bool = False


class SandboxOffered(Message, frozen=True, kw_only=True):
    """A sandbox the gateway may use; comes with three descriptors: invocation socket, stdout, stderr.

    state `standby`: parked, wants AssignSandbox. `starting`: answers StartSandbox `ticket`; frames may be
    written at once. `assigned`: was alive before this gateway; PING it before use.
    environment: the only one a standby can be assigned with, if it has one mounted; a standby of the base
    zygote has None and takes any function of its runtime.
    """

    sandbox: SandboxId
    zygote: ZygoteId
    runtime: RuntimeName
    state: str
    ticket: int | None = None
    environment: EnvironmentId | None = None
    assignment: Assignment | None = None


class SandboxAssigned(Message, frozen=True, kw_only=True):
    """A sandbox has its function. `phases_ms`: where the start's time went, by phase name (STYLE)."""

    sandbox: SandboxId
    phases_ms: dict[str, float]


class SandboxRefused(Message, frozen=True, kw_only=True):
    """StartSandbox `ticket` could not be done."""

    ticket: int
    phase: str
    message: str


class SandboxDied(Message, frozen=True, kw_only=True):
    """A sandbox is gone, with all its processes. `reason`: of KillSandbox, or ''.

    error: for one that never became ready, the step and the system's error. memory_bytes: its limit.
    """

    sandbox: SandboxId
    exit_status: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    memory_bytes: int = 0
    reason: str = ""
    error: str = ""


class SandboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says of one sandbox."""

    sandbox: SandboxId
    zygote: ZygoteId
    state: str
    memory_bytes: int
    pid: int
    uid: int
    frozen: bool = False


class NodeStatus(Message, frozen=True, kw_only=True):
    """Answer to GetNodeStatus. `counters`: totals since start, by name."""

    ticket: int
    sandboxes: tuple[SandboxStatus, ...] = ()
    counters: dict[str, int] = msgspec.field(default_factory=dict)


class MemoryReading(Message, frozen=True, kw_only=True):
    """How much memory is left on the node, or below a limit of a cgroup above all sandboxes, if that is less.

    Sent when it has changed by enough, at once when tasks stall for memory, and every few seconds.
    """

    available_bytes: int
    total_bytes: int
    is_stalled: bool = False


class Drain(Message, frozen=True, kw_only=True):
    """Stop taking work, finish what runs within `grace_s`, then exit with status 0."""

    grace_s: float


ToDaemon = (
    Hello
    | EnsureZygote
    | DropZygote
    | AssignSandbox
    | StartSandbox
    | FreezeSandbox
    | KillSandbox
    | BuildVersion
    | BuildRuntime
    | DropRuntime
    | CancelBuild
    | Discard
    | CollectGarbage
    | GetNodeStatus
)
ToGateway = (
    Welcome
    | ZygoteReady
    | ZygoteFailed
    | ZygoteDied
    | SandboxOffered
    | SandboxAssigned
    | SandboxRefused
    | SandboxDied
    | BuildProgress
    | BuildSucceeded
    | BuildFailed
    | RuntimesChanged
    | NodeStatus
    | GarbageCollected
    | MemoryReading
    | Drain
    | TokensChanged
)

_encoder = msgspec.msgpack.Encoder()
_to_daemon: msgspec.msgpack.Decoder[ToDaemon] = msgspec.msgpack.Decoder(ToDaemon)
_to_gateway: msgspec.msgpack.Decoder[ToGateway] = msgspec.msgpack.Decoder(ToGateway)


def encode(message: ToDaemon | ToGateway) -> bytes:
    """One packet. Raises ProtocolError when it is longer than MESSAGE_BYTES_MAX."""
    packet = _encoder.encode(message)
    if len(packet) > MESSAGE_BYTES_MAX:
        name = type(message).__name__
        raise ProtocolError(f"message {name} has {len(packet)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    return packet


def decode_to_daemon(packet: bytes) -> ToDaemon:
    """What a gateway sent. Raises ProtocolError."""
    try:
        return _to_daemon.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"cannot decode a message of the gateway: {error}") from error


def decode_to_gateway(packet: bytes) -> ToGateway:
    """What pagurusd sent. Raises ProtocolError."""
    try:
        return _to_gateway.decode(packet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"cannot decode a message of pagurusd: {error}") from error
