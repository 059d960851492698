"""docs/configuration.md and the settings say the same."""

import re
from pathlib import Path

import msgspec
import pytest

from runtime.config import Settings

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
ROWS = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", PAGE.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("field", msgspec.structs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_a_row_with_its_default(field):
    assert field.name in ROWS, f"docs/configuration.md has no row for {field.name}"
    documented = ROWS[field.name].split(" ")[0].strip("`")
    if field.default in ("", ()) or field.default_factory is dict:
        assert documented == "empty"
    elif isinstance(field.default, bool):
        assert documented == str(field.default).lower()
    elif isinstance(field.default, str):
        assert documented == field.default
    else:
        assert float(documented) == field.default


def test_no_row_is_of_a_setting_that_is_gone():
    assert set(ROWS) == set(Settings.__struct_fields__)
