"""Trees: order, digests and modes."""

import errno
import os
import shutil
import stat
from pathlib import Path

from rootfs_builder import trees


def plant(root: Path) -> Path:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_text("1")
    (root / "a-c").write_text("2")
    (root / "link").symlink_to("a")
    return root


def test_equal_trees_have_equal_digests(tmp_path: Path):
    one = plant(tmp_path / "one")
    two = tmp_path / "two"
    shutil.copytree(one, two, symlinks=True)
    os.chmod(two / "a-c", 0o600)
    os.utime(two / "a-c", (1, 1))
    assert trees.digest(one) == trees.digest(two)
    assert len(trees.digest(one)) == 64


def test_every_difference_changes_the_digest(tmp_path: Path):
    changes = [
        lambda root: (root / "a-c").write_text("3"),
        lambda root: os.chmod(root / "a-c", 0o755),
        lambda root: (root / "a-c").rename(root / "a-d"),
        lambda root: (root / "empty").mkdir(),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("a/b")),
    ]
    digests = set()
    for number, change in enumerate([lambda root: None, *changes]):
        change(plant(tmp_path / str(number)))
        digests.add(trees.digest(tmp_path / str(number)))
    assert len(digests) == len(changes) + 1


def test_what_is_skipped_does_not_count(tmp_path: Path):
    one, two = plant(tmp_path / "one"), plant(tmp_path / "two")
    (two / "a-c").unlink()
    assert trees.digest(one, skip=lambda path: path == b"a-c") == trees.digest(two)


def test_parents_come_before_children_and_links_are_not_followed(tmp_path: Path):
    assert [entry.name for entry in trees.walk(plant(tmp_path))] == ["a", "a-c", "link", "a/b", "a/b/file"]


def test_modes_are_normalised(tmp_path: Path):
    (tmp_path / "f").write_text("")
    os.chmod(tmp_path / "f", 0o6770)
    (entry,) = trees.walk(tmp_path)
    trees.normalise(entry)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o755


def test_a_full_disk_is_a_limit():
    full = trees.writing_failed(OSError(errno.ENOSPC, "No space left on device"), "write x")
    assert (full.kind, full.message) == ("limit", "cannot write x: the disk is full")
    assert trees.writing_failed(OSError(errno.EACCES, "no"), "write x").kind == "internal"


def test_absolute_links_stay_below_the_root(tmp_path: Path):
    (tmp_path / "lib64").mkdir()
    loader = tmp_path / "lib64/ld.so"
    loader.symlink_to("/lib/x/ld.so")
    assert trees.resolved_below(tmp_path, loader) == tmp_path / "lib/x/ld.so"
    loader.unlink()
    loader.symlink_to("../usr/ld.so")
    assert trees.resolved_below(tmp_path, loader) == tmp_path / "lib64/../usr/ld.so"
