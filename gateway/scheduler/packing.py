"""Environments packed into few zygotes without a conflict of versions, sharing as much as they can. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.scheduler.plan import ENVIRONMENTS_PER_ZYGOTE_MAX
from gateway.scheduler.policy import FunctionModel
from runtime.model import EnvironmentId, RuntimeName

DISTRIBUTIONS_MAX = 400  # of one zygote; an overlay has at most 500 layers


@dataclass(slots=True)
class Packed:
    """One zygote's environments. memory_bytes: of the union's distributions, as measured at their deploys."""

    runtime: RuntimeName
    tenant: str
    members: dict[EnvironmentId, FunctionModel] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())

    def takes(self, model: FunctionModel) -> bool:
        """Whether it can join: one runtime, one tenant, no distribution in two versions."""
        if (model.runtime, model.tenant) != (self.runtime, self.tenant):
            return False
        if len(self.members) >= ENVIRONMENTS_PER_ZYGOTE_MAX:
            return False
        fresh = 0
        for name, version in model.distributions.items():
            if self.versions.get(name, version) != version:
                return False
            fresh += name not in self.versions
        return len(self.versions) + fresh <= DISTRIBUTIONS_MAX

    def shared_bytes(self, model: FunctionModel) -> int:
        """What it has already of the model's distributions."""
        return sum(self.memory.get(name, 0) for name in model.distributions)

    def add(self, model: FunctionModel) -> None:
        """Let it join; `takes` must hold."""
        assert model.environment is not None
        self.members[model.environment] = model
        self.versions.update(model.distributions)
        for name in model.distributions:
            self.memory[name] = max(self.memory.get(name, 0), model.cost(name).memory_bytes)

    def only(self, models: Mapping[EnvironmentId, FunctionModel]) -> "Packed":
        """The same with those members that are among `models`, as they are there."""
        found = Packed(self.runtime, self.tenant)
        for one in self.members:
            if one in models and found.takes(models[one]):
                found.add(models[one])
        return found


def pack(models: Sequence[FunctionModel], *, alone: Collection[EnvironmentId] = ()) -> list[Packed]:
    """Greedy: the largest first, each where it shares most. Deterministic whatever the order of `models`.

    alone: environments that get a zygote of their own.
    """
    groups: list[Packed] = []
    order = sorted(models, key=lambda model: (-model.import_bytes, -len(model.distributions), model.environment or ""))
    for model in order:
        fitting = (
            []
            if model.environment in alone
            else [group for group in groups if group.takes(model) and not any(one in alone for one in group.members)]
        )
        if not fitting:
            groups.append(Packed(model.runtime, model.tenant))
            fitting = groups[-1:]
        max(fitting, key=lambda group: (group.shared_bytes(model), -groups.index(group))).add(model)
    return groups
