"""docs/security.md names the attacks that are carried out, and tests that exist."""

import re
from pathlib import Path

from tests.integration_root.attacks import protocol, resources, stage
from tests.integration_root.attacks.attacker import ATTACKS, NOT_RUN
from tests.integration_root.attacks.bundles import BUNDLES

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/security.md").read_text()
HTTP = (resources, protocol)


def _rows() -> dict[str, list[str]]:
    """Rows of the tables of attacks: name -> the other cells."""
    tables = TEXT.partition("\n## Attacks\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in tables.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells if row[0] != "attack" and not row[0].startswith("---")}


def test_the_documented_attacks_are_those_of_the_tests():
    assert set(_rows()) == set(ATTACKS) | set(BUNDLES)
    assert len(ATTACKS) >= 60


def test_each_attack_is_told_with_its_ways_its_gain_and_what_holds_it():
    rows = _rows()
    over_http = {one.name for module in HTTP for one in stage.of(module)}
    for one in ATTACKS.values():
        ways = "H E" if one.name in over_http or one.at_import == NOT_RUN else "H E I"
        assert rows[one.name][:2] == [ways, one.gain] and len(rows[one.name][2]) > 5, one.name
    for bundle in BUNDLES.values():
        assert rows[bundle.name][:2] == ["D", bundle.gain] and len(rows[bundle.name][2]) > 5, bundle.name


def test_the_tests_that_are_named_exist():
    named = re.findall(r"`((?:unit|e2e|integration_root)/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 10
    for path, test in named:
        source = (ROOT / "tests" / path).read_text()
        assert not test or f"def {test}(" in source, f"{path}::{test}"
