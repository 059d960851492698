import json

import pytest

from gateway.simulate import profile
from runtime.errors import ConfigError
from tests.unit.gateway.simulate.worlds import BARE, BOTH, REQUESTS
from tests.unit.gateway.simulate.worlds import profile as known


def test_a_profile_is_read_as_it_was_written():
    assert profile.decode(profile.encode(known()), "here") == known()


def test_the_profile_that_comes_with_pagurus_has_the_applications_functions():
    found = profile.read(None)
    assert len(found.functions) == 38
    assert sum(bool(function.distributions) for function in found.functions.values()) == 13
    for function in found.functions.values():
        assert bool(function.imports) == bool(function.distributions)
        assert function.helped_memory_bytes > 0


def test_another_format_is_refused():
    document = json.loads(profile.encode(known())) | {"format": 99}
    with pytest.raises(ConfigError, match="has format 99, this simulator reads 1"):
        profile.decode(json.dumps(document).encode(), "old.json")


def test_what_is_no_profile_is_refused_with_the_program_that_writes_one(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"format": 1}')
    with pytest.raises(ConfigError, match="scripts/bench/profile writes one"):
        profile.read(path)
    with pytest.raises(ConfigError, match="No such file"):
        profile.read(tmp_path / "absent.json")


def test_costs_of_distributions_that_a_function_does_not_have_are_refused():
    document = json.loads(profile.encode(known()))
    document["functions"]["bare"]["costs"] = {"numpy": {"ms": 1.0, "memory_bytes": 1}}
    with pytest.raises(ConfigError, match=r"bare .*numpy"):
        profile.decode(json.dumps(document).encode(), "here")


def test_an_import_that_was_not_measured_is_refused():
    document = json.loads(profile.encode(known()))
    del document["functions"]["requests"]["brought"]["requests"]
    with pytest.raises(ConfigError, match=r"requests .*: nothing is known of requests"):
        profile.decode(json.dumps(document).encode(), "here")


def test_a_function_of_a_runtime_that_was_not_measured_is_refused():
    document = json.loads(profile.encode(known()))
    document["functions"]["bare"]["runtime"] = "python3.13"
    with pytest.raises(ConfigError, match=r"python3\.13, which is not in it"):
        profile.decode(json.dumps(document).encode(), "here")


def test_a_model_has_the_costs_and_equal_locks_have_one_environment():
    model = REQUESTS.model("r")
    assert model.import_ms == 50.0
    assert model.imports == ("requests",)
    assert model.environment == REQUESTS.model("other").environment != BOTH.model("r").environment
    assert BARE.model("b").environment is None
