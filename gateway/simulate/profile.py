"""What starts, imports and idle sandboxes cost: measured by scripts/bench/profile, read by the simulator.

A profile is one JSON document. What it holds was measured on one machine, which `host` names.
"""

import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from gateway.scheduler.policy import OWN_CODE, FunctionModel
from runtime.errors import ConfigError
from runtime.model import EnvironmentId, FunctionName, ImportCost, RuntimeName, VersionId

FORMAT = 1
DEFAULT = "aws_apps.json"  # package data, the functions of the paper's AWS applications


class RuntimeProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One runtime. Starts: from the request to the answer in the gateway, without imports and handler; milliseconds.

    zygote_: the base zygote. standby_ms: until a standby that was taken is replaced. assign_ms: a start by a standby.
    fork_ms: into an empty sandbox made ahead, as zygotes keep some where they have standbys; unpooled_fork_ms: with
    nothing ahead. process_: a fresh interpreter in a container of its own, for the mechanism `paper`.
    helper_memory_bytes: private memory of an idle helper without packages.
    """

    zygote_start_ms: float
    zygote_memory_bytes: int
    standby_ms: float
    standby_memory_bytes: int
    assign_ms: float
    fork_ms: float
    unpooled_fork_ms: float
    warm_ms: float
    process_ms: float
    process_memory_bytes: int
    helper_memory_bytes: int


class FunctionProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One function.

    distributions: name -> version, of its whole lock; modules, requires: the top-level modules of each, and what it
    needs of the others. imports: the modules that a zygote imports for it. brought: of modules, the distributions that
    importing them brings in. costs: of importing each distribution, without others; OWN_CODE: of the function's own
    code. helped_import_ms: what is left to import when all came from a zygote. cold_memory_bytes, helped_memory_bytes:
    of an idle sandbox that has imported all itself, or got it from a zygote.
    """

    runtime: RuntimeName
    distributions: dict[str, str] = {}
    imports: tuple[str, ...] = ()
    modules: dict[str, tuple[str, ...]] = {}
    requires: dict[str, tuple[str, ...]] = {}
    brought: dict[str, tuple[str, ...]] = {}
    costs: dict[str, ImportCost] = {}
    helped_import_ms: float
    cold_memory_bytes: int
    helped_memory_bytes: int
    reuse: bool = True  # whether a sandbox serves more than one invocation

    @property
    def own_ms(self) -> float:
        """Importing the function's own code, which no zygote does for it."""
        own = self.costs.get(OWN_CODE)
        return own.ms if own else 0.0

    @property
    def environment(self) -> EnvironmentId | None:
        """Equal sets of distributions and imports, equal ids; None without packages."""
        if not self.distributions:
            return None
        content = [self.runtime, sorted(self.distributions.items()), self.imports]
        return EnvironmentId(hashlib.sha256(msgspec.json.encode(content)).hexdigest())

    def model(self, name: FunctionName) -> FunctionModel:
        """The function as policies see it."""
        return FunctionModel(
            name=name,
            version=VersionId(hashlib.sha256(name.encode()).hexdigest()),
            runtime=self.runtime,
            environment=self.environment,
            distributions=self.distributions,
            imports=self.imports,
            costs=self.costs,
            modules=self.modules,
            requires=self.requires,
            reuse=self.reuse,
        )


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the simulator knows of a machine and of functions. measured: how, for people."""

    format: int
    host: dict[str, Any] = {}
    commit: str = ""
    measured: dict[str, Any] = {}
    runtimes: dict[RuntimeName, RuntimeProfile]
    functions: dict[FunctionName, FunctionProfile]


def read(path: Path | None) -> Profile:
    """The profile in a file; None: the one that comes with Pagurus. Raises ConfigError."""
    try:
        raw = path.read_bytes() if path else (resources.files(__package__) / "profiles" / DEFAULT).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the profile {path}: {error.strerror}") from error
    return decode(raw, str(path or DEFAULT))


def decode(raw: bytes, source: str) -> Profile:
    """A profile from its JSON. Raises ConfigError that names the source."""
    hint = "scripts/bench/profile writes one"
    try:
        known = msgspec.json.decode(raw, type=_Format).format
        if known != FORMAT:
            raise ConfigError(f"the profile {source} has format {known}, this simulator reads {FORMAT}", hint=hint)
        profile = msgspec.json.decode(raw, type=Profile)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source} is no profile: {error}", hint=hint) from error
    for name, function in profile.functions.items():
        _check(name, function, profile, source)
    return profile


def encode(profile: Profile) -> bytes:
    """Its JSON, for people to read, too."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


class _Format(msgspec.Struct):
    format: int


def _check(name: str, function: FunctionProfile, profile: Profile, source: str) -> None:
    if function.runtime not in profile.runtimes:
        raise ConfigError(f"function {name} of the profile {source} has runtime {function.runtime}, which is not in it")
    named = set(function.costs) - {OWN_CODE} | {one for brought in function.brought.values() for one in brought}
    if unknown := sorted(named - set(function.distributions)):
        raise ConfigError(
            f"function {name} of the profile {source} has costs or modules of {', '.join(unknown)},"
            " which are not among its distributions"
        )
    if unmeasured := sorted(set(function.imports) - set(function.brought)):
        raise ConfigError(f"function {name} of the profile {source}: nothing is known of {', '.join(unmeasured)}")
