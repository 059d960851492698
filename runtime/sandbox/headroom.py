"""How much memory the limits of a cgroup and of those above it leave. Runs in pagurusd."""

from dataclasses import dataclass
from pathlib import Path

UNLIMITED_BYTES = 1 << 60  # v1 has no word for it, but a number near 2**63


@dataclass(frozen=True, slots=True)
class _Files:
    """Names of one back end's files. inactive: in memory.stat, page cache that the kernel gives back first."""

    limit: str
    usage: str
    inactive: str


_V2 = _Files("memory.max", "memory.current", "inactive_file")
_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def tightest(directory: Path, *, is_v2: bool) -> tuple[int, int] | None:
    """Bytes left and bytes in all below the limit that leaves the smallest part; None where there is no limit.

    directory: a cgroup; it and all above it are looked at. Without page cache that can go, as MemAvailable is.
    """
    files = _V2 if is_v2 else _V1
    found: tuple[int, int] | None = None
    while (here := _limit(directory / files.limit)) is not None or (is_v2 and (directory / "cgroup.procs").exists()):
        if here is not None and here < UNLIMITED_BYTES:
            left = max(0, here - _used(directory, files))
            if found is None or left * found[1] < found[0] * here:
                found = (left, here)
        directory = directory.parent
    return found


def _limit(file: Path) -> int | None:
    """None: no such file, as in v2's root."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return UNLIMITED_BYTES if text == "max" else max(int(text), 1)


def _used(directory: Path, files: _Files) -> int:
    inactive = 0
    for line in (directory / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == files.inactive:
            inactive = int(value)
            break
    return int((directory / files.usage).read_text()) - inactive
