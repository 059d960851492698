"""The rule of tenants: no policy, and no order of events, lets a function come from a zygote that may see too much."""

import contextlib
import itertools
from dataclasses import dataclass, field
from random import Random

import pytest

from gateway.scheduler import policies
from gateway.scheduler.decisions import Kill, Lease, Start
from gateway.scheduler.planner import Planner
from gateway.scheduler.policies.adaptive import Adaptive
from gateway.scheduler.policies.per_function import PerFunction
from gateway.scheduler.policy import FunctionModel, Policy, PolicySettings
from gateway.scheduler.pool import Limits
from gateway.scheduler.pools import Pools
from gateway.scheduler.sources import LiveZygote, Mechanism, Sources, Standby
from gateway.scheduler.zygotes import Zygotes, ZygoteState
from runtime import trust
from runtime.errors import PoolExhaustedError
from runtime.model import Distribution, Environment, ImportCost, StartKind
from runtime.protocol import DropZygote, EnsureZygote, ZygoteDied, ZygoteFailed, ZygoteReady

RUNTIME = "python3.11"
TRUSTED = {"t1", "t2"}
NAMES = ("t1", "a", "b", "c")  # few, so that tenants often have the same


def function(name, pins, tenant="red", trusted=frozenset(), version="v1", policy=""):
    """pins: {name: version}. A file is known by name and version."""
    return FunctionModel(
        name,
        version,
        RUNTIME,
        environment="+".join(f"{one}=={number}" for one, number in sorted(pins.items())) or None,
        distributions=pins,
        imports=tuple(sorted(pins)),
        costs={one: ImportCost(200.0, 1_000_000) for one in pins},
        tenant=tenant,
        policy=policy,
        modules={one: (one,) for one in pins},
        requires={one: () for one in pins},
        packages=frozenset(f"{one}=={number}" for one, number in pins.items() if one not in trusted),
    )


