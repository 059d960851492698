"""What an owner's zygote holds and whom it helps, from the functions that are deployed. Pure.

Source: research/pagurus-reference.md, 2.4 (composition) and 2.5 (who is helped now). Differences from the reference:
the order is by similarity instead of a shuffle, versions are kept, and the choice ends when there is nobody left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.scheduler.choosing import weighted_sample
from gateway.scheduler.packing import DISTRIBUTIONS_MAX
from gateway.scheduler.plan import ENVIRONMENTS_PER_ZYGOTE_MAX, package_zygote_id, standby_target
from gateway.scheduler.policy import FunctionModel, PolicySettings, ZygoteSpec
from gateway.scheduler.unions import Pin, most_similar
from runtime.model import EnvironmentId, FunctionName, RuntimeName, SandboxId
from runtime.protocol import StandbyTarget

CHOICES = ("weighted", "similar", "random")


@dataclass(slots=True, eq=False)
class LentZygote:
    """One zygote of an owner, or the place for it. `number`: which of the owner's.

    executor: the idle sandbox that it replaces, until that one is retired. candidates: whom it can help, the most
    similar first; `population`: the count of changes of the deployed functions that they were found at.
    """

    owner: FunctionName
    number: int
    made_s: float
    used_s: float
    reason: str
    executor: SandboxId | None = None
    candidates: tuple[FunctionName, ...] = ()
    population: int = -1
    spec: ZygoteSpec | None = None


class Population:
    """The deployed functions, by those who may share a zygote: of one runtime and FunctionModel.group (DESIGN 6)."""

    def __init__(self) -> None:
        self.changes = 0
        self._models: dict[FunctionName, FunctionModel] = {}
        self._groups: dict[tuple[RuntimeName, str], dict[FunctionName, frozenset[Pin]]] = {}

    def put(self, model: FunctionModel) -> bool:
        """A function is new or has another version; whether zygotes may have to hold something else for that."""
        before = self._models.get(model.name)
        if before is not None and _shared_part(before) == _shared_part(model):
            self._models[model.name] = model
            return False
        self.remove(model.name)
        self._models[model.name] = model
        group = self._groups.setdefault((model.runtime, model.group), {})
        group[model.name] = frozenset(model.distributions.items())
        self.changes += 1
        return True

    def remove(self, name: FunctionName) -> bool:
        """A function is gone; whether it was there."""
        model = self._models.pop(name, None)
        if model is None:
            return False
        self.changes += 1
        key = (model.runtime, model.group)
        del self._groups[key][name]
        if not self._groups[key]:
            del self._groups[key]
        return True

    def get(self, name: FunctionName) -> FunctionModel | None:
        """The function's current version."""
        return self._models.get(name)

    def candidates(self, owner: FunctionName, settings: PolicySettings) -> tuple[FunctionName, ...]:
        """Whom a zygote of `owner` can help: up to `similar_max` without conflict, the most similar first."""
        model = self._models[owner]
        group = self._groups[model.runtime, model.group]
        others = {name: pins for name, pins in group.items() if name != owner}
        limit = min(settings.similar_max, ENVIRONMENTS_PER_ZYGOTE_MAX - 1)
        salt = f"{settings.seed}/{owner}"
        blind = settings.choice == "random"
        found = most_similar(group[owner], others, limit, salt=salt, distributions_max=DISTRIBUTIONS_MAX, blind=blind)
        return tuple(name for name, _ in found)


@dataclass(slots=True)
class SpecMaker:
    """Makes the specs of one plan. period: counts them; it seeds the choice of who is helped.

    An environment has standbys in the first zygote only that is meant to help one of its functions.
    """

    population: Population
    settings: PolicySettings
    misses: Callable[[FunctionName], int]
    period: int
    _with_standbys: set[EnvironmentId] = field(default_factory=set)

    def spec(self, zygote: LentZygote) -> ZygoteSpec:
        """The zygote as it should be now."""
        owner = self._model(zygote.owner)
        members = [owner, *map(self._model, zygote.candidates)]
        helped = self._choose(zygote)
        environments = sorted({one.environment for one in members if one.environment is not None})
        imports = sorted({module for one in members if one.environment is not None for module in one.imports})
        label = f"{zygote.owner}/{zygote.number}"
        return ZygoteSpec(
            package_zygote_id(owner.runtime, environments, imports=imports, label=label),
            owner.runtime,
            tuple(environments),
            tuple(imports),
            self._standbys([owner, *map(self._model, helped)]),
            functions=frozenset([zygote.owner, *helped]),
            owner=zygote.owner,
            why=f"{zygote.owner} gave up an executor ({zygote.reason}); {len(zygote.candidates)} functions can be"
            f" helped, in this period {', '.join(helped) or 'none'} ({self.settings.choice})",
        )

    def _choose(self, zygote: LentZygote) -> Sequence[FunctionName]:
        count, how = self.settings.helped_max, self.settings.choice
        if how == "similar":
            return zygote.candidates[:count]
        seed = f"{self.settings.seed}/{self.period}/{zygote.owner}/{zygote.number}"
        weight = self._weight if how == "weighted" else _equal
        return weighted_sample(zygote.candidates, count, weight, seed)

    def _weight(self, name: FunctionName) -> float:
        return max(1, self.misses(name))

    def _standbys(self, helped: Sequence[FunctionModel]) -> tuple[StandbyTarget, ...]:
        wanted = {one.environment for one in helped if one.environment is not None} - self._with_standbys
        if self.settings.standbys <= 0:
            return ()
        self._with_standbys |= wanted
        return tuple(standby_target(environment, self.settings.standbys) for environment in sorted(wanted))

    def _model(self, name: FunctionName) -> FunctionModel:
        model = self.population.get(name)
        assert model is not None, f"zygotes of {name} are dropped with it"
        return model


def _equal(_: FunctionName) -> float:
    return 1.0


def _shared_part(model: FunctionModel) -> tuple[object, ...]:
    return (model.runtime, model.group, model.environment, model.distributions, model.imports)
