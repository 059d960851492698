"""The words that all processes share: ids, start kinds, limits, environments, assignments. A leaf.

Everything here is a value: frozen, comparable, and encodable by msgspec.
"""

import hashlib
import re
from enum import StrEnum
from typing import NewType

import msgspec

FunctionName = NewType("FunctionName", str)
RuntimeName = NewType("RuntimeName", str)  # "python3.11"
CodeId = NewType("CodeId", str)  # 64 hex: content of the code directory
EnvironmentId = NewType("EnvironmentId", str)  # 64 hex: lock + runtime
LayerId = NewType("LayerId", str)  # 64 hex: one distribution's file + runtime
VersionId = NewType("VersionId", str)  # 64 hex: code + environment + settings
ZygoteId = NewType("ZygoteId", str)
SandboxId = NewType("SandboxId", str)
InvocationId = NewType("InvocationId", str)

FUNCTION_NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,62}")
TENANT_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,62}")
RUNTIME_NAME_PATTERN = re.compile(r"python3\.[0-9]{1,2}")
HANDLER_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")

DEFAULT_TENANT = "default"
MIB = 1 << 20
OPEN_FILES_MAX = 16_384  # what a function may ask for; zygotes' hard limit
LAYER_FORMAT = 1  # raise it when the same wheel gives another tree, so that old trees are not taken for new ones


class StartKind(StrEnum):
    """How an invocation got its sandbox (DESIGN section 4)."""

    WARM = "warm"
    HELPED = "helped"
    RESTORED = "restored"
    COLD = "cold"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one sandbox may use.

    memory_bytes: private pages of the sandbox, /tmp included. cpu_millis: thousandths of a core, and its weight where
    cores are short. open_files: descriptors of one process. timeout_s: wall clock of one invocation, starting included.
    request_bytes, result_bytes, log_bytes: JSON parameter, JSON result, and captured stdout plus stderr of one
    invocation.
    """

    memory_bytes: int = 256 * MIB
    pids: int = 64
    cpu_millis: int = 1000
    open_files: int = 1024
    timeout_s: float = 30.0
    tmp_bytes: int = 64 * MIB
    request_bytes: int = 6 * MIB
    result_bytes: int = 6 * MIB
    log_bytes: int = 256 * 1024


class Distribution(msgspec.Struct, frozen=True, order=True):
    """One installed distribution; `name` is normalised (PEP 503)."""

    name: str
    version: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The installed packages of one lock.

    imports: top-level modules of the *declared* requirements, which a zygote imports and the
    deploy's check tries. modules: those of every distribution. requires: what each needs of the others.
    layers: of each distribution, by which one is exactly the other's; {} where it was stored before that was kept.
    foreign: distributions from an address that the user gave instead of the node's index.
    """

    id: EnvironmentId
    runtime: RuntimeName
    distributions: tuple[Distribution, ...] = ()
    imports: tuple[str, ...] = ()
    modules: dict[str, tuple[str, ...]] = {}
    requires: dict[str, tuple[str, ...]] = {}
    layers: dict[str, LayerId] = {}
    foreign: tuple[str, ...] = ()


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution of a lock and the file it is installed from. `size`: bytes, or 0 when the index tells none.

    url: from the index; it never holds a password. is_source: an sdist, to be built first.
    """

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int = 0
    is_source: bool = False


class ImportCost(msgspec.Struct, frozen=True):
    """What importing one distribution took, without what it imports of others: wall clock and private memory."""

    ms: float
    memory_bytes: int


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A file that two distributions have with different content: `used`'s is seen, as it is installed last."""

    path: str
    used: str
    hidden: str


class EnvironmentManifest(msgspec.Struct, frozen=True, kw_only=True):
    """An environment in the store. layers: the first on top, as pip would have installed them from last to first."""

    environment: Environment
    lock: str
    layers: tuple[LayerId, ...]
    conflicts: tuple[Conflict, ...] = ()


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a sandbox needs to become a function's. Holds secrets: never logged."""

    function: FunctionName
    version: VersionId
    code: CodeId
    handler: str
    environment: EnvironmentId | None
    limits: Limits
    environ: dict[str, str] = {}
    egress: tuple[str, ...] = ()  # runtime.egress
    is_check: bool = False  # of a deploy's import check: costs are measured
    tenant: str = DEFAULT_TENANT

    def __repr__(self) -> str:
        return f"Assignment(function={self.function!r}, version={self.version[:12]!r})"


def layer_id(runtime: RuntimeName, sha256: str) -> LayerId:
    """The layer of a distribution file with this digest (64 hex), as installed for `runtime`."""
    return LayerId(hashlib.sha256(msgspec.json.encode([LAYER_FORMAT, runtime, sha256])).hexdigest())


def version_id(
    *,
    code: CodeId,
    environment: EnvironmentId | None,
    runtime: RuntimeName,
    handler: str,
    limits: Limits,
    environ: dict[str, str],
    policy: str = "",
    tenant: str = DEFAULT_TENANT,
    reuse: bool = True,
    secrets: str = "",
    egress: tuple[str, ...] = (),
) -> VersionId:
    """Digest of everything that changes how a function runs or is kept; equal inputs, equal id.

    secrets: random id of the set, never of the values: who knows the rest could try values against a digest.
    """
    settings = [code, environment, runtime, handler, msgspec.to_builtins(limits), sorted(environ.items())]
    settings += [policy] if policy else []
    settings += [["tenant", tenant]] if tenant != DEFAULT_TENANT else []
    settings += [] if reuse else [{"reuse": False}]
    settings += [{"secrets": secrets}] if secrets else []
    settings += [{"egress": egress}] if egress else []
    return VersionId(hashlib.sha256(msgspec.json.encode(settings)).hexdigest())
