"""Settings: where they come from, which wins, and what is said when one is wrong."""

import itertools
from pathlib import Path

import pytest

from runtime import config
from runtime.config import Settings
from runtime.errors import ConfigError


@pytest.fixture(autouse=True)
def no_file_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_CONFIG_PATH", tmp_path / "none.toml")


def test_the_defaults_are_accepted():
    assert config.load(None, {}) == Settings()


def test_file_variables_and_overrides_in_rising_order(tmp_path: Path):
    file = tmp_path / "pagurus.toml"
    file.write_text('sandboxes_max = 1\nzygotes_max = 1\nbuilds_at_once = 1\nlisten = "127.0.0.1:1"\n')
    environ = {"PAGURUS_ZYGOTES_MAX": "2", "PAGURUS_BUILDS_AT_ONCE": "2", "PAGURUS_UNRELATED": "x", "OTHER": "y"}
    found = config.load(file, environ, {"builds_at_once": 3, "drain_s": None})
    assert (found.sandboxes_max, found.zygotes_max, found.builds_at_once) == (1, 2, 3)
    assert found.listen == "127.0.0.1:1" and found.drain_s == Settings().drain_s


def test_the_default_file_may_be_missing_and_a_named_one_may_not(tmp_path: Path):
    config.load(None, {})
    with pytest.raises(ConfigError, match="no settings file"):
        config.load(tmp_path / "named.toml", {})
    (tmp_path / "none.toml").write_text("drain_s = 1.5\n")
    assert config.load(None, {}).drain_s == 1.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unknown = 1\n", "unknown"),
        ("sandboxes_max = 'many'\n", "sandboxes_max"),
        ("sandboxes_max = 0\n", "at least 1"),
        ("zygotes_max = -1\n", "at least 1"),
        ("listen = '127.0.0.1'\n", "HOST:PORT"),
        ("listen = '127.0.0.1:99999'\n", "HOST:PORT"),
        ("listen = ':80'\n", "HOST:PORT"),
        ("listen = 'example.com:80'\n", "not an IP address"),
        ("auth = 'never'\n", "auto or always"),
        ("state_dir = 'relative'\n", "absolute"),
        ("state_dir = '/a:b'\n", "without ':'"),
        ("run_dir = '/a,b'\n", "without ':'"),
        ("uid_base = 1000\n", "uid_base"),
        ("uid_base = 2147483000\n", "uid_base"),
        ("log_level = 'loud'\n", "log_level"),
        ("[section]\nx = 1\n", "section"),
        ("not toml", "cannot read"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, words: str):
    file = tmp_path / "pagurus.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(file, {})
    assert words in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    file = tmp_path / "pagurus.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(file, {})


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.9.1:80", "[::1]:8080", "localhost:1"])
def test_loopback_addresses_are_accepted(listen: str):
    host, port = config.listen_address(config.load(None, {}, {"listen": listen}))
    assert "[" not in host and port == int(listen.rpartition(":")[2])


def test_every_setting_can_be_given_as_a_variable():
    defaults = {name: getattr(Settings(), name) for name in Settings.__struct_fields__}
    texts = {name: " ".join(value) if isinstance(value, tuple) else str(value) for name, value in defaults.items()}
    assert config.load(None, {f"PAGURUS_{name.upper()}": text for name, text in texts.items()}) == Settings()


def test_lists_and_truths_in_variables_are_as_in_the_file(tmp_path: Path):
    file = tmp_path / "pagurus.toml"
    file.write_text('extra_index_urls = ["https://a.test", "https://b.test"]\nurl_requirements = true\n')
    environ = {"PAGURUS_EXTRA_INDEX_URLS": " https://a.test  https://b.test ", "PAGURUS_URL_REQUIREMENTS": "true"}
    found = config.load(None, environ)
    assert found == config.load(file, {})
    assert (found.extra_index_urls, found.url_requirements) == (("https://a.test", "https://b.test"), True)


def test_what_is_public_holds_no_password_of_an_index():
    secret = "https://user:secret@index.test"
    shown = config.public(config.load(None, {}, {"index_url": secret, "extra_index_urls": [secret]}))
    assert set(shown) == set(Settings.__struct_fields__)
    assert "secret" not in str(shown)


def test_names_of_settings_say_their_unit():
    units = ("_s", "_bytes", "_max", "_percent")
    defaults = {name: getattr(Settings(), name) for name in Settings.__struct_fields__}
    numbers = [n for n, value in defaults.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    plain = [name for name in numbers if not name.endswith(units)]
    counts = (
        "uid_base",
        "standbys_per_zygote",
        "shells_per_zygote",
        "function_concurrency",
        "queue_per_function",
        "connections_per_address",
    )
    assert set(plain) <= {*counts, "archive_entries", "builds_at_once", "records_kept", "connections_per_address"}
    assert not list(itertools.filterfalse(str.islower, Settings.__struct_fields__))


@pytest.mark.parametrize("low, critical", [(4, 8), (101, 4), (8, -1)])
def test_thresholds_of_memory_that_make_no_sense_are_refused(low: float, critical: float):
    with pytest.raises(ConfigError, match="memory_low_percent"):
        config.load(None, {}, {"memory_low_percent": low, "memory_critical_percent": critical})


@pytest.mark.parametrize("wrong", [{"sdist_timeout_s": 0}, {"sdist_memory_bytes": 1024}])
def test_limits_of_sdists_that_no_build_can_keep_are_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        config.load(None, {}, wrong)
