"""Unions never hold two versions, whatever the order; similarity is the cosine."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scheduler.unions import Union, cosine, most_similar, union_of

_pins = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("12"), max_size=5).map(
    lambda d: frozenset(d.items())
)
_candidates = st.dictionaries(st.sampled_from([f"f{number}" for number in range(12)]), _pins)


def pins(*lines: str) -> frozenset[tuple[str, str]]:
    return frozenset(tuple(line.split("==")) for line in lines)


def test_a_union_takes_what_it_has_and_what_it_lacks_but_no_other_version():
    union = Union(pins("a==1"))
    assert union.takes(pins("a==1", "b==2"))
    assert not union.takes(pins("b==2", "a==2"))
    assert union.takes(())
    union.add(pins("b==2"))
    assert not union.takes(pins("b==3"))
    assert union.versions == {"a": "1", "b": "2"}


def test_a_union_does_not_grow_above_the_limit():
    union = Union(pins("a==1", "b==1"))
    assert union.takes(pins("a==1", "c==1"), 3)
    assert not union.takes(pins("a==1", "c==1", "d==1"), 3)
    assert union.takes(pins("a==1", "b==1"), 2)
    candidates = {"large": pins("a==1", "x==1", "y==1"), "small": pins("z==1")}
    assert [name for name, _ in most_similar(pins("a==1"), candidates, 5, distributions_max=2)] == ["small"]


def test_a_union_does_not_change_what_it_was_made_from():
    own = {"a": "1"}
    Union(own.items()).add(pins("b==1"))
    assert own == {"a": "1"}


def test_two_versions_are_a_programmers_error():
    with pytest.raises(AssertionError):
        union_of([pins("a==1"), pins("a==2")])


def test_cosine():
    a, b, c = frozenset({("a", "1")}), frozenset({("b", "1")}), frozenset({("c", "1")})
    assert cosine(a, a) == 1.0
    assert cosine(a, b) == 0.0
    assert cosine(a | b, b | c) == pytest.approx(0.5)
    assert cosine(a, a | b | c) == pytest.approx(1 / math.sqrt(3))
    assert cosine(a, frozenset({("a", "2")})) == 0.0


def test_no_packages_are_like_everything_but_nothing_is_like_them():
    some = frozenset({("a", "1")})
    assert cosine(frozenset(), some) == cosine(frozenset(), frozenset()) == 1.0
    assert cosine(some, frozenset()) == 0.0


def test_the_most_similar_come_first_and_conflicts_are_left_out():
    own = pins("a==1", "b==1")
    candidates = {
        "far": pins("x==1"),
        "equal": pins("a==1", "b==1"),
        "half": pins("a==1"),
        "other": pins("a==2", "b==1"),
        "wide": pins("a==1", "x==2"),
    }
    chosen = most_similar(own, candidates, 10)
    assert [name for name, _ in chosen] == ["equal", "half", "wide"]  # wide has shut far out
    assert [round(similarity, 3) for _, similarity in chosen] == [1.0, 0.707, 0.5]
    assert [name for name, _ in most_similar(own, candidates, 1)] == ["equal", "half"], "an equal one is no more"
    assert most_similar(own, candidates, 0) == []


def test_equally_similar_ones_are_ordered_by_the_salt():
    candidates = {f"f{number}": pins("a==1") for number in range(20)}
    orders = {tuple(name for name, _ in most_similar(pins(), candidates, 5, salt=salt)) for salt in "abcd"}
    assert len(orders) == 4


@settings(max_examples=50, deadline=None)
@given(_pins, _candidates, st.integers(0, 12), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(own, candidates, limit, dice):
    shuffled = list(candidates.items())
    dice.shuffle(shuffled)
    assert most_similar(own, candidates, limit, salt="s") == most_similar(own, dict(shuffled), limit, salt="s")


@settings(max_examples=50, deadline=None)
@given(_pins, _candidates, st.integers(0, 12))
def test_no_union_has_two_versions_and_none_is_left_out_for_nothing(own, candidates, limit):
    chosen = [name for name, _ in most_similar(own, candidates, limit)]
    union = union_of([own, *(candidates[name] for name in chosen)])
    assert len(chosen) == len(set(chosen))
    assert len({candidates[name] for name in chosen} - {own}) <= limit
    for one in (own, *(candidates[name] for name in chosen)):
        assert one <= union.versions.items()
    if len({candidates[name] for name in chosen} - {own}) < limit:
        assert not any(union.takes(candidates[name]) for name in set(candidates) - set(chosen))
