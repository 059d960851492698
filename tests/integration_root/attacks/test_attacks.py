"""Each attack on neighbours, kernel, network and files fails in the way that its defence makes it fail."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration_root.attacks import stage
from tests.integration_root.attacks.attacker import NOT_RUN, Attack
from tests.node_bed import Bed, in_node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls are those of x86_64"),
]

Observed = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Observed:
    """What every attacker saw, and how the victim was after it: one node for all, which leaves nothing."""
    file: Path = tmp_path_factory.mktemp("attacks") / "observed.json"

    @in_node()
    async def scenario(bed: Bed) -> None:
        file.write_text(json.dumps(await stage.carry_out(bed)))

    scenario()
    found: Observed = json.loads(file.read_text())
    return found


def _rows() -> list[Any]:
    return [
        pytest.param(way, one, id=f"{target}-{one.name.replace(' ', '_')}-{way}")
        for target, module in stage.TARGETS.items()
        for one in stage.of(module)
        for way in stage.WAYS
        if way != "import" or one.at_import != NOT_RUN
    ]


@pytest.mark.parametrize(("way", "one"), _rows())
def test_an_attack_fails_as_expected_and_the_victim_has_not_noticed(observed: Observed, way: str, one: Attack):
    found = observed[way][one.name]
    assert found["seen"] == (one.at_import if way == "import" else one.seen)
    assert found["victim"] == ""


def test_no_attacker_reached_the_host(observed: Observed):
    assert "host" not in observed
