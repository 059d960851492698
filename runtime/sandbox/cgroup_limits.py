"""What of Limits is written where: into one v2 directory, or into the v1 hierarchies. Runs in pagurusd.

A second call writes only what differs from the first: it is on the path of a start.
"""

from collections.abc import Mapping
from pathlib import Path

from runtime.model import Limits
from runtime.sandbox import cgroup_files

CPU_PERIOD_US = 100_000
WEIGHT_MAX = 1000  # of cpu.weight, where one core is the kernel's default of 100
SHARES_OF_ONE_CORE = 1024  # v1's default of cpu.shares

Directories = Mapping[str, Path]


def set_limits(directories: Directories, limits: Limits, before: Limits | None, *, memory_only: bool) -> None:
    """Write what differs from `before`; None: all, and what never changes. Raises OSError with the file."""
    if "memory" in directories:
        _set_v1(directories, limits, before, memory_only=memory_only)
    else:
        _set_v2(directories["unified"], limits, before, memory_only=memory_only)


def cpu_weight(limits: Limits) -> int:
    """v2's weight against siblings when the processor is short: in proportion to what it may use."""
    return max(1, min(WEIGHT_MAX, limits.cpu_millis // 10))


def _set_v2(unified: Path, limits: Limits, before: Limits | None, *, memory_only: bool) -> None:
    if before is None or before.memory_bytes != limits.memory_bytes:
        cgroup_files.write(unified / "memory.max", str(limits.memory_bytes))
    if before is None:
        cgroup_files.write_if_there(unified / "memory.swap.max", "0")
        cgroup_files.write_if_there(unified / "memory.oom.group", "1")
    if memory_only:
        return
    if before is None or before.pids != limits.pids:
        cgroup_files.write(unified / "pids.max", str(limits.pids))
    if before is None or before.cpu_millis != limits.cpu_millis:
        cgroup_files.write(unified / "cpu.max", f"{_quota_us(limits)} {CPU_PERIOD_US}")
        cgroup_files.write(unified / "cpu.weight", str(cpu_weight(limits)))


def _set_v1(directories: Directories, limits: Limits, before: Limits | None, *, memory_only: bool) -> None:
    if before is None:
        # A limit on memory and swap together lets pages be swapped all the same; this does not, even without it.
        cgroup_files.write_if_there(directories["memory"] / "memory.swappiness", "0")
    if before is None or before.memory_bytes != limits.memory_bytes:
        _set_v1_memory(directories["memory"], limits.memory_bytes)
    if memory_only:
        return
    if before is None or before.pids != limits.pids:
        cgroup_files.write(directories["pids"] / "pids.max", str(limits.pids))
    cpu = directories["cpu"]
    if before is None:
        cgroup_files.write(cpu / "cpu.cfs_period_us", str(CPU_PERIOD_US))
    if before is None or before.cpu_millis != limits.cpu_millis:
        cgroup_files.write(cpu / "cpu.cfs_quota_us", str(_quota_us(limits)))
        cgroup_files.write(cpu / "cpu.shares", str(max(2, cpu_weight(limits) * SHARES_OF_ONE_CORE // 100)))


def _quota_us(limits: Limits) -> int:
    return max(1000, limits.cpu_millis * CPU_PERIOD_US // 1000)


def _set_v1_memory(directory: Path, limit_bytes: int) -> None:
    # memsw may never be below the limit: when raising it goes first, when lowering last. EBUSY on the
    # first try means the order was the other one.
    files = [directory / "memory.limit_in_bytes"]
    if (directory / "memory.memsw.limit_in_bytes").exists():
        files.append(directory / "memory.memsw.limit_in_bytes")
    try:
        for file in files:
            cgroup_files.write(file, str(limit_bytes))
    except OSError:
        for file in reversed(files):
            cgroup_files.write(file, str(limit_bytes))
