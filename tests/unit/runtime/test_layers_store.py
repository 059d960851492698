"""What is stored where: adopting, discarding, clearing. With the caller as owner of all, and no child processes."""

import getpass
import json
import os
from pathlib import Path

import msgspec
import pytest

from runtime.config import Settings
from runtime.errors import BuildError, RequirementError, StartError
from runtime.layers import FACTS_BYTES_MAX, Layers
from runtime.model import Conflict, Distribution, Environment, EnvironmentManifest
from runtime.sandbox import mounts

CODE = "c" * 64
ENV = "e" * 64
LAYER, OTHER = "a" * 64, "b" * 64
MANIFEST = EnvironmentManifest(
    environment=Environment(
        id=ENV, runtime="python3.11", distributions=(Distribution("a", "1"), Distribution("b", "1")), imports=("a",)
    ),
    lock="a==1\n",
    layers=(OTHER, LAYER),
    conflicts=(Conflict(path="x.py", used="b", hidden="a"),),
)


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layers:
    user = getpass.getuser()
    found = Layers(Settings(state_dir=str(tmp_path / "state"), gateway_user=user, builder_user=user))
    monkeypatch.setattr(Layers, "_make_skeleton", lambda self: Path(self._root / "skeleton" / "x"))
    monkeypatch.setattr(Layers, "empty_trash", lambda self: None)
    found.open()
    return found


def facts(name: str) -> str:
    return json.dumps({"distribution": {"name": name, "version": "1"}, "size_bytes": 100, "files": {}})


def staged(layers: Layers, name: str = "build-1") -> Path:
    staging = layers.make_staging(name)
    (staging / "code").mkdir()
    (staging / "code" / "main.py").write_text("")
    for layer in (LAYER, OTHER):
        (staging / "layers" / layer / "fs").mkdir(parents=True)
        (staging / "layers" / layer / "layer.json").write_text(facts(layer[0]))
    return staging


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_folders_have_the_modes_that_keep_others_out(layers: Layers, tmp_path: Path):
    state, kinds = tmp_path / "state", ("code", "environments", "layers")
    modes = {name: mode(state / name) for name in ("", *kinds, "trash", "staging", "store", "cache")}
    assert modes == {
        "": 0o711,
        "code": 0o700,
        "environments": 0o700,
        "layers": 0o700,
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
    assert not layers.has_layer(LAYER)
    for layer in (LAYER, OTHER):
        layers.adopt_layer(staging / "layers" / layer, layer)
    layers.put_environment(MANIFEST)
    code, empty = layers.code_lowers(CODE)
    assert (code / "main.py").is_file() and empty.name == "empty" and mode(code) == 0o755
    assert layers.has_environment(ENV)
    assert layers.has_layer(LAYER) and layers.facts(LAYER) == facts("a").encode()
    assert layers.manifest(ENV) == MANIFEST
    lowers = layers.environment_lowers([ENV, ENV])
    assert [path.parent.name[0] + path.name for path in lowers] == ["bfs", "afs", "sempty"]
    assert mode(lowers[0].parent) == 0o755


def adopt_both(layers: Layers, name: str = "build-1") -> None:
    for layer in (LAYER, OTHER):
        layers.adopt_layer(staged(layers, f"{name}-{layer[0]}") / "layers" / layer, layer)


def test_an_environment_is_there_as_long_as_all_its_layers_are(layers: Layers):
    adopt_both(layers)
    layers.put_environment(MANIFEST)
    layers.drop_layer(LAYER)
    assert not layers.has_environment(ENV) and not layers.has_layer(LAYER) and layers.has_layer(OTHER)
    adopt_both(layers, "build-2")
    layers.put_environment(MANIFEST)
    assert layers.has_environment(ENV)
    layers.drop_environment(ENV)
    assert not layers.has_environment(ENV) and layers.has_layer(LAYER)


def test_opening_again_knows_what_is_there(layers: Layers, tmp_path: Path):
    adopt_both(layers)
    layers.put_environment(MANIFEST)
    (tmp_path / "state" / "environments" / ("d" * 64)).mkdir()
    os.utime(tmp_path / "state" / "layers" / LAYER, (1000, 1000))
    again = Layers(layers._settings)
    again.open()
    assert again.index.environments == layers.index.environments == {ENV: MANIFEST.layers}
    assert {layer: one.label for layer, one in again.index.layers.items()} == {LAYER: "a==1", OTHER: "b==1"}
    assert again.index.layers[LAYER].used_s == 1000
    again.touch([LAYER, "c" * 64])
    assert again.index.layers[LAYER].used_s > 1000
    assert (tmp_path / "state" / "layers" / LAYER).stat().st_mtime > 1000


def test_what_nothing_needs_is_given_up_for_the_budget_the_oldest_first(layers: Layers):
    adopt_both(layers)
    layers._settings = msgspec.structs.replace(layers._settings, store_bytes=150)
    layers.index.layers[OTHER].used_s = 1.0
    layers.put_environment(MANIFEST)
    layers.trim()
    assert layers.has_environment(ENV), "an environment needs its layers"
    layers.drop_environment(ENV)
    layers.pinned[OTHER] = 1
    layers.trim()
    assert layers.has_layer(OTHER) and not layers.has_layer(LAYER), "a build needs the older one"
    adopt_both(layers, "build-2")
    layers.pinned.clear()
    layers.trim()
    assert layers.has_layer(LAYER) and not layers.has_layer(OTHER)


def test_a_union_has_each_layer_once_and_the_first_environment_s_order(layers: Layers):
    staging = staged(layers)
    for layer in (LAYER, OTHER):
        layers.adopt_layer(staging / "layers" / layer, layer)
    layers.put_environment(MANIFEST)
    second = Environment(id="f" * 64, runtime="python3.11")
    layers.put_environment(EnvironmentManifest(environment=second, lock="", layers=(LAYER, OTHER)))
    assert layers.environment_lowers([ENV, second.id]) == layers.environment_lowers([ENV])
    assert layers.environment_lowers([second.id]) != layers.environment_lowers([ENV])


def test_an_environment_that_is_there_is_not_written_again(layers: Layers):
    layers.put_environment(MANIFEST)
    layers.put_environment(EnvironmentManifest(environment=MANIFEST.environment, lock="other", layers=()))
    assert layers.manifest(ENV) == MANIFEST


def test_more_layers_than_an_overlay_can_have_are_refused(layers: Layers):
    many = tuple(f"{number:064x}" for number in range(mounts.LOWERS_MAX))
    layers.put_environment(EnvironmentManifest(environment=MANIFEST.environment, lock="", layers=many))
    with pytest.raises(StartError, match=rf"{mounts.LOWERS_MAX} packages together, the limit is"):
        layers.environment_lowers([ENV])


def test_a_layer_that_a_builder_has_made_otherwise_is_not_adopted(layers: Layers, tmp_path: Path):
    staged_layers = staged(layers) / "layers"
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    told, tree = staged_layers / LAYER / "layer.json", staged_layers / OTHER / "fs"
    told.unlink()
    told.symlink_to("/etc/hostname")
    tree.rmdir()
    tree.symlink_to(tmp_path / "elsewhere")
    for layer in (LAYER, OTHER):
        with pytest.raises(BuildError, match="is not as the builder should have made it"):
            layers.adopt_layer(staged_layers / layer, layer)
    told.unlink()
    told.touch()
    os.truncate(told, FACTS_BYTES_MAX + 1)
    with pytest.raises(BuildError, match="is not as the builder should have made it"):
        layers.adopt_layer(staged_layers / LAYER, LAYER)
    assert not layers.has_layer(LAYER) and not layers.has_layer(OTHER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"distribution": {"name": "\xff"}}',
        '{"size_bytes": 1}',
        "\xff",
        '{"distribution": {}, "size_bytes": 1}',
    ],
)
def test_a_layer_whose_facts_say_nothing_is_not_adopted(layers: Layers, text: str):
    layer = staged(layers) / "layers" / LAYER
    (layer / "layer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BuildError, match="is not as the builder should have made it"):
        layers.adopt_layer(layer, LAYER)
    assert not layers.has_layer(LAYER)


@pytest.mark.parametrize("link", ["layers", f"layers/{LAYER}", "code"])
def test_folders_that_a_builder_has_replaced_by_links_are_not_followed(layers: Layers, tmp_path: Path, link: str):
    staging = staged(layers)
    (staging / link).rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o700)
    (staging / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match="is not as the builder should have made it"):
        if link == "code":
            layers.adopt_code(staging / "code", CODE)
        else:
            layers.adopt_layer(staging / "layers" / LAYER, LAYER)
    assert not layers.has_layer(LAYER)
    assert mode(tmp_path / "elsewhere") == 0o700


