"""Which zygotes a node should have: base zygotes, and unions of environments without conflict. Pure."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.scheduler.policy import ZygoteSpec
from gateway.scheduler.unions import Union
from runtime.model import Environment, EnvironmentId, RuntimeName, ZygoteId
from runtime.protocol import StandbyTarget

ENVIRONMENTS_PER_ZYGOTE_MAX = 200  # keeps EnsureZygote below protocol.MESSAGE_BYTES_MAX


@dataclass(slots=True)
class _Packing:
    runtime: RuntimeName
    members: list[Environment] = field(default_factory=list)
    packages: Union = field(default_factory=Union)

    def takes(self, environment: Environment) -> bool:
        if environment.runtime != self.runtime or len(self.members) >= ENVIRONMENTS_PER_ZYGOTE_MAX:
            return False
        return self.packages.takes(_pins(environment))

    def add(self, environment: Environment) -> None:
        self.members.append(environment)
        self.packages.add(_pins(environment))


def _pins(environment: Environment) -> dict[str, str]:
    return {one.name: one.version for one in environment.distributions}


def base_zygote_id(runtime: RuntimeName) -> ZygoteId:
    """Id of the zygote that holds the standard library only."""
    return ZygoteId(f"base-{runtime}")


def package_zygote_id(
    runtime: RuntimeName,
    environments: Iterable[EnvironmentId],
    *,
    imports: Iterable[str] | None = None,
    label: str = "",
) -> ZygoteId:
    """Id of the zygote with the union of `environments`: equal sets, equal ids.

    imports: where they do not follow from the environments. label: keeps apart what is equal otherwise.
    """
    content: list[object] = [runtime, sorted(environments)]
    if imports is not None or label:
        content += [sorted(imports or ()), label]
    return ZygoteId("z-" + hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12])


def base_specs(runtimes: Sequence[RuntimeName], *, standbys: int = 0) -> list[ZygoteSpec]:
    """The base zygotes of all runtimes; `standbys` of each are kept for functions without packages."""
    targets = (standby_target(None, standbys),) if standbys > 0 else ()
    return [ZygoteSpec(base_zygote_id(runtime), runtime, (), (), targets) for runtime in runtimes]


def plan_zygotes(
    runtimes: Sequence[RuntimeName],
    environments: Iterable[Environment],
    *,
    standbys_per_zygote: int,
    zygotes_max: int,
) -> list[ZygoteSpec]:
    """Base zygotes first, then package zygotes, packed greedily by falling size; at most `zygotes_max`.

    environments: those of all deployed functions. What does not fit under `zygotes_max` starts cold.
    """
    specs = base_specs(runtimes, standbys=standbys_per_zygote)
    unions: list[_Packing] = []
    distinct = {environment.id: environment for environment in environments if environment.runtime in runtimes}
    for environment in sorted(distinct.values(), key=lambda one: (-len(one.distributions), one.id)):
        union = next((union for union in unions if union.takes(environment)), None)
        if union is None:
            union = _Packing(environment.runtime)
            unions.append(union)
        union.add(environment)
    specs += [_package_spec(union, standbys_per_zygote) for union in unions]
    return specs[: max(zygotes_max, len(runtimes))]


def _package_spec(union: _Packing, standbys_per_zygote: int) -> ZygoteSpec:
    ids = sorted(environment.id for environment in union.members)
    imports = sorted({name for environment in union.members for name in environment.imports})
    return ZygoteSpec(
        package_zygote_id(union.runtime, ids),
        union.runtime,
        tuple(ids),
        tuple(imports),
        tuple(standby_target(environment, standbys_per_zygote) for environment in ids),
    )


def standby_target(environment: EnvironmentId | None, count: int) -> StandbyTarget:
    return StandbyTarget(environment=environment, count=count)
