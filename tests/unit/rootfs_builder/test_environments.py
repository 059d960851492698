"""Environments: ids, the order of layers, what hides what, imports. The tree is made here."""

import os
import stat
from pathlib import Path

import pytest

from rootfs_builder import environments
from rootfs_builder.environments import CONFLICTS_MAX, LayerFacts
from runtime.errors import BuildError
from runtime.model import Conflict, Distribution, EnvironmentManifest, LayerId, RuntimeName

RUNTIME = RuntimeName("python3.11")


def layer(
    name: str, *requires: str, files: dict[str, str] | None = None, uncompiled: tuple[str, ...] = ()
) -> LayerFacts:
    """A layer of NAME 1, whose id is `L-NAME`; its only module is NAME unless `files` (path -> digest) says else."""
    files = {f"{name}/__init__.py": f"digest of {name}"} if files is None else files
    return LayerFacts(
        id=LayerId(f"L-{name}"),
        distribution=Distribution(name, "1"),
        sha256=name,
        requires=requires,
        imports=(name,),
        files=files,
        uncompiled=uncompiled,
    )


def stacked(*layers: LayerFacts, declared: tuple[str, ...] = ()) -> EnvironmentManifest:
    return environments.compose(layers, runtime=RUNTIME, lock="lock", declared=declared)


def order(*layers: LayerFacts) -> str:
    """Names in the order of installation."""
    return " ".join(environments.install_order(layers, RUNTIME))


def test_an_id_depends_on_runtime_and_lock_only():
    one = environments.environment_id(RUNTIME, "a==1\n")
    assert one == environments.environment_id(RUNTIME, "a==1\n")
    assert one == "6615be39afa20f86f36e823380beec5bd30da62dcc84245b070fb07efd91bbd9"  # stored: must not change
    assert one != environments.environment_id(RUNTIME, "a==2\n")
    assert one != environments.environment_id(RuntimeName("python3.13"), "a==1\n")


def test_a_manifest_names_layers_distributions_and_the_imports_of_what_is_declared():
    found = stacked(layer("top", "low"), layer("low"), layer("mid"), declared=("top", "absent"))
    assert found.lock == "lock"
    assert found.environment.id == environments.environment_id(RUNTIME, "lock")
    assert found.environment.distributions == tuple(Distribution(name, "1") for name in ("low", "mid", "top"))
    assert found.environment.imports == ("top",)
    assert found.layers == ("L-top", "L-low", "L-mid"), "what is installed last lies on top"
    assert found.conflicts == ()


def test_the_stack_does_not_depend_on_the_order_of_the_layers():
    layers = (layer("a", "b"), layer("b"), layer("c", "d"), layer("d", "c"))
    assert stacked(*layers) == stacked(*reversed(layers))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ((layer("a"), layer("b"), layer("c")), "c b a"),
        ((layer("a", "b"), layer("b", "c"), layer("c")), "c b a"),
        ((layer("a"), layer("b", "a"), layer("c", "b")), "a b c"),
        ((layer("a", "c"), layer("b"), layer("c"), layer("d", "b")), "c b d a"),
        ((layer("a", "A"), layer("b")), "b a"),  # itself
        ((layer("a", "absent"), layer("b")), "b a"),
        ((layer("a", "B_b>=2 ; python_version > '3'"), layer("b-b")), "b-b a"),
        ((layer("z"), layer("a", "z; python_version < '3'")), "z a"),
        ((layer("a"), layer("b", "a; python_version < '3'")), "b a"),  # not needed here
        ((layer("a"), layer("b", "a; extra == 'fast'")), "a b"),
        ((layer("a"), layer("b", 'a; extra == "fast" and python_version < "3"')), "b a"),
        ((layer("a"), layer("b", "this is ; no requirement")), "b a"),
    ],
)
def test_layers_are_installed_in_the_order_of_pip(layers: tuple[LayerFacts, ...], names: str):
    assert order(*layers) == names


def test_circles_come_after_what_they_need_and_before_what_needs_them():
    assert order(layer("a", "b"), layer("b", "a"), layer("z")) == "z b a"
    assert order(layer("a", "b", "low"), layer("b", "a"), layer("low")) == "low b a"
    assert order(layer("a", "b"), layer("b", "a"), layer("top", "a"), layer("low")) == "low b a top"
    assert order(layer("a", "b"), layer("b", "a"), layer("c", "d", "a"), layer("d", "c"), layer("e")) == "e b a d c"


def test_what_is_installed_later_hides_what_it_overwrites():
    low = layer("low", files={"shared/__init__.py": "1", "shared/low.py": "1"})
    top = layer("top", "low", files={"shared/__init__.py": "2", "shared/top.py": "2"})
    found = stacked(low, top)
    assert found.layers[0] == "L-top"
    assert found.conflicts == (Conflict(path="shared/__init__.py", used="top", hidden="low"),)


