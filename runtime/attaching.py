"""Giving a sandbox its function: mounts, the way out, then the one message. Runs in pagurusd.

Wires runtime.sandbox with what the node shares. A function without egress passes through here as if there were none.
"""

import os
from functools import partial

from runtime import syscalls
from runtime.errors import StartError
from runtime.model import Assignment
from runtime.parts import Parts
from runtime.sandbox.sandbox import Sandbox
from runtime.zygotes import ZygoteHost


def attach(parts: Parts, host: ZygoteHost, sandbox: Sandbox, assignment: Assignment) -> None:
    """host: the zygote that the sandbox is from. Raises StartError, OSError; the sandbox is to be killed then."""
    layers, overlays = parts.layers, parts.overlays
    host.holdings.refuse_stranger(assignment, host.tenants, layers)
    wanted = assignment.environment
    if sandbox.environment is not None and sandbox.environment != wanted:
        raise StartError("rootfs", "the sandbox has another environment mounted")
    code = overlays.clone(f"code {assignment.code}", lambda: layers.code_lowers(assignment.code))
    environment = resolv_conf = None
    try:
        if wanted is not None and sandbox.environment is None:
            environment = overlays.clone(wanted, lambda: layers.environment_lowers([wanted]))
        if assignment.egress:
            resolv_conf = _lead_out(parts, sandbox, assignment.egress)
    except BaseException:
        for fd in (code, environment):
            if fd is not None:
                os.close(fd)
        raise
    sandbox.assign(assignment, code, environment, parts.desk, resolv_conf=resolv_conf)


def _lead_out(parts: Parts, sandbox: Sandbox, egress: tuple[str, ...]) -> int:
    """Make the sandbox's port; a mount of the file that names its resolvers, the caller's."""
    port = parts.egress.attach(sandbox.network, egress)
    sandbox.on_release(partial(parts.egress.cut, port, egress))
    return syscalls.open_tree(f"{parts.resolv_conf()}/resolv.conf")
