"""Environments packed into few zygotes without a conflict of versions, sharing as much as they can. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.scheduler.plan import ENVIRONMENTS_PER_ZYGOTE_MAX
from gateway.scheduler.policy import FunctionModel
from runtime.model import EnvironmentId, RuntimeName

DISTRIBUTIONS_MAX = 400  # of one zygote; an overlay has at most 500 layers
ZYGOTE_BYTES = 12_000_000  # of an interpreter that has imported nothing yet
SEEDS_MAX, COVER_STEPS_MAX = 8, 20_000  # how long one looks for whole zygotes


@dataclass(slots=True)
class Packed:
    """One zygote's environments. memory_bytes: of the union's distributions, as measured at their deploys."""

    runtime: RuntimeName
    group: str  # FunctionModel.group
    members: dict[EnvironmentId, FunctionModel] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())

    def takes(self, model: FunctionModel) -> bool:
        """Whether it can join: one runtime, one tenant's group, no distribution in two versions."""
        if (model.runtime, model.group) != (self.runtime, self.group):
            return False
        if len(self.members) >= ENVIRONMENTS_PER_ZYGOTE_MAX:
            return False
        fresh = 0
        for name, version in model.distributions.items():
            if self.versions.get(name, version) != version:
                return False
            fresh += name not in self.versions
        return len(self.versions) + fresh <= DISTRIBUTIONS_MAX

    def fresh_bytes(self, model: FunctionModel) -> int:
        """What it would hold more with the model's distributions."""
        return sum(max(0, model.cost(name).memory_bytes - self.memory.get(name, 0)) for name in model.distributions)

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
        found = Packed(self.runtime, self.group)
        for one in self.members:
            if one in models and found.takes(models[one]):
                found.add(models[one])
        return found


@dataclass(frozen=True, slots=True)
class Room:
    """What zygotes may take: their number, and the bytes of all together, interpreters included."""

    zygotes: int
    memory_bytes: float

    def holds(self, groups: Sequence[Packed]) -> bool:
        """Whether there is room for all of these."""
        return len(groups) <= self.zygotes and bytes_of(groups) <= self.memory_bytes


NO_LIMIT = Room(1 << 30, float("inf"))


def bytes_of(groups: Sequence[Packed]) -> int:
    """Memory of zygotes that hold these."""
    return sum(ZYGOTE_BYTES + group.memory_bytes for group in groups)


def pack(models: Sequence[FunctionModel], *, alone: Collection[EnvironmentId] = ()) -> list[Packed]:
    """Greedy: the largest first, each where it shares most. Deterministic whatever the order of `models`.

    alone: environments that get a zygote of their own.
    """
    order = sorted(models, key=lambda model: (-model.import_bytes, -len(model.distributions), model.environment or ""))
    return fill([], order, alone=alone)


def fill(
    groups: Sequence[Packed],
    models: Sequence[FunctionModel],
    *,
    alone: Collection[EnvironmentId] = (),
    room: Room = NO_LIMIT,
) -> list[Packed]:
    """Add one model after another where it shares most, or in a further zygote; what finds no room is left out.

    The groups are changed. alone: as in `pack`.
    """
    found = list(groups)
    left_bytes = room.memory_bytes - bytes_of(found)
    for model in models:
        fitting = [] if model.environment in alone else [one for one in found if one.takes(model)]
        fitting = [one for one in fitting if not any(member in alone for member in one.members)]
        if not fitting and len(found) < room.zygotes:
            fitting = [Packed(model.runtime, model.group)]
        if not fitting:
            continue
        best = max(fitting, key=lambda one: one.shared_bytes(model))  # the first of equals
        fresh_bytes = best.fresh_bytes(model) + (0 if best.members else ZYGOTE_BYTES)
        if fresh_bytes > left_bytes:
            continue
        if not best.members:
            found.append(best)
        best.add(model)
        left_bytes -= fresh_bytes
    return found


def pack_best(
    models: Sequence[FunctionModel],
    values: Mapping[EnvironmentId, float],
    room: Room,
    *,
    alone: Collection[EnvironmentId] = (),
) -> list[Packed]:
    """All of them if there is room; otherwise what is worth most together, by three greedy ways of which the best.

    values: of each environment. Which conflicts are resolved how decides more than the order: `_cover` looks for whole
    zygotes (greedy maximum coverage: at least 1 - 1/e of the best for given candidates), the others for density, value.
    """
    everything = pack(models, alone=alone)
    if room.holds(everything):
        return everything

    def worth(model: FunctionModel) -> float:
        return values[model.environment] if model.environment is not None else 0.0

    by_value = sorted(models, key=lambda model: (-worth(model), model.environment or ""))
    by_density = sorted(models, key=lambda one: (-worth(one) / max(one.import_bytes, 1), one.environment or ""))
    ways = [fill([], order, alone=alone, room=room) for order in (by_density, by_value)]
    ways.append(_cover(by_value, values, alone, room))
    return max(ways, key=lambda groups: value_of(groups, values))


def value_of(groups: Sequence[Packed], values: Mapping[EnvironmentId, float]) -> float:
    """What is held by these, together."""
    return sum(values[member] for group in groups for member in group.members)


def _cover(
    models: Sequence[FunctionModel],
    values: Mapping[EnvironmentId, float],
    alone: Collection[EnvironmentId],
    room: Room,
) -> list[Packed]:
    """One zygote after another, each the best of those that begin with one of the most valuable that are left."""
    found: list[Packed] = []
    left = list(models)
    seeds = max(1, min(SEEDS_MAX, COVER_STEPS_MAX // max(1, len(models) * min(room.zygotes, len(models)))))
    while left and len(found) < room.zygotes:
        rest = Room(1, room.memory_bytes - bytes_of(found))
        tries = [fill([], [seed, *left], alone=alone, room=rest) for seed in left[:seeds]]
        best = max(tries, key=lambda groups: value_of(groups, values))
        if not best:
            break
        found += best
        left = [model for model in left if model.environment not in best[0].members]
    return found