def test_each_hidden_file_names_the_one_that_is_seen():
    three = [layer(name, files={"shared.py": name}) for name in ("a", "b", "c")]
    assert stacked(*three).conflicts == (
        Conflict(path="shared.py", used="a", hidden="b"),
        Conflict(path="shared.py", used="a", hidden="c"),
    )


def test_the_same_file_in_two_layers_is_no_conflict():
    found = stacked(*(layer(name, files={"ns/__init__.py": "same", f"ns/{name}.py": name}) for name in ("a", "b")))
    assert found.conflicts == ()


def test_conflicts_that_are_kept_are_limited():
    files = {f"shared/m{number}.py": "" for number in range(CONFLICTS_MAX + 1)}
    found = stacked(layer("a", files=files), layer("b", files=dict.fromkeys(files, "other")))
    assert len(found.conflicts) == CONFLICTS_MAX


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"shared.py": "1"}, {"shared.py/__init__.py": "1"}),
        ({"shared/a": "1"}, {"shared/a/b/c.py": "1"}),
        ({"shared": "1"}, {"shared/a.py": "1"}),
    ],
)
def test_a_file_where_another_has_a_folder_is_refused_either_way(one: dict[str, str], other: dict[str, str]):
    for first, second in ((one, other), (other, one)):
        with pytest.raises(BuildError, match=r"^a and b both have 'shared.* and cannot be used together") as caught:
            stacked(layer("a", files=first), layer("b", files=second))
        assert (caught.value.kind, caught.value.hint) == ("install", "do without one of them")


def test_a_source_without_byte_code_may_not_hide_one_that_has_some():
    odd = {"shared.py": "odd"}
    with pytest.raises(BuildError, match=r"'shared\.py' and cannot be used together"):
        stacked(layer("a", files=odd, uncompiled=("shared.py",)), layer("b", files={"shared.py": "good"}))
    found = stacked(layer("a", files={"shared.py": "good"}), layer("b", files=odd, uncompiled=("shared.py",)))
    assert [each.used for each in found.conflicts] == ["a"], "the other way round nothing of it is seen"
    same = (layer(name, files=odd, uncompiled=("shared.py",)) for name in ("a", "b"))
    assert stacked(*same).conflicts == ()


@pytest.mark.parametrize(
    ("files", "imports"),
    [
        (["six.py"], ["six"]),
        (["attr/__init__.py", "attrs/__init__.py", "attr/_make.py"], ["attr", "attrs"]),
        (["cv2/__init__.py", "cv2/cv2.abi3.so", "cv2.libs/x.so"], ["cv2"]),
        (["fast.cpython-311-x86_64-linux-gnu.so"], ["fast"]),
        (["_cffi_backend.so", "cffi/__init__.py"], ["cffi"]),
        (["pkg/__init__.py", "tests/__init__.py", "docs/conf.py", "examples/a.py", "test/__init__.py"], ["pkg"]),
        (["google/cloud/storage/__init__.py", "google/cloud/storage/blob.py"], ["google.cloud.storage"]),
        (["google/cloud/storage/__init__.py", "google/cloud/_storage_v2/__init__.py"], ["google.cloud.storage"]),
        (["azure/core/__init__.py", "azure/core/io/__init__.py"], ["azure.core"]),
        (["ns/one/__init__.py", "ns/two/__init__.py", "ns/three.py"], ["ns.one", "ns.two"]),
        (["ns/three.py", "ns/four.so"], ["ns.four", "ns.three"]),
        (["matplotlib/__init__.py", "mpl_toolkits/axes/__init__.py", "pylab.py"], ["matplotlib", "pylab"]),
        (["../../bin/tool", "bin/tool.py-x", "a-b/__init__.py", "pkg/data.txt", "/abs.py", "class.py"], []),
        (["__init__.py", "__pycache__/six.cpython-311.pyc"], []),
    ],
)
def test_imports_are_the_public_modules_at_the_top(files: list[str], imports: list[str]):
    assert environments.importable(files) == imports


def test_imports_of_one_distribution_are_limited():
    assert len(environments.importable(f"ns/m{n}.py" for n in range(100))) == 16


def test_a_tree_is_made_harmless(tmp_path: Path):
    for path in ("a/__init__.py", "bin/a"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("")
    os.chmod(tmp_path / "bin/a", 0o4777)
    os.chmod(tmp_path / "a", 0o777)
    os.chmod(tmp_path / "a/__init__.py", 0o600)
    environments.sanitise(tmp_path)
    assert stat.S_IMODE((tmp_path / "bin/a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a/__init__.py").stat().st_mode) == 0o644


def test_links_and_pipes_in_a_tree_are_refused(tmp_path: Path):
    for number, make in enumerate((lambda path: path.symlink_to("x"), os.mkfifo)):
        root = tmp_path / str(number)
        (root / "a").mkdir(parents=True)
        make(root / "a" / "odd")
        with pytest.raises(BuildError, match="a/odd"):
            environments.sanitise(root)
