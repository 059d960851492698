"""The part of the protocol that is about what is stored: builds, base root file systems, garbage. A leaf.

See runtime.protocol, which names these messages too.
"""

import msgspec

from runtime.model import CodeId, Conflict, Environment, EnvironmentId, FunctionName, RuntimeName


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One packet, tagged by its class's name."""


# --- gateway -> pagurusd ---------------------------------------------------------------------------------


class BuildVersion(Message, frozen=True, kw_only=True):
    """Build code and environment; comes with one descriptor: the archive (zip or tar), readable and seekable.

    Answered by any number of BuildProgress and then BuildSucceeded or BuildFailed.
    """

    build: int
    function: FunctionName
    runtime: RuntimeName
    requirements: str = ""


class CancelBuild(Message, frozen=True, kw_only=True):
    """Stop a build; nothing of it stays. Answered by BuildFailed unless it had ended.

    A base that somebody else waits for is built to its end.
    """

    build: int


class BuildRuntime(Message, frozen=True, kw_only=True):
    """Make the base rootfs of a runtime, unless it is there; `build` is a number as of BuildVersion.

    Answered by any number of BuildProgress and then RuntimesChanged or BuildFailed. Asked for by several at once,
    it is built once.
    """

    build: int
    runtime: RuntimeName


class DropRuntime(Message, frozen=True, kw_only=True):
    """Give up a runtime; its files go when nothing mounts them any more. Answered by RuntimesChanged or BuildFailed.

    The gateway drops the runtime's zygotes by itself.
    """

    build: int
    runtime: RuntimeName


class Discard(Message, frozen=True, kw_only=True):
    """Code and environments that no version needs any more. What is in use is kept."""

    codes: tuple[CodeId, ...] = ()
    environments: tuple[EnvironmentId, ...] = ()


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """What the versions of all functions need. Passed as a sealed file (runtime.sealed)."""

    codes: frozenset[CodeId]
    environments: frozenset[EnvironmentId]


class CollectGarbage(Message, frozen=True, kw_only=True):
    """Remove, or only list, what neither Keep nor anything live needs; comes with one descriptor: a sealed Keep.

    No build may be about to be answered. Answered by GarbageCollected.
    """

    ticket: int
    dry_run: bool


# --- pagurusd -> gateway ---------------------------------------------------------------------------------


class BuildProgress(Message, frozen=True, kw_only=True):
    """A step of a build, for people. `fraction`: 0..1 of this phase, or None."""

    build: int
    phase: str
    message: str
    fraction: float | None = None


class BuildSucceeded(Message, frozen=True, kw_only=True):
    """Code and environment are in the store. `environment` is None when nothing was required.

    phases_ms: where the time went: unpack, resolve, layers (of it install, with the downloads, and compile), compose.
    """

    build: int
    code: CodeId
    environment: Environment | None
    lock: str = ""
    conflicts: tuple[Conflict, ...] = ()
    phases_ms: dict[str, float] = {}


class BuildFailed(Message, frozen=True, kw_only=True):
    """Nothing of the build stays. `kind`: see errors.BuildError."""

    build: int
    kind: str
    message: str
    hint: str = ""


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The base rootfs of a runtime. `packages`: how many of Debian. `disk_bytes`: 0 when it is not known."""

    runtime: RuntimeName
    suite: str
    python_version: str
    digest: str
    disk_bytes: int = 0
    packages: int = 0


class RuntimesChanged(Message, frozen=True, kw_only=True):
    """All runtimes that there are now. `build`: of the BuildRuntime or DropRuntime that this answers."""

    build: int
    runtimes: tuple[Base, ...]


class GarbageItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that nothing needs. kind: code, environment, layer, rootfs. used_s: wall clock, 0 if unknown."""

    kind: str
    id: str
    label: str = ""
    size_bytes: int = 0
    used_s: float = 0.0


class GarbageCollected(Message, frozen=True, kw_only=True):
    """Answer to CollectGarbage. items: the largest; `count` and freed_bytes are of all.

    layers_bytes: what all layers had before. store_bytes: the setting.
    """

    ticket: int
    items: tuple[GarbageItem, ...]
    count: int
    freed_bytes: int
    layers_bytes: int
    store_bytes: int
