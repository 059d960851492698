"""Weighted choice by hashes."""

import random

import pytest

from gateway.scheduler.choosing import weighted_sample

NAMES = [f"f{number}" for number in range(20)]


def test_equal_seeds_choose_alike_in_any_order_and_others_differ():
    shuffled = random.Random(1).sample(NAMES, len(NAMES))
    assert weighted_sample(NAMES, 5, len, "s") == weighted_sample(shuffled, 5, len, "s")
    assert len({tuple(weighted_sample(NAMES, 5, len, seed)) for seed in "abcdef"}) == 6


def test_no_name_twice_and_never_more_than_there_are():
    assert sorted(weighted_sample(NAMES, 50, len, "s")) == sorted(NAMES)
    assert weighted_sample(NAMES, 0, len, "s") == weighted_sample([], 3, len, "s") == []


def test_a_new_name_changes_the_luck_of_no_other():
    before = weighted_sample(NAMES, 20, len, "s")
    after = weighted_sample([*NAMES, "new"], 21, len, "s")
    assert [name for name in after if name != "new"] == before


@pytest.mark.parametrize("heavy", [1.0, 3.0, 9.0])
def test_chances_are_in_proportion_to_weights(heavy: float):
    rounds = 2000
    weights = {"heavy": heavy, "a": 1.0, "b": 1.0}
    won = sum(weighted_sample(list(weights), 1, weights.__getitem__, str(n)) == ["heavy"] for n in range(rounds))
    chance = heavy / (heavy + 2)
    assert won / rounds == pytest.approx(chance, abs=4 * (chance * (1 - chance) / rounds) ** 0.5)