@dataclass
class World:
    """A node without a node: does what the planner and the pools say, in random order, and keeps books of its own."""

    random: Random
    policy: object
    held: dict = field(default_factory=dict)  # zygote -> pins of all that it has mounted
    tenants: dict = field(default_factory=dict)
    chosen: dict = field(default_factory=dict)  # tenant -> all environments it ever had
    models: dict = field(default_factory=dict)
    origin: dict = field(default_factory=dict)  # standby -> zygote
    alive: set = field(default_factory=set)
    crossed: int = 0
    helped: int = 0
    now_s: float = 0.0

    def __post_init__(self):
        self.numbers = itertools.count(1)
        self.pools = Pools(Limits(1000, 16, 200, float("inf")), self.numbers, self.policy)
        self.planner = Planner(self.policy, self.pools, Zygotes())

    def do(self, outs):
        for out in outs:
            if isinstance(out, EnsureZygote):
                self.ensure(out)
            elif isinstance(out, DropZygote):
                self.alive.discard(out.zygote)
                self.do(self.planner.died(ZygoteDied(zygote=out.zygote, reason="dropped"), self.now_s))
            elif isinstance(out, Start):
                self.check(out.function, out.zygote, out.kind)
                self.do(self.pools.started(out.ticket, f"s{out.ticket}", self.now_s))
            elif isinstance(out, Lease):
                if out.assign:
                    self.check(out.function, self.origin[out.sandbox], out.kind)
                if self.random.random() < 0.7:
                    self.do(self.pools.release(out.sandbox, self.now_s, reusable=self.random.random() < 0.3))
            elif isinstance(out, Kill):
                self.do(self.pools.died(out.sandbox, self.now_s))

    def ensure(self, message):
        self.held[message.zygote] = {pin for one in message.environments for pin in one.split("+")}
        self.tenants[message.zygote] = message.tenants
        for tenant in message.tenants if message.environments else ():
            assert set(message.environments) <= self.chosen[tenant], "it holds what the tenant has never chosen"
        if message.zygote in self.alive:
            self.do(self.planner.ready(self.ready(message, message.environments), self.now_s))
            return
        if message.environments and self.random.random() < 0.1:
            refused = ZygoteFailed(zygote=message.zygote, phase="imports", message="it left a thread", is_refused=True)
            self.do(self.planner.failed(refused, self.now_s))
            return
        helped = tuple(one for one in message.environments if self.random.random() < 0.9)
        self.alive.add(message.zygote)
        self.do(self.planner.ready(self.ready(message, helped), self.now_s))
        for target in message.standbys:
            if target.environment is None or target.environment in helped:
                for _ in range(target.count):
                    sandbox = f"p{next(self.numbers)}"
                    self.origin[sandbox] = message.zygote
                    standby = Standby(sandbox, message.zygote, RUNTIME, target.environment)
                    self.do(self.pools.add_standby(standby, self.now_s))

    def ready(self, message, helped):
        return ZygoteReady(
            zygote=message.zygote,
            runtime=RUNTIME,
            environments=helped,
            start_ms=1.0,
            memory_bytes=1000,
            import_ms=dict.fromkeys(message.imports, 5.0),
            tenants=message.tenants,
        )

    def check(self, name, zygote, kind):
        """The rule, by the books: what the zygote holds is the tenant's choice, or the function's, or trusted."""
        model = self.models[name]
        held = self.held[zygote]
        strange = {pin for pin in held if pin.split("==")[0] not in TRUSTED}
        mine = {pin for one in self.chosen[model.tenant] for pin in one.split("+")}
        declared = {f"{one}=={number}" for one, number in model.distributions.items()}
        assert held <= mine or strange <= declared, f"{model} from {zygote} with {held}"
        self.helped += bool(held) and kind is StartKind.HELPED
        self.crossed += bool(held) and model.tenant not in self.tenants[zygote]

    def step(self):
        self.now_s += self.random.choice((0.0, 0.1, 3.0, 40.0))
        roll = self.random.random()
        if roll < 0.2 or not self.models:
            count = self.random.choice((0, 1, 1, 1, 2))
            known = NAMES if self.random.random() < 0.6 else sorted(TRUSTED)
            pins = {one: self.random.choice("1111112") for one in self.random.sample(known, min(count, len(known)))}
            name, tenant = f"f{self.random.randint(0, 9)}", self.random.choice(("red", "blue", "green", "grey"))
            chosen = self.random.choice(("", *policies.POLICIES)) if isinstance(self.policy, PerFunction) else ""
            self.models[name] = function(name, pins, tenant, TRUSTED, f"v{next(self.numbers)}", chosen)
            self.chosen.setdefault(tenant, set()).add(self.models[name].environment or "")
            self.do(self.planner.put_function(self.models[name], self.now_s))
        elif roll < 0.25:
            name = self.random.choice(sorted(self.models))
            del self.models[name]
            self.do(self.planner.remove_function(name, self.now_s))
        elif roll < 0.35:
            self.do(self.planner.tick(self.now_s))
            self.do(self.pools.tick(self.now_s))
        elif roll < 0.38 and self.alive:
            zygote = self.random.choice(sorted(self.alive))
            self.alive.discard(zygote)
            refused = self.random.random() < 0.5
            died = ZygoteDied(zygote=zygote, reason="it left a thread" if refused else "killed", is_refused=refused)
            self.do(self.planner.died(died, self.now_s))
        else:
            name = self.random.choice(sorted(self.models))
            with contextlib.suppress(PoolExhaustedError):
                self.do(self.pools.request(f"r{next(self.numbers)}", name, self.now_s))


def policy_of(name, seed):
    settings = PolicySettings(
        seed=seed,
        idle_first_s=2.0,
        zygotes_per_function=2,
        keep_alive_s=20.0,
        price_ms_per_mb_s=1e-6,
        period_s=64.0,
        cache_packages=1 + seed % 4,
    )
    if name == "per-function":
        return PerFunction(settings, [RUNTIME], "adaptive", lambda one: policies.make(one, settings, [RUNTIME]))
    return policies.make(name, settings, [RUNTIME])


@pytest.mark.parametrize("name", [*policies.POLICIES, "per-function"])
def test_whatever_happens_no_function_comes_from_a_zygote_that_may_not_help_it(name):
    helped = crossed = 0
    for seed in range(200):
        world = World(Random(f"{name}/{seed}"), policy_of(name, seed))
        world.do(world.planner.plan(0.0))
        for _ in range(40):
            world.step()
        helped, crossed = helped + world.helped, crossed + world.crossed
    if name not in ("keepalive", "prewarm"):
        assert helped and crossed, "else this test has seen nothing"


ENVIRONMENT = Environment(
    id="e",
    runtime=RUNTIME,
    distributions=(Distribution("numpy", "1"), Distribution("own", "1")),
    layers={"numpy": "n" * 64, "own": "o" * 64},
)


def test_the_operators_word_is_for_the_index_s_files_only():
    assert trust.untrusted(ENVIRONMENT, {"numpy"}) == {"o" * 64}
    foreign = Environment(**{**vars_of(ENVIRONMENT), "foreign": ("numpy",)})
    assert trust.untrusted(foreign, {"numpy"}) == {"n" * 64, "o" * 64}, "a user's own wheel of that name"
    old = Environment(**{**vars_of(ENVIRONMENT), "layers": {}})
    assert trust.untrusted(old, {"numpy"}) == {"e/numpy", "e/own"}, "nobody knows which files it has"


