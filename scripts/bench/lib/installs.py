"""What a deploy is compared with: `uv pip install --target`, from the same index, of wheels only. Sizes on disk."""

import os
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rootfs_builder import uv
from rootfs_builder.suites import suite_of

BLOCK_BYTES = 512  # of st_blocks, whatever the file system's


class Installer:
    """uv for one runtime. folder: on the file system of the caches and targets, which decides whether uv links."""

    def __init__(self, runtime: str, folder: Path, index_url: str = "") -> None:
        """index_url: '' takes the index that Pagurus would take."""
        self._suite = suite_of(runtime)
        self.python = f"/usr/bin/{runtime}"
        self._folder = folder
        self._index_url = index_url
        if not Path(self.python).exists():
            raise SystemExit(f"{self.python} is missing: uv installs for an interpreter of the host")

    def install(self, requirements: Sequence[str], *, target: Path, cache: Path, options: Iterable[str] = ()) -> float:
        """Install into target, with this cache; milliseconds."""
        environ = uv.environment(os.environ, cache=str(cache), scratch=str(self._folder), index_url=self._index_url)
        place = ("--python", self.python, "--python-version", self._suite.python)
        command = [*uv.program(), "pip", "install", *requirements, "--target", str(target), *place, *options]
        command += ["--python-platform", self._suite.uv_platform(), "--only-binary", ":all:", "--no-config"]
        started_s = time.perf_counter()
        done = subprocess.run(command, env=environ, cwd=self._folder, stderr=subprocess.PIPE, text=True, check=False)
        elapsed_ms = (time.perf_counter() - started_s) * 1000
        if done.returncode != 0:
            raise SystemExit(f"uv cannot install {' '.join(requirements)}:\n{done.stderr}")
        return elapsed_ms

    def environment_bytes(self, distributions: Sequence[str], *, target: Path, cache: Path) -> int:
        """Disk space of an environment of its own with these pins, as Pagurus would have it: copies, byte code."""
        self.install(distributions, target=target, cache=cache, options=("--no-deps", "--link-mode", "copy"))
        compiling = ("-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
        # Some packages have files that do not compile, so the status says nothing.
        subprocess.run([self.python, "-W", "ignore", *compiling, str(target)], stdout=subprocess.DEVNULL, check=False)
        return disk_bytes(target)


def disk_bytes(*roots: Path) -> int:
    """Blocks that these trees take on disk, what has several links once. Symbolic links are not followed."""
    os.sync()  # some file systems give blocks only when they write
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [str(root) for root in roots]
    while waiting:
        path = waiting.pop()
        status = os.lstat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        total += status.st_blocks * BLOCK_BYTES
        if os.path.isdir(path) and not os.path.islink(path):
            waiting += [entry.path for entry in os.scandir(path)]
    return total
