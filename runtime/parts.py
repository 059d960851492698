"""What the whole node shares: one mount desk, one cgroup tree, one reaper, the layers. Runs in pagurusd."""

import contextlib
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.clock import Clock, SystemClock
from runtime.config import Settings
from runtime.errors import RequirementError
from runtime.layers import Layers
from runtime.netns import host, nft
from runtime.netns.egress import Egress
from runtime.reaper import Reaper
from runtime.sandbox import identity, mounts
from runtime.sandbox.cgroup import Cgroup, CgroupTree
from runtime.sandbox.identity import UidRanges
from runtime.sandbox.mounts import MountDesk, Overlays


def _bury(cgroup: Cgroup) -> None:
    cgroup.try_remove()


@dataclass(slots=True)
class Parts:
    """Made by `open_parts`, ended by `close`. `bury`: who removes cgroups whose processes are dying."""

    settings: Settings
    node: str
    run: str
    desk: MountDesk
    cgroups: CgroupTree
    reaper: Reaper
    overlays: Overlays
    layers: Layers
    ranges: UidRanges
    egress: Egress
    devices: str  # where the device directory that all sandboxes share is attached
    bury: Callable[[Cgroup], None] = _bury
    module: str = "zygote"  # the entry that runs inside; a benchmark adds messages of its own
    clock: Clock = field(default_factory=SystemClock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))  # of zygotes and sandboxes of this run
    _resolv_conf: str = ""

    def resolv_conf(self) -> str:
        """Where the file resolv.conf of sandboxes with egress is attached."""
        if not self._resolv_conf:
            text = host.resolv_conf(self.egress.resolvers)
            self._resolv_conf = self.desk.keep(mounts.text_file("resolv.conf", text))
        return self._resolv_conf

    def close(self) -> None:
        """Close descriptors and remove the run's own cgroup directories, if they are empty."""
        self.egress.close()
        self.overlays.close()
        self.desk.close()
        self.cgroups.try_remove()
        self.reaper.close()


def open_parts(settings: Settings, inside: Mapping[str, bytes] | None = None) -> Parts:
    """Make folders, cgroup tree and reaper, and move this process into a mount namespace of its own.

    Must run in the event loop, in a process with one thread. `inside`: see Layers. Raises RequirementError.
    """
    identity.adopt_orphans()
    layers = Layers(settings, inside)
    layers.open()
    node = _node_id(Path(settings.state_dir))
    run = f"{int(time.time()):x}{secrets.token_hex(3)}"
    cgroups = CgroupTree.detect(settings.cgroup_parent, node=node, run=run)
    if settings.disk_bytes_per_s:
        with contextlib.suppress(RequirementError):  # said at the start by the check of its name
            cgroups.limit_disk(Path(settings.state_dir), settings.disk_bytes_per_s)
    desk = MountDesk(layers.anchor)
    reaper = Reaper()

    async def run_nft(script: str) -> None:
        child = nft.start(script)
        ended = await reaper.expect(child.pid)
        child.finish(ended.exit_status)

    return Parts(
        settings=settings,
        node=node,
        run=run,
        desk=desk,
        cgroups=cgroups,
        reaper=reaper,
        overlays=Overlays(desk),
        layers=layers,
        egress=Egress(settings, node, run_nft),
        ranges=UidRanges(settings.uid_base, settings.zygotes_max),
        devices=desk.keep(mounts.devices()),
    )


def _node_id(state_dir: Path) -> str:
    """Names everything of this state directory in the kernel, over restarts."""
    path = state_dir / "node-id"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    beside = path.with_name(".node-id")
    beside.write_text(f"n{secrets.token_hex(4)}\n")
    beside.chmod(0o600)
    os.rename(beside, path)
    return path.read_text().strip()
