"""Which distributions are worth being imported ahead of time, and in which zygotes they fit. Pure.

Source: E. Oakes et al., SOCK, USENIX ATC 2018, section 4 (a cache of imported packages in a tree of zygotes, chosen by
benefit for its memory). Here: the benefit of a distribution is its decayed uses times its measured import time, its
price the measured memory. One that others need comes with them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.scheduler.packing import DISTRIBUTIONS_MAX
from gateway.scheduler.plan import ENVIRONMENTS_PER_ZYGOTE_MAX
from gateway.scheduler.policy import FunctionModel
from gateway.scheduler.unions import Pin, Union
from runtime.model import EnvironmentId, FunctionName, RuntimeName

BYTES_MIN = 64 << 10  # memory is measured in pages, and small packages by chance as none
USES_MIN = 1e-3  # below this a use is forgotten

Group = tuple[RuntimeName, str]  # runtime and FunctionModel.group: who may share a zygote (DESIGN section 6)


@dataclass(slots=True)
class UsedEnvironment:
    """An environment with the functions that have it. uses: of all of them, decayed."""

    id: EnvironmentId
    group: Group
    pins: frozenset[Pin]
    uses: float = 0.0
    functions: list[FunctionName] = field(default_factory=list)


@dataclass(slots=True)
class Item:
    """A distribution that can be cached. benefit_ms: import time that it would have saved."""

    modules: set[str] = field(default_factory=set)
    benefit_ms: float = 0.0
    memory_bytes: int = BYTES_MIN


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """What is chosen: a distribution with exactly those that it needs."""

    group: Group
    pin: Pin
    needs: tuple[Pin, ...]

    @property
    def pins(self) -> frozenset[Pin]:
        """All of it."""
        return frozenset((self.pin, *self.needs))


@dataclass(slots=True)
class Chosen:
    """A unit in the cache and why: benefit for price at the time of the choice, beyond what was cached already."""

    unit: Unit
    benefit_ms: float
    memory_bytes: int


@dataclass(slots=True)
class Draft:
    """One zygote to be: the environments mounted in it and the distributions it imports."""

    group: Group
    chosen: list[Chosen] = field(default_factory=list)
    cached: set[Pin] = field(default_factory=set)
    mounted: Union = field(default_factory=Union)
    environments: list[UsedEnvironment] = field(default_factory=list)

    def takes(self, environment: UsedEnvironment) -> bool:
        """Whether an environment can be mounted, too."""
        if environment.group != self.group or len(self.environments) >= ENVIRONMENTS_PER_ZYGOTE_MAX:
            return False
        return self.mounted.takes(environment.pins, DISTRIBUTIONS_MAX)

    def mount(self, environment: UsedEnvironment) -> None:
        """Mount an environment that it takes."""
        if all(known.id != environment.id for known in self.environments):
            self.mounted.add(environment.pins)
            self.environments.append(environment)


class Catalogue:
    """All that could be cached, from the deployed functions and their uses."""

    def __init__(self, functions: Iterable[tuple[FunctionModel, float]]) -> None:
        self.environments: dict[tuple[Group, EnvironmentId], UsedEnvironment] = {}
        self.items: dict[tuple[Group, Pin], Item] = {}
        self.units: set[Unit] = set()
        for model, uses in functions:
            if model.environment is not None:
                self._add(model, uses)
        self.by_uses = sorted(self.environments.values(), key=lambda one: (-one.uses, one.id))

    def choose(self, count: int, memory_bytes: int) -> list[Chosen]:
        """Up to `count` units in `memory_bytes`, each the best for what is cached before it."""
        chosen: list[Chosen] = []
        cached: set[tuple[Group, Pin]] = set()
        left, room = set(self.units), memory_bytes
        while left and len(chosen) < count:
            offers = [self._offer(unit, cached) for unit in left]
            offers = [one for one in offers if one.benefit_ms >= USES_MIN and one.memory_bytes <= room]
            if not offers:
                break
            best = min(offers, key=lambda one: (-one.benefit_ms / one.memory_bytes, one.unit))
            chosen.append(best)
            cached |= {(best.unit.group, pin) for pin in best.unit.pins}
            room -= best.memory_bytes
            left = {unit for unit in left if (unit.group, unit.pin) not in cached or not _is_in(unit, cached)}
        return chosen

    def pack(self, chosen: Sequence[Chosen], zygotes_max: int) -> list[Draft]:
        """The zygotes that hold what was chosen, as few as the versions allow; what no environment has is left out."""
        drafts: list[Draft] = []
        for one in chosen:
            homes = [each for each in self.by_uses if one.unit.group == each.group and one.unit.pins <= each.pins]
            fits = ((draft, home) for draft in drafts for home in homes if draft.takes(home))
            draft, home = next(fits, (None, homes[0] if homes else None))
            if home is None or (draft is None and len(drafts) >= zygotes_max):
                continue
            if draft is None:
                draft = Draft(home.group)
                drafts.append(draft)
            draft.mount(home)
            draft.chosen.append(one)
            draft.cached |= one.unit.pins
        for environment in self.by_uses:
            self._mount_where_it_saves(environment, drafts)
        return drafts

    def modules(self, draft: Draft) -> list[str]:
        """What a zygote imports: the modules of the cached distributions."""
        items = (self.items.get((draft.group, pin)) for pin in draft.cached)
        return sorted({module for item in items if item is not None for module in item.modules})

    def _mount_where_it_saves(self, environment: UsedEnvironment, drafts: Sequence[Draft]) -> None:
        if any(known.id == environment.id for draft in drafts for known in draft.environments):
            return
        fits = [draft for draft in drafts if environment.pins & draft.cached and draft.takes(environment)]
        if fits:
            max(fits, key=lambda draft: self._worth(draft.group, environment.pins & draft.cached)).mount(environment)

    def _worth(self, group: Group, pins: Iterable[Pin]) -> float:
        return sum(self.items[group, pin].benefit_ms for pin in sorted(pins) if (group, pin) in self.items)

    def _offer(self, unit: Unit, cached: set[tuple[Group, Pin]]) -> Chosen:
        found = [self.items.get((unit.group, pin)) for pin in sorted(unit.pins) if (unit.group, pin) not in cached]
        items = [item for item in found if item is not None]
        price = max(BYTES_MIN, sum(item.memory_bytes for item in items))
        return Chosen(unit, sum(item.benefit_ms for item in items), price)

    def _add(self, model: FunctionModel, uses: float) -> None:
        assert model.environment is not None
        group = (model.runtime, model.group)
        pins = frozenset(model.distributions.items())
        blank = UsedEnvironment(model.environment, group, pins)
        environment = self.environments.setdefault((group, model.environment), blank)
        environment.uses += uses
        environment.functions.append(model.name)
        if uses < USES_MIN:
            return
        for name, version in model.distributions.items():
            cost, modules = model.cost(name), modules_of(model, name)
            if cost.ms <= 0.0 or not modules:
                continue
            item = self.items.setdefault((group, (name, version)), Item())
            item.modules |= set(modules)
            item.benefit_ms += uses * cost.ms
            item.memory_bytes = max(item.memory_bytes, cost.memory_bytes)
            self.units.add(Unit(group, (name, version), needed_by(model, name)))


def _is_in(unit: Unit, cached: set[tuple[Group, Pin]]) -> bool:
    return all((unit.group, pin) in cached for pin in unit.needs)


def modules_of(model: FunctionModel, distribution: str) -> tuple[str, ...]:
    """The modules by which a distribution is imported; () where it is not known.

    Those among the function's imports before others, as a distribution can have parts that nobody imports.
    """
    known = model.modules.get(distribution)
    if known is None:
        spelled = distribution.replace("-", "_").replace(".", "_").lower()
        return tuple(module for module in model.imports if module.lower() == spelled)
    wanted = tuple(module for module in known if module in model.imports)
    return wanted or tuple(module for module in known if not module.startswith("_"))


def needed_by(model: FunctionModel, distribution: str) -> tuple[Pin, ...]:
    """All distributions that one needs, directly or not, with their versions in the function's environment."""
    found: set[str] = set()
    open_: list[str] = [distribution]
    while open_:
        for name in model.requires.get(open_.pop(), ()):
            if name not in found and name != distribution and name in model.distributions:
                found.add(name)
                open_.append(name)
    versions: Mapping[str, str] = model.distributions
    return tuple((name, versions[name]) for name in sorted(found))
