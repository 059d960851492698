"""The disk that sandboxes read their files from, and what one of them may take of it.

Cgroup v2's io.max (cgroup-v2.rst, "IO Interface Files"): a ceiling for each cgroup, in bytes and in operations. It
takes whole disks only, not partitions. A leaf.
"""

import os
from pathlib import Path

from runtime.errors import RequirementError

OPERATION_BYTES = 16 * 1024  # operations a second are as many as bytes of this size: small reads are not free


def below(folder: Path, sys: Path = Path("/sys")) -> str:
    """MAJOR:MINOR of the disk that a folder is on.

    Raises RequirementError where there is no such one disk, as for tmpfs, btrfs or a network file system.
    """
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    entry = sys / "dev/block" / number
    if not entry.exists():
        raise RequirementError(f"{folder} is not on one disk")
    if (entry / "partition").exists():
        return (entry.resolve().parent / "dev").read_text().strip()
    return number


def io_max(disk: str, bytes_per_s: int | None) -> str:
    """The line of io.max that bounds reading and writing each; None takes the bounds away."""
    rate = "max" if bytes_per_s is None else bytes_per_s
    operations = "max" if bytes_per_s is None else max(1, bytes_per_s // OPERATION_BYTES)
    return f"{disk} rbps={rate} wbps={rate} riops={operations} wiops={operations}"
