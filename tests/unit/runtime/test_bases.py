"""Base rootfs on disk: which there are, which are old."""

import fcntl
import json
from pathlib import Path

import pytest

from runtime import bases
from runtime.errors import BuildError

ONE, TWO = "1" * 64, "2" * 64


def base(rootfs: Path, runtime: str, digest: str = ONE, **more: object) -> Path:
    """A whole base as the builder makes it, and its link."""
    place = rootfs / f"{runtime}-{digest[:12]}"
    (place / "fs/usr/bin").mkdir(parents=True)
    (place / "fs/usr/bin" / runtime).touch()
    manifest = {
        "runtime": runtime,
        "suite": "bookworm",
        "digest": digest,
        "python_version": f"{runtime[6:]}.2",
        "packages": [{"name": "libc6"}, {"name": "python3"}],
        **more,
    }
    (place / "manifest.json").write_text(json.dumps(manifest))
    (rootfs / runtime).unlink(missing_ok=True)
    (rootfs / runtime).symlink_to(place.name)
    return place


def test_what_the_links_name_is_listed_by_version(tmp_path: Path):
    for name in ("python3.13", "python3.9", "python3.11"):
        base(tmp_path, name, disk_bytes=4096)
    found = bases.built(tmp_path)
    assert [one.runtime for one in found] == ["python3.9", "python3.11", "python3.13"]
    assert (found[0].digest, found[0].python_version, found[0].packages, found[0].disk_bytes) == (ONE, "3.9.2", 2, 4096)
    assert bases.built(tmp_path / "absent") == ()


@pytest.mark.parametrize("damage", ["manifest", "interpreter", "folder", "name"])
def test_what_is_not_whole_is_not_listed(damage: str, tmp_path: Path):
    place = base(tmp_path, "python3.11")
    if damage == "manifest":
        (place / "manifest.json").write_text("{")
    elif damage == "interpreter":
        (place / "fs/usr/bin/python3.11").unlink()
    elif damage == "folder":
        place.rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "python3.11").rename(tmp_path / "python3.13")
    assert bases.built(tmp_path) == ()


def test_a_manifest_of_an_older_builder_has_no_size(tmp_path: Path):
    base(tmp_path, "python3.11")
    assert bases.built(tmp_path)[0].disk_bytes == 0


def test_old_is_what_no_link_names_and_nobody_uses(tmp_path: Path):
    first, second = base(tmp_path, "python3.11", ONE), base(tmp_path, "python3.11", TWO)
    other = base(tmp_path, "python3.13")
    (tmp_path / ".tmp-python3.11-x").mkdir()
    (tmp_path / "somebody's").mkdir()
    assert bases.old(tmp_path, ()) == [first]
    assert bases.old(tmp_path, {first.name}) == []
    assert bases.unlink(tmp_path, "python3.13") == other.name
    assert bases.old(tmp_path, {second.name}) == [first, other]
    assert bases.leftovers(tmp_path) == [tmp_path / ".tmp-python3.11-x"]


def test_nothing_is_old_in_a_folder_that_other_nodes_share(tmp_path: Path):
    (tmp_path / "real").mkdir()
    base(tmp_path / "real", "python3.11", ONE)
    base(tmp_path / "real", "python3.11", TWO)
    (tmp_path / "link").symlink_to("real")
    assert bases.old(tmp_path / "link", ()) == []


def test_what_is_not_there_cannot_be_given_up(tmp_path: Path):
    with pytest.raises(BuildError, match=r"python3\.13 is not built"):
        bases.unlink(tmp_path, "python3.13")


def test_the_lock_is_the_builder_s(tmp_path: Path):
    with bases.exclusive(tmp_path) as held:
        assert held
    with open(tmp_path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with bases.exclusive(tmp_path) as held:
            assert not held
    with bases.exclusive(tmp_path / "absent") as held:
        assert not held
