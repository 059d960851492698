"""What is stored where: adopting, discarding, clearing. With the caller as owner of all, and no child processes."""

import getpass
import os
from pathlib import Path

import msgspec
import pytest

from runtime.config import Settings
from runtime.errors import RequirementError, StartError
from runtime.layers import Layers
from runtime.model import Distribution, Environment

CODE = "c" * 64
ENV = "e" * 64


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layers:
    user = getpass.getuser()
    found = Layers(Settings(state_dir=str(tmp_path / "state"), gateway_user=user, builder_user=user))
    monkeypatch.setattr(Layers, "_make_skeleton", lambda self: Path(self._root / "skeleton" / "x"))
    monkeypatch.setattr(Layers, "empty_trash", lambda self: None)
    found.open()
    return found


def staged(layers: Layers, name: str = "build-1") -> Path:
    staging = layers.make_staging(name)
    (staging / "code").mkdir()
    (staging / "code" / "main.py").write_text("")
    (staging / "environment" / "fs").mkdir(parents=True)
    manifest = {
        **msgspec.to_builtins(
            Environment(id=ENV, runtime="python3.11", distributions=(Distribution("a", "1"),), imports=("a",))
        ),
        "lock": "a==1\n",
    }
    (staging / "environment" / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return staging


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_folders_have_the_modes_that_keep_others_out(layers: Layers, tmp_path: Path):
    state = tmp_path / "state"
    modes = {name: mode(state / name) for name in ("", "code", "environments", "trash", "staging", "store", "cache")}
    assert modes == {
        "": 0o711,
        "code": 0o700,
        "environments": 0o700,
        "trash": 0o700,
        "staging": 0o711,
        "store": 0o700,
        "cache": 0o700,
    }


def test_opening_again_mends_modes_and_keeps_what_is_there(layers: Layers, tmp_path: Path):
    layers.adopt_code(staged(layers) / "code", CODE)
    os.chmod(tmp_path / "state" / "code", 0o777)
    layers.open()
    assert mode(tmp_path / "state" / "code") == 0o700
    assert layers.code_lowers(CODE)


def test_a_missing_user_is_said_in_words(tmp_path: Path):
    layers = Layers(Settings(state_dir=str(tmp_path / "state"), gateway_user="no-such-user-here"))
    with pytest.raises(RequirementError, match="no-such-user-here"):
        layers.open()


def test_what_was_staged_is_adopted_under_its_id(layers: Layers):
    staging = staged(layers)
    layers.adopt_code(staging / "code", CODE)
    layers.adopt_environment(staging / "environment", ENV)
    code, empty = layers.code_lowers(CODE)
    assert (code / "main.py").is_file() and empty.name == "empty" and mode(code) == 0o755
    assert layers.has_environment(ENV)
    assert layers.environment(ENV).distributions == (Distribution("a", "1"),)
    assert layers.lock(ENV) == "a==1\n"
    assert [path.name for path in layers.environment_lowers([ENV, ENV])] == ["fs", "fs", "empty"]


def test_what_is_there_already_is_kept(layers: Layers):
    layers.adopt_code(staged(layers) / "code", CODE)
    marker = layers.code_lowers(CODE)[0] / "main.py"
    inode = marker.stat().st_ino
    second = staged(layers, "build-2")
    layers.adopt_code(second / "code", CODE)
    assert marker.stat().st_ino == inode
    assert (second / "code").is_dir()


def test_what_is_not_there_says_what_to_do(layers: Layers):
    for ask in (lambda: layers.code_lowers(CODE), lambda: layers.environment(ENV), lambda: layers.lock(ENV)):
        with pytest.raises(StartError, match="is not in the store") as caught:
            ask()
        assert caught.value.phase == "rootfs" and caught.value.hint == "deploy the function again"
    assert not layers.has_environment(ENV)


def test_discarding_is_at_once_and_repeatable(layers: Layers, tmp_path: Path):
    layers.adopt_code(staged(layers) / "code", CODE)
    layers.discard("code", CODE)
    layers.discard("code", CODE)
    layers.discard_path(tmp_path / "state" / "staging" / "never")
    with pytest.raises(StartError):
        layers.code_lowers(CODE)
    assert [path.name[:64] for path in (tmp_path / "state" / "trash").iterdir()] == [CODE]


def test_a_start_clears_builds_and_half_made_folders(layers: Layers, tmp_path: Path):
    state = tmp_path / "state"
    staged(layers)
    layers.adopt_code(staged(layers, "build-2") / "code", CODE)
    (state / "code" / ".half").mkdir()
    (state / "environments" / ".half").mkdir()
    assert layers.clear_leftovers() == 4
    assert list((state / "staging").iterdir()) == []
    assert [path.name for path in (state / "code").iterdir()] == [CODE]
    assert len(list((state / "trash").iterdir())) == 4
    assert layers.clear_leftovers() == 0


def test_runtimes_are_links_to_finished_file_systems(layers: Layers, tmp_path: Path):
    rootfs = tmp_path / "state" / "rootfs"
    assert layers.runtimes() == ()
    (rootfs / "python3.11-abc" / "fs").mkdir(parents=True)
    (rootfs / "python3.11").symlink_to("python3.11-abc")
    assert layers.runtimes() == (), "no manifest: not finished"
    (rootfs / "python3.11-abc" / "manifest.json").write_text("{}")
    (rootfs / "python3.12").symlink_to("python3.12-gone")
    assert layers.runtimes() == ("python3.11",)
    assert layers.root_lowers("python3.11") == [layers.skeleton, rootfs / "python3.11-abc" / "fs"]
    with pytest.raises(StartError, match=r"no base root file system for python3\.12"):
        layers.root_lowers("python3.12")
