"""What limits of cgroups leave, on trees that are only folders."""

from pathlib import Path

import pytest

from runtime.sandbox import headroom

MIB = 1 << 20
NAMES = {
    True: ("memory.max", "memory.current", "inactive_file"),
    False: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def cgroup(directory: Path, *, is_v2: bool, limit: int | None, used: int = 0, cache: int = 0) -> Path:
    limit_file, usage_file, inactive = NAMES[is_v2]
    directory.mkdir(exist_ok=True)
    (directory / limit_file).write_text(f"{limit or ('max' if is_v2 else 0x7FFFFFFFFFFFF000)}\n")
    (directory / usage_file).write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon 5\nactive_file 7\n{inactive} {cache}\n")
    (directory / "cgroup.procs").write_text("")
    return directory


@pytest.mark.parametrize("is_v2", [True, False])
def test_without_a_limit_there_is_nothing_to_say(tmp_path: Path, is_v2: bool):
    outer = cgroup(tmp_path / "outer", is_v2=is_v2, limit=None)
    assert headroom.tightest(cgroup(outer / "inner", is_v2=is_v2, limit=None), is_v2=is_v2) is None


@pytest.mark.parametrize("is_v2", [True, False])
def test_the_limit_that_leaves_the_smallest_part_counts_without_cache(tmp_path: Path, is_v2: bool):
    outer = cgroup(tmp_path / "outer", is_v2=is_v2, limit=100 * MIB, used=80 * MIB, cache=10 * MIB)
    inner = cgroup(outer / "inner", is_v2=is_v2, limit=50 * MIB, used=30 * MIB, cache=10 * MIB)
    assert headroom.tightest(inner, is_v2=is_v2) == (30 * MIB, 100 * MIB)


def test_a_full_cgroup_has_nothing_left_and_not_less(tmp_path: Path):
    full = cgroup(tmp_path / "full", is_v2=True, limit=MIB, used=2 * MIB)
    assert headroom.tightest(full, is_v2=True) == (0, MIB)


def test_the_root_of_v2_has_no_such_files(tmp_path: Path):
    (tmp_path / "cgroup.procs").write_text("")
    inner = cgroup(tmp_path / "inner", is_v2=True, limit=MIB, used=MIB // 2)
    assert headroom.tightest(inner, is_v2=True) == (MIB // 2, MIB)
