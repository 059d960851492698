"""What is attached in the mount namespace of a zygote or sandbox. Runs in pagurusd."""

import os
from collections.abc import Iterable
from pathlib import Path

from runtime import syscalls
from runtime.model import EnvironmentId
from runtime.parts import Parts
from runtime.sandbox.mounts import Attachment


def tree(parts: Parts, root: list[Path], base: str, environment: EnvironmentId | None) -> list[Attachment]:
    """Root and devices, and an environment if one is given: fresh clones, the caller's to `close`.

    root: layers of the root. base: the folder name of the lowest, by which their overlay is found again.
    """
    found = [Attachment(parts.overlays.clone(f"root {base}", lambda: root), "", "root")]
    try:
        found.append(Attachment(syscalls.open_tree(parts.devices), "dev", "devices"))
        if environment is not None:
            mounted = parts.overlays.clone(environment, lambda: parts.layers.environment_lowers([environment]))
            found.append(Attachment(mounted, "opt/env", "environment"))
    except BaseException:
        close(found)
        raise
    return found


def close(attached: Iterable[Attachment]) -> None:
    """Close their descriptors."""
    for one in attached:
        os.close(one.fd)
