"""Settings of an operator: the file, the variables, the options of policies. Not hostile, but often wrong."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies import make_policy
from runtime import config
from runtime.config import Settings
from runtime.errors import ConfigError
from tests.unit.fuzz.fuzzing import DEEP, JSON, examples, mutations, ours

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long examples
NAMES = st.sampled_from(sorted(Settings.__struct_fields__))
WORDS = st.sampled_from(
    ["127.0.0.1:8080", "[::1]:0", ":", "127.0.0.1:²", "0x7f:1", "1e999", "nan", "-1", "true", "[]", "{", "/a", "\0", ""]
)
FILE = b'listen = "127.0.0.1:9000"\nsandboxes_max = 200\n[policy_options]\nkeep_alive_s = 5\n'


@examples(150)
@given(st.dictionaries(NAMES, st.one_of(WORDS, st.text(max_size=20)), max_size=4))
def test_variables_are_settings_or_a_config_error(values: dict[str, str]):
    environ = {f"PAGURUS_{name.upper()}": value for name, value in values.items()}
    ours(lambda: config.load(Path("/dev/null"), environ), ConfigError)


@examples(100)
@given(st.one_of(mutations(FILE), DEEP))
def test_a_file_is_settings_or_a_config_error(data: bytes):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        ours(lambda: config.load(Path(file.name), {}), ConfigError)


@examples(60)
@given(st.one_of(DEEP, mutations(b'{"keep_alive_s": 5}')))
def test_policy_options_in_a_variable_are_an_object_or_a_config_error(data: bytes):
    environ = {"PAGURUS_POLICY_OPTIONS": data.decode(errors="surrogateescape")}
    ours(lambda: config.load(Path("/dev/null"), environ), ConfigError)


OPTIONS = st.sampled_from(["keep_alive_s", "zygotes_max", "choice", "seed", "standbys", "idle_window", "unknown"])


@examples(100)
@given(
    st.dictionaries(OPTIONS, JSON, max_size=3), st.sampled_from(["adaptive", "pagurus", "sock", "keepalive", "prewarm"])
)
def test_policy_options_make_a_policy_or_a_config_error(options: dict[str, Any], policy: str):
    settings = msgspec.structs.replace(Settings(), policy=policy, policy_options=options)
    # Half a character is in no TOML and no JSON.
    ours(lambda: make_policy(settings, ["python3.11"]), ConfigError, UnicodeEncodeError)
