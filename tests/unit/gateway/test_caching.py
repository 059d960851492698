"""Which distributions are worth caching, and how they fit into zygotes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduler.caching import Catalogue, Draft, modules_of, needed_by
from gateway.scheduler.policy import FunctionModel
from runtime.model import ImportCost

MIB = 1 << 20
COSTS = {"numpy": (100.0, 10), "pandas": (400.0, 30), "requests": (80.0, 8), "six": (1.0, 1)}
ROOM = 1 << 40


def function(name: str, *pins: str, tenant: str = "default", **more: object) -> FunctionModel:
    distributions = dict(pin.split("==") for pin in pins)
    costs = {each: COSTS.get(each, (10.0, 1)) for each in distributions}
    return FunctionModel(
        name,
        "v1",
        "python3.11",
        environment="+".join(sorted(pins)) or None,
        distributions=distributions,
        imports=tuple(distributions),
        costs={each: ImportCost(ms, size * MIB) for each, (ms, size) in costs.items()},
        tenant=tenant,
        **more,
    )


def chosen(catalogue: Catalogue, count: int = 10, room: int = ROOM) -> list[str]:
    return ["==".join(one.unit.pin) for one in catalogue.choose(count, room)]


def packed(catalogue: Catalogue, count: int = 10, zygotes: int = 10) -> list[Draft]:
    return catalogue.pack(catalogue.choose(count, ROOM), zygotes)


def test_modules_are_known_or_guessed_from_the_imports():
    model = function("f", "pyyaml==6", "typing-extensions==4", "setuptools==70")
    assert modules_of(model, "pyyaml") == ("pyyaml",)
    known = {"pyyaml": ("_yaml", "yaml"), "setuptools": ("_distutils_hack", "pkg_resources", "setuptools")}
    model = function("f", "pyyaml==6", "setuptools==70", modules=known)
    assert modules_of(model, "pyyaml") == ("yaml",)
    assert modules_of(model, "setuptools") == ("setuptools",)
    assert modules_of(function("f", "a-b==1"), "a-b") == ()
    assert modules_of(function("f"), "gone") == ()


def test_what_is_needed_is_followed_to_its_end():
    requires = {"pandas": ("numpy", "pytz", "absent"), "numpy": ("six",), "six": ("pandas",)}
    model = function("f", "pandas==2", "numpy==1", "six==1", "requests==2", requires=requires)
    assert needed_by(model, "pandas") == (("numpy", "1"), ("six", "1"))
    assert needed_by(model, "requests") == ()


def test_the_best_benefit_for_its_price_comes_first():
    # by MiB: pandas 40/3, numpy 10, requests 10: the names decide between those
    catalogue = Catalogue([(function("f", "numpy==1", "pandas==2", "requests==2"), 1.0)])
    assert chosen(catalogue) == ["pandas==2", "numpy==1", "requests==2"]
    assert chosen(catalogue, 1) == ["pandas==2"]
    more = [(function("f", "numpy==1", "pandas==2"), 1.0), (function("g", "numpy==1"), 1.0)]
    assert chosen(Catalogue(more))[0] == "numpy==1"


def test_what_was_never_used_or_costs_nothing_is_not_cached():
    assert chosen(Catalogue([(function("f", "numpy==1"), 0.0)])) == []
    free = FunctionModel("f", "v", "python3.11", "e", {"a": "1"}, ("a",), {"a": ImportCost(0.0, MIB)})
    assert chosen(Catalogue([(free, 5.0)])) == []


def test_what_does_not_fit_into_the_memory_makes_room_for_less():
    catalogue = Catalogue([(function("f", "numpy==1", "pandas==2"), 1.0)])
    assert chosen(catalogue, room=20 * MIB) == ["numpy==1"]
    assert chosen(catalogue, room=MIB) == []


def test_a_distribution_comes_with_what_it_needs_and_that_is_paid_once():
    model = function("f", "numpy==1", "pandas==2", requires={"pandas": ("numpy",)})
    (pandas,) = Catalogue([(model, 2.0)]).choose(5, ROOM)
    assert pandas.unit.needs == (("numpy", "1"),)
    assert (pandas.benefit_ms, pandas.memory_bytes) == (1000.0, 40 * MIB)
    catalogue = Catalogue([(model, 1.0), (function("g", "numpy==1"), 100.0)])
    numpy, pandas = catalogue.choose(5, ROOM)
    assert (numpy.unit.pin, pandas.unit.pin) == (("numpy", "1"), ("pandas", "2"))
    assert (pandas.benefit_ms, pandas.memory_bytes) == (400.0, 30 * MIB)
    (draft,) = catalogue.pack([numpy, pandas], 5)
    assert catalogue.modules(draft) == ["numpy", "pandas"]


def test_environments_that_have_a_cached_distribution_are_mounted():
    models = [
        function("f", "numpy==1"),
        function("g", "numpy==1", "six==1"),
        function("h", "requests==2"),
        function("i", "numpy==2"),
        function("none"),
    ]
    catalogue = Catalogue((model, 1.0 if model.name == "f" else 0.0) for model in models)
    (draft,) = packed(catalogue, 1)
    assert sorted(one.id for one in draft.environments) == ["numpy==1", "numpy==1+six==1"]
    assert catalogue.modules(draft) == ["numpy"]


def test_conflicting_versions_get_a_zygote_each():
    catalogue = Catalogue([(function("f", "numpy==1"), 2.0), (function("g", "numpy==2"), 1.0)])
    first, second = packed(catalogue)
    assert [one.id for one in first.environments] == ["numpy==1"]
    assert [one.id for one in second.environments] == ["numpy==2"]
    assert len(packed(catalogue, zygotes=1)) == 1
    assert packed(catalogue, zygotes=0) == []


def test_what_is_cached_is_always_mounted():
    models = [(function("f", "numpy==1", "six==1"), 2.0), (function("g", "requests==2", "six==2"), 1.0)]
    drafts = packed(Catalogue(models), 3)
    assert [("numpy", "1") in draft.cached for draft in drafts] == [True, False]
    assert [("requests", "2") in draft.cached for draft in drafts] == [False, True]
    assert all(draft.cached <= draft.mounted.versions.items() for draft in drafts)


def test_tenants_share_no_zygote():
    models = [(function("f", "numpy==1"), 1.0), (function("g", "numpy==1", tenant="t2"), 1.0)]
    assert [draft.environments[0].functions for draft in packed(Catalogue(models))] == [["f"], ["g"]]


_pins = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("12"), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_pins, st.integers(0, 5)), max_size=8), st.integers(0, 6))
def test_zygotes_never_conflict_and_hold_what_they_import(rows, count):
    models = [(function(f"f{n}", *(f"{k}=={v}" for k, v in pins.items())), uses) for n, (pins, uses) in enumerate(rows)]
    catalogue = Catalogue(models)
    drafts = packed(catalogue, count)
    by_id = {model.environment: model for model, _ in models}
    mounted = [one.id for draft in drafts for one in draft.environments]
    for draft in drafts:
        pins = {pin for one in draft.environments for pin in by_id[one.id].distributions.items()}
        assert len({name for name, _ in pins}) == len(pins)
        assert draft.cached <= pins
    assert len(catalogue.choose(count, ROOM)) <= count
    assert set(mounted) <= set(by_id)
