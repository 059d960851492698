"""The AWS applications of the benchmarks: the form of the pins' file, and what the loader makes of both."""

import ast
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

from rootfs_builder.requirements import parse
from runtime.model import FUNCTION_NAME_PATTERN

LIB = Path(__file__).resolve().parents[3] / "scripts/bench/lib"
_spec = importlib.util.spec_from_file_location("bench_aws_apps", LIB / "aws_apps.py")
assert _spec and _spec.loader
aws_apps = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = aws_apps
_spec.loader.exec_module(aws_apps)

APPLICATIONS = {
    "cost report": {
        "cer_lambda": {
            "start_offset_s": 0,
            "duration_s": 0.2,
            "packages": {"requests": "2.25.1", "pandas": "0.24.2", "numpy": "1.16.6"},
        },
        "other": {"start_offset_s": 1, "duration_s": 0.3, "packages": {}},
    },
    "files": {
        "fp_conversion": {"start_offset_s": 0, "duration_s": 0.1, "packages": {"markdown": "3.1.1"}},
        "encrypt": {"start_offset_s": 0, "duration_s": 0.1, "packages": {"dynamodb-encryption-sdk": "2.0.0"}},
    },
}


@pytest.fixture
def functions(tmp_path: Path):
    (tmp_path / "applications.json").write_text(json.dumps(APPLICATIONS))
    return {each.name: each for each in aws_apps.load(tmp_path / "applications.json")}


@pytest.mark.parametrize("runtime", aws_apps.RUNTIMES)
def test_each_entry_replaces_a_pin_or_adds_one_and_says_why(runtime: str):
    substitutes, _ = aws_apps.read_pins(aws_apps.PINS, runtime)
    keys = [(each.name, each.before, function) for each in substitutes for function in each.functions]
    assert len(set(keys)) == len(keys), "two entries for one pin"
    for each in substitutes:
        assert each.functions and each.to
        assert each.before or each.functions != ("*",), "what is added is added to named functions"
        assert f"{each.name}=={each.before}" not in each.to
        assert len(parse("\n".join(each.to))) == len(each.to)
        assert each.why.endswith(".") and each.why.count(". ") == 0 and len(each.why) > 20


def test_pins_are_replaced_kept_and_added(functions):
    assert functions["cer_lambda"].requirements == ("requests==2.25.1", "pandas==1.5.0", "numpy==1.23.2")
    assert functions["fp_conversion"].requirements == ("markdown==3.1.1", "setuptools==81.0.0")
    assert functions["other"].requirements == ()
    assert functions["other"].duration_s == 0.3


def test_a_runtime_without_a_table_is_refused(tmp_path: Path):
    (tmp_path / "applications.json").write_text(json.dumps(APPLICATIONS))
    with pytest.raises(ValueError, match=r"no pins for python3\.12"):
        aws_apps.load(tmp_path / "applications.json", "python3.12")


def test_modules_are_those_of_the_pinned_packages(functions):
    assert functions["cer_lambda"].modules == ("requests", "pandas", "numpy")
    assert functions["fp_conversion"].modules == ("markdown",)
    assert functions["encrypt"].modules == ("dynamodb_encryption_sdk",)


def test_the_source_imports_at_its_top_and_takes_the_time_that_it_is_told(functions):
    tree = ast.parse(functions["cer_lambda"].source())
    imported = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["time", "requests", "pandas", "numpy"]
    for mode in ("sleep", "compute"):
        names: dict = {}
        exec(functions["other"].source("a note"), names)
        assert names["DURATION_S"] == 0.3
        answer = names["main"]({"duration_s": 0, "mode": mode})
        assert answer == {"function": "other", "duration_s": 0.0}


def test_another_note_is_another_archive_and_names_can_be_deployed(functions):
    function = functions["fp_conversion"]
    assert function.archive("1") == function.archive("1") != function.archive("2")
    with tarfile.open(fileobj=io.BytesIO(function.archive())) as tar:
        assert tar.getnames() == ["main.py", "requirements.txt"]
    assert FUNCTION_NAME_PATTERN.fullmatch(function.deployed_name)
