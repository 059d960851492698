"""What the kernel says of sandboxes that live or have died, as messages to the gateway. Runs in pagurusd."""

import contextlib
from collections.abc import Iterable

from runtime.errors import RefusedError
from runtime.model import ZygoteId
from runtime.protocol import SandboxDied, SandboxStatus, ZygoteFailed
from runtime.reaper import Exit
from runtime.sandbox.sandbox import Sandbox

ROWS_MAX = 1500  # one packet holds about so many; more are not shown


def rows(sandboxes: Iterable[Sandbox]) -> tuple[SandboxStatus, ...]:
    """One row a sandbox; one whose cgroup has just gone is left out."""
    found = []
    for sandbox in sandboxes:
        with contextlib.suppress(OSError):
            found.append(
                SandboxStatus(
                    sandbox=sandbox.id,
                    zygote=sandbox.zygote,
                    state=sandbox.state.name.lower(),
                    memory_bytes=sandbox.cgroup.memory_bytes(),
                    pid=sandbox.pid,
                    uid=sandbox.uid,
                    frozen=sandbox.frozen,
                )
            )
    return tuple(found[:ROWS_MAX])


def zygote_failed(zygote: ZygoteId, phase: str, error: Exception) -> ZygoteFailed:
    """Why a zygote could not be made, and whose import it was if it was refused."""
    text = str(error)
    if not isinstance(error, RefusedError):
        return ZygoteFailed(zygote=zygote, phase=phase, message=text)
    return ZygoteFailed(
        zygote=zygote,
        phase=phase,
        message=text,
        is_refused=True,
        suspect=error.suspect,
        can_be_alone=error.can_be_alone,
    )


def death(sandbox: Sandbox, ended: Exit) -> SandboxDied:
    """How a sandbox ended whose first process is reaped; its cgroup must still be there."""
    out_of_memory = False
    with contextlib.suppress(OSError):
        out_of_memory = sandbox.cgroup.oom_kills() > 0
    return SandboxDied(
        sandbox=sandbox.id,
        exit_status=ended.exit_status,
        signal=ended.signal,
        out_of_memory=out_of_memory and not sandbox.reason,
        memory_bytes=sandbox.assignment.limits.memory_bytes if sandbox.assignment else 0,
        reason=sandbox.reason,
        error=sandbox.error,
    )