@pytest.mark.parametrize("missing", ["layer.json", "fs", "."])
def test_a_layer_that_is_not_whole_is_not_adopted(layers: Layers, missing: str, tmp_path: Path):
    layer = staged(layers) / "layers" / LAYER
    (layer / missing).resolve().rename(tmp_path / "away")
    with pytest.raises(BuildError, match="is not as the builder should have made it"):
        layers.adopt_layer(layer, LAYER)
    assert not layers.has_layer(LAYER)


def test_a_manifest_that_cannot_be_read_is_an_error_of_the_start(layers: Layers, tmp_path: Path):
    layers.put_environment(MANIFEST)
    (tmp_path / "state" / "environments" / ENV / "manifest.json").write_text("{")
    with pytest.raises(StartError, match=f"environment {ENV[:12]} cannot be read"):
        layers.manifest(ENV)


def test_what_is_there_already_is_kept(layers: Layers):
    layers.adopt_code(staged(layers) / "code", CODE)
    marker = layers.code_lowers(CODE)[0] / "main.py"
    inode = marker.stat().st_ino
    second = staged(layers, "build-2")
    layers.adopt_code(second / "code", CODE)
    assert marker.stat().st_ino == inode
    assert (second / "code").is_dir()


def test_what_is_not_there_says_what_to_do(layers: Layers):
    asks = (lambda: layers.code_lowers(CODE), lambda: layers.manifest(ENV), lambda: layers.facts(LAYER))
    for ask in (*asks, lambda: layers.environment_lowers([ENV])):
        with pytest.raises(StartError, match="is not in the store") as caught:
            ask()
        assert caught.value.phase == "rootfs" and caught.value.hint == "deploy the function again"
    assert not layers.has_environment(ENV) and not layers.has_layer(LAYER)
    layers.put_environment(MANIFEST)
    with pytest.raises(StartError, match=r"layers b+ is not in the store"):
        layers.environment_lowers([ENV])


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
    (state / "layers" / ".half").mkdir()
    assert layers.clear_leftovers() == 5
    assert list((state / "staging").iterdir()) == []
    assert [path.name for path in (state / "code").iterdir()] == [CODE]
    assert len(list((state / "trash").iterdir())) == 5
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
