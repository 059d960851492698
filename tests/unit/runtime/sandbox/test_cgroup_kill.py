"""Killing by cgroup, on a tree of plain files."""

from pathlib import Path

import pytest

from runtime.sandbox.cgroup import Cgroup


@pytest.mark.parametrize("hierarchies", [["unified"], ["unified", "memory"], ["memory", "freezer"]])
def test_killing_a_cgroup_that_is_gone_is_no_error(tmp_path: Path, hierarchies: list[str]):
    Cgroup({name: tmp_path / name / "gone" for name in hierarchies}).kill()


def test_cgroup_kill_is_preferred(tmp_path: Path):
    (tmp_path / "cgroup.kill").write_text("")
    Cgroup({"unified": tmp_path}).kill()
    assert (tmp_path / "cgroup.kill").read_text() == "1"
