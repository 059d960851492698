import pytest

from gateway.scheduler.sources import Mechanism
from gateway.simulate.costs import Costs, StartCost
from runtime.model import StartKind
from runtime.protocol import EnsureZygote
from tests.unit.gateway.simulate.worlds import BOTH, FUNCTIONS, MB, REQUESTS, RUNTIME, runtime


def costs(mechanism=Mechanism.FORK):
    return Costs({RUNTIME: runtime()}, FUNCTIONS, mechanism)


def zygote(known, *profiles, imports=()):
    environments = tuple(one.environment for one in profiles)
    wanted = EnsureZygote(zygote="z", runtime=RUNTIME, environments=environments, imports=imports)
    return known.zygote(wanted, is_base=not profiles)


def test_a_zygote_that_caches_what_an_import_needs_saves_only_that():
    known = costs()
    cache = zygote(known, REQUESTS, imports=("urllib3",))
    assert (cache.start_ms, cache.memory_bytes) == (100 + 30, 12 * MB)
    found = known.start("requests", cache, is_pooled=False)
    assert found == StartCost(StartKind.COLD, pytest.approx(4 + 20 + 1), 6 * MB)


def test_what_a_zygote_has_imported_helps_only_environments_that_it_has():
    known = costs()
    found = known.start("both", zygote(known, REQUESTS, imports=("requests",)))
    assert found == StartCost(StartKind.COLD, pytest.approx(3 + 150 + 1), 30 * MB)


def test_modules_are_told_with_what_each_adds():
    found = zygote(costs(), BOTH, imports=("urllib3", "requests", "numpy", "unknown"))
    assert found.import_ms == {"urllib3": 30.0, "requests": 20.0, "numpy": 100.0, "unknown": 0.0}
    assert found.brought == {"urllib3", "requests", "numpy"}


@pytest.mark.parametrize(
    ("name", "is_standby", "kind", "ms"),
    [
        ("bare", True, StartKind.HELPED, 1),
        ("bare", False, StartKind.HELPED, 3),
        ("requests", True, StartKind.COLD, 1 + 51),
        ("requests", False, StartKind.COLD, 3 + 51),
    ],
)
def test_starts_from_the_base_zygote(name, is_standby, kind, ms):
    known = costs()
    found = known.start(name, zygote(known), is_standby=is_standby)
    assert (found.kind, found.ms) == (kind, pytest.approx(ms))


@pytest.mark.parametrize(
    ("name", "is_standby", "kind", "ms"),
    [
        ("bare", True, StartKind.HELPED, 1),
        ("bare", False, StartKind.COLD, 20),
        ("requests", True, StartKind.COLD, 1 + 51),
        ("requests", False, StartKind.COLD, 20 + 51),
    ],
)
def test_starts_without_a_base_zygote(name, is_standby, kind, ms):
    known = costs(Mechanism.FRESH)
    found = known.start(name, zygote(known), is_standby=is_standby)
    assert (found.kind, found.ms) == (kind, pytest.approx(ms))
    assert found.memory_bytes == FUNCTIONS[name].cold_memory_bytes + 5 * MB


def test_stem_cells_take_the_boot_of_an_interpreter():
    for mechanism, ms, held in ((Mechanism.FORK, 15.0, 1 * MB), (Mechanism.FRESH, 20.0, 5 * MB)):
        known = costs(mechanism)
        assert (known.standby_ms(zygote(known)), known.standby_bytes(zygote(known))) == (ms, held)
        package = zygote(known, REQUESTS, imports=("requests",))
        assert (known.standby_ms(package), known.standby_bytes(package)) == (15.0, 1 * MB)
