"""The file of tokens: digests only, private, changed whole."""

import hashlib
from pathlib import Path

import pytest

from runtime import tokens
from runtime.config import Settings
from runtime.errors import ConfigError
from runtime.tokens import Role


def test_a_token_is_kept_as_its_digest_only(tmp_path: Path):
    path = tmp_path / "tokens.json"
    text = tokens.create(path, "ci", role=Role.INVOKE, functions=["greet"], expires_s=5.0)
    assert text.startswith("pgs_") and len(text) >= 46
    assert path.stat().st_mode & 0o7777 == 0o600 and text.encode() not in path.read_bytes()
    (kept,) = tokens.load(path)
    assert kept.sha256 == hashlib.sha256(text.encode()).hexdigest() == tokens.digest(text)
    assert (kept.name, kept.role, kept.functions) == ("ci", Role.INVOKE, ("greet",))
    assert kept.is_live(4.9) and not kept.is_live(5.0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens.json"]


def test_tokens_come_and_go_by_name(tmp_path: Path):
    path = tmp_path / "tokens.json"
    assert tokens.load(path) == () and tokens.stamp(path) == (0, 0, 0)
    first = tokens.create(path, "a", role=Role.ADMIN)
    stamp = tokens.stamp(path)
    assert tokens.create(path, "b", role=Role.ADMIN) != first and tokens.stamp(path) != stamp
    with pytest.raises(ConfigError, match="already"):
        tokens.create(path, "a", role=Role.ADMIN)
    tokens.remove(path, "a")
    assert [one.name for one in tokens.load(path)] == ["b"]
    with pytest.raises(ConfigError, match="no token"):
        tokens.remove(path, "a")


@pytest.mark.parametrize("name", ["", " ", "-a", "a b", "a\n", "x" * 64, "ä"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="name"):
        tokens.create(tmp_path / "tokens.json", name, role=Role.ADMIN)


def test_functions_are_for_invoke_only_and_the_file_is_bounded(tmp_path: Path):
    path = tmp_path / "tokens.json"
    with pytest.raises(ConfigError, match="invoke"):
        tokens.create(path, "a", role=Role.ADMIN, functions=["greet"])
    with pytest.raises(ConfigError, match="more than"):
        tokens.create(path, "a", role=Role.INVOKE, functions=["f" * 60] * 2000)
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_use_is_refused_with_the_fix(tmp_path: Path, mode: int):
    path = tmp_path / "tokens.json"
    tokens.create(path, "a", role=Role.ADMIN)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        tokens.load(path)
    assert "chmod 0600" in caught.value.hint


def test_a_link_and_rubbish_are_refused(tmp_path: Path):
    path = tmp_path / "tokens.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot read"):
        tokens.load(path)
    path.unlink()
    for text in ("", "{}", '{"tokens": [{"name": "a"}]}', "\xff"):
        path.write_text(text, encoding="latin-1")
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="damaged"):
            tokens.load(path)


def test_off_loopback_nothing_starts_without_a_valid_token(tmp_path: Path):
    path = tmp_path / "tokens.json"
    for listen in ("0.0.0.0:80", "[::]:80", "192.0.2.1:80"):
        with pytest.raises(ConfigError, match="without credentials") as caught:
            tokens.require(Settings(listen=listen), ())
        assert "pagurus token create" in caught.value.hint
    tokens.require(Settings(), ())
    with pytest.raises(ConfigError, match="always"):
        tokens.require(Settings(auth="always"), ())
    tokens.create(path, "old", role=Role.ADMIN, expires_s=1.0)
    with pytest.raises(ConfigError, match="credentials"):
        tokens.require(Settings(listen="0.0.0.0:80"), tokens.load(path))
    tokens.create(path, "new", role=Role.ADMIN)
    tokens.require(Settings(listen="0.0.0.0:80", auth="always"), tokens.load(path))
