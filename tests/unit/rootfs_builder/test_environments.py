"""Environments: ids, manifests and imports of installed trees that are made here."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from rootfs_builder import environments
from runtime.errors import BuildError
from runtime.model import Distribution, Environment, RuntimeName

RUNTIME = RuntimeName("python3.11")


def install(root: Path, name: str, version: str, *files: str) -> None:
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not this\n")
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("")
    (info / "RECORD").write_text("".join(f"{file},sha256=x,0\n" for file in (*files, f"{info.name}/RECORD")))


def test_an_id_depends_on_runtime_and_lock_only():
    one = environments.environment_id(RUNTIME, "a==1\n")
    assert one == environments.environment_id(RUNTIME, "a==1\n")
    assert one == "5a9595f423ae2a59921e0a35ad8c1cbd239478be1892e0383503d1b75d84f827"  # stored: must not change
    assert one != environments.environment_id(RUNTIME, "a==2\n")
    assert one != environments.environment_id(RuntimeName("python3.13"), "a==1\n")


def test_a_manifest_is_an_environment_with_its_lock(tmp_path: Path):
    install(tmp_path, "Py.YAML", "6.0", "yaml/__init__.py", "_yaml/__init__.py", "yaml/_yaml.cpython-311.so")
    install(tmp_path, "other", "1", "other.py")
    found = environments.describe(tmp_path, runtime=RUNTIME, lock="lock", declared=["py-yaml", "absent"])
    assert found.distributions == (Distribution("other", "1"), Distribution("py-yaml", "6.0"))
    assert found.imports == ("yaml",)
    content = environments.manifest(found, "lock")
    assert msgspec.json.decode(content, type=Environment) == found
    assert msgspec.json.decode(content)["lock"] == "lock"


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
    install(tmp_path, "a", "1", "a/__init__.py", "bin/a")
    os.chmod(tmp_path / "bin/a", 0o4777)
    os.chmod(tmp_path / "a", 0o777)
    os.chmod(tmp_path / "a/__init__.py", 0o600)
    (tmp_path / ".lock").write_text("")
    environments.sanitise(tmp_path)
    assert stat.S_IMODE((tmp_path / "bin/a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a/__init__.py").stat().st_mode) == 0o644
    assert not (tmp_path / ".lock").exists()


def test_links_and_pipes_in_a_tree_are_refused(tmp_path: Path):
    for number, make in enumerate((lambda path: path.symlink_to("x"), os.mkfifo)):
        root = tmp_path / str(number)
        (root / "a").mkdir(parents=True)
        make(root / "a" / "odd")
        with pytest.raises(BuildError, match="a/odd"):
            environments.sanitise(root)


def test_metadata_that_says_nothing_is_refused(tmp_path: Path):
    (tmp_path / "a-1.dist-info").mkdir()
    with pytest.raises(BuildError, match="METADATA"):
        environments.describe(tmp_path, runtime=RUNTIME, lock="", declared=[])
    (tmp_path / "a-1.dist-info/METADATA").write_text("Name: a\n\n")
    with pytest.raises(BuildError, match="name and version"):
        environments.describe(tmp_path, runtime=RUNTIME, lock="", declared=[])
