"""Which disk a folder is on, and the line that bounds what is taken of it."""

import os
from pathlib import Path

import pytest

from runtime import disks
from runtime.errors import RequirementError


def sysfs(root: Path, folder: Path, *, partition: bool) -> Path:
    """A /sys that has the folder's device as a disk, or as a partition of disk 8:0."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    own = root / "devices/sda/sda1" if partition else root / "devices/sda"
    own.mkdir(parents=True)
    (root / "devices/sda/dev").write_text("8:0\n")
    if partition:
        (own / "partition").write_text("1\n")
    (root / "dev/block").mkdir(parents=True)
    (root / "dev/block" / number).symlink_to(own)
    return root


def test_a_partition_s_disk_is_found(tmp_path: Path):
    assert disks.below(tmp_path, sysfs(tmp_path / "sys", tmp_path, partition=True)) == "8:0"


def test_a_whole_disk_is_itself(tmp_path: Path):
    device = tmp_path.stat().st_dev
    found = disks.below(tmp_path, sysfs(tmp_path / "sys", tmp_path, partition=False))
    assert found == f"{os.major(device)}:{os.minor(device)}"


def test_a_folder_on_no_disk_is_said(tmp_path: Path):
    with pytest.raises(RequirementError, match="is not on one disk"):
        disks.below(tmp_path, tmp_path / "sys")


def test_the_line_bounds_bytes_and_operations():
    assert disks.io_max("8:0", 1 << 20) == "8:0 rbps=1048576 wbps=1048576 riops=64 wiops=64"
    assert disks.io_max("8:0", 100).endswith("riops=1 wiops=1")
    assert disks.io_max("8:0", None) == "8:0 rbps=max wbps=max riops=max wiops=max"