def vars_of(environment):
    return {name: getattr(environment, name) for name in environment.__struct_fields__}


@pytest.mark.parametrize(
    ("packages", "tenants", "own", "allowed"),
    [
        (set(), (), set(), True),
        ({"a"}, ("red",), set(), True),
        ({"a"}, ("blue",), {"a"}, True),
        ({"a"}, ("blue",), {"a", "b"}, True),
        ({"a", "b"}, ("blue",), {"a"}, False),
        ({"a"}, (), set(), False),
    ],
)
def test_the_rule(packages, tenants, own, allowed):
    assert trust.may_help(packages, tenants, own=own, tenant="red") is allowed


WAYS = {
    "a zygote that covers it": {"environments": frozenset({"e"})},
    "a zygote that has a part": {"environments": frozenset({"other"}), "saves_ms": {"e": 5.0}},
    "a zygote that is meant for it": {"environments": frozenset({"other"}), "functions": frozenset({"f"})},
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_start_passes_the_rule_by(way):
    mechanism = Mechanism.FRESH if "meant" in way else Mechanism.FORK
    environment = None if "meant" in way else "e"
    for tenant, expected in (("red", "z"), ("blue", "base")):
        sources = Sources(mechanism)
        sources.add_zygote(LiveZygote("base", RUNTIME, frozenset()))
        packages = frozenset({"a", "b"})
        sources.add_zygote(LiveZygote("z", RUNTIME, **WAYS[way], tenants=frozenset({"red"}), packages=packages))
        model = FunctionModel("f", "v", RUNTIME, environment=environment, tenant=tenant, packages=frozenset({"a"}))
        assert sources.choose(model).zygote == expected


@pytest.mark.parametrize(("tenant", "expected"), [("red", "s"), ("blue", None)])
def test_a_standby_is_as_its_zygote(tenant, expected):
    sources = Sources(Mechanism.FORK)
    sources.add_zygote(LiveZygote("base", RUNTIME, frozenset()))
    packages = frozenset({"a", "b"})
    sources.add_zygote(LiveZygote("z", RUNTIME, frozenset({"e"}), tenants=frozenset({"red"}), packages=packages))
    sources.add_standby(Standby("s", "z", RUNTIME, "e"))
    model = FunctionModel("f", "v", RUNTIME, environment="e", tenant=tenant, packages=frozenset({"a"}))
    assert sources.choose(model).standby == expected
    sources.remove_zygote("z")
    assert sources.choose(model).standby is None, "nobody knows any more what it is a copy of"


def test_equal_versions_from_different_files_are_not_the_same_package():
    zygote = LiveZygote(
        "z", RUNTIME, frozenset({"e"}), tenants=frozenset({"blue"}), packages=frozenset({"numpy-of-blue"})
    )
    sources = Sources(Mechanism.FORK)
    sources.add_zygote(LiveZygote("base", RUNTIME, frozenset()))
    sources.add_zygote(zygote)
    sources.add_standby(Standby("s", "z", RUNTIME, "e"))
    model = FunctionModel("f", "v", RUNTIME, environment="e", tenant="red", packages=frozenset({"numpy-of-red"}))
    assert sources.choose(model).zygote == "base"
    assert sources.covering(model) == []


def test_a_zygote_of_a_former_gateway_that_is_not_known_whole_helps_its_tenants_only():
    zygote = LiveZygote("z", RUNTIME, frozenset({"e"}), tenants=frozenset({"blue"}), packages=None)
    sources = Sources(Mechanism.FORK)
    sources.add_zygote(zygote)
    for tenant, expected in (("blue", "z"), ("red", None)):
        model = FunctionModel("f", "v", RUNTIME, environment="e", tenant=tenant, packages=frozenset({"a"}))
        source = sources.choose(model)
        assert (source.zygote if source else None) == expected


def planned(*models):
    world = World(Random(0), policy_of("adaptive", 0))
    for model in models:
        world.models[model.name] = model
        world.chosen.setdefault(model.tenant, set()).add(model.environment)
    outs = [out for model in models for out in world.planner.put_function(model, 0.0)]
    outs += world.planner.plan(0.0)
    return world, [out for out in outs if isinstance(out, EnsureZygote) and out.environments]


def test_adaptive_makes_one_zygote_for_tenants_with_equal_packages_and_packs_it_with_nobody_elses():
    same = {"a": "1"}
    _, ensured = planned(function("f", same, "red"), function("g", same, "blue"), function("h", {"b": "1"}, "blue"))
    assert {one.environments: set(one.tenants) for one in ensured} == {
        ("a==1",): {"red", "blue"},
        ("b==1",): {"blue"},
    }


def test_adaptive_packs_what_everybody_trusts_for_all_tenants():
    models = [function("f", {"t1": "1"}, "red", TRUSTED), function("g", {"t2": "1"}, "blue", TRUSTED)]
    world, ensured = planned(*models)
    assert [one.environments for one in ensured] == [("t1==1", "t2==1")]
    world.do(ensured)
    assert world.pools.sources.choose(models[0]).kind is StartKind.HELPED
    _, ensured = planned(function("f", {"t1": "1"}, "red"), function("g", {"t2": "1"}, "blue"))
    assert len(ensured) == 2, "without the operator's word they are kept apart"


def refused_world(suspect, *, can_be_alone=False):
    models = [function(name, {name: "1"}) for name in "abc"]
    world, (ensured,) = planned(*models)
    refused = ZygoteFailed(
        zygote=ensured.zygote,
        phase="imports",
        message="left 1 process",
        is_refused=True,
        suspect=suspect,
        can_be_alone=can_be_alone,
    )
    return world, [out for out in world.planner.failed(refused, 1.0) if isinstance(out, EnsureZygote)]


def test_the_others_of_a_refused_zygote_get_one_without_its_environment():
    world, outs = refused_world("b")
    outs += [out for out in world.planner.tick(2.0) if isinstance(out, EnsureZygote)]
    assert [one.environments for one in outs] == [("a==1", "c==1")]
    world.do(outs)
    pool = world.pools._pools["b"]
    assert pool.spec.obstacle == "imports: left 1 process"
    assert [world.pools._pools[name].spec.obstacle for name in "ac"] == ["", ""]
    assert world.planner.quarantine.suspicion("b==1").ends_s == 601.0
    specs = [entry.spec for entry in world.planner.zygotes.entries.values() if entry.spec is not None]
    assert not any("b==1" in spec.environments for spec in specs)


def test_who_harms_only_the_others_of_a_zygote_gets_one_of_its_own():
    world, outs = refused_world("b", can_be_alone=True)
    assert sorted(one.environments for one in outs) == [("a==1", "c==1"), ("b==1",)]
    assert not world.planner.quarantine.kept_out
    world.do(outs)
    assert world.pools._pools["b"].spec.obstacle == ""
    assert world.pools.sources.choose(world.pools._pools["b"].spec).kind is StartKind.HELPED


def test_who_harms_the_others_is_kept_out_where_the_policy_cannot_part_them(monkeypatch):
    monkeypatch.setattr(Adaptive, "uncovered", Policy.uncovered)
    world, _ = refused_world("b", can_be_alone=True)
    assert world.planner.quarantine.suspicion("b==1").ends_s == 601.0


def test_who_was_refused_is_tried_again_after_growing_pauses():
    world, _ = refused_world("b")
    now_s, pauses = 1.0, []
    for _ in range(3):
        due_s = world.planner.quarantine.suspicion("b==1").ends_s
        pauses.append(due_s - now_s)
        tries = []
        now_s = due_s
        while not tries:
            assert now_s < due_s + 100.0, "it is never tried again"
            world.policy.arrived("b", now_s)
            outs = world.planner.tick(now_s)
            tries = [out for out in outs if isinstance(out, EnsureZygote) and "b==1" in out.environments]
            now_s += 1.0
        (tried,) = tries
        refused = ZygoteFailed(zygote=tried.zygote, phase="imports", message="again", is_refused=True, suspect="b")
        world.planner.failed(refused, now_s)
    assert pauses == [600.0, 1200.0, 2400.0]


def test_when_nobody_knows_who_it_was_they_come_back_one_by_one():
    world, outs = refused_world("")
    assert outs == []
    assert len(world.planner.quarantine.kept_out) == 3
    ends = sorted(one.ends_s for one in world.planner.quarantine.kept_out.values())
    assert ends == [121.0, 241.0, 361.0]
    back = []
    for now_s in (121.0, 122.0):
        back += [out for out in world.planner.tick(now_s) if isinstance(out, EnsureZygote) and out.environments]
    assert [one.environments for one in back] == [("a==1",)]
    late = ZygoteDied(zygote=back[0].zygote, reason="started a thread", is_refused=True)
    world.planner.died(late, 130.0)
    assert world.planner.quarantine.suspicion("a==1").ends_s == 730.0, "it was alone: it is known now"


def test_a_refused_zygote_is_not_made_again_by_itself():
    world, _ = refused_world("b")
    entry = next((e for e in world.planner.zygotes.entries.values() if e.state is ZygoteState.FAILED), None)
    assert entry is None or entry.retry_at_s is None
