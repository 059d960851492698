import json

import pytest

from gateway.simulate import applications
from runtime.errors import ConfigError
from tests.unit.gateway.simulate.worlds import FUNCTIONS, profile


def test_functions_are_named_as_they_are_deployed(tmp_path):
    path = tmp_path / "applications.json"
    entry = {"start_offset_s": 1.6, "duration_s": 0.4, "packages": {"requests": "2.25.1"}}
    path.write_text(json.dumps({"shop": {"Ep_validate": entry}}))
    assert applications.read(path) == {"shop": (applications.Step("ep-validate", 1.6, 0.4),)}


def test_another_document_is_refused(tmp_path):
    path = tmp_path / "applications.json"
    path.write_text('{"shop": {"f": {"duration_s": 1}}}')
    with pytest.raises(ConfigError, match=r"is no applications.json: .*start_offset_s"):
        applications.read(path)
    path.write_text('{"shop": {"9": {"duration_s": 1, "start_offset_s": 0}}}')
    with pytest.raises(ConfigError, match="'9' is no name of a function"):
        applications.read(path)


def test_functions_that_were_not_measured_are_named_with_the_next_step():
    with pytest.raises(ConfigError, match=r"does not have x, y .run scripts/bench/profile"):
        applications.profiles_of(["bare", "y", "x"], profile())


def test_drawn_packages_come_from_the_seed():
    names = [f"f{number}" for number in range(30)]
    drawn = applications.draw_profiles(names, profile(), 1)
    assert drawn == applications.draw_profiles(reversed(names), profile(), 1)
    assert drawn != applications.draw_profiles(names, profile(), 2)
    assert all(one in FUNCTIONS.values() for one in drawn.values())
